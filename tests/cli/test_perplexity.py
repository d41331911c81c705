"""`llamacli perplexity`: human, pipe and JSON, files, wrong use, Ctrl-C."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., subprocess.CompletedProcess[bytes]]
STORY = b"Once upon a time there was a little girl. She had a red ball, and the dog had the ball too. " * 12


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_bytes(STORY)
    return path


@pytest.fixture
def base(cli: Cli, plain: Path, text: Path, tmp_path: Path) -> Path:
    path = tmp_path / "base"
    assert cli("perplexity", "-m", plain, "-c", 64, text, "--save-logits", path, "-t", 1).returncode == 0
    return path


def failure(done: subprocess.CompletedProcess[bytes]) -> tuple[int, str]:
    assert done.stdout == b""
    return done.returncode, done.stderr.decode()


# --- results --------------------------------------------------------------------------------------------------------


def test_a_pipe_gets_tsv(cli: Cli, plain: Path, text: Path) -> None:
    done = cli("perplexity", "-m", plain, "-c", 64, text)
    assert (done.returncode, done.stderr) == (0, b"")
    (row,) = csv.DictReader(io.StringIO(done.stdout.decode()), delimiter="\t")
    assert (row["model"], row["text"], row["n_ctx"]) == (str(plain), str(text), "64")
    assert int(row["tokens"]) == int(row["chunks"]) * 31
    assert float(row["ppl"]) > float(row["ppl_error"]) > 0
    assert row["mean_kld"] == ""


def test_json(cli: Cli, plain: Path, text: Path) -> None:
    document = json.loads(cli("perplexity", "-m", plain, "-c", 64, "--json", "--against", plain, text).stdout)
    (result,) = document["results"]
    assert set(result) == {
        *("model", "text", "size", "bits_per_weight", "n_ctx", "n_seq", "n_vocab", "chunks", "n_chunk", "tokens"),
        *("ppl", "ppl_error", "nll", "nll_error", "complete", "seconds", "base", "statistics", "running"),
    }
    assert result["complete"] is True
    assert result["statistics"]["Mean KLD"] == {"value": 0.0, "error": 0.0}
    assert [e["chunk"] for e in result["running"]] == list(range(1, result["n_chunk"] + 1))
    assert result["running"][-1]["ppl"] == result["ppl"]
    assert set(result["running"][0]["divergence"]) == {"ln_ratio", "kld", "dp_rms", "same_top"}


def test_standard_input_and_several_files(cli: Cli, plain: Path, text: Path) -> None:
    ours = ("perplexity", "-m", plain, "-c", 64)
    unnamed = cli(*ours, stdin=STORY)
    both = cli(*ours, text, "-", stdin=STORY).stdout.decode().splitlines()
    assert [line.split("\t")[3] for line in both[1:]] == [str(text), "standard input"]
    figures = [line.split("\t")[7] for line in (*both[1:], unnamed.stdout.decode().splitlines()[1])]
    assert len(set(figures)) == 1


def test_chunks_and_the_chunks_own_figures(cli: Cli, plain: Path, text: Path, tmp_path: Path) -> None:
    target = tmp_path / "chunks.csv"
    done = cli("perplexity", "-m", plain, "-c", 64, "--chunks", 3, text, "--per-chunk", target)
    rows = list(csv.DictReader(target.read_text().splitlines()))
    assert [row["chunk"] for row in rows] == ["1", "2", "3"]
    assert rows[0]["ppl"] == rows[0]["ppl_chunk"]
    assert rows[2]["ppl"] == done.stdout.decode().splitlines()[1].split("\t")[7]
    again = cli("perplexity", "-m", plain, "-c", 64, text, "--per-chunk", target)
    assert failure(again) == (2, f"error: {target} is there already\nhint: another name, or --force\n")
    assert cli("perplexity", "-m", plain, "-c", 64, text, "--per-chunk", target, "--force").returncode == 0
    assert len(target.read_text().splitlines()) > 4


def test_a_base_file_brings_its_own_text(cli: Cli, plain: Path, base: Path, text: Path) -> None:
    for texts in ((), (text,)):
        done = cli("perplexity", "-m", plain, "--kl-base", base, *texts)
        rows = {r["statistic"]: r for r in csv.DictReader(io.StringIO(done.stdout.decode()), delimiter="\t")}
        assert abs(float(rows["Mean KLD"]["value"])) < 1e-4
        assert float(rows["Same top p"]["value"]) > 99
    assert rows["Maximum KLD"]["error"] == ""


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml")])
def test_a_plot(cli: Cli, plain: Path, text: Path, tmp_path: Path, name: str, start: bytes) -> None:
    done = cli("perplexity", "-m", plain, "-m", plain, "-c", 64, text, "--plot", tmp_path / name)
    assert done.returncode == 0
    assert (tmp_path / name).read_bytes().startswith(start)


# --- wrong use ------------------------------------------------------------------------------------------------------


def test_a_text_too_short(cli: Cli, plain: Path) -> None:
    code, message = failure(cli("perplexity", "-m", plain, stdin=STORY))
    assert code == 2
    assert re.search(
        r"standard input is too short: .* makes \d+ tokens of it, and two chunks of 512 need 1024", message
    )
    assert re.search(r"hint: a longer text, or a smaller -c: \d+ at most", message)


def test_no_text(cli: Cli, plain: Path, tmp_path: Path) -> None:
    assert failure(cli("perplexity", "-m", plain))[0] == 2
    assert "no such file" in failure(cli("perplexity", "-m", plain, tmp_path / "none"))[1]
    code, message = failure(cli("perplexity", "-m", plain, stdin=b"\xff" * 400))
    assert code == 2
    assert "no UTF-8" in message


def test_another_vocabulary(cli: Cli, plain: Path, base: Path, text: Path) -> None:
    code, message = failure(cli("perplexity", "-m", "tiny", "--kl-base", base))
    assert code == 2
    assert re.search(r"tiny has a vocabulary of 1792 tokens, and .*base was made with \d+", message)
    code, message = failure(cli("perplexity", "-m", "tiny", "--against", plain, "-c", 64, text))
    assert code == 2
    assert re.search(r"tiny cannot be compared with .*: their vocabularies have \d+ and 1792 tokens", message)


def test_another_size_or_text_than_the_base_files(cli: Cli, plain: Path, base: Path, tmp_path: Path) -> None:
    code, message = failure(cli("perplexity", "-m", plain, "--kl-base", base, "-c", 128))
    assert code == 2
    assert re.search(r"--ctx-size 128, but .*base was made with 64", message)
    assert "is not the text that" in failure(cli("perplexity", "-m", plain, "--kl-base", base, "-", stdin=STORY[3:]))[1]


@pytest.mark.parametrize("size", [0, 5, 8, 15, 20, 300, 2000, -1])
def test_a_base_file_cut_short(cli: Cli, plain: Path, base: Path, size: int) -> None:
    whole = base.stat().st_size
    os.truncate(base, size if size >= 0 else whole + size)
    code, message = failure(cli("perplexity", "-m", plain, "--kl-base", base))
    if size == 0:
        assert (code, "does not begin with _logits_" in message) == (2, True)
        return
    assert code == 6
    assert re.search(
        rf"cut short: it has {base.stat().st_size} bytes, and .* {20 if 0 <= size < 20 else whole}\n", message
    )


def test_base_files_that_are_none(cli: Cli, plain: Path, base: Path) -> None:
    data = base.read_bytes()
    for changed, code, words in (
        (b"GGUF" + data[4:], 2, "does not begin with _logits_"),
        (data + b"x", 6, "1 more than its header says"),
        (data[:8] + b"\xff\xff\xff\xff" + data[12:], 6, "n_ctx -1"),
        (data[:20] + b"\xff\xff\xff\x7f" + data[24:], 6, "token 2147483647 is none of its vocabulary"),
    ):
        base.write_bytes(changed)
        assert (
            failure(done := cli("perplexity", "-m", plain, "--kl-base", base))[0],
            words in done.stderr.decode(),
        ) == (
            code,
            True,
        )


def test_a_base_file_that_is_there(cli: Cli, plain: Path, base: Path, text: Path) -> None:
    before = base.read_bytes()
    ours = ("perplexity", "-m", plain, text, "-c", 32, "--save-logits", base)
    assert failure(cli(*ours)) == (2, f"error: {base} is there already\nhint: another name, or --force\n")
    assert base.read_bytes() == before
    assert cli(*ours, "--force").returncode == 0
    assert base.read_bytes() != before


def test_a_full_disk_leaves_no_half_file(plain: Path, text: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "base"
    target.parent.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "llamacli", "perplexity", "-m", plain, "-c", "64", text, "--save-logits", target],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    code, message = failure(done)
    assert (code, message) == (9, f"error: {target}: File too large\n")
    assert list(target.parent.iterdir()) == []


def test_contradictions(cli: Cli, plain: Path, base: Path, text: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (("--kl-base", base, "--against", plain), "exclude each other"),
        (("-m", plain, "--save-logits", tmp_path / "new"), "what one model makes of one text"),
        (("--plot", tmp_path / "a.pdf"), "--plot writes .png and .svg, not .pdf"),
        (("-c", 3), "at least 4 tokens"),
        (("-", "-"), "once only"),
    ):
        code, message = failure(cli("perplexity", "-m", plain, text, *arguments))
        assert code == 2, arguments
        assert words in message


def test_a_plot_without_matplotlib(cli: Cli, plain: Path, text: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'matplotlib' else find(name, *rest)\n"
    )
    env = {"PYTHONPATH": str(tmp_path)}
    done = cli("perplexity", "-m", plain, text, "--plot", tmp_path / "a.png", env=env)
    words = "error: --plot needs matplotlib, which is not installed\nhint: pip install 'llamacli[plot]'\n"
    assert failure(done) == (2, words)


# --- on a terminal --------------------------------------------------------------------------------------------------


def test_a_table_on_a_terminal(plain: Path, text: Path) -> None:
    pexpect = pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")
    arguments = ["perplexity", "-m", plain, "-m", plain, "-c", "64", "--against", plain, text]
    child = pexpect.spawn(sys.executable, ["-m", "llamacli", *map(str, arguments)], timeout=60, dimensions=(60, 200))
    child.expect(pexpect.EOF)
    assert re.search(rb"perplexity +tokens +difference +mean KLD", child.before)
    assert child.before.count(b"0.0000 \xc2\xb1 0.0000") == 2
    assert re.search(rb"  Same top p +100.000 \xc2\xb1 0.000%\r\n", child.before)


def test_ctrl_c_prints_the_estimate_so_far(tmp_path: Path) -> None:
    pexpect = pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")
    (tmp_path / "long").write_bytes(STORY * 300)
    arguments = ["perplexity", "-m", "tiny", "-c", "512", "-b", "512", "-t", "1", str(tmp_path / "long")]
    if importlib.util.find_spec("matplotlib") is not None:
        arguments += ["--plot", str(tmp_path / "a.png")]
    child = pexpect.spawn(sys.executable, ["-m", "llamacli", *arguments], timeout=60, dimensions=(24, 120))
    child.expect(rb"perplexity \d+\.\d{4} ")
    child.sendintr()
    began = time.monotonic()
    child.expect(pexpect.EOF)
    child.wait()
    assert time.monotonic() - began < 2
    assert re.search(rb"stopped after \d+ of \d+ chunks: the estimate so far", child.before)
    assert re.search(rb"\r\n *[\d.]+ \xc2\xb1 [\d.]+ +\d+ +tiny\r\n", child.before)
    assert child.signalstatus == signal.SIGINT
    assert not (tmp_path / "a.png").exists()
