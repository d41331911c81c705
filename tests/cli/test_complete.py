"""`llamacli complete` as a process: pipes, JSON, prompts, parity with llama-completion, errors and exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., subprocess.CompletedProcess[bytes]]
FACTS = json.loads((Path(__file__).parent.parent / "model/llama_completion.json").read_text())
GREEDY = ("--temp", "0", "-t", "1")


def document(done: subprocess.CompletedProcess[bytes]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", list(FACTS["texts"]))
def test_samplers_and_seed_equal_llama_completion(cli: Cli, stories: Path, name: str) -> None:
    """The same options and seed give the same text, so order, defaults, random numbers and the prompt's part in
    penalties are those of llama.cpp.
    """
    fact = FACTS["texts"][name]
    options = ("-n", 48, "--seed", 3, "-t", 1, "-c", 256, *fact["options"])
    result = document(cli("complete", "-m", stories, *options, "--json", FACTS["prompt"]))
    assert result["text"] in (fact["text"], fact.get("text_on_zen4"))


def test_a_pipe_gets_the_text_and_one_final_newline(cli: Cli, bare: Path) -> None:
    done = cli("complete", "-m", bare, "-n", 12, *GREEDY, "Once upon a time")
    assert (done.returncode, done.stderr) == (0, b"")
    text = document(cli("complete", "-m", bare, "-n", 12, *GREEDY, "--json", "Once upon a time"))["text"]
    assert text
    assert done.stdout == text.encode() + b"\n"


def test_a_pipe_gets_the_models_bytes(cli: Cli, plain: Path) -> None:
    """A random model writes bytes that are no UTF-8; only JSON replaces them."""
    options = ("complete", "-m", plain, "-n", 60, "--seed", 1, "--raw", "-t", 1, "x")
    raw, shown = cli(*options), document(cli(*options, "--json"))
    with pytest.raises(UnicodeDecodeError):
        raw.stdout.decode()
    assert raw.stdout.removesuffix(b"\n").decode("utf-8", "replace") == shown["text"].removesuffix("\n")


def test_json(cli: Cli, bare: Path) -> None:
    result = document(cli("complete", "-m", bare, "-n", 10, "--seed", 42, "--json", "Once upon a time"))
    assert list(result) == [
        "model",
        "mode",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "text",
        "reasoning",
        "finish_reason",
        "stop",
        "seed",
        "n_ctx",
        "timings",
        "sampling",
        "whole",
        "logprobs",
        "probabilities",
        "choices",
    ]
    assert (result["mode"], result["finish_reason"], result["seed"]) == ("text", "length", 42)
    assert (result["prompt_tokens"], result["completion_tokens"]) == (5, 10)
    assert set(result["timings"]) == {"load", "prompt", "generation", "prompt_per_second", "generation_per_second"}


def test_a_drawn_seed_is_told_and_repeats_the_text(cli: Cli, bare: Path) -> None:
    first = document(cli("complete", "-m", bare, "-n", 20, "-t", 1, "--json", "Once"))
    again = document(cli("complete", "-m", bare, "-n", 20, "-t", 1, "--json", "--seed", first["seed"], "Once"))
    assert first["text"] == again["text"]
    other = document(cli("complete", "-m", bare, "-n", 20, "-t", 1, "--json", "Once"))
    assert other["seed"] != first["seed"]


def test_several_samples(cli: Cli, bare: Path) -> None:
    options = ("complete", "-m", bare, "-n", 12, "-t", 1, "--seed", 9)
    result = document(cli(*options, "--samples", 4, "--json", "One day"))
    assert [choice["index"] for choice in result["choices"]] == [0, 1, 2, 3]
    assert [choice["seed"] for choice in result["choices"]] == [9, 10, 11, 12]
    assert len({choice["text"] for choice in result["choices"]}) == 4
    assert result["text"] == result["choices"][0]["text"] == document(cli(*options, "--json", "One day"))["text"]
    pipe = cli(*options, "--samples", 4, "-0", "One day")
    assert pipe.stdout.decode().split("\0") == [*(choice["text"] for choice in result["choices"]), ""]
    refused = cli(*options, "--samples", 4, "One day")
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert b"--json" in refused.stderr


class TestPrompt:
    """Files, then standard input, then the argument."""

    def joined(self, cli: Cli, bare: Path, *arguments: object, stdin: bytes = b"") -> str:
        done = cli("complete", "-m", bare, "-n", 0, "--echo", *arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().removesuffix("\n")

    def test_order_and_blank_lines(self, cli: Cli, bare: Path, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("file a\n")
        (tmp_path / "b").write_text("file b\n\n")
        files = ("-f", tmp_path / "a", "-f", tmp_path / "b")
        assert self.joined(cli, bare, *files, "argument", stdin=b"input\n") == (
            "file a\n\nfile b\n\n\ninput\n\nargument"
        )

    def test_raw_joins_by_nothing(self, cli: Cli, bare: Path) -> None:
        assert self.joined(cli, bare, "--raw", "upon a time", stdin=b"Once \n") == "Once upon a time"

    def test_dash_is_standard_input_alone(self, cli: Cli, bare: Path) -> None:
        assert self.joined(cli, bare, "-", stdin=b"input\n") == "input"

    def test_prompt_as_an_option(self, cli: Cli, bare: Path) -> None:
        assert self.joined(cli, bare, "-p", "-starts with a dash") == "-starts with a dash"
        both = cli("complete", "-m", bare, "-p", "one", "two")
        assert both.returncode == 2

    def test_no_stdin(self, cli: Cli, bare: Path) -> None:
        assert self.joined(cli, bare, "--no-stdin", "argument", stdin=b"unread") == "argument"

    def test_a_byte_order_mark_and_crlf(self, cli: Cli, bare: Path) -> None:
        assert self.joined(cli, bare, stdin=b"\xef\xbb\xbfinput\r\n") == "input"

    def test_nul_is_text(self, cli: Cli, bare: Path) -> None:
        result = document(cli("complete", "-m", bare, "-n", 1, "--json", stdin=b"a\0b"))
        assert result["prompt_tokens"] >= 4

    def test_nothing_at_all(self, cli: Cli, bare: Path) -> None:
        done = cli("complete", "-m", bare)
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.startswith(b"error: there is no text\nhint: ")

    def test_invalid_utf8(self, cli: Cli, bare: Path) -> None:
        done = cli("complete", "-m", bare, stdin=b"one\ntwo \xff")
        assert done.returncode == 2
        assert b"byte 0xff at offset 8, line 2" in done.stderr
        replaced = self.joined(cli, bare, "--replace-invalid", stdin=b"one\ntwo \xff")
        assert replaced == "one\ntwo �"

    def test_closed_standard_input(self, bare: Path) -> None:
        script = f'exec "{sys.executable}" -m llamacli complete -m "{bare}" -n 3 hi <&-'
        done = subprocess.run(["sh", "-c", script], capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, b"")

    def test_a_pipe_that_never_closes_is_mentioned(self, bare: Path) -> None:
        reader, writer = os.pipe()
        try:
            arguments = [sys.executable, "-m", "llamacli", "complete", "-m", str(bare), "-n", "3", "hi"]
            with subprocess.Popen(arguments, stdin=reader, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                assert process.stderr is not None
                assert process.stderr.readline().startswith(b"waiting for standard input")
                os.write(writer, b"and more\n")
                os.close(writer)
                writer = -1
                assert process.wait(timeout=60) == 0
        finally:
            os.close(reader)
            if writer >= 0:
                os.close(writer)

    def test_a_while_read_loop_with_no_stdin(self, bare: Path) -> None:
        command = f'"{sys.executable}" -m llamacli complete -m "{bare}" -n 2 --temp 0 -t 1 --no-stdin "$line"'
        script = f'printf "Once\\nOne day\\nThe\\n" | while read -r line; do {command}; done'
        done = subprocess.run(["sh", "-c", script], capture_output=True, timeout=60, check=False)
        assert done.stdout.count(b"\n") == 3


class TestChat:
    def test_a_template_answers_as_an_assistant(self, cli: Cli) -> None:
        result = document(cli("complete", "-m", "tiny", *GREEDY, "--json", "-s", "Be kind.", "Hello"))
        assert (result["mode"], result["finish_reason"]) == ("chat", "stop")
        assert result["text"] == "Hello! How can I help you?"
        raw = document(cli("complete", "-m", "tiny", "-n", 4, "--json", "--raw", "Hello"))
        assert raw["mode"] == "text"
        assert raw["prompt_tokens"] < result["prompt_tokens"]

    def test_a_users_control_tokens_stay_text(self, cli: Cli) -> None:
        """<|im_end|> in the user's text is several tokens of plain text, not one control token."""
        n_plain = int(cli("tokens", "-m", "tiny", "--count", "--no-bos", "<|im_end|>").stdout)
        counts = [
            document(cli("complete", "-m", "tiny", "-n", 1, "--json", text))["prompt_tokens"]
            for text in ("a", "a<|im_end|>")
        ]
        assert counts[1] - counts[0] == n_plain
        raw = [
            document(cli("complete", "-m", "tiny", "-n", 1, "--json", "--raw", *more, "a<|im_end|>"))["prompt_tokens"]
            for more in ((), ("--special",))
        ]
        assert raw[0] - raw[1] == n_plain - 1

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--raw", "-s", "x"), b"--raw has no system message"),
            (("--raw", "--chat"), b"exclude each other"),
            (("--raw", "--think"), b"--raw"),
            (("--special",), b"--special needs --raw"),
            (("--think", "--no-think"), b"exclude each other"),
            (("--think=hard",), b"one of on, low, medium, high"),
        ],
    )
    def test_contradictions(self, cli: Cli, options: tuple[str, ...], message: bytes) -> None:
        done = cli("complete", "-m", "tiny", *options, "Hello")
        assert (done.returncode, done.stdout) == (2, b"")
        assert message in done.stderr

    def test_chat_insists(self, cli: Cli, plain: Path) -> None:
        done = cli("complete", "-m", plain, "--chat", "Hello")
        assert done.returncode == 2
        assert b"has no chat template" in done.stderr

    def test_a_broken_template_does_not_stop_raw(self, cli: Cli, tmp_path: Path) -> None:
        from make_gguf import write_llama

        path = write_llama(tmp_path / "broken.gguf", chat_template="{% for %}")
        done = cli("complete", "-m", path, "-n", 2, "Hello")
        assert (done.returncode, done.stdout) == (6, b"")
        assert b"--raw" in done.stderr
        assert cli("complete", "-m", path, "-n", 2, "--raw", "Hello").returncode == 0

    def test_reasoning_goes_apart(self, cli: Cli, tmp_path: Path) -> None:
        """A template that opens the reasoning, and a model that never closes it: no answer, code 8."""
        from make_gguf import spm_tokens, write_llama

        template = "{% for message in messages %}{{ message.content }}{% endfor %}<think>\n"
        path = write_llama(tmp_path / "r.gguf", tokens=[*spm_tokens(), "<think>", "</think>"], chat_template=template)
        end = len(spm_tokens()) + 1
        never = ("--logit-bias", f"{end}-inf", "--logit-bias", "2-inf")
        piped = cli("complete", "-m", path, "-n", 8, "--seed", 1, *never, "Hello")
        assert (piped.returncode, piped.stdout) == (8, b"")
        assert b"still reasoning" in piped.stderr
        done = cli("complete", "-m", path, "-n", 8, "--seed", 1, *never, "--json", "Hello")
        assert done.returncode == 8
        result = json.loads(done.stdout)
        assert result["text"] == ""
        assert result["reasoning"]
        always = ("--logit-bias", f"{end}+1000")
        done = cli("complete", "-m", path, "-n", 1, *always, "--json", "Hello")
        assert json.loads(done.stdout)["reasoning"] is None


