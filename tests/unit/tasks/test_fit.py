"""Verdicts, what goes to GPUs, which quant is recommended, and which weights are rearranged on which processor."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from llamacli.engine.offload import MARGIN, Shape
from llamacli.engine.types import Device
from llamacli.models.gguf import TensorInfo
from llamacli.models.hub import RemoteFile
from llamacli.models.pull import Variant
from llamacli.tasks import fit as fits
from llamacli.tasks import memory as estimates
from llamacli.tasks.dry_run import recommended
from llamacli.tasks.fit import Machine, Verdict, fit, pageable
from llamacli.tasks.memory import Memory, repacked, repacked_as

GIB = 1 << 30
SHAPE = Shape(layer_bytes=(GIB, GIB, GIB, GIB, GIB // 2), n_embd_k=64, n_embd_v=64, n_embd=256, n_ff=512, n_vocab=1000)
MEMORY = Memory(1024, "f16", "f16", 5 * GIB, GIB, GIB // 2, GIB // 4, GIB // 4, 7 * GIB, ())


def gpu(free: float, kind: str = "gpu", backend: str = "CUDA") -> Device:
    return Device("X0", "a GPU", kind, int(free * GIB), 80 * GIB, backend)  # type: ignore[arg-type]  # a DeviceKind


@pytest.mark.parametrize(
    ("ram", "verdict"),
    [
        (8.0, "fits"),
        (7.7, "tight"),  # more than nine tenths of it
        (6.0, "tight"),  # the mapped copy of what was rearranged can go
        (5.9, "does not fit"),
        (None, "unknown"),
    ],
)
def test_verdicts(ram: float | None, verdict: Verdict) -> None:
    found = fit(MEMORY, SHAPE, Machine(int(ram * GIB) if ram else None, ()))
    assert (found.verdict, found.needed, found.gpu_layers, found.n_layers) == (verdict, 7 * GIB, 0, 5)


def test_what_goes_to_the_gpu_needs_no_ram() -> None:
    everything = fit(MEMORY, SHAPE, Machine(2 * GIB, (gpu(20),)))
    assert (everything.gpu_layers, everything.needed, everything.verdict) == (5, GIB, "fits")
    some = fit(MEMORY, SHAPE, Machine(8 * GIB, (gpu(2.7 + MARGIN / GIB),)))
    assert some.gpu_layers == 3  # the output and two blocks
    assert some.needed == 7 * GIB - GIB - 2 * GIB - GIB // 2 - GIB // 4  # nothing is rearranged; blocks, output, KV
    assert fit(MEMORY, SHAPE, Machine(8 * GIB, (gpu(0.1),))).needed == 7 * GIB


@pytest.mark.parametrize("device", [gpu(20, "igpu", "Vulkan"), gpu(20, "gpu", "MTL")])
def test_a_gpu_that_computes_in_ram(device: Device) -> None:
    assert fit(MEMORY, SHAPE, Machine(8 * GIB, (device,))).needed == 6 * GIB


def test_the_machine() -> None:
    found = fits.machine()
    assert found.ram is None or found.ram > 1 << 20
    assert all(device.kind in ("gpu", "igpu") for device in found.gpus)


def test_vm_stat() -> None:
    text = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               10000.
Pages active:                            300000.
Pages inactive:                           20000.
Pages speculative:                          500.
Pages wired down:                        100000.
Pages purgeable:                            100.
"""
    assert pageable(text) == 16384 * 30600
    assert pageable("vm_stat: not found") == 0


def test_the_recommended_one() -> None:
    sizes = {"Q2_K": 2, "Q4_K_M": 4, "Q8_0": 8, "BF16": 16}
    models = [Variant(quant, (RemoteFile(f"{quant}.gguf", size, "0" * 64),)) for quant, size in sizes.items()]

    def best(*verdicts: Verdict) -> str:
        found = recommended(list(zip(models, verdicts, strict=True)))
        return found.quant if found else ""

    assert best("fits", "fits", "fits", "fits") == "Q8_0"
    assert best("fits", "fits", "tight", "does not fit") == "Q4_K_M"
    assert best("tight", "tight", "does not fit", "does not fit") == "Q2_K"
    assert best("does not fit", "does not fit", "does not fit", "does not fit") == ""
    assert best("unknown", "unknown", "unknown", "unknown") == ""
    assert recommended([(models[3], "fits")]) == models[3]


def test_what_is_rearranged(monkeypatch: pytest.MonkeyPatch) -> None:
    q4_k, q6_k, f32 = 12, 14, 0
    tensors = [
        TensorInfo("token_embd.weight", (256, 800), q4_k, 0, 800 * 144),
        TensorInfo("blk.0.attn_q.weight", (256, 256), q4_k, 0, 256 * 144),
        TensorInfo("blk.0.ffn_down.weight", (256, 256), q6_k, 0, 256 * 210),
        TensorInfo("blk.0.ffn_up_exps.weight", (256, 64, 4), q4_k, 0, 256 * 144),
        TensorInfo("blk.0.attn_k.weight", (256, 4), q4_k, 0, 4 * 144),  # too few rows
        TensorInfo("blk.0.attn_norm.weight", (256,), f32, 0, 1024),
    ]
    output = TensorInfo("output.weight", (256, 800), q6_k, 0, 800 * 210)
    for name, whole, tied in (
        ("avx2", 512 * 144, 800 * 144),
        ("neon", 512 * 144 + 256 * 210 + 800 * 210, 800 * 144 - 800 * 210),
        ("", 0, 0),
    ):
        monkeypatch.setattr(estimates, "processor", lambda name=name: name)
        assert repacked([*tensors, output]) == whole
        assert repacked(tensors) == whole + tied
    monkeypatch.setattr(estimates, "processor", lambda: "avx512")
    assert repacked_as(tensors, "Q4_K_M") == repacked_as(tensors, "UD-Q4_K_XL") == 768 * 144
    assert repacked_as(tensors, "Q2_K") == 768 * 84
    assert [repacked_as(tensors, quant) for quant in ("Q8_0", "F16", "IQ2_M", "")] == [0, 0, 0, 0]


def test_the_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLAMACLI_HOME", str(tmp_path))
    monkeypatch.setattr(estimates.platform, "machine", lambda: "x86_64")
    for flags, name in (
        ({"avx2"}, "avx2"),
        ({"avx2", "avx512f"}, "avx512"),
        ({"avx2", "avx512f", "amx_int8"}, "avx512"),  # no model was loaded yet
        ({"sse3"}, "" if estimates.sys.platform == "linux" else "avx2"),
    ):
        monkeypatch.setattr(estimates, "_flags", lambda flags=flags: flags)
        assert estimates.processor() == name
    monkeypatch.setattr(estimates, "_flags", lambda: {"avx2", "avx512f", "amx_int8"})
    (tmp_path / "cache/amx").mkdir(parents=True)
    for number, (verdict, name) in enumerate((("works", "amx"), ("fails", ""))):
        path = tmp_path / "cache/amx" / f"0000000{number}-{verdict}"
        path.touch()
        os.utime(path, (number, number))
        assert estimates.processor() == name


def test_other_weights_change_the_total_alone() -> None:
    other = estimates.with_weights(MEMORY, 2 * GIB, 0)
    assert other == replace(MEMORY, weights=2 * GIB, repacked=0, total=3 * GIB)
