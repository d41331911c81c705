"""`llamacli quantize --report` and `--calibrate`: the figures are those of single runs; nothing is left behind."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import subprocess
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
        assert row["statistics"] == result["statistics"]
        assert (row["ppl"]["value"], row["ppl"]["error"]) == (result["ppl"], result["ppl_error"])
        assert row["bits_per_weight"] == result["bits_per_weight"]
        assert row["prompt_speed"]["value"] > row["generation_speed"]["value"] > 0
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
    assert "exclude each other" in failure(
        cli("quantize", TINY, "Q4_K_M", "--calibrate", text, "--imatrix", text, "-o", tmp_path)
    )


def test_calibrate_is_imatrix_and_quantize_in_one_step(cli: Cli, text: Path, tmp_path: Path) -> None:
    both, matrix, one = tmp_path / "two.gguf", tmp_path / "matrix.gguf", tmp_path / "one.gguf"
    assert cli("quantize", TINY, one, "IQ2_XS", "--calibrate", text, *SMALL).returncode == 0
    assert cli("imatrix", "-m", TINY, text, "-o", matrix, *SMALL).returncode == 0
    assert cli("quantize", TINY, both, "IQ2_XS", "--imatrix", matrix).returncode == 0
    data = [path.read_bytes() for path in (one, both)]
    assert data[0][-(1 << 20) :] == data[1][-(1 << 20) :]  # the tensors; the metadata name the file
    assert b"quantize.imatrix.dataset" in data[0]
    assert b"quantize.imatrix.file" not in data[0]


def test_a_model_that_is_no_tiny(cli: Cli, text: Path, tmp_path: Path) -> None:
    model = tmp_path / "plain-F32.gguf"
    write_llama(model)
    done = cli("quantize", model, "Q8_0", "--report", text, *SMALL)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "plain-Q8_0.gguf").exists()
