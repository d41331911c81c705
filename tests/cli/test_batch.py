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


@pytest.mark.parametrize("change", [("--temp", "0.5"), ("-n", "5"), ("-s", "Hi"), ("--seed", "3"), ("-m", "copy")])
def test_another_run_is_refused(cli: Cli, bare: Path, ten: Path, tmp_path: Path, change: tuple[str, str]) -> None:
    out = tmp_path / "out.jsonl"
    cli("batch", ten, *SHORT, "-o", out)
    before = out.read_bytes()
    if change[0] == "-m":
        change = ("-m", str(bare))
    done = cli("batch", ten, *SHORT, *change, "-o", out)
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
