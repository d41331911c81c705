"""`llamacli quantize --report` and `--calibrate`: the figures are those of single runs; nothing is left behind."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from make_gguf import write_llama

from llamacli.builtin import TINY

Cli = Callable[..., subprocess.CompletedProcess[bytes]]
STORY = "Once upon a time there was a little fox named Tom. He had a red ball, and Anna wanted the ball too. " * 30
SMALL = ("-c", 64, "--chunks", 4, "-t", 1)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_text(STORY)
    return path


def failure(done: subprocess.CompletedProcess[bytes]) -> str:
    assert (done.returncode, done.stdout) == (2, b"")
    return done.stderr.decode()


def test_the_figures_of_a_report_are_those_of_single_runs(cli: Cli, text: Path, tmp_path: Path) -> None:
    done = cli("quantize", TINY, "q4_k_m", "Q2_K", "--report", text, "-o", tmp_path, *SMALL, "--json")
    assert done.returncode == 0, done.stderr
    base, *rows = json.loads(done.stdout)["results"]
    assert (base["type"], base["kld"], base["size"]) == ("F16", None, TINY.stat().st_size)
    assert [row["type"] for row in rows] == ["Q4_K_M", "Q2_K"]
    single = cli("perplexity", "-m", TINY, "--save-logits", tmp_path / "base", text, *SMALL, "--json")
    assert base["ppl"]["value"] == json.loads(single.stdout)["results"][0]["ppl"]
    for row in rows:
        path = Path(row["file"])
        assert path.parent == tmp_path
        assert path.stat().st_size == row["size"] < base["size"]
        alone = cli("perplexity", "-m", path, "--kl-base", tmp_path / "base", "-t", 1, "--json")
        (result,) = json.loads(alone.stdout)["results"]
        pair = cli("perplexity", "-m", path, "--against", TINY, text, *SMALL, "--json")
        exact = json.loads(pair.stdout)["results"][0]["statistics"]
        for name, found in row["statistics"].items():
            # The file of predictions knows of unlikely tokens only that they are.
            expected = exact if "PPL" in name else result["statistics"]
            if "Δp" not in name:
                assert found == expected[name], name
        assert row["difference"]["value"] == pytest.approx(row["ppl"]["value"] - base["ppl"]["value"])
        assert (row["ppl"]["value"], row["ppl"]["error"]) == (result["ppl"], result["ppl_error"])
        assert row["bits_per_weight"] == result["bits_per_weight"]
        assert min(row["prompt_speed"]["value"], row["generation_speed"]["value"]) > 0
    assert rows[0]["kld"]["value"] < rows[1]["kld"]["value"]
    quantized = tmp_path / "alone.gguf"
    assert cli("quantize", TINY, quantized, "Q4_K_M").returncode == 0
    assert quantized.read_bytes() == Path(rows[0]["file"]).read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_pipe_gets_a_row_for_each_model_and_the_plot_is_written(cli: Cli, text: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed (llamacli[plot])")
    picture = tmp_path / "report.svg"
    done = cli("quantize", TINY, "Q5_K_M", "--report", text, "-o", tmp_path, *SMALL, "--plot", picture)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout.decode()), delimiter="\t"))
    assert [row["type"] for row in rows] == ["F16", "Q5_K_M"]
    assert rows[0]["mean_kld"] == ""
    assert float(rows[1]["kld_99"]) > float(rows[1]["mean_kld"]) > 0
    assert picture.read_bytes().startswith(b"<?xml")


def test_nothing_is_made_where_one_of_the_files_cannot_be(cli: Cli, text: Path, tmp_path: Path) -> None:
    command = ("quantize", TINY, "Q4_K_M", "IQ2_XS", "--report", text, "-o", tmp_path)
    assert "IQ2_XS needs an importance matrix" in failure(cli(*command))
    (tmp_path / "tiny-IQ2_XS.gguf").write_bytes(b"mine")
    assert "is there already" in failure(cli(*command, "--calibrate", text, *SMALL))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text", "tiny-IQ2_XS.gguf"]


def test_wrong_use_of_a_report(cli: Cli, text: Path, tmp_path: Path) -> None:
    assert "named twice" in failure(cli("quantize", TINY, "Q4_K_M", "q4_k_m", "--report", text, "-o", tmp_path))
    assert "is no folder" in failure(cli("quantize", TINY, "Q4_K_M", "--report", text, "-o", tmp_path / "x.gguf"))
    assert "--plot goes with --report" in failure(cli("quantize", TINY, "Q4_K_M", "--plot", "x.png"))
    assert "go with --report" in failure(cli("quantize", TINY, "Q4_K_M", "-c", 64))
    assert "--report TEXT makes several" in failure(cli("quantize", TINY, "Q4_K_M", "Q2_K"))
    assert "--dry-run writes nothing" in failure(cli("quantize", TINY, "Q4_K_M", "--report", text, "--dry-run"))
    assert "too short" in failure(cli("quantize", TINY, "Q4_K_M", "--report", "/dev/null", "-o", tmp_path))
    if importlib.util.find_spec("matplotlib") is not None:
        picture = ("-o", tmp_path, "--plot", tmp_path / "none" / "a.svg")
        assert "there is no folder" in failure(cli("quantize", TINY, "Q4_K_M", "--report", text, *picture))
    assert "exclude each other" in failure(
        cli("quantize", TINY, "Q4_K_M", "--calibrate", text, "--imatrix", text, "-o", tmp_path)
    )


def test_calibrate_is_imatrix_and_quantize_in_one_step(cli: Cli, text: Path, tmp_path: Path) -> None:
    one, two, without, matrix = (tmp_path / name for name in ("one", "two", "without", "matrix"))
    assert cli("quantize", TINY, one, "Q4_K_M", "--calibrate", text, *SMALL).returncode == 0
    assert cli("imatrix", "-m", TINY, text, "-o", matrix, *SMALL).returncode == 0
    assert cli("quantize", TINY, two, "Q4_K_M", "--imatrix", matrix).returncode == 0
    assert cli("quantize", TINY, without, "Q4_K_M").returncode == 0
    tensors = [path.read_bytes()[-(1 << 20) :] for path in (one, two, without)]  # the metadata name the file
    assert tensors[0] == tensors[1] != tensors[2]
    assert b"quantize.imatrix.dataset" in one.read_bytes()
    assert b"quantize.imatrix.file" not in one.read_bytes()


def test_a_model_that_is_no_tiny(cli: Cli, text: Path, tmp_path: Path) -> None:
    model = tmp_path / "plain-F32.gguf"
    write_llama(model)
    done = cli("quantize", model, "Q8_0", "--report", text, *SMALL)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "plain-Q8_0.gguf").exists()


# --- what is wrong is said before minutes are spent -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("IQ2_XS", "-o", "{model}"), "is the model itself"),
        (("IQ2_XS", "-o", "none/x.gguf"), "there is no folder none"),
        (("F16", "--tensor-type", "ffn_up=q8_0"), "heeds --tensor-type only beside"),
        (("IQ2_XS", "--prune-layers", "9"), "the layers of"),
        (("Q4_K_M", "q4_k_m", "--report", "{text}"), "named twice"),
        (("IQ2_XS", "--include-weights", "a", "--exclude-weights", "b"), "exclude each other"),
        (("--target-bpw", "5", "--save-types", "none/types"), "there is no folder none"),
        (("IQ2_XS", "--token-embedding-type", "iq1_s", "--report", "{none}"), "no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_before_an_importance_matrix_is_made(
    words: tuple[str, ...],
    message: str,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from llamacli.cli import app

    model = shutil.copyfile(TINY, tmp_path / "model.gguf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("llamacli.commands.quantize._calibrated", lambda *_: pytest.fail("the texts were read first"))
    given = [word.format(model=model, text=text, none=tmp_path / "none") for word in words]
    with pytest.raises(SystemExit) as ended:
        app(["quantize", str(model), *given, "--calibrate", str(text), "--force"])
    assert (ended.value.code, message in " ".join(capsys.readouterr().err.split())) == (2, True)


# --- stopped, killed, a full disk -----------------------------------------------------------------------------------


def process(*words: object) -> subprocess.Popen[bytes]:
    # A shell's background job ignores Ctrl-C, and so would its children.
    return subprocess.Popen(
        [sys.executable, "-m", "llamacli", "quantize", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def until(running: subprocess.Popen[bytes], folder: Path, pattern: str) -> None:
    """Until there is such a file."""
    late = time.monotonic() + 60
    while not any(folder.glob(pattern)):
        assert running.poll() is None, "it ended before"
        assert time.monotonic() < late
        time.sleep(0.001)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_model_is_quantised_leaves_the_rows_that_are_done(
    text: Path, tmp_path: Path, signum: signal.Signals
) -> None:
    """IQ3_S takes seconds even for the built-in model."""
    with process(TINY, "Q8_0", "IQ3_S", "--report", text, "-o", tmp_path, *SMALL) as running:
        until(running, tmp_path, ".llamacli-*/tiny-IQ3_S.gguf")
        began = time.monotonic()
        running.send_signal(signum)
        stdout, stderr = running.communicate(timeout=30)
    assert time.monotonic() - began < 1.5
    assert running.returncode == -signum
    assert [row["type"] for row in csv.DictReader(io.StringIO(stdout.decode()), delimiter="\t")] == ["F16", "Q8_0"]
    assert stderr.decode().splitlines()[-1] == "stopped after 2 of 3 models"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text", "tiny-Q8_0.gguf"]


def test_a_signal_while_the_importance_matrix_is_made(tmp_path: Path) -> None:
    """Q4_0 is made of the built-in model in a moment: too soon for anything else to end it."""
    long = tmp_path / "long"
    long.write_text(STORY * 200)
    pexpect = pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")
    arguments = ["quantize", TINY, tmp_path / "x.gguf", "Q4_0", "--calibrate", long, "-t", 1]
    child = pexpect.spawn(sys.executable, ["-m", "llamacli", *map(str, arguments)], timeout=60, dimensions=(24, 120))
    child.expect("importance matrix")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.wait()
    assert child.signalstatus == signal.SIGINT
    assert b"rror" not in child.before
    assert list(tmp_path.iterdir()) == [long]


@pytest.mark.slow
def test_what_a_kill_left_of_a_report_goes_with_the_next(cli: Cli, text: Path, tmp_path: Path) -> None:
    command = (TINY, "Q8_0", "IQ3_S", "--report", text, "-o", tmp_path, *SMALL)
    with process(*command) as running:
        until(running, tmp_path, ".llamacli-*/tiny-IQ3_S.gguf")
        running.kill()
    assert len(list(tmp_path.glob(".*"))) == 2  # the base's predictions, and the half of a model
    assert cli("quantize", *command, "--force").returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text", "tiny-IQ3_S.gguf", "tiny-Q8_0.gguf"]


def test_a_disk_without_room_for_all(small_disk: Callable[[int], Path], cli: Cli, text: Path) -> None:
    """Q8_0 has 3.7 MB, Q6_K 2.9."""
    folder = small_disk(5 << 20)
    done = cli("quantize", TINY, "Q8_0", "Q6_K", "--report", text, "-o", folder, *SMALL)
    assert (done.returncode, done.stdout) == (9, b"")
    assert b"bytes are needed" in done.stderr
    assert list(folder.iterdir()) == []


def test_a_disk_that_becomes_full_leaves_the_rows_that_are_done(
    small_disk: Callable[[int], Path],
    text: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from llamacli.cli import app

    room = shutil.disk_usage("/")._replace(free=1 << 40)
    folder = small_disk(5 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room)
    with pytest.raises(SystemExit) as ended:
        app([str(word) for word in ("quantize", TINY, "Q8_0", "Q6_K", "--report", text, "-o", folder, *SMALL)])
    shown = capsys.readouterr()
    assert ended.value.code == 9
    assert [line.split("\t")[0] for line in shown.out.splitlines()] == ["type", "F16", "Q8_0"]
    assert "stopped after 2 of 3 models\nerror: " in shown.err
    assert "the disk is full" in shown.err
    assert [path.name for path in folder.iterdir()] == ["tiny-Q8_0.gguf"]
