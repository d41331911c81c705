"""`llamacli batch`: records in order or as they come, errors by line, a file that is gone on with whoever is killed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., subprocess.CompletedProcess[bytes]]

NAMES = ("Anna", "Ben", "Tom", "Lily", "Max", "Sue", "Bob", "Tim", "Mia", "Sam")
SHORT = ("-m", "tiny", "--temp", "0", "-n", "4", "-t", "1")


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def records(data: bytes | Path) -> list[dict[str, Any]]:
    data = data.read_bytes() if isinstance(data, Path) else data
    assert data.endswith(b"\n") or not data
    return [json.loads(line) for line in data.splitlines()]


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    """Answers of very different lengths, the longest first."""
    return write(
        tmp_path / "ten.jsonl",
        [
            {"prompt": f"Tell me a story about {name}.", "id": name, "max_tokens": 40 - 4 * i}
            for i, name in enumerate(NAMES)
        ],
    )


def test_answers_are_those_of_complete_in_the_order_of_the_input(cli: Cli, ten: Path) -> None:
    done = cli("batch", ten, *SHORT, "-np", "4")
    assert (done.returncode, done.stderr) == (0, b"")
    found = records(done.stdout)
    assert [(record["id"], record["line"]) for record in found] == list(zip(NAMES, range(1, 11), strict=True))
    for record in (found[0], found[9]):
        limit = record["usage"]["completion_tokens"]
        asked = f"Tell me a story about {record['id']}."
        alone = json.loads(cli("complete", asked, *SHORT, "-n", limit, "--json", "--no-stdin").stdout)
        assert (record["text"], record["finish_reason"]) == (alone["text"], "length")
        assert record["usage"]["prompt_tokens"] == alone["prompt_tokens"]
    assert [record["seed"] for record in found] == [*range(1, 11)]


def test_as_completed(cli: Cli, ten: Path) -> None:
    done = cli("batch", ten, *SHORT, "-np", "10", "--as-completed")
    lines = [record["line"] for record in records(done.stdout)]
    assert sorted(lines) == [*range(1, 11)]
    assert lines.index(10) < lines.index(1)


def test_bad_lines_are_records_and_code_12(cli: Cli, tmp_path: Path) -> None:
    lines = ['"Hello"', "", "nonsense", {"id": 3, "promt": "a"}, {"prompt": "a", "temperature": -1}, '"Hello"']
    lines += [{"prompt": "word " * 3000}, {"id": "x", "prompt": "Hello"}, {"id": "x", "prompt": "Hello"}]
    done = cli("batch", write(tmp_path / "in", lines), *SHORT)
    assert done.returncode == 12
    assert done.stderr.decode() == "error: 5 of 8 lines failed\n"
    found = {record["line"]: record for record in records(done.stdout)}
    assert [*found] == [1, 3, 4, 5, 6, 7, 8, 9]
    errors = {line: record["error"] for line, record in found.items() if "error" in record}
    assert errors[3] == {"code": 2, "message": "no JSON: Expecting value, column 1"}
    assert (found[4]["id"], errors[4]["message"]) == (3, "unknown key promt; did you mean prompt?")
    assert errors[5]["message"] == "--temp -1.0: it must be 0 or more"
    assert errors[7]["code"] == 8
    assert "tokens, and the context holds 1024" in errors[7]["message"]
    assert errors[9]["message"] == 'id "x": line 8 has the same'
    assert found[1]["text"] == found[6]["text"] == found[8]["text"]


def test_the_same_seed_gives_the_same_text_whatever_runs_beside(cli: Cli, tmp_path: Path) -> None:
    path = write(tmp_path / "in", [{"prompt": "Tell me a story.", "max_tokens": 12}] * 6)
    texts = [
        [
            (record["seed"], record["text"])
            for record in records(cli("batch", path, "-m", "tiny", "-t", 1, *more).stdout)
        ]
        for more in (("-np", 1), ("-np", 4), ("--seed", 1), ("--seed", 2))
    ]
    assert texts[0] == texts[1] == texts[2]
    assert [seed for seed, _ in texts[3]] == [2, 3, 4, 5, 6, 7]
    assert texts[3][:5] == texts[0][1:]
    assert len({text for _, text in texts[0]}) > 1


def test_messages_system_and_stop(cli: Cli, tmp_path: Path) -> None:
    say = [{"role": "user", "content": "My name is Anna."}, {"role": "assistant", "content": "Hello, Anna!"}]
    lines = [{"messages": [*say, {"role": "user", "content": "What is my name?"}]}, {"prompt": "What is 7 plus 8?"}]
    lines.append({"prompt": "Tell me a story about Lily.", "stop": [" named"]})
    found = records(cli("batch", write(tmp_path / "in", lines), "-m", "tiny", "--temp", "0", "-t", 1).stdout)
    assert [record["text"] for record in found[:2]] == ["Your name is Anna.", "15"]
    assert (found[2]["finish_reason"], found[2]["stop"]) == ("stop", " named")
    assert found[2]["text"].startswith("Once upon a time")
    assert found[2]["text"].endswith(" duck")


def test_shapes_of_all_lines_and_of_one(cli: Cli, tmp_path: Path) -> None:
    lines = [
        {"prompt": "What is 7 plus 8?"},
        {"prompt": "The soup was cold. Is this review positive or negative?", "choices": ["positive", "negative"]},
        {"prompt": "Give the people and places as JSON.", "schema": {"type": "array", "items": {"const": 1}}},
        {"prompt": "What is 7 plus 8?", "grammar": 'root ::= "no" | "yes"', "max_tokens": 8},
        {"prompt": "x", "schema": {"type": "array", "uniqueItems": True}},
        {"prompt": "x", "regex": "a{100}", "max_tokens": 3},
        {"prompt": "x", "regex": "a", "stop": "b"},
        {"prompt": "x", "regex": "a", "grammar": 'root ::= "a"'},
    ]
    path = write(tmp_path / "in", lines)
    options = ("-m", "tiny", "--temp", "0", "-t", "1", "--regex", "[0-9]{2} (apples|pears)")
    done = cli("batch", path, *options, "-np", "3")
    assert done.returncode == 12
    found = records(done.stdout)
    assert found[0]["text"] in ("15 pears", "15 apples")
    assert found[1]["text"] == "negative"
    assert set(json.loads(found[2]["text"])) <= {1}
    assert found[3]["text"] in ("no", "yes")
    messages = [(record["error"]["code"], record["error"]["message"]) for record in found[4:]]
    assert messages == [
        (2, 'schema: at the top: "uniqueItems" is not supported'),
        (8, "after 3 tokens the answer has not its whole shape: no more were allowed"),
        (2, "stop: the shape says where the answer ends"),
        (2, "grammar: an answer has one shape"),
    ]
    assert "text" not in found[5]
    assert records(cli("batch", path, *options, "--partial").stdout)[5]["text"] == "aaa"


def test_a_shape_that_no_line_could_have_ends_it_before(cli: Cli, ten: Path) -> None:
    done = cli("batch", ten, *SHORT, "--schema", '{"uniqueItems": true}')
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b'error: --schema: at the top: "uniqueItems" is not supported\n'


def test_logprobs_are_those_of_complete(cli: Cli, tmp_path: Path) -> None:
    question = "What is 7 plus 8?"
    lines = [{"prompt": question, "logprobs": 2}, {"prompt": question}, {"prompt": "Tell me a story.", "logprobs": 0}]
    found = records(cli("batch", write(tmp_path / "in", lines), *SHORT).stdout)
    alone = json.loads(cli("complete", question, *SHORT, "--json", "--no-stdin", "--logprobs", 2).stdout)
    assert [token["token"] for token in found[0]["logprobs"]] == [token["token"] for token in alone["logprobs"]]
    for token, other in zip(found[0]["logprobs"], alone["logprobs"], strict=True):
        assert token["logprob"] == pytest.approx(other["logprob"], abs=0.02)
        assert [*token] == [*other]
        assert len(token["top_logprobs"]) == 2
    assert "logprobs" not in found[1]
    assert "".join(token["token"] for token in found[2]["logprobs"]) == found[2]["text"]
    done = cli("batch", write(tmp_path / "in", [{"prompt": question}]), *SHORT, "--logprobs", "1")
    assert len(records(done.stdout)[0]["logprobs"][0]["top_logprobs"]) == 1


def test_a_preset_takes_the_text_of_each_line(cli: Cli, tmp_path: Path) -> None:
    env = {"LLAMACLI_HOME": str(tmp_path / "home")}
    asked = "$input Is this review $one or negative?"
    cli("complete", asked, "--save", "review", env=env)
    (folder,) = (tmp_path / "home").rglob("presets")
    (folder / "review.toml").write_text(f'prompt = "{asked}"\ntemp = 0\n[defaults]\none = "good"\n')
    reviews = ["The soup was cold.", "The bed is not comfortable, but we had a great time."]
    lines = [{"prompt": review} for review in reviews]
    path, out = write(tmp_path / "in", [*lines, {**lines[0], "system": "Be brief."}]), tmp_path / "out"
    command = ("batch", path, "--preset", "review", "-m", "tiny", "-t", 1, "-o", out)
    command = (*command, "--choices", "positive,negative")
    assert cli(*command, "--var", "one=positive", env=env).returncode == 0
    assert [record["text"] for record in records(out)][:2] == ["negative", "positive"]
    done = cli(*command, env=env)
    assert (done.returncode, b"answers of another run" in done.stderr) == (2, True)
    done = cli(*command, "--var", "two=x", env=env)
    assert (done.returncode, b"two" in done.stderr) == (2, True)


def test_another_system_message_of_a_preset_is_another_run(cli: Cli, ten: Path, tmp_path: Path) -> None:
    env = {"LLAMACLI_HOME": str(tmp_path / "home")}
    cli("complete", "$input", "-s", "Be $how.", "--save", "polite", env=env)
    command = ("batch", ten, "--preset", "polite", *SHORT, "-o", tmp_path / "out")
    assert cli(*command, "--var", "how=brief", env=env).returncode == 0
    done = cli(*command, "--var", "how=kind", env=env)
    assert (done.returncode, b"answers of another run" in done.stderr) == (2, True)


def test_raw_continues(cli: Cli, tmp_path: Path) -> None:
    path = write(tmp_path / "in", ['"Once upon a time"'])
    found = records(cli("batch", path, *SHORT, "--raw").stdout)
    alone = cli("complete", "Once upon a time", *SHORT, "--raw", "--no-stdin")
    assert found[0]["text"] + "\n" == alone.stdout.decode()


@contextlib.contextmanager
def started(*arguments: object, stdin: Any = subprocess.DEVNULL) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "llamacli", "batch", *map(str, arguments)]
    process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    with process:
        yield process
        process.kill()
    watchdog.cancel()


def test_a_stream_is_begun_before_its_end() -> None:
    with started("-", *SHORT, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in (1, 2):
            process.stdin.write(b'"Hello"\n')
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["line"] == line
        process.stdin.write(b'"Hello"')  # no line break at the end
        process.stdin.close()
        assert json.loads(process.stdout.readline())["line"] == 3
        assert process.wait() == 0


def test_ctrl_c_keeps_what_is_complete(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    lines: list[Any] = [{"prompt": f"Tell me a story about {name}."} for name in NAMES * 8]
    path = write(tmp_path / "in", lines)
    arguments = ("batch", path, "-m", "tiny", "--temp", 0, "-t", 1, "-n", 20, "-o", out)
    with started(*arguments[1:]) as process:
        while not out.exists() or out.read_bytes().count(b"\n") < 3:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait() == -signal.SIGINT
        assert process.stderr is not None
        assert process.stderr.read() == b""
    kept = {record["line"]: record for record in records(out)}
    assert 3 <= len(kept) < 80
    done = cli(*arguments, "-v")
    assert done.returncode == 0
    assert f"{len(kept)} of them from an earlier run" in done.stderr.decode()
    found = records(out)
    assert [record["line"] for record in found] == [*range(1, 81)]
    for record in found:
        assert record == kept.get(record["line"], record)


# --- a file that is gone on with --------------------------------------------------------------------------------------


def test_what_is_there_is_not_done_again(cli: Cli, ten: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert cli("batch", ten, *SHORT, "-o", out).returncode == 0
    whole = out.read_bytes()
    assert [record["line"] for record in records(out)] == [*range(1, 11)]
    out.write_bytes(b"".join(whole.splitlines(True)[3:7]) + b'{"id": "Anna", "line": 1, "te')  # a cut last line
    assert cli("batch", ten, *SHORT, "-o", out).returncode == 0
    assert out.read_bytes() == whole
    stamp = os.stat(out).st_mtime_ns
    assert cli("batch", ten, *SHORT, "-o", out).returncode == 0
    assert os.stat(out).st_mtime_ns == stamp
    ten.write_bytes(ten.read_bytes() + b'"One more"\n')
    assert cli("batch", ten, *SHORT, "-o", out).returncode == 0
    assert out.read_bytes().startswith(whole)
    assert len(records(out)) == 11


@pytest.mark.parametrize(
    "change",
    ["--temp 0.5", "-n 5", "-s Hi", "--seed 3", "-m copy", "--hidethinking", "--partial", "--logprobs"],
)
def test_another_run_is_refused(cli: Cli, bare: Path, ten: Path, tmp_path: Path, change: str) -> None:
    out = tmp_path / "out.jsonl"
    cli("batch", ten, *SHORT, "-o", out)
    before = out.read_bytes()
    done = cli("batch", ten, *SHORT, *change.replace("copy", str(bare)).split(), "-o", out)
    assert done.returncode == 2
    assert "answers of another run" in done.stderr.decode()
    assert out.read_bytes() == before


def test_another_line_is_refused_but_a_mended_one_is_read(cli: Cli, tmp_path: Path) -> None:
    path, out = write(tmp_path / "in", ['"Hello"', "nonsense"]), tmp_path / "out.jsonl"
    assert cli("batch", path, *SHORT, "-o", out).returncode == 12
    write(path, ['"Hello"', '"Hello"'])
    assert cli("batch", path, *SHORT, "-o", out, "--as-completed").returncode == 0
    assert [(record["line"], "error" in record) for record in records(out)] == [(1, False), (2, False)]
    write(path, ['"Goodbye"', '"Hello"'])
    done = cli("batch", path, *SHORT, "-o", out)
    assert (done.returncode, b"another line 1: the input was changed" in done.stderr) == (2, True)


@pytest.mark.parametrize("content", [b"my notes\n", b"my notes", b'{"a": 1}\n', b"\x80\n"])
def test_a_file_of_another_kind_is_left_alone(cli: Cli, ten: Path, tmp_path: Path, content: bytes) -> None:
    out = tmp_path / "notes"
    out.write_bytes(content)
    done = cli("batch", ten, *SHORT, "-o", out)
    assert done.returncode == 2
    assert "is no answer of batch" in done.stderr.decode()
    assert out.read_bytes() == content


def test_input_and_output_must_differ(cli: Cli, ten: Path) -> None:
    before = ten.read_bytes()
    done = cli("batch", ten, *SHORT, "-o", ten)
    assert (done.returncode, b"both input and output" in done.stderr) == (2, True)
    assert ten.read_bytes() == before


def test_an_id_that_comes_twice_is_found_by_whoever_goes_on_too(cli: Cli, tmp_path: Path) -> None:
    lines = [{"prompt": "Hello", "id": "a"}, {"promt": "", "id": "b"}, {"prompt": "Hello", "id": "a"}, {"id": "b"}]
    path, out = write(tmp_path / "in", [*lines, {"prompt": "Hello", "id": "b"}]), tmp_path / "out"
    assert cli("batch", path, *SHORT, "-o", out).returncode == 12
    whole = out.read_bytes()
    for n in (1, 3):  # killed after so many
        out.write_bytes(b"".join(whole.splitlines(True)[:n]))
        done = cli("batch", path, *SHORT, "-o", out)
        assert (done.returncode, out.read_bytes()) == (12, whole)
        assert done.stderr.startswith(b"error: 4 of 5 lines failed")
    assert [record["error"]["message"] for record in records(out)[2::2]] == [
        f'id "{id}": line {line} has the same' for id, line in (("a", 1), ("b", 2))
    ]


def test_lines_that_the_input_has_no_longer_are_mentioned(cli: Cli, tmp_path: Path) -> None:
    path, out = write(tmp_path / "in", ['"Hello"'] * 3), tmp_path / "out"
    cli("batch", path, *SHORT, "-o", out)
    before = out.read_bytes()
    write(path, ['"Hello"'])
    done = cli("batch", path, *SHORT, "-o", out)
    assert (done.returncode, out.read_bytes()) == (0, before)
    assert done.stderr.decode() == f"warning: {out} has answers to 2 lines that the input has no longer\n"


def test_one_process_at_a_time_writes_a_file(cli: Cli, ten: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with started("-", *SHORT, "-o", out, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b'"Hello"\n')
        process.stdin.flush()
        while not out.exists() or not out.read_bytes().endswith(b"\n"):
            assert process.poll() is None
        done = cli("batch", ten, *SHORT, "-o", out)
        assert (done.returncode, b"another process is writing it" in done.stderr) == (2, True)
        process.stdin.close()
        assert process.wait() == 0
    assert len(records(out)) == 1


def test_a_full_disk_ends_it_and_is_gone_on_with(cli: Cli, ten: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900)); "
        "from llamacli.__main__ import run; run()"
    )
    command = [sys.executable, "-c", limited, "batch", *map(str, (ten, *SHORT, "-o", out))]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr.decode()) == (9, f"error: {out}: File too large\n")
    assert len(out.read_bytes()) == 900
    assert cli("batch", ten, *SHORT, "-o", out).returncode == 0
    assert [record["line"] for record in records(out)] == [*range(1, 11)]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_standard_output(ten: Path) -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "llamacli", "batch", *map(str, (ten, *SHORT))]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (9, b"error: standard output: No space left on device\n")


@pytest.mark.parametrize("more", [(), ("-o", "/dev/stdout"), ("-o", "-")])
def test_a_closed_pipe_ends_it_as_the_shell_expects(tmp_path: Path, more: tuple[str, ...]) -> None:
    with started(write(tmp_path / "in", ['"Hello"'] * 2000), *SHORT, *more) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["line"] == 1
        process.stdout.close()
        assert process.stderr is not None
        assert (process.wait(), process.stderr.read()) == (-signal.SIGPIPE, b"")


def test_records_that_only_pass_through_a_file_come_in_order(cli: Cli, ten: Path, tmp_path: Path) -> None:
    for name in ("-", "/dev/stdout"):
        done = cli("batch", ten, *SHORT, "-o", name, cwd=tmp_path)
        assert [record["line"] for record in records(done.stdout)] == [*range(1, 11)]
    assert [path.name for path in tmp_path.iterdir()] == ["ten.jsonl"]


# --- input ------------------------------------------------------------------------------------------------------------


def test_input_of_all_kinds(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b'\xef\xbb\xbf"Hello"\r\n\r\n \t\n{"prompt": "Hello"}\r\n"\xff"\n"\x00"\n"Hello"')
    done = cli("batch", path, *SHORT)
    assert (done.returncode, done.stderr) == (12, b"error: 2 of 5 lines failed\n")
    found = records(done.stdout)
    assert [record["line"] for record in found] == [1, 4, 5, 6, 7]
    assert found[0]["text"] == found[1]["text"] == found[4]["text"]
    assert [record["error"]["message"] for record in found[2:4]] == [
        "no UTF-8: byte 0xff at offset 1",
        "no JSON: Invalid control character at, column 2",
    ]


def test_a_huge_line_is_an_error_of_its_own(cli: Cli, tmp_path: Path) -> None:
    path = write(tmp_path / "in", ['"Hello"', json.dumps("word " * 4_000_000), '"Hello"'])
    found = records(cli("batch", path, *SHORT).stdout)
    assert found[1]["error"]["code"] == 8
    assert found[0]["text"] == found[2]["text"]


def test_no_lines_are_no_records(cli: Cli, tmp_path: Path) -> None:
    path, out = tmp_path / "in", tmp_path / "out"
    for data, more in ((b"", ()), (b"\n \n", ("-o", out))):
        path.write_bytes(data)
        done = cli("batch", path, *SHORT, *more)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert out.read_bytes() == b""


def test_input_that_cannot_be_read(cli: Cli, tmp_path: Path) -> None:
    done = cli("batch", tmp_path / "none", *SHORT)
    assert (done.returncode, done.stderr.decode()) == (2, f"error: {tmp_path}/none: no such file\n")
    done = cli("batch", tmp_path, *SHORT)
    assert (done.returncode, done.stderr.decode()) == (2, f"error: {tmp_path}: it is a folder\n")
    if os.path.exists("/proc/self/mem"):
        done = cli("batch", "/proc/self/mem", *SHORT)
        assert (done.returncode, done.stderr) == (9, b"error: /proc/self/mem: Input/output error\n")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_named_pipe_that_stays_open(tmp_path: Path) -> None:
    """What comes is answered; Ctrl-C ends the wait."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with started(path, *SHORT) as process, path.open("wb", buffering=0) as pipe:
        assert process.stdout is not None
        for line in (1, 2):
            pipe.write(b'"Hello"\n')
            assert json.loads(process.stdout.readline())["line"] == line
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert (process.wait(), process.stderr.read()) == (-signal.SIGINT, b"")


