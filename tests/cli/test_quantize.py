"""`llamacli quantize`: human, pipe and JSON, names, wrong use, and that nothing is ever destroyed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from make_gguf import write_llama

from llamacli.builtin import TINY

Cli = Callable[..., subprocess.CompletedProcess[bytes]]
#: A type that takes seconds even for the built-in model.
SLOW = "IQ3_S"
ROWS = ("file", "type", "tensors", "weights", "bytes_before", "bytes", "bits_per_weight", "fallbacks")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def failure(done: subprocess.CompletedProcess[bytes]) -> tuple[int, str]:
    assert done.stdout == b""
    return done.returncode, done.stderr.decode()


def rows(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, str]]:
    assert done.returncode == 0, done.stderr
    return list(csv.DictReader(io.StringIO(done.stdout.decode()), delimiter="\t"))


def here(*words: object) -> int:
    """llamacli quantize in this process; its exit code."""
    from llamacli.cli import app

    with pytest.raises(SystemExit) as ended:
        app(["quantize", *map(str, words)])
    return int(ended.value.code or 0)


def temporaries(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the built-in model, so that it may be destroyed."""
    path = tmp_path / "model-F16.gguf"
    shutil.copyfile(TINY, path)
    return path


# --- results --------------------------------------------------------------------------------------------------------


def test_a_pipe_gets_tsv(cli: Cli, model: Path) -> None:
    done = cli("quantize", model, "q4_k_m")
    found = rows(done)
    assert (tuple(found[0]), done.stderr) == (ROWS, b"")
    target = model.with_name("model-Q4_K_M.gguf")
    assert [row["type"] for row in found] == ["Q4_K", "Q6_K", "F32", "all"]
    assert {row["file"] for row in found} == {str(target)}
    assert sum(int(row["tensors"]) for row in found[:-1]) == int(found[-1]["tensors"])
    assert int(found[-1]["bytes"]) == target.stat().st_size
    assert int(found[-1]["bytes_before"]) == model.stat().st_size
    assert found[0]["bits_per_weight"] == "4.5000"
    assert temporaries(model.parent) == []


def test_a_dry_run_says_the_same_and_writes_nothing(cli: Cli, model: Path) -> None:
    dry = rows(cli("quantize", model, "q4_k_m", "--dry-run"))
    assert os.listdir(model.parent) == [model.name]
    real = rows(cli("quantize", model, "q4_k_m"))
    assert [{**row, "file": ""} for row in real] == dry


def test_json(cli: Cli, model: Path) -> None:
    document = json.loads(cli("quantize", model, "-o", model.with_name("x"), "Q5_K_M", "--json").stdout)
    assert set(document) == {
        *("source", "type", "size_before", "size", "weights", "bits_per_weight_before", "bits_per_weight", "tensors"),
        *("warnings", "obstacle", "files", "file_sizes", "seconds", "types", "fallbacks"),
    }
    assert document["files"] == [str(model.with_name("x"))]
    assert (document["type"], document["obstacle"], document["fallbacks"]) == ("Q5_K_M", None, [])
    assert len(document["tensors"]) == sum(row["tensors"] for row in document["types"])
    assert document["bits_per_weight_before"] == pytest.approx(16.01, abs=0.01)


def test_a_terminal_gets_a_table(cli: Cli, plain: Path, tmp_path: Path) -> None:
    primary, secondary = pty.openpty()
    command = [sys.executable, "-m", "llamacli", "quantize", plain, "q4_k", "-o", tmp_path / "x.gguf"]
    subprocess.run([str(word) for word in command], stdout=secondary, stderr=subprocess.PIPE, check=True, timeout=60)
    os.close(secondary)
    shown = os.read(primary, 1 << 16).decode()
    os.close(primary)
    assert re.search(r"tensors +before +after +bits/weight +type", shown)
    assert re.search(
        r"Q5_0 instead of Q4_K, whose blocks do not fit the rows: token_embd\.weight, .* and \d+ more", shown
    )
    assert re.search(rf"KiB +[\d.]+  {re.escape(str(tmp_path / 'x.gguf'))}", shown)
    assert "it was 32.00 bits per weight" in shown


def test_the_types(cli: Cli) -> None:
    found = json.loads(cli("quantize", "--types", "--json").stdout)
    named = {kind["name"]: kind for kind in found}
    assert {"Q4_K_M", "IQ1_S", "TQ2_0", "MXFP4_MOE", "COPY", "BF16", "Q1_0"} <= set(named)
    assert (named["IQ2_XXS"]["imatrix"], named["Q4_K_M"]["imatrix"]) == (True, False)
    assert named["Q4_K_M"]["bits_per_weight"] == 4.89
    lines = cli("quantize", "--types").stdout.decode().splitlines()
    assert lines[0] == "name\tftype\tbits_per_weight\timatrix\tpurpose"
    assert len(lines) == len(found) + 1


