"""Quantised models work on processors whose AMX kernels crash in this build of llama.cpp."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from llamacli.engine import amx, native

Cli = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def quantised(stories: Path, tmp_path: Path) -> Path:
    path = tmp_path / "q8.gguf"
    params = native.C.llama_model_quantize_default_params()
    params.ftype = 7  # LLAMA_FTYPE_MOSTLY_Q8_0
    assert native.C.llama_model_quantize(str(stories).encode(), str(path).encode(), params) == 0
    return path


def test_a_quantised_model_writes_text(cli: Cli, quantised: Path) -> None:
    done = cli("complete", "-m", quantised, "-n", 12, "--temp", 0, "-t", 1, "Once upon a time")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b", there was a little girl")


def test_the_trial_is_made_once_per_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMACLI_HOME", str(tmp_path))
    monkeypatch.setattr(native, "build", lambda: "CPU : AMX_INT8 = 1 |")
    trials = []
    monkeypatch.setattr(amx, "_try_in_child", lambda: trials.append(1) or False)
    assert [amx.works(), amx.works()] == [False, False]
    assert len(trials) == 1


def test_without_amx_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "build", lambda: "CPU : AVX2 = 1 |")
    monkeypatch.setattr(amx, "_try_in_child", lambda: pytest.fail("tried"))
    assert amx.works()


def test_a_child_that_crashes_is_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amx.sys, "path", ["/nowhere"])  # the child cannot even import us
    assert amx._try_in_child() is False