def test_a_seed_of_minus_one_is_drawn(cli: Cli, tmp_path: Path) -> None:
    path = write(tmp_path / "in", [{"prompt": "Hello", "seed": -1}] * 2)
    one, other = records(cli("batch", path, *SHORT).stdout)
    assert 0 <= one["seed"] != other["seed"] >= 0


@pytest.mark.slow
def test_a_hundred_thousand_lines(tmp_path: Path, stories: Path) -> None:
    """Neither memory nor time grow faster than the lines."""
    path, peaks, times = tmp_path / "in", [], []
    script = (
        "import resource, sys, os; from llamacli import __main__ as m\n"
        "try:\n m.main()\nexcept SystemExit as end:\n"
        " sys.stderr.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)); os._exit(end.code or 0)"
    )
    for n in (10_000, 100_000):
        path.write_text('{"prompt": "Hello", "max_tokens": 1}\n' * n)
        began = time.monotonic()
        command = [sys.executable, "-c", script, "batch", str(path), "-m", str(stories), "-o", str(tmp_path / str(n))]
        done = subprocess.run(command, capture_output=True, check=True, timeout=600)
        times.append(time.monotonic() - began)
        peaks.append(int(done.stderr) / 1024)
    print("seconds:", times, "MiB:", peaks)
    assert times[1] < 15 * times[0]
    assert peaks[1] - peaks[0] < 100


