"""`llamacli complete` on a real pseudo-terminal: streaming, colours, escapes, Ctrl-C at every stage."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pexpect = pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")

Spawn = Callable[..., Any]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """spawn("complete", …) → a pexpect child whose three streams are one terminal."""
    children = []

    def start(*arguments: object, env: dict[str, str] | None = None) -> Any:
        child = pexpect.spawn(
            sys.executable,
            ["-m", "llamacli", *map(str, arguments)],
            env={**os.environ, **(env or {})},
            timeout=60,
            dimensions=(24, 100),
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.close(force=True)


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that is large enough for a prompt of 2,000 tokens to take seconds."""
    import make_gguf
    import numpy as np

    folder = tmp_path_factory.mktemp("slow")
    dim, ffn = 512, 2048
    rng = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.05)

    n_layer, kv, tokens = 12, dim // 2, make_gguf.spm_tokens()
    tensors: dict[str, np.ndarray | None] = {
        "token_embd.weight": matrix(len(tokens), dim),
        "output.weight": matrix(len(tokens), dim),
        "output_norm.weight": np.ones(dim, np.float32),
    }
    for i in range(n_layer):
        shapes = {
            "attn_q": (dim, dim),
            "attn_k": (kv, dim),
            "attn_v": (kv, dim),
            "attn_output": (dim, dim),
            "ffn_gate": (ffn, dim),
            "ffn_up": (ffn, dim),
            "ffn_down": (dim, ffn),
        }
        tensors |= {f"blk.{i}.{name}.weight": matrix(*shape) for name, shape in shapes.items()}
        tensors |= {f"blk.{i}.{name}.weight": np.ones(dim, np.float32) for name in ("attn_norm", "ffn_norm")}
    return make_gguf.write_llama(
        folder / "slow.gguf",
        n_layer=n_layer,
        tensor_overrides=tensors,
        metadata_overrides={
            "llama.embedding_length": dim,
            "llama.feed_forward_length": ffn,
            "llama.context_length": 8192,
            "llama.rope.dimension_count": dim // 4,
        },
    )


def interrupt(child: Any) -> float:
    """Ctrl-C; seconds until the process has ended."""
    child.sendintr()
    began = time.monotonic()
    child.expect(pexpect.EOF)
    child.wait()
    return time.monotonic() - began


def test_text_streams_and_ends_with_a_newline(spawn: Spawn, bare: Path) -> None:
    child = spawn("complete", "-m", bare, "-n", 12, "--temp", 0, "-t", 1, "Once upon a time")
    child.expect(pexpect.EOF)
    assert re.fullmatch(rb"[\w ,.\"]{10,}\r\n", child.before)
    assert child.wait() == 0


def test_ctrl_c_while_generating_keeps_the_text(spawn: Spawn, slow: Path) -> None:
    child = spawn("complete", "-m", slow, "--raw", "--logit-bias", "2-inf", "--temp", 0, "the")
    child.expect(rb"[^\n]{20}")
    assert interrupt(child) < 0.5
    assert child.signalstatus == signal.SIGINT
    assert b"rror" not in child.before


def test_ctrl_c_while_reading_a_long_prompt(spawn: Spawn, slow: Path, tmp_path: Path) -> None:
    (tmp_path / "long").write_text("the " * 4000)
    child = spawn("complete", "-m", slow, "--raw", "-f", tmp_path / "long", "-b", 256)
    child.expect("reading the prompt")
    assert interrupt(child) < 0.5
    assert child.signalstatus == signal.SIGINT
    assert child.before.rstrip().endswith(b"\x1b[2K") or b"\x1b[?25h" in child.before  # the cursor is back


def test_ctrl_c_while_waiting_for_standard_input(spawn: Spawn, bare: Path) -> None:
    child = spawn("complete", "-m", bare, "-")
    assert interrupt(child) < 1.5  # it may still be importing
    assert child.signalstatus == signal.SIGINT
    assert b"Traceback" not in child.before


