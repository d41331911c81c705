"""Quantised models work on processors whose AMX kernels crash in this build of llama.cpp."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from llamacli.builtin import TINY
from llamacli.engine import amx, native

Cli = Callable[..., subprocess.CompletedProcess[bytes]]


#: enum llama_ftype
TYPES = {"Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q4_K_M": 15, "Q3_K_M": 12, "Q2_K": 10}


@pytest.mark.parametrize("name", TYPES)
def test_a_quantised_model_writes_text(cli: Cli, name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.gguf"
    params = native.C.llama_model_quantize_default_params()
    params.ftype = TYPES[name]
    assert native.C.llama_model_quantize(str(TINY).encode(), str(path).encode(), params) == 0
    done = cli("complete", "-m", path, "-n", 40, "--temp", 0, "-t", 1, "Once upon a time")
    assert done.stderr == b"" or done.returncode == 8, done
    assert re.fullmatch(rb"[A-Za-z ,.!?\"]{40,}\n", done.stdout), done.stdout


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