def killed_at_random(path: Path, out: Path, n_lines: int, rng: random.Random, *more: object) -> int:
    """Start it, kill it at some moment; how many whole lines there are then."""

    def written() -> int:
        return out.read_bytes().count(b"\n") if out.exists() else 0

    last = written() + rng.randrange(-1, n_lines // 30)
    with started(path, *SHORT, "-o", out, *more) as process:
        while written() <= last and process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.002)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 0.05))
        process.kill()
    return written()


def killed_many_times(cli: Cli, tmp_path: Path, n_lines: int, times: int, *more: object) -> None:
    rng = random.Random(times)
    path = write(tmp_path / "in", [{"prompt": f"Hello {i}", "max_tokens": 1 + i % 7} for i in range(1, n_lines + 1)])
    out = tmp_path / "out.jsonl"
    counts, before = [0], b""
    for _ in range(times):
        counts.append(killed_at_random(path, out, n_lines, rng, *more))
        whole, before = before[: before.rfind(b"\n") + 1], out.read_bytes() if out.exists() else b""
        if counts[-1] < n_lines:
            assert before.startswith(whole)  # nothing is lost, and nothing done again
    done = cli("batch", path, *SHORT, "-o", out, *more, timeout=300)
    assert done.returncode == 0
    assert [record["line"] for record in records(out)] == [*range(1, n_lines + 1)]
    print("lines after each kill:", counts[1:])
    assert len({*counts}) > times // 2, counts


def test_a_killed_run_goes_on(cli: Cli, tmp_path: Path) -> None:
    killed_many_times(cli, tmp_path, 200, 3)


@pytest.mark.slow
def test_twenty_kills_of_a_thousand_lines(cli: Cli, tmp_path: Path, stories: Path) -> None:
    killed_many_times(cli, tmp_path, 1000, 20, "-m", stories)
