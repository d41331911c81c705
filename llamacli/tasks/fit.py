"""Does a model fit this machine: its estimated memory against RAM and GPU memory that are free now."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

from llamacli.engine.offload import ALL, Shape, layers_that_fit
from llamacli.engine.types import Device
from llamacli.tasks.memory import N_UBATCH, Memory

Verdict = Literal["fits", "tight", "does not fit", "unknown"]

#: The share of the available RAM that a model may take to fit well.
_SHARE = 0.9
#: Backends whose devices compute in RAM, by ggml's names in lower case.
_UNIFIED = ("metal", "mtl")


@dataclass(frozen=True)
class Machine:
    """`ram`: bytes that can be had without swapping, within a container's limit; None where the system does not tell.

    `gpus`: the devices that llamacli would offload to.
    """

    ram: int | None
    gpus: tuple[Device, ...]


@dataclass(frozen=True)
class Fit:
    """`needed`: bytes of RAM, beside what goes to the GPUs: `gpu_layers` of `n_layers` (the output is one of them).

    "tight": only if the system drops the mapped copy of weights that were rearranged, or nothing else needs RAM.
    """

    verdict: Verdict
    needed: int
    gpu_layers: int
    n_layers: int


def machine() -> Machine:
    """What is free now. Loads llama.cpp, and lets engine/amx.py find out what the estimate wants to know."""
    from llamacli.engine import amx, native

    amx.works()
    devices = native.devices()
    gpus = [device for device in devices if device.kind == "gpu"]
    integrated = [device for device in devices if device.kind == "igpu"]  # taken where there is no other
    cpu = [device.memory_free for device in devices if device.kind == "cpu"]
    # elsewhere than on Linux and Windows ggml's own figure for the CPU is all RAM, free or not
    ram = native.memory_available() or (cpu[0] if sys.platform == "win32" and cpu else _pageable())
    return Machine(ram or None, tuple(gpus or integrated))


def _pageable() -> int:
    """macOS: bytes that are free, or that the system can free at once, as vm_stat counts them; 0 elsewhere."""
    if sys.platform != "darwin":
        return 0
    try:
        done = subprocess.run(["vm_stat"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return pageable(done.stdout)


def pageable(vm_stat: str) -> int:
    """The same from the command's output; 0 where it says something else."""
    page = re.search(r"page size of (\d+) bytes", vm_stat)
    counts = re.findall(r"^Pages (?:free|inactive|speculative|purgeable):\s+(\d+)\.", vm_stat, re.MULTILINE)
    return int(page[1]) * sum(map(int, counts)) if page else 0


def fit(memory: Memory, shape: Shape, machine: Machine) -> Fit:
    """Whether a model of this memory and shape fits. Layers go to the GPUs first, as many as llamacli puts there."""
    layers = 0
    if machine.gpus:
        free = [gpu.memory_free for gpu in machine.gpus]
        types = {"type_k": memory.type_k, "type_v": memory.type_v}
        layers = layers_that_fit(shape, free, n_ctx=memory.n_ctx, n_ubatch=N_UBATCH, **types)
        layers = shape.n_layer + 1 if layers == ALL else layers
    needed = memory.total
    if layers:  # llama.cpp rearranges nothing then
        needed -= memory.repacked
    if layers and not any(gpu.kind == "igpu" or gpu.backend.lower() in _UNIFIED for gpu in machine.gpus):
        blocks = min(layers - 1, shape.n_layer)
        moved = sum(shape.layer_bytes[shape.n_layer - blocks : shape.n_layer])
        moved += 0 if shape.tied else shape.layer_bytes[-1]
        needed -= min(moved, memory.weights) + memory.kv_cache * blocks // shape.n_layer
    return Fit(_verdict(needed, 0 if layers else memory.repacked, machine.ram), needed, layers, shape.n_layer + 1)


def _verdict(needed: int, droppable: int, ram: int | None) -> Verdict:
    if ram is None:
        return "unknown"
    if needed <= _SHARE * ram:
        return "fits"
    return "tight" if needed - droppable <= ram else "does not fit"