@pytest.mark.parametrize("moment", [0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3])
def test_ctrl_c_at_any_moment_of_the_start(spawn: Spawn, slow: Path, moment: float) -> None:
    """Imports, option parsing, the header check, loading: whichever it hits, no traceback and the right end."""
    child = spawn("complete", "-m", slow, "--raw", "the", "--no-mmap")
    child.expect([pexpect.TIMEOUT, r"[a-z]"], timeout=moment)
    assert interrupt(child) < 1.0
    # Before our first line runs, the interpreter reports an interruption in its own way, and may exit with 1.
    assert b"Traceback" not in child.before or b"llamacli" not in child.before
    assert child.signalstatus == signal.SIGINT or b"Traceback" in child.before


def test_ctrl_c_in_an_endless_template_leaves_no_child(spawn: Spawn, tmp_path: Path) -> None:
    from make_gguf import write_llama

    loop = "{% for i in range(99999) %}{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}"
    path = write_llama(tmp_path / "endless.gguf", chat_template=loop + "{% endfor %}{% endfor %}")
    child = spawn("complete", "-m", path, "hi")
    grandchild = wait_for_child(child.pid)
    assert interrupt(child) < 0.5
    assert child.signalstatus == signal.SIGINT
    assert gone(grandchild)


def gone(pid: int) -> bool:
    """Whether a process ends within seconds; it is init's to reap."""
    for _ in range(500):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def wait_for_child(pid: int) -> int:
    """The process id of the first child of `pid`, once there is one."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    if not children.exists():
        pytest.skip("this system does not list children under /proc")
    deadline = time.monotonic() + 30
    while not (found := children.read_text().split()):
        assert time.monotonic() < deadline
    return int(found[0])


def test_a_shell_loop_ends_with_it(bare: Path, slow: Path) -> None:
    command = f'"{sys.executable}" -m llamacli complete -m "{slow}" --raw --logit-bias 2-inf --temp 0 the'
    child = pexpect.spawn("bash", ["-c", f"for i in 1 2 3; do {command}; echo again; done"], timeout=60)
    child.expect(rb"[^\n]{20}")
    child.sendintr()
    child.expect(pexpect.EOF)
    assert b"again" not in child.before
    child.close()
    assert child.signalstatus == signal.SIGINT or child.exitstatus == 130


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_by_themselves(spawn: Spawn, slow: Path, signum: int) -> None:
    child = spawn("complete", "-m", slow, "--raw", "--logit-bias", "2-inf", "--temp", 0, "the")
    child.expect(rb"[^\n]{20}")
    child.kill(signum)
    child.expect(pexpect.EOF)
    child.wait()
    assert child.signalstatus == signum


def test_json_after_ctrl_c_is_whole(slow: Path, tmp_path: Path) -> None:
    """stdout in a file, stderr on the terminal: the document holds the text so far."""
    out = tmp_path / "out.json"
    command = f'exec "{sys.executable}" -m llamacli complete -m "{slow}" --raw --json --logit-bias 2-inf the >"{out}"'
    for patience in (1, 4, 16):  # nothing is shown before the end, so on a busy machine it may take several tries
        child = pexpect.spawn("bash", ["-c", command], timeout=60)
        child.expect([pexpect.TIMEOUT, pexpect.EOF], timeout=patience)
        child.sendintr()
        child.expect(pexpect.EOF)
        child.close()
        assert child.signalstatus == signal.SIGINT
        if out.stat().st_size and (result := json.loads(out.read_text()))["text"]:
            break
    assert result["finish_reason"] == "interrupted"
    assert 0 < result["completion_tokens"] < 4096


def test_escapes_in_the_models_text_are_shown_not_obeyed(spawn: Spawn, tmp_path: Path) -> None:
    from make_gguf import spm_tokens, write_llama

    evil = "\x1b]52;c;ZXZpbA==\x07\x1b[2J"
    path = write_llama(tmp_path / "evil.gguf", tokens=[*spm_tokens(), evil])
    always = ("--logit-bias", f"{len(spm_tokens())}+10000", "-n", 2, "--temp", 0, "--raw", "x")
    child = spawn("complete", "-m", path, *always)
    child.expect(pexpect.EOF)
    assert b"\x1b" not in child.before
    assert b"\x07" not in child.before
    assert b"\\x1b]52;c;ZXZpbA==\\x07" in child.before
    # split over single bytes: ESC as a byte token, then "["
    split = ("--logit-bias", "30+10000", "-n", 1, "--temp", 0, "--raw", "x")  # token 3 + 0x1b
    child = spawn("complete", "-m", path, *split)
    child.expect(pexpect.EOF)
    assert child.before == b"\\x1b\r\n"


def test_a_pipe_gets_the_escapes_unchanged(tmp_path: Path, cli: Any) -> None:
    from make_gguf import spm_tokens, write_llama

    evil = "\x1b[31mred"
    path = write_llama(tmp_path / "evil.gguf", tokens=[*spm_tokens(), evil])
    done = cli("complete", "-m", path, "--logit-bias", f"{len(spm_tokens())}+10000", "-n", 1, "--temp", 0, "--raw", "x")
    assert done.stdout == evil.encode() + b"\n"


def test_reasoning_is_dim_on_stderr_and_can_be_hidden(spawn: Spawn, tmp_path: Path) -> None:
    from make_gguf import spm_tokens, write_llama

    template = "{% for message in messages %}{{ message.content }}{% endfor %}<think>\n"
    path = write_llama(tmp_path / "r.gguf", tokens=[*spm_tokens(), "<think>", "</think>"], chat_template=template)
    never = ("--logit-bias", f"{len(spm_tokens()) + 1}-inf", "--logit-bias", "2-inf", "--seed", 1, "-n", 6)
    child = spawn("complete", "-m", path, *never, "Hello")
    child.expect(pexpect.EOF)
    assert b"\x1b[2m" in child.before
    child = spawn("complete", "-m", path, *never, "--hidethinking", "Hello")
    child.expect(pexpect.EOF)
    assert b"\x1b[2m" not in child.before
    child = spawn("complete", "-m", path, *never, "Hello", env={"NO_COLOR": "1"})
    child.expect(pexpect.EOF)
    assert b"\x1b[" not in child.before


def test_samples_are_set_apart(spawn: Spawn, bare: Path) -> None:
    child = spawn("complete", "-m", bare, "-n", 5, "--samples", 2, "--seed", 1, "One day")
    child.expect(pexpect.EOF)
    assert re.findall(rb"sample (\d) of 2", child.before) == [b"1", b"2"]


def test_help_fits_the_terminal(spawn: Spawn) -> None:
    child = spawn("complete", "--help")
    child.expect(pexpect.EOF)
    text = re.sub(rb"\x1b\[[0-9;]*m", b"", child.before).decode()
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "Advanced" in text


def test_confidence_colours_the_text_by_its_probability(spawn: Spawn, bare: Path) -> None:
    arguments = (
        "complete",
        "-m",
        bare,
        "-n",
        12,
        "--temp",
        0,
        "-t",
        1,
        "--no-stdin",
        "--confidence",
        "Once upon a time",
    )
    shown = spawn(*arguments).read().decode()
    colours = re.findall(r"\x1b\[48;5;(\d+);38;5;\d+m", shown)
    assert len(colours) >= 12
    assert shown.splitlines()[-1].startswith("bits from: ")
    text = re.sub(r"\x1b\[[\d;]*m", "", shown).splitlines()[0]
    plain = spawn(*arguments, env={"NO_COLOR": "1"}).read().decode().splitlines()
    assert plain == [text]


def test_what_must_be_whole_is_shown_when_it_is(spawn: Spawn) -> None:
    arguments = ("complete", "-m", "tiny", "--temp", 0, "-t", 1, "--no-stdin", "--regex", "a{40}", "hi")
    assert spawn(*arguments).read().endswith(b"a" * 40 + b"\r\n")  # a bar may have stood before it
    short = spawn(*arguments[:-1], "-n", 3, "hi").read()
    assert b"error:\x1b[0m after 3 tokens the answer has not its whole shape" in short
    assert b"aaa" not in short