class TestSlips:
    @pytest.mark.parametrize(
        ("arguments", "wanted"),
        [
            (("-seed", "42", "hi"), b"did you mean --seed"),
            (("-s", "42", "hi"), b"--seed 42"),
            (("-system", "x", "hi"), b"did you mean --system"),
            (("-temp", "0", "hi"), b"--temp"),
            (("--sed", "42", "hi"), b"--seed"),
            (("-n", "many", "hi"), b"'many' is no whole number"),
            (("--temp", "warm", "hi"), b"'warm' is no number"),
            (("-fa", "maybe", "hi"), b"auto, on, off"),
            (("-ctk", "q9", "hi"), b"one of f32"),
            (("-ngl", "some", "hi"), b"auto, all or a number"),
            (("--samplers", "top_k;magic", "hi"), b"no sampler magic"),
            (("--logit-bias", "abc", "hi"), b"ID+BIAS"),
            (("--mirostat", "7", "hi"), b"--mirostat 7"),
            (("--override-tensor", "nonsense", "hi"), b"REGEX=BUFFER"),
            (("--device", "gpu99", "hi"), b"no such device"),
            (("--main-gpu", "3", "hi"), b"--main-gpu 3"),
            (("--lora", "nothing.gguf", "hi"), b"no such file"),
            (("-ctv", "q8_0", "-fa", "off", "hi"), b"needs flash attention"),
            (("-f", "nothing.txt", "hi"), b"nothing.txt: no such file"),
            (("a", "b"), b"unexpected extra argument"),
            (("-s=42", "hi"), b"--seed 42"),
            (("-ngl0", "hi"), b"did you mean -ngl 0?"),
            (("--think", "high", "hi"), b"--think=high"),
            (("--think", "hi"), b"no chat template"),
            (("--ctx", "64", "hi"), b"did you mean --ctx-size?"),
            (("--top_k", "3", "hi"), b"did you mean --top-k?"),
            (("-n is great",), b"did you mean a prompt?"),
            (("",), b"there is no text"),
            (("-t", "100000", "hi"), b"between 1 and 512"),
            (("--top-k", "4294967297", "hi"), b"2147483647"),
            (("--samples", "300", "--json", "hi"), b"between 1 and 256"),
            (("-ot", "(?i)x=CPU", "hi"), b"--override-tensor"),
            (("--device", "CPU", "hi"), b"no such device to offload to"),
            (("--device", "", "hi"), b"names no device"),
            (("--lora", "x.gguf:nan", "hi"), b"no such file"),
            (("--logit-bias", "5+inf", "hi"), b"too much"),
            (("--echo", "--json", "hi"), b"--echo"),
            ((b"--stop", b"\xff", b"hi"), b"no UTF-8"),
        ],
    )
    def test_refused_in_one_line(
        self, cli: Cli, bare: Path, arguments: tuple[str, ...], wanted: bytes, tmp_path: Path
    ) -> None:
        done = cli("complete", "-m", bare, *arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, b"")
        lines = done.stderr.splitlines()
        assert lines[0].startswith(b"error: ")
        assert all(line.startswith(b"hint: ") for line in lines[1:])
        assert len(lines) <= 2
        assert wanted in lines[0]

    @pytest.mark.parametrize(
        "arguments",
        [
            ("-n3", "-t1", "hi"),
            ("--n-predict", "3", "--temperature", "0", "hi"),
            ("-n", "3", "-b", "4", "-ub", "2", "-fa", "on", "-ctk", "f32", "a longer prompt than one batch"),
            ("-n", "3", "--no-mmap", "hi"),
            ("-n", "3", "--no-repack", "hi"),
            ("-n", "3", "-ngl", "all", "-dev", "none", "hi"),
            ("-n", "3", "--n-cpu-moe", "2", "hi"),
            ("-n", "3", "-ot", "ffn=CPU", "hi"),
            ("-n", "3", "--", "-hi"),
            ("-c", "0", "-n", "3", "hi"),
            ("-n=3", "-p=hi"),
            ("-n", "3", "-ctk", "bf16", "-ctv", "bf16", "hi"),
            ("-n", "3", "-ngl", "ALL", "--device", "NONE", "hi"),
            ("-n", "3", "--samples", "4", "-b", "1", "-0", "hi"),
            ("-n", "3", "--dry-penalty-last-n", "2147483647", "--dry-multiplier", "1", "hi"),
            ("-n", "3", "--logit-bias", "5-1e5", "hi"),
            ("-n", "3", "--samplers", "infill;temp", "hi"),
        ],
    )
    def test_accepted(self, cli: Cli, bare: Path, arguments: tuple[str, ...]) -> None:
        done = cli("complete", "-m", bare, *arguments)
        assert done.returncode == 0, done.stderr

    def test_usage_errors_of_the_program(self, cli: Cli) -> None:
        for arguments in (("complet",), ("--nonsense",), ("complete", "--nonsense")):
            done = cli(*arguments)
            assert (done.returncode, done.stdout) == (2, b"")
            assert done.stderr.startswith(b"error: ")
        assert b"complete" in cli("complet").stderr
        assert cli("-h").returncode == cli("complete", "-h").returncode == cli("--version").returncode == 0


