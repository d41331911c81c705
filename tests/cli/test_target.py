"""`llamacli quantize --target-size` and `--target-bpw`: human, pipe and JSON, names, wrong use."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from make_gguf import write_llama

Cli = Callable[..., subprocess.CompletedProcess[bytes]]


def here(*words: object) -> int:
    """llamacli quantize in this process; its exit code."""
    from llamacli.cli import app

    with pytest.raises(SystemExit) as ended:
        app(["quantize", *map(str, words)])
    return int(ended.value.code or 0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "model.gguf", n_layer=4)


def test_a_file_of_that_size_and_its_types(model: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli("quantize", model, "--target-bpw", "6.5", "--save-types", tmp_path / "types", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (*_, whole) = csv.DictReader(io.StringIO(done.stdout.decode()), delimiter="\t")
    made = tmp_path / "model-6.5bpw.gguf"
    assert whole["file"] == str(made)
    assert int(whole["bytes"]) == made.stat().st_size
    assert 6.3 < float(whole["bits_per_weight"]) <= 6.5
    summary = done.stderr.decode()
    assert f"{made.stat().st_size:,} of " in summary
    assert "mean KL divergence" in summary
    assert "of its own text" in summary

    types = ("--tensor-type-file", tmp_path / "types")
    again = cli("quantize", model, tmp_path / "again.gguf", "Q6_K", *types)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again.gguf").read_bytes()[-100_000:] == made.read_bytes()[-100_000:]


@pytest.mark.slow
def test_json_holds_both(model: Path, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    n_bytes = model.stat().st_size // 4
    assert here(model, tmp_path / "out.gguf", "--target-size", n_bytes, "--json", "--dry-run") == 0
    assert not (tmp_path / "out.gguf").exists()
    document = json.loads(capsysbinary.readouterr().out)
    choice = document["choice"]
    assert document["size"] == choice["size"] <= choice["target_size"] == n_bytes
    assert choice["size"] > 0.98 * n_bytes
    types = {tensor["name"]: tensor["type"] for tensor in document["tensors"]}
    assert all(types[tensor["name"]] == tensor["type"] for tensor in choice["tensors"])
    assert choice["text"] is None
    assert {"name", "kind", "layer", "weights", "type_before", "type", "bytes", "error", "damage"} == set(
        choice["tensors"][0]
    )


@pytest.mark.slow
def test_the_texts_of_calibrate_are_measured_on(
    model: Path, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    for name, words in (("a.txt", "some words "), ("b.txt", "of another text ")):
        (tmp_path / name).write_text(words * 100)
    texts = [option for name in ("a.txt", "b.txt") for option in ("--calibrate", tmp_path / name)]
    assert here(model, "--target-bpw", 5, "--dry-run", "--json", "-c", 64, *texts) == 0
    choice = json.loads(capsysbinary.readouterr().out)["choice"]
    assert choice["text"] == f"{tmp_path / 'a.txt'}, {tmp_path / 'b.txt'}"


def test_the_grid_of_layers() -> None:
    from llamacli.ui.target import _alike

    rows = [(0, ["Q4_K"]), (1, ["Q5_K"]), (2, ["Q5_K"]), (3, ["Q5_K"]), (5, ["Q5_K"])]
    assert _alike(rows) == [["0", "Q4_K"], ["1-3", "Q5_K"], ["5", "Q5_K"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["Q4_K_M", "--target-bpw", "5"], "the target size chooses the types: leave Q4_K_M out"),
        (["--target-bpw", "5", "--target-size", "1MB"], "--target-size and --target-bpw exclude each other"),
        (["--target-bpw", "0"], "--target-bpw 0: a number between 0 and 32 is wanted"),
        (["--target-bpw", "nan"], "--target-bpw nan: a number between 0 and 32 is wanted"),
        (["--target-size", "4G"], "--target-size 4G: a size is wanted"),
        (["--target-bpw", "5", "--report", "text"], "a target size chooses them"),
        (["Q8_0", "--save-types", "types"], "--save-types goes with --target-size or --target-bpw"),
        (["a.gguf", "--target-bpw", "5", "-o", "b.gguf"], "a.gguf and b.gguf both name the new file"),
        (["--target-size", "10KiB"], "at the least, and 10,240 bytes ("),
        (["--target-size", "1TiB"], "nothing to do"),
    ],
)
def test_wrong_use(words: list[str], message: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert here(model, *words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in " ".join(captured.err.split())


def test_a_file_that_is_there_is_seen_before_minutes_are_spent(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("llamacli.tasks.target.choose", lambda *_, **__: pytest.fail("the choice was made first"))
    (tmp_path / "there").write_text("mine")
    assert here(model, tmp_path / "there", "--target-bpw", 5) == 2
    assert here(model, "--target-bpw", 5, "--save-types", tmp_path / "there") == 2
    assert capsys.readouterr().err.count("there is there already") == 2
    assert (tmp_path / "there").read_text() == "mine"


def test_a_quantised_model_is_seen_before_minutes_are_spent(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here(model, tmp_path / "q8.gguf", "Q8_0") == 0
    monkeypatch.setattr("llamacli.tasks.target.Trials", lambda *_: pytest.fail("it was measured first"))
    assert here(tmp_path / "q8.gguf", "--target-bpw", 6) == 2
    assert "q8.gguf is quantised already" in capsys.readouterr().err
    monkeypatch.undo()
    assert here(tmp_path / "q8.gguf", "--target-bpw", 6, "--allow-requantize", "--dry-run") == 0


@pytest.mark.slow
def test_a_text_is_read_once(model: Path, cli: Cli, tmp_path: Path) -> None:
    """A pipe can be read once only."""
    text = "some words of a text " * 100
    words = ("--target-bpw", 5, "--dry-run", "--json", "-c", 64, "--calibrate", "/dev/stdin")
    done = cli("quantize", model, *words, stdin=text.encode())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["choice"]["tokens"] > 64


@pytest.mark.parametrize("stage", ["trying tensors", pytest.param("measuring the choice", marks=pytest.mark.slow)])
def test_ctrl_c_leaves_nothing(stage: str, tmp_path: Path) -> None:
    pexpect = pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")
    arguments = ["quantize", "tiny", "-o", tmp_path / "x.gguf", "--target-bpw", "4.5", "-t", "1"]
    arguments += ["--save-types", tmp_path / "types"]
    child = pexpect.spawn(sys.executable, ["-m", "llamacli", *map(str, arguments)], timeout=240, dimensions=(24, 160))
    child.expect(stage)
    child.sendintr()
    began = time.monotonic()
    child.expect(pexpect.EOF)
    child.wait()
    assert (child.signalstatus, time.monotonic() - began < 1) == (signal.SIGINT, True)
    assert b"rror" not in child.before
    assert list(tmp_path.iterdir()) == []
