"""`llamacli imatrix`: human, pipe and JSON, wrong use, Ctrl-C, kill, a full disk."""

from __future__ import annotations

import csv
import io
import json
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from make_gguf import write_moe

from llamacli.tasks.imatrix_file import read_imatrix

Cli = Callable[..., subprocess.CompletedProcess[bytes]]
STORY = b"Once upon a time there was a little girl. She had a red ball, and the dog had the ball too. " * 12


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_bytes(STORY)
    return path


def failure(done: subprocess.CompletedProcess[bytes]) -> tuple[int, str]:
    assert done.stdout == b""
    return done.returncode, done.stderr.decode()


# --- results --------------------------------------------------------------------------------------------------------


def test_a_pipe_gets_tsv(cli: Cli, plain: Path, text: Path, tmp_path: Path) -> None:
    done = cli("imatrix", "-m", plain, "-c", 64, text, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    (row,) = csv.DictReader(io.StringIO(done.stdout.decode()), delimiter="\t")
    matrix = read_imatrix(tmp_path / "imatrix.gguf")
    assert (row["file"], row["chunk_size"], row["tensors"]) == ("imatrix.gguf", "64", str(len(matrix.sums)))
    assert row["chunk_count"] == row["chunks"] == row["n_chunk"] == str(matrix.chunk_count)
    assert float(row["ppl"]) > float(row["ppl_error"]) > 0
    assert matrix.datasets == [str(text)]


def test_json_and_standard_input(cli: Cli, plain: Path, text: Path, tmp_path: Path) -> None:
    ours = ("imatrix", "-m", plain, "-c", 64, "--json", "--no-ppl", "-o", tmp_path / "out", "--force")
    both = json.loads(cli(*ours, text, "-", stdin=STORY).stdout)
    alone = json.loads(cli(*ours, stdin=STORY).stdout)
    assert (both["datasets"], alone["datasets"]) == ([str(text), "standard input"], ["standard input"])
    assert set(alone) == {
        *("out", "model", "datasets", "chunk_size", "chunk_count", "chunks", "n_chunk", "resumed", "tensors"),
        *("partial", "tokens", "ppl", "ppl_error", "complete", "seconds"),
    }
    assert (alone["complete"], alone["ppl"], alone["resumed"], alone["partial"]) == (True, None, 0, {})
    assert both["chunk_count"] > alone["chunk_count"] == alone["tokens"] // 64


def test_experts_that_saw_nothing_are_told(cli: Cli, tmp_path: Path) -> None:
    moe = write_moe(tmp_path / "moe.gguf", n_expert=64, n_used=1)
    done = cli("imatrix", "-m", moe, "-c", 64, "--chunks", 2, "-o", tmp_path / "out", "--json", stdin=STORY)
    partial = json.loads(done.stdout)["partial"]
    assert len(partial) == 6
    assert re.search(
        r"warning: experts that no token reached in 6 of 16 tensors, most in blk\.\d", done.stderr.decode()
    )


def test_merging_needs_no_model(cli: Cli, plain: Path, text: Path, tmp_path: Path) -> None:
    a, b = tmp_path / "a.gguf", tmp_path / "b.dat"
    assert cli("imatrix", "-m", plain, "-c", 64, text, "-o", a).returncode == 0
    assert cli("imatrix", "--in", a, "-o", b, "--output-format", "dat").returncode == 0
    assert b.read_bytes()[:4] != b"GGUF"
    done = cli("imatrix", "--in", a, "--in-file", a, "-o", tmp_path / "both", "-m", tmp_path / "none")
    assert done.returncode == 0
    name = "blk.0.attn_q.weight"
    both, one = read_imatrix(tmp_path / "both"), read_imatrix(a)
    assert both.counts[name] == 2 * one.counts[name]
    assert both.chunk_count == 2 * one.chunk_count


def test_statistics(cli: Cli, plain: Path, text: Path, tmp_path: Path) -> None:
    a = tmp_path / "a.gguf"
    assert cli("imatrix", "-m", plain, "-c", 64, text, "-o", a).returncode == 0
    rows = list(
        csv.DictReader(cli("imatrix", "--show-statistics", "--in", a).stdout.decode().splitlines(), delimiter="\t")
    )
    assert [row["tensor"] for row in rows[:3]] == ["attn_k", "attn_k", "attn_output"]
    assert {row["layer"] for row in rows} == {"0", "1"}
    document = json.loads(cli("imatrix", "--show-statistics", "--in", a, "--json").stdout)
    assert [layer["layer"] for layer in document["layers"]] == [0, 1]
    assert f"{document['tensors'][0]['sum']:.4f}" == rows[0]["sum"]
    assert failure(cli("imatrix", "--show-statistics", text))[0] == 2


# --- wrong use ------------------------------------------------------------------------------------------------------


def test_wrong_use(cli: Cli, plain: Path, text: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_bytes(b"old")
    ours = ("imatrix", "-m", plain, "-c", 64, text)
    for arguments, code, words in (
        (("-o", there), 2, "is there already\nhint: --resume goes on where it ends"),
        (("-o", there, "--resume"), 6, "not an importance matrix"),
        (("-o", tmp_path / "none" / "a"), 2, "there is no folder"),
        (("--in", plain, "-o", tmp_path / "a"), 6, "not an importance matrix"),
        (("-", "-", "-o", tmp_path / "a"), 2, "once only"),
        (("--output-format", "csv", "-o", tmp_path / "a"), 2, "gguf, dat"),
    ):
        found, message = failure(cli(*ours, *arguments))
        assert (found, words in message) == (code, True), message
    assert there.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text", "there"]
    assert failure(cli("imatrix", "-m", plain))[1].startswith("error: there is no text")


def test_a_full_disk_leaves_what_was_there(plain: Path, text: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "a"
    target.parent.mkdir()
    target.write_bytes(b"old")
    arguments = ["imatrix", "-m", plain, "-c", "64", text, "-o", target, "--force"]
    done = subprocess.run(
        [sys.executable, "-m", "llamacli", *arguments],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert failure(done) == (9, f"error: {target}: File too large\n")
    assert (target.read_bytes(), list(target.parent.iterdir())) == (b"old", [target])


# --- on a terminal, and stopped -------------------------------------------------------------------------------------

LONG = ("imatrix", "-m", "tiny", "-c", 256, "-b", 256, "-t", 1, "-ofreq", 1, "--chunks", 24)


def test_ctrl_c_keeps_what_was_collected(cli: Cli, tmp_path: Path) -> None:
    pexpect = pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")
    (tmp_path / "long").write_bytes(STORY * 40)
    out, once = tmp_path / "out.gguf", tmp_path / "once.gguf"
    arguments = [*map(str, LONG), str(tmp_path / "long"), "-o", str(out)]
    child = pexpect.spawn(sys.executable, ["-m", "llamacli", *arguments], timeout=60, dimensions=(24, 120))
    child.expect(rb"importance matrix, perplexity \d+\.\d{4} ")
    child.sendintr()
    began = time.monotonic()
    child.expect(pexpect.EOF)
    child.wait()
    assert time.monotonic() - began < 2
    assert child.signalstatus == signal.SIGINT
    stopped = re.search(rb"stopped after (\d+) of 24 chunks; the same command with --resume goes on", child.before)
    assert stopped
    assert re.search(rb"out.gguf: 35 tensors, \d+ chunks of 256 tokens, perplexity [\d.]+ \xc2\xb1 ", child.before)
    assert read_imatrix(out).chunk_count == int(stopped[1])
    done = cli(*LONG, tmp_path / "long", "-o", out, "--resume")
    assert (done.returncode, f"going on after {int(stopped[1])} of 24".encode() in done.stderr) == (0, True)
    assert cli(*LONG, tmp_path / "long", "-o", once, "--no-ppl").returncode == 0
    assert out.read_bytes() == once.read_bytes()


def test_killed_at_any_moment_the_file_is_whole(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(STORY * 40)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "llamacli", *map(str, LONG), str(tmp_path / "long"), "-o", str(out), "--resume"]
    counts = [0]
    for _ in range(3):
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while child.poll() is None and (not out.exists() or read_imatrix(out).chunk_count < counts[-1] + 4):
            pass
        child.kill()
        child.communicate()
        matrix = read_imatrix(out)
        counts.append(matrix.chunk_count)
        assert matrix.counts["blk.0.attn_q.weight"].tolist() == [256 * counts[-1]]
    assert counts == sorted(set(counts))
