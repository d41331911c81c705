"""`llamacli eval`: table, TSV and JSON; results that grow; Ctrl-C; a process that is killed goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., subprocess.CompletedProcess[bytes]]

ANIMALS = ("dog", "cat", "bird", "fish", "frog", "bear", "fox", "pig", "cow", "hen")
WORDS = ("park", "house", "garden", "tree")


def line(i: int) -> str:
    query = f"Once upon a time, there was a little {ANIMALS[i % 10]}. He went to number {i} in the"
    return json.dumps({"query": query, "choices": WORDS, "gold": i % 4}) + "\n"


@pytest.fixture
def few(tmp_path: Path) -> Path:
    path = tmp_path / "few.jsonl"
    path.write_text("".join(map(line, range(12))))
    return path


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Enough for the built-in model to need many seconds, whatever the machine."""
    path = tmp_path / "many.jsonl"
    path.write_text("".join(line(i).replace("Once", "The big dog was happy. " * 20 + "Once") for i in range(3000)))
    return path


def test_a_pipe_gets_tsv(cli: Cli, few: Path) -> None:
    done = cli("eval", "choice", few, "-m", "tiny")
    assert (done.returncode, done.stderr) == (0, b"")
    header, values = (row.split("\t") for row in done.stdout.decode().splitlines())
    row = dict(zip(header, values, strict=True))
    assert (row["task"], row["n"], row["scored"], row["skipped"]) == ("choice", "12", "12", "0")
    assert float(row["acc"]) == pytest.approx(int(row["acc_correct"]) / 12, abs=1e-6)
    assert float(row["acc_low"]) < float(row["acc"]) < float(row["acc_high"])
    assert {"acc_norm", "acc_norm_error"} <= set(row)


def test_json_and_standard_input(cli: Cli, few: Path) -> None:
    result = json.loads(cli("eval", "choice", "-", "-m", "tiny", "--json", "-n", "5", stdin=few.read_bytes()).stdout)
    assert (result["n"], result["scored"], result["complete"], result["normalised_by"]) == (5, 5, True, "bytes")
    assert set(result["accuracy"]) == {"correct", "value", "error", "low", "high"}
    assert result["file"] == "standard input"


def test_a_terminal_gets_a_table(few: Path) -> None:
    pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")
    from screen import Terminal

    seen = Terminal("eval", "choice", few, "-m", "tiny", "--shots", "1")
    assert seen.end() == 0
    table = seen.text()
    assert re.search(r"acc +\d+\.\d\d % +\d+\.\d\d – \d+\.\d\d % +\d+ of 12", table), table
    assert "acc_norm" in table
    assert "bytes" in table


def test_skipped_questions_are_reported(cli: Cli, few: Path) -> None:
    few.write_text(few.read_text() + json.dumps({"query": "dog " * 3000, "choices": ["a", "b"], "gold": 0}) + "\n")
    done = cli("eval", "choice", few, "-m", "tiny", "--json")
    assert done.returncode == 0
    assert b"1 of 13 questions not scored: longer than the context" in done.stderr
    assert json.loads(done.stdout)["skipped"] == {"longer than the context": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("arc", "FILE"), b"TASK arc: it must be one of hellaswag, winogrande, choice"),
        (("hellaswag", "FILE"), b"few.jsonl, line 2: the number of the right ending"),
        (("choice", "nowhere.jsonl"), b"no such file"),
        (("choice", "FILE", "--shots", "12"), b"there are 11 other questions"),
        (("hellaswag", "FILE", "--delimiter", "x"), b"--delimiter is for choice"),
        (("choice", "FILE", "-o", "."), b"folder"),
        (("choice", "FILE", "-n", "-1"), b"-1"),
    ],
)
def test_wrong_use(cli: Cli, few: Path, arguments: tuple[str, ...], message: bytes) -> None:
    done = cli("eval", *(few if a == "FILE" else a for a in arguments), "-m", "tiny")
    assert (done.returncode, done.stdout) == (2, b"")
    assert message in done.stderr


def start(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "llamacli", "eval", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)


def wait_for_lines(path: Path, n: int) -> None:
    late = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < n:
        assert time.monotonic() < late
        time.sleep(0.02)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_prints_what_there_is(many: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    process = start("choice", many, "-m", "tiny", "-o", results, "--json")
    wait_for_lines(results, 20)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - began < 3
    assert process.returncode == -signal.SIGINT
    result = json.loads(out)
    assert not result["complete"]
    assert 19 <= result["scored"] < 3000
    assert result["scored"] == results.read_bytes().count(b"\n") - 1
    assert b"stopped: %d of 3000" % result["scored"] in err


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_killed_run_goes_on(cli: Cli, tmp_path: Path) -> None:
    """Killed twice, and then left to end: each question once, and the figures of a run without a break."""
    file, results, whole = (tmp_path / name for name in ("set.jsonl", "results.jsonl", "whole.jsonl"))
    file.write_text("".join(map(line, range(400))))
    arguments = ("choice", file, "-m", "tiny", "-t", "1", "--json")
    expected = json.loads(cli("eval", *arguments, "-o", whole).stdout)
    for n in (30, 150):
        process = start(*arguments, "-o", results)
        wait_for_lines(results, n)
        process.kill()
        process.communicate()
    result = json.loads(cli("eval", *arguments, "-o", results).stdout)
    assert result["resumed"] >= 149
    items = [json.loads(row)["item"] for row in results.read_text().splitlines()[1:]]
    assert items == list(range(400))
    assert {**result, "resumed": 0, "seconds": 0} == {**expected, "seconds": 0}


def test_the_bar_shows_the_accuracy(many: Path) -> None:
    pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")
    from screen import Terminal

    seen: Any = Terminal("eval", "choice", many, "-m", "tiny", columns=100)
    try:
        pattern = re.compile(r"choice \d+\.\d\d % .* \d+/3000 \d+:\d\d:\d\d")
        seen.until(lambda: pattern.search(seen.text()) is not None)
        seen.child.sendintr()
        assert seen.end() == -signal.SIGINT
        assert "acc_norm" in seen.text()
        assert "stopped: " in seen.text()
    finally:
        seen.close()
