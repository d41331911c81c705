"""The estimate of memory against llama.cpp itself: which weights it rearranges, and how much a process takes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llamacli.builtin import TINY
from llamacli.engine import native

Cli = Callable[..., subprocess.CompletedProcess[bytes]]
#: enum llama_ftype
TYPES = {"Q4_0": 2, "Q8_0": 7, "Q2_K": 10, "Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30}


@pytest.mark.parametrize("pure", [False, True])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("Q4_0", "Q4_K_M") else pytest.mark.slow) for name in TYPES]
)
def test_what_is_rearranged(cli: Cli, name: str, pure: bool, tmp_path: Path) -> None:
    """With `pure` the embeddings too, which are the output matrix of this model as well."""
    path = tmp_path / f"{name}.gguf"
    params = native.C.llama_model_quantize_default_params()
    params.ftype, params.pure = TYPES[name], pure
    assert native.C.llama_model_quantize(str(TINY).encode(), str(path).encode(), params) == 0
    done = cli("complete", "-m", path, "-n", 1, "--raw", "hi", env={"LLAMACLI_DEBUG": "1", "LLAMACLI_HOME": tmp_path})
    said = re.findall(rb"(?:CPU_REPACK|AMX) model buffer size = +([\d.]+) MiB", done.stderr)
    repacked = json.loads(cli("show", "--json", path, env={"LLAMACLI_HOME": tmp_path}).stdout)["memory"]["repacked"]
    assert repacked / 2**20 == pytest.approx(sum(map(float, said)), abs=0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="what is resident is counted differently elsewhere")
def test_what_a_process_takes(tmp_path: Path) -> None:
    """A long prompt for a small model: nearly all of it is the program itself. The benchmark has larger ones."""
    script = (
        "import re, sys; sys.argv[0] = 'llamacli'\nfrom llamacli.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    (tmp_path / "prompt").write_text("the" + " the" * 900)
    options = ["-m", TINY, "-c", "1024", "-n", "2", "--raw", "--no-stdin", "--no-cache", "-f", tmp_path / "prompt"]
    command = [sys.executable, "-c", script, "complete", *map(str, options)]
    taken = 1024 * int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    bare = [sys.executable, "-c", "print(open('/proc/self/status').read())"]
    status = subprocess.run(bare, capture_output=True, text=True, check=True).stdout
    taken -= 1024 * int(re.findall(r"VmHWM:\s+(\d+)", status)[0])
    show = [sys.executable, "-m", "llamacli", "show", "--json", str(TINY), "-c", "1024"]
    estimate = json.loads(subprocess.run(show, capture_output=True, check=True).stdout)["memory"]["total"]
    assert estimate == pytest.approx(taken, rel=0.10)
