"""`llamacli bench`: human, pipe and JSON, lists and ranges, wrong use, Ctrl-C."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llamacli.commands.bench import _range
from llamacli.errors import UsageError

Cli = Callable[..., subprocess.CompletedProcess[bytes]]


def rows(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, str]]:
    assert done.returncode == 0, done.stderr
    return list(csv.DictReader(io.StringIO(done.stdout.decode()), delimiter="\t"))


def test_a_pipe_gets_tsv(cli: Cli, plain: Path) -> None:
    found = rows(cli("bench", "-m", plain, "-p", "16,8", "-p", 4, "-n", 2, "-pg", "8,2", "-r", 2, "-t", 1))
    assert [row["test"] for row in found] == ["pp16", "pp8", "pp4", "tg2", "pp8+tg2"]
    assert all(float(row["tokens_per_second"]) > 0 and float(row["deviation"]) >= 0 for row in found)
    assert {row["n_threads"] for row in found} == {"1"}


def test_json(cli: Cli, plain: Path) -> None:
    done = cli("bench", "-m", plain, "-m", "tiny", "-p", 8, "-n", 0, "-r", 3, "-t", 1, "--json")
    first, second = json.loads(done.stdout)["results"]
    assert set(first) == {
        *("model", "type", "size", "n_params", "backend", "n_gpu_layers", "n_threads", "n_batch", "n_ubatch"),
        *("type_k", "type_v", "flash_attn", "n_prompt", "n_gen", "n_depth", "test", "tokens_per_second"),
        *("deviation", "seconds", "peak", "device_memory"),
    }
    assert (first["model"], second["model"], len(first["seconds"])) == (str(plain), "tiny", 3)
    mean = sum(8 / seconds for seconds in first["seconds"]) / 3
    assert first["tokens_per_second"] == pytest.approx(mean)


def test_combinations_in_llama_bench_s_order(cli: Cli, plain: Path) -> None:
    lists = ("-b", "16,32", "-ub", "8", "-ctk", "f16,f32", "-fa", "0,1", "-d", "0-8+8", "-t", 1, "-ngl", "0,1")
    found = rows(cli("bench", "-m", plain, "-p", 4, "-n", 0, "-r", 1, *lists))
    names = ("n_gpu_layers", "n_batch", "type_k", "flash_attn", "n_depth")
    assert [tuple(row[name] for name in names) for row in found] == [
        (ngl, b, k, fa, d)
        for ngl in ("0", "1")
        for b in ("16", "32")
        for k in ("f16", "f32")
        for fa in ("off", "on")
        for d in ("0", "8")
    ]


@pytest.mark.parametrize(
    ("word", "numbers"),
    [("7", [7]), ("1-4", [1, 2, 3, 4]), ("128-512+128", [128, 256, 384, 512]), ("1-9*2", [1, 2, 4, 8]), ("5-5", [5])],
)
def test_ranges(word: str, numbers: list[int]) -> None:
    assert _range("-p", word, 0, 1000) == numbers


@pytest.mark.parametrize("word", ["", "x", "-3", "4-1", "1-8*1", "0-8*2", "1-8+0", "1-5000", "1001", "1-2-3", "1.5"])
def test_words_that_are_no_ranges(word: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"-p {word}:")):
        _range("-p", word, 0, 1000 if word != "1-5000" else 10000)


def test_wrong_use(cli: Cli, plain: Path) -> None:
    for arguments, code, words in (
        (("-p", "x"), 2, "-p x: a number is wanted"),
        (("-pg", "8"), 2, "two numbers are wanted"),
        (("-r", 0), 2, "0 is not between 1"),
        (("-n", 2, "-p", 0, "-ctv", "q8_0", "-fa", "off"), 2, "needs flash attention"),
        (("-m", "nothing"), 3, "there is no model nothing"),
    ):
        done = cli("bench", "-m", plain, *arguments)
        assert (done.returncode, words in done.stderr.decode(), done.stdout) == (code, True, b""), done.stderr


def test_some_fail(cli: Cli, plain: Path) -> None:
    done = cli("bench", "-m", plain, "-p", 8, "-n", 0, "-ctv", "q8_0,f16", "-fa", "off", "-r", 1, "-t", 1)
    assert done.returncode == 12
    assert re.search(r"error: \S+ pp8: a quantised V cache .*\n.*\nerror: 1 of 2 could not be", done.stderr.decode())
    assert len(done.stdout.splitlines()) == 2


def test_a_table_on_a_terminal(plain: Path) -> None:
    pexpect = pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")
    arguments = ["bench", "-m", plain, "-p", 8, "-n", 2, "-r", 2, "-t", 1, "-ub", "256,512"]
    child = pexpect.spawn(sys.executable, ["-m", "llamacli", *map(str, arguments)], timeout=60, dimensions=(60, 200))
    child.expect(pexpect.EOF)
    header = rb"size +params +backend +n_threads +n_ubatch +test +tokens/s +memory +model"
    assert re.search(header, child.before)
    assert re.search(rb"KiB +[\d.]+ K +CPU +1 +256 +pp8 +[\d.]+ \xc2\xb1 [\d.]+ +[\d.]+ MiB ", child.before)
    assert len(re.findall(rb" tg2 ", child.before)) == 2


def test_ctrl_c_prints_what_is_finished() -> None:
    pexpect = pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")
    arguments = ["bench", "-m", "tiny", "-p", "8,128", "-n", "0", "-r", "400", "-t", "1"]
    child = pexpect.spawn(sys.executable, ["-m", "llamacli", *arguments], timeout=60, dimensions=(24, 160))
    child.expect(rb"tiny pp128")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.wait()
    assert child.signalstatus == signal.SIGINT
    assert re.search(rb"pp8 +[\d.]+ \xc2\xb1 [\d.]+ .* tiny\r\n", child.before)
    assert not re.search(rb"pp128 +[\d.]+ \xc2\xb1", child.before)