class TestBadModels:
    """Each with its code and one line; the header's own tests are in unit/models."""

    @pytest.mark.parametrize(
        ("content", "code", "wanted"),
        [
            (b"", 6, b"empty"),
            (b"GGUF\x03\0\0\0", 6, b"cut short"),
            (b"<!DOCTYPE html><html>Not found</html>", 6, b"HTML"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", 6, b"LFS"),
            (bytes(range(256)) * 40, 6, b"not a GGUF"),
        ],
    )
    def test_files(self, cli: Cli, tmp_path: Path, content: bytes, code: int, wanted: bytes) -> None:
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        done = cli("complete", "-m", path, "hi")
        assert (done.returncode, done.stdout) == (code, b"")
        assert wanted.lower() in done.stderr.lower()
        assert done.stderr.startswith(b"error: ")

    def test_places(self, cli: Cli, tmp_path: Path) -> None:
        assert cli("complete", "-m", tmp_path / "nothing.gguf", "hi").returncode == 3
        assert cli("complete", "-m", tmp_path, "hi").returncode == 2

    def test_a_cache_type_whose_blocks_do_not_fit(self, cli: Cli, plain: Path) -> None:
        """Heads of 16 values, blocks of 32."""
        done = cli("complete", "-m", plain, "-ctk", "q8_0", "hi")
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"does not divide" in done.stderr

    def test_escapes_in_names_and_metadata_do_not_reach_the_terminal(self, cli: Cli, tmp_path: Path) -> None:
        from make_gguf import write_llama

        path = write_llama(
            tmp_path / "evil\x1b]0;title\x07.gguf", metadata_overrides={"general.architecture": "x\x1b[2Jy"}
        )
        done = cli("complete", "-m", path, "hi")
        assert done.returncode == 6
        assert b"\x1b" not in done.stderr
        assert b"\x07" not in done.stderr

    def test_block_count_and_duplicate_tokens(self, cli: Cli, tmp_path: Path) -> None:
        from make_gguf import spm_tokens, write_llama

        none = write_llama(tmp_path / "none.gguf", metadata_overrides={"llama.block_count": 0})
        twice = write_llama(tmp_path / "twice.gguf", tokens=[*spm_tokens(), "same", "same"])
        for path in (none, twice):
            done = cli("complete", "-m", path, "hi")
            assert (done.returncode, done.stdout) == (6, b"")
            assert done.stderr.startswith(b"error: ")


def test_a_prompt_longer_than_the_context(cli: Cli, bare: Path) -> None:
    done = cli("complete", "-m", bare, "-c", 5, "Once upon a time there was a dog")
    assert (done.returncode, done.stdout) == (8, b"")
    assert b"the context holds 5" in done.stderr


def test_a_prompt_of_100_megabytes_is_refused_quickly(cli: Cli, bare: Path) -> None:
    done = cli("complete", "-m", bare, stdin=b"word " * 20_000_000, timeout=20)
    assert done.returncode == 8
    assert b"at least" in done.stderr


def test_the_context_fills_in_mid_answer(cli: Cli, bare: Path) -> None:
    done = cli("complete", "-m", bare, "-c", 20, "--temp", 0, "Once upon a time")
    assert done.returncode == 8
    assert len(done.stdout.split()) > 5
    assert b"the context of 20 tokens is full" in done.stderr


def test_an_impossible_context_is_refused_before_it_is_touched(cli: Cli, bare: Path) -> None:
    done = cli("complete", "-m", bare, "-c", 2_000_000_000, "hi")
    assert (done.returncode, done.stdout) == (11, b"")
    assert b"GiB" in done.stderr


@pytest.mark.parametrize("nonsense", [0, 2**31, 2**32 - 1])
def test_a_trained_size_that_makes_no_sense(cli: Cli, tmp_path: Path, nonsense: int) -> None:
    from make_gguf import write_llama

    path = write_llama(tmp_path / "m.gguf", metadata_overrides={"llama.context_length": nonsense})
    assert cli("complete", "-m", path, "-n", 2, "hi").returncode == 0


def test_read_only_home_and_folder(cli: Cli, chat: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    home = {"LLAMACLI_HOME": "/proc/nowhere", "HOME": "/proc/nowhere"}
    done = cli("complete", "-m", chat, "-n", 2, "hi", env=home, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")


def test_ascii_locale(cli: Cli, bare: Path) -> None:
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = cli("complete", "-m", bare, "-n", 1, "--echo", "é", env=env)
    assert done.returncode == 0
    assert done.stdout.startswith("é".encode())


def test_a_closed_pipe_ends_by_sigpipe(bare: Path) -> None:
    script = f'"{sys.executable}" -m llamacli complete -m "{bare}" hi </dev/null | head -c 5; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=60, check=False)
    assert done.stdout[5:].strip() == b"141"
    assert done.stderr == b""


def test_a_full_disk(bare: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "wb") as full:
        arguments = [sys.executable, "-m", "llamacli", "complete", "-m", str(bare), "-n", "3", "hi"]
        done = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert done.returncode == 9
    assert done.stderr.startswith(b"error: ")


def test_closed_standard_output(bare: Path) -> None:
    for command in (f'complete -m "{bare}" -n 3 hi', f'tokens -m "{bare}" hi', "devices"):
        script = f'exec "{sys.executable}" -m llamacli {command} </dev/null >&-'
        done = subprocess.run(["sh", "-c", script], capture_output=True, timeout=60, check=False)
        assert done.returncode == 9, command
        assert done.stderr.startswith(b"error: standard output is closed")


@pytest.mark.parametrize("arguments", [("--help",), ("complete", "--help"), ("devices",)])
def test_a_pipe_closed_before_the_help(arguments: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "llamacli", *arguments], stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


def test_a_non_blocking_pipe_gets_everything(cli: Cli, bare: Path) -> None:
    """Parents such as node make pipes non-blocking; a full one must not lose text."""
    text = b"word " * 30_000
    expected = cli("tokens", "-m", bare, "--ids", stdin=text).stdout
    assert len(expected) > 1 << 17  # more than a pipe holds
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    arguments = [sys.executable, "-m", "llamacli", "tokens", "-m", str(bare), "--ids"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=writer) as process:
        os.close(writer)
        assert process.stdin is not None
        process.stdin.write(text)
        process.stdin.close()
        while unread(reader) < 4096:  # it has begun to write
            pass
        with os.fdopen(reader, "rb") as pipe:
            received = pipe.read()
    assert received == expected
    assert process.returncode == 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_while_nobody_reads(bare: Path, signum: int) -> None:
    """Blocked in a write, Python runs no handler: the watcher ends it."""
    reader, writer = os.pipe()
    arguments = [sys.executable, "-m", "llamacli", "complete", "-m", str(bare), "-n", "3", "--echo", "--no-stdin"]
    with subprocess.Popen([*arguments, "-c", "60000", "word " * 25_000], stdout=writer) as process:
        os.close(writer)
        size = 0
        while size < 32768:  # a pipe of half-filled pages is full with so little: it is blocked, or about to be
            size = unread(reader)
        process.send_signal(signum)
        began = time.monotonic()
        assert process.wait(timeout=30) == -signum
    os.close(reader)
    assert time.monotonic() - began < 1.0


def unread(fd: int) -> int:
    """Bytes that wait in a pipe."""
    import array
    import fcntl
    import termios

    waiting = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, waiting)
    return waiting[0]


def test_a_signal_ends_a_long_tokenisation(shared: Path, tmp_path: Path) -> None:
    vocabulary = shared / "data/vocab/ggml-vocab-llama-spm.gguf"
    book = tmp_path / "book"
    book.write_bytes((shared / "data/text/wiki.test.raw").read_bytes() * 8)
    arguments = [sys.executable, "-m", "llamacli", "tokens", "--count", "-m", str(vocabulary), "-f", str(book)]
    with subprocess.Popen([*arguments, "--no-stdin"], stdout=subprocess.PIPE) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1.0)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert process.wait(timeout=30) == -signal.SIGINT
    assert time.monotonic() - began < 1.0


def test_weights_that_are_no_numbers(cli: Cli, tmp_path: Path) -> None:
    import numpy as np
    from make_gguf import DIM, write_llama

    path = write_llama(tmp_path / "nan.gguf", tensor_overrides={"output_norm.weight": np.full(DIM, np.nan, np.float32)})
    done = cli("complete", "-m", path, "-n", 3, "hi")
    assert (done.returncode, done.stdout) == (6, b"")
    assert b"NaN" in done.stderr


def test_a_context_beyond_the_trained_size_is_a_warning(cli: Cli, bare: Path) -> None:
    done = cli("complete", "-m", bare, "-c", 4096, "-n", 2, "hi")
    assert done.returncode == 0
    assert done.stderr.startswith(b"warning: a context of 4096 tokens, but the model was trained with 1024")


def test_verbose_statistics_are_on_stderr(cli: Cli, bare: Path) -> None:
    done = cli("complete", "-m", bare, "-n", 4, "-v", "--seed", 5, "hi")
    assert b"seed 5" in done.stderr
    assert b"seed" not in done.stdout