# --- names ----------------------------------------------------------------------------------------------------------


def test_names(cli: Cli, plain: Path, tmp_path: Path) -> None:
    """OUT may be the second word or an option; numbers and aliases are llama-quantize's."""
    (tmp_path / "sub").mkdir()
    files = [tmp_path / f"{i}.gguf" for i in range(4)]
    for words in (
        (plain, files[0], "q8_0"),
        (plain, "Q8_0", "-o", files[1]),
        (plain, "7", "--output", files[2]),
        ("-o", files[3], "--", plain, "q8_0"),
    ):
        assert cli("quantize", *words).returncode == 0
    assert len({sha256(path) for path in files}) == 1
    assert rows(cli("quantize", "tiny", "q5_k", "--dry-run"))[0]["type"] == "Q5_K"


def test_the_default_name(cli: Cli, plain: Path, tmp_path: Path) -> None:
    """Beside a file; for the built-in model, and what lies in a cache, in the current folder."""
    source = tmp_path / "in" / "name.f16.gguf"
    source.parent.mkdir()
    shutil.copyfile(plain, source)
    assert cli("quantize", source, "q8_0", cwd=tmp_path).returncode == 0
    assert cli("quantize", source, "copy", cwd=tmp_path).returncode == 0
    assert cli("quantize", "tiny", "q8_0", cwd=tmp_path).returncode == 0
    assert sorted(os.listdir(source.parent)) == ["name-Q8_0.gguf", "name-copy.gguf", "name.f16.gguf"]
    assert sorted(os.listdir(tmp_path)) == ["in", "tiny-Q8_0.gguf"]


