"""What a dry run says of a full disk and of GPUs: this machine has neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamacli.tasks.dry_run import DryRun, Gpu, PlannedFile, Quant
from llamacli.tasks.fit import Fit
from llamacli.tasks.memory import Memory
from llamacli.ui import plan
from llamacli.ui.output import Output

GIB = 1 << 30


def run(*, disk_free: int | None) -> DryRun:
    quant = Quant("me/m:Q8_0", "Q8_0", ("m-Q8_0.gguf",), 8 * GIB, GIB, 10 * GIB, "fits", 33, True, True)
    return DryRun(
        model="me/m",
        repository="me/m",
        revision="main",
        commit="0" * 40,
        quant="Q8_0",
        files=(PlannedFile("m-Q8_0.gguf", 8 * GIB, GIB),),
        size=8 * GIB,
        missing=7 * GIB,
        cache=Path("/cache"),
        disk_free=disk_free,
        n_ctx=8192,
        memory=Memory(8192, "f16", "f16", 8 * GIB, 0, GIB, GIB // 2, GIB // 2, 10 * GIB, ()),
        fit=Fit("fits", 2 * GIB, 33, 33),
        ram_available=16 * GIB,
        gpus=(Gpu("CUDA0", 24 * GIB),),
        remark=None,
        quants=(quant,),
    )


@pytest.mark.parametrize(("disk_free", "said"), [(6 * GIB, True), (8 * GIB, False), (None, False)])
def test_a_disk_that_is_too_small(capsys: pytest.CaptureFixture[str], disk_free: int | None, said: bool) -> None:
    plan.show([run(disk_free=disk_free)], Output())
    captured = capsys.readouterr()
    hint = "hint: 7.0 GiB are to be fetched, and 6.0 GiB are free in /cache: make room first\n"
    assert captured.err == (hint if said else "")
    assert captured.out.splitlines()[1] == "\t".join(
        ["me/m:Q8_0", "Q8_0", str(8 * GIB), str(GIB), str(10 * GIB), "fits", "33", "true", "true"]
    )


def test_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.mode = "human"
    plan.show([run(disk_free=None)], output)
    shown = capsys.readouterr().out
    assert "\n  m-Q8_0.gguf (8.0 GiB, 1.0 GiB of it here)\n7.0 GiB to fetch\n" in shown
    assert "\nRAM that is available: 16.0 GiB; CUDA0: 24.0 GiB free; context: 8,192 tokens\n" in shown
    assert "fits, 33 layers on the GPU (recommended)" in shown