def test_a_link_is_followed(cli: Cli, plain: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link, real = tmp_path / "link.gguf", tmp_path / "real" / "x.gguf"
    link.symlink_to(real)
    assert failure(cli("quantize", plain, link, "q8_0")) == (
        2,
        f"error: {link} is there already\nhint: another name, or --force\n",
    )
    assert cli("quantize", plain, link, "q8_0", "--force").returncode == 0
    assert (link.is_symlink(), real.is_file()) == (True, True)


def test_another_alignment(cli: Cli, tmp_path: Path) -> None:
    """llama-quantize writes a file that cannot be loaded: it copies general.alignment, and aligns to 32."""
    model = write_llama(tmp_path / "a.gguf", metadata_overrides={"general.alignment": 64})
    assert cli("quantize", model, "q4_0").returncode == 0
    assert cli("complete", "-m", tmp_path / "a-Q4_0.gguf", "--raw", "-n", 2, "a").returncode == 0


# --- wrong use ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no model is named"),
        (("tiny",), "no type is named"),
        (("tiny", "Q4_KM"), "there is no type Q4_KM\nhint: did you mean Q4_K_M?"),
        (("tiny", "x.gguf", "q9"), "there is no type q9"),
        (("tiny", "x.gguf"), "no type is named"),
        (("tiny", "x.gguf", "q8_0", "-o", "y.gguf"), "both name the new file"),
        (("tiny", "q4_0", "q8_0"), "2 types: Q4_0, Q8_0; one file has one"),
        (("tiny", "out.gguf", "q4_0", "8"), "hint: threads are set by -t N"),
        (("tiny", "q4_0", "-o", "none/x.gguf"), "there is no folder"),
        (("tiny", "q4_0", "-o", "/dev/null"), "is a device or a pipe"),
        (("tiny", "q4_0", "-o", "."), "."),
        (("tiny", "q4_0", "-o", "-"), "a model is written to a file"),
        (("tiny", "q4_0", "--tensor-type", "a(b=q8_0"), "--tensor-type a(b: "),
        (("tiny", "q4_0", "--tensor-type", "ffn_up"), "PATTERN=TYPE is wanted"),
        (("tiny", "q4_0", "--tensor-type", "ffn_up=q8_1"), "there is no tensor type q8_1"),
        (("tiny", "q4_0", "--tensor-type", "ffn_up=q4_k_m"), "(that is a mixture)\nhint: did you mean q4_k?"),
        (("tiny", "f16", "--tensor-type", "ffn_up=q8_0"), "heeds --tensor-type only beside a quantised type"),
        (("tiny", "copy", "--pure"), "COPY changes no tensor, so --pure has no effect"),
        (("tiny", "q4_0", "--output-tensor-type", "i32"), "there is no tensor type i32"),
        (("tiny", "q4_0", "--prune-layers", "5"), "the layers of"),
        (("tiny", "q4_0", "--prune-layers", "0,1,2,3,4"), "leaves none of the 5 layers"),
        (("tiny", "q4_0", "--prune-layers", "a"), "numbers of layers are wanted"),
        (("tiny", "q4_0", "--override-kv", "a.b=c"), "KEY=TYPE:VALUE is wanted"),
        (("tiny", "q4_0", "--override-kv", "a.b=int:-1"), "between 0 and 4294967295"),
        (("tiny", "q4_0", "--override-kv", "a.b=bool:yes"), "a bool is true or false"),
        (("tiny", "q4_0", "--override-kv", "general.alignment=int:64"), "lays the file out as it does"),
        (("tiny", "q4_0", "--include-weights", "a"), "--include-weights goes with --imatrix"),
        (("tiny", "q4_0", "--imatrix", "none"), "no such file"),
        (("tiny", "iq2_xxs"), "IQ2_XXS needs an importance matrix"),
        (("tiny", "q2_k_s"), "hint: --calibrate TEXT makes one first; or llamacli imatrix -m MODEL TEXT"),
        (("tiny", "iq2_xxs", "--pure"), "needs an importance matrix"),
        (("tiny", "q8_0", "--token-embedding-type", "iq1_s"), "needs an importance matrix"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)  # fmt: skip
def test_wrong_use(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert here(*words) == 2
    shown = capfd.readouterr()
    assert (shown.out, message in shown.err) == ("", True), shown.err
    assert os.listdir(tmp_path) == []


def test_a_tensor_type_that_does_not_fit_the_rows(cli: Cli, plain: Path, tmp_path: Path) -> None:
    """llama.cpp asserts that it does."""
    code, message = failure(cli("quantize", plain, "q8_0", "-o", tmp_path / "x", "--token-embedding-type", "q4_k"))
    assert code == 2
    assert "the rows of token_embd.weight have 64 weights, and the type comes in blocks of 256" in message


def test_a_type_that_nothing_stands_in_for(cli: Cli, plain: Path, tmp_path: Path) -> None:
    """llama.cpp has a fallback for most types, but none for this one."""
    code, message = failure(cli("quantize", plain, "q1_0", "-o", tmp_path / "x"))
    assert (code, "its rows are too short for the type: no tensor type fallback" in message) == (2, True)


def test_a_quantised_model(cli: Cli, plain: Path, tmp_path: Path) -> None:
    small = tmp_path / "small-Q8_0.gguf"
    assert cli("quantize", plain, small, "q8_0").returncode == 0
    code, message = failure(cli("quantize", small, "q4_0"))
    assert code == 2
    assert re.search(
        r"is quantised already: \d+ tensors, .*\nhint: start from the F16 or BF16 file; --allow-req", message
    )
    dry = cli("quantize", small, "q4_0", "--dry-run")
    assert rows(dry)[-1]["type"] == "all"
    assert b"warning: this is not possible as it is" in dry.stderr
    assert rows(cli("quantize", small, "q4_0", "--allow-requantize"))[-1]["file"].endswith("small-Q4_0.gguf")


def test_files_that_are_no_model(cli: Cli, plain: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(plain.read_bytes()[:-100])
    vocabulary = write_llama(tmp_path / "vocabulary.gguf", tensors=False)
    projector = write_llama(tmp_path / "p.gguf", metadata_overrides={"general.type": "mmproj"})
    adapter = write_llama(tmp_path / "l.gguf", metadata_overrides={"general.type": "adapter"})
    for path, expected, reason in (
        (cut, 6, "cut short"),
        (vocabulary, 6, "no "),
        (projector, 6, "mmproj"),
        (adapter, 6, "LoRA adapter"),
        (tmp_path, 2, "is a folder"),
        (tmp_path / "none.gguf", 3, "no such file"),
    ):
        before = sorted(os.listdir(tmp_path))
        code, message = failure(cli("quantize", path, "q8_0", "-o", tmp_path / "x"))
        assert (code, reason in message) == (expected, True), message
        assert sorted(os.listdir(tmp_path)) == before


def write_old_imatrix(path: Path, entries: dict[str, np.ndarray], end: bytes = b"") -> None:
    """The .dat format."""
    data = len(entries).to_bytes(4, "little")
    for name, values in entries.items():
        data += len(name).to_bytes(4, "little") + name.encode() + (3).to_bytes(4, "little")
        data += values.size.to_bytes(4, "little") + values.astype("<f4").tobytes()
    path.write_bytes(data + end)


def test_an_imatrix_of_another_model(cli: Cli, plain: Path, tmp_path: Path) -> None:
    imatrix = tmp_path / "other.dat"
    write_old_imatrix(imatrix, {"blk.0.attn_q.weight": np.ones(32)})
    command = ("quantize", plain, "q4_0", "-o", tmp_path / "x", "--imatrix", imatrix)
    code, message = failure(cli(*command))
    assert code == 2
    assert f"{imatrix} is of another model: it has 32 values for blk.0.attn_q.weight, and 64 are needed" in message
    assert "leaves none of the 1 entries" in failure(cli(*command, "--include-weights", "ffn"))[1]
    assert "exclude each other" in failure(cli(*command, "--include-weights", "a", "--exclude-weights", "b"))[1]
    write_old_imatrix(imatrix, {"blk.0.attn_q.weight": np.ones(64)})
    done = cli(*command)
    assert done.returncode == 0
    assert b"has nothing for 13 of 21 tensors" in done.stderr
    imatrix.write_bytes(imatrix.read_bytes()[:-1])
    assert failure(cli(*command))[0] == 6
    assert "not an importance matrix" in failure(cli(*command[:-1], plain))[1]


def test_a_pattern_that_is_no_tensors_name(cli: Cli) -> None:
    done = cli("quantize", "tiny", "q4_0", "--dry-run", "--tensor-type", "fnn_up=q8_0")
    assert done.stderr == b"warning: --tensor-type fnn_up=q8_0 is the name of no tensor\n"


# --- nothing is destroyed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["itself", "symlink", "hard link", "other path", "imatrix"])
def test_the_input_is_never_the_target(cli: Cli, model: Path, tmp_path: Path, way: str) -> None:
    target, more = tmp_path / "target.gguf", ()
    if way == "itself":
        target = model
    elif way == "symlink":
        target.symlink_to(model)
    elif way == "hard link":
        target.hardlink_to(model)
    elif way == "other path":
        target = tmp_path / "." / ".." / tmp_path.name / model.name
    else:
        write_old_imatrix(target, {"blk.0.attn_q.weight": np.ones(256)})
        more = ("--imatrix", target)
    before = sha256(model), sha256(target)
    code, message = failure(cli("quantize", model, target, "Q8_0", "--force", *more))
    assert code == 2
    assert "it would be destroyed" in message
    assert (sha256(model), sha256(target)) == before


def test_an_existing_file_only_with_force(cli: Cli, plain: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.gguf"
    target.write_bytes(b"mine")
    assert failure(cli("quantize", plain, target, "Q8_0"))[0] == 2
    assert target.read_bytes() == b"mine"
    assert cli("quantize", plain, target, "Q8_0", "--force").returncode == 0
    assert target.read_bytes()[:4] == b"GGUF"


def test_the_parts_of_a_split_model_are_no_target(cli: Cli, tmp_path: Path) -> None:
    split(tmp_path)
    first = tmp_path / "m-00001-of-00002.gguf"
    before = [sha256(path) for path in sorted(tmp_path.glob("m-*"))]
    for words in ((tmp_path / "m-00002-of-00002.gguf", "q8_0"), ("q8_0", "-o", tmp_path / "m.gguf", "--keep-split")):
        code, message = failure(cli("quantize", first, *words, "--force"))
        assert code == 2
        assert "is the model itself" in message
    assert [sha256(path) for path in sorted(tmp_path.glob("m-*"))] == before
    assert rows(cli("quantize", first, "q8_0"))[-1]["file"] == str(tmp_path / "m-Q8_0.gguf")
    assert cli("quantize", first, "q8_0", "--keep-split").returncode == 0
    assert sorted(path.name for path in tmp_path.glob("m-Q8_0-*")) == [
        "m-Q8_0-00001-of-00002.gguf",
        "m-Q8_0-00002-of-00002.gguf",
    ]
    assert temporaries(tmp_path) == []


def split(folder: Path) -> None:
    """A model in two parts, m-0000N-of-00002.gguf."""
    from gguf import GGUFReader, GGUFWriter

    whole = write_llama(folder / "whole.gguf")
    reader = GGUFReader(whole)
    writer = GGUFWriter(folder / "m.gguf", "llama", split_max_tensors=-(-len(reader.tensors) // 2))
    writer.kv_data[0].clear()
    for name, field in reader.fields.items():
        if not name.startswith("GGUF."):
            writer.add_key_value(name, field.contents(), field.types[0], field.types[-1])
    for tensor in reader.tensors:
        writer.add_tensor(str(tensor.name), tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    whole.unlink()


def process(*words: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "llamacli", "quantize", *map(str, words)]
    # A shell's background job ignores Ctrl-C, and so would its children.
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def until_writing(folder: Path, running: subprocess.Popen[bytes]) -> None:
    """Until the new model's file is there."""
    late = time.monotonic() + 30
    while not any(path.name != ".lock" for path in folder.glob(".llamacli-*/*")):
        assert running.poll() is None, "it ended before it wrote"
        assert time.monotonic() < late
        time.sleep(0.001)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_the_old_file(model: Path, tmp_path: Path, signum: signal.Signals) -> None:
    target = tmp_path / "x.gguf"
    target.write_bytes(b"mine")
    running = process(model, target, SLOW, "--force", "-t", 1)
    until_writing(tmp_path, running)
    began = time.monotonic()
    running.send_signal(signum)
    stdout, stderr = running.communicate(timeout=30)
    assert (running.returncode, stdout, stderr) == (-signum, b"", b"")
    assert time.monotonic() - began < 2
    assert target.read_bytes() == b"mine"
    assert temporaries(tmp_path) == []


def test_two_processes_do_not_write_the_same(cli: Cli, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.gguf"
    with process(model, target, SLOW, "-t", 1) as first:
        until_writing(tmp_path, first)
        first.send_signal(signal.SIGSTOP)
        try:
            code, message = failure(cli("quantize", model, target, "q8_0"))
            assert code == 2
            assert message == f"error: another process is writing {target}\nhint: wait for it, or choose another name\n"
            assert len(temporaries(tmp_path)) == 1
        finally:
            first.send_signal(signal.SIGCONT)
            first.terminate()
    assert os.listdir(tmp_path) == [model.name]


def test_what_a_kill_left_goes_with_the_next_run(cli: Cli, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.gguf"
    target.write_bytes(b"mine")
    with process(model, target, SLOW, "--force", "-t", 1) as running:
        until_writing(tmp_path, running)
        running.kill()
    assert target.read_bytes() == b"mine"
    assert len(temporaries(tmp_path)) == 1
    assert cli("quantize", model, target, "Q8_0", "--force").returncode == 0
    assert temporaries(tmp_path) == []


@pytest.mark.slow
def test_killed_at_random_moments(model: Path, tmp_path: Path) -> None:
    """The target is the old one or the new one, and the next run removes what was left."""
    rng, target = random.Random(1), tmp_path / "x.gguf"
    words = (model, target, "Q4_K_M", "--force", "-t", 1)
    began = time.monotonic()
    with process(*words) as running:
        assert running.wait(60) == 0
    lasts = time.monotonic() - began
    whole, left = sha256(target), 0
    for _ in range(30):
        target.write_bytes(b"mine")
        with process(*words) as running:
            time.sleep(rng.uniform(0.2, 1.0) * lasts)
            running.kill()
        assert target.read_bytes() == b"mine" or sha256(target) == whole
        left += len(temporaries(tmp_path))
    assert left > 0, "no kill met a run that was writing"
    with process(*words) as running:
        assert running.wait(60) == 0
    assert sha256(target) == whole
    assert sorted(os.listdir(tmp_path)) == sorted([model.name, target.name])


# --- a full disk ----------------------------------------------------------------------------------------------------


def test_a_disk_that_becomes_full(
    small_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The room that is there at first is taken by another program meanwhile."""
    assert here("tiny", "Q8_0", "--dry-run") == 0
    whole = int(capfd.readouterr().out.split("\n")[-2].split("\t")[5])
    room = shutil.disk_usage("/")._replace(free=1 << 40)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room)
    for tenth in range(10):
        folder = small_disk(4096 * 3 + whole * tenth // 10)
        target = folder / "x.gguf"
        if tenth % 2:
            target.write_bytes(b"mine")
        assert here("tiny", "Q8_0", "-o", target, "--force") == 9
        shown = capfd.readouterr()
        assert (shown.out, shown.err) == ("", f"error: {folder}: the disk is full\nhint: make room and start again\n")
        assert os.listdir(folder) == (["x.gguf"] if tenth % 2 else [])
        assert not tenth % 2 or target.read_bytes() == b"mine"


def test_a_disk_without_room(small_disk: Callable[[int], Path], cli: Cli) -> None:
    folder = small_disk(1 << 20)
    code, message = failure(cli("quantize", "tiny", "Q8_0", "-o", folder / "x.gguf"))
    assert code == 9
    assert re.search(r"error: [\d,]+ bytes are needed, and [\d,]+ are free in ", message)
    assert os.listdir(folder) == []
