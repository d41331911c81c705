"""What this build of llama.cpp can compute on, and what the machine has beyond that."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from llamacli.engine import amx, native
from llamacli.engine.threads import physical_cores
from llamacli.engine.types import Device


@dataclass(frozen=True)
class Missing:
    """What this build cannot use, why, and the line that installs a build which can."""

    what: str
    why: str
    install: str


@dataclass(frozen=True)
class Devices:
    """`threads` is what is computed with by default, `features` what the build makes use of."""

    bindings: str
    features: tuple[str, ...]
    backends: tuple[str, ...]
    threads: int
    devices: tuple[Device, ...]
    missing: tuple[Missing, ...]


def devices() -> Devices:
    """Ask the library, then the machine."""
    found = tuple(native.devices())
    backends = tuple(dict.fromkeys(device.backend for device in found))
    return Devices(
        bindings=f"llama-cpp-python {metadata.version('llama-cpp-python')}",
        features=tuple(re.findall(r"(\w+) = 1\b", native.build())),
        backends=backends,
        threads=physical_cores(),
        devices=found,
        missing=(*unused_gpus(backends), *unused_amx()),
    )


def install_line(settings: str) -> str:
    """Without --force-reinstall and --no-cache-dir pip would bring back the wheel that it compiled before."""
    return f"{settings} {sys.executable} -m pip install --force-reinstall --no-cache-dir --no-deps llama-cpp-python"


def unused_amx() -> list[Missing]:
    """AMX kernels that crash in this build; without them the other fast kernels for quantised weights can be had."""
    if amx.works():
        return []
    flags = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
    why = "its kernels crash in this build, so quantised models write more slowly"
    return [Missing("this processor's AMX", why, install_line(f'CFLAGS="{flags}" CXXFLAGS="{flags}"'))]


def unused_gpus(backends: tuple[str, ...], pci: Path = Path("/sys/bus/pci/devices")) -> list[Missing]:
    """GPUs of this machine that none of `backends` drives."""
    known = {backend.lower() for backend in backends}
    missing = []
    if not known & {"cuda", "vulkan"} and (name := _nvidia()):
        missing.append(_no_backend(name, "CUDA", "GGML_CUDA"))
    vendors = _display_vendors(pci)
    if not known & {"rocm", "hip", "vulkan"} and "0x1002" in vendors:
        option = "GGML_HIP" if shutil.which("hipcc") else "GGML_VULKAN"
        missing.append(_no_backend("an AMD GPU", option.removeprefix("GGML_").capitalize(), option))
    if not known & {"sycl", "vulkan"} and "0x8086" in vendors:
        missing.append(_no_backend("an Intel GPU", "Vulkan", "GGML_VULKAN"))
    if not known & {"metal", "mtl"} and sys.platform == "darwin" and platform.machine() == "arm64":
        missing.append(_no_backend("Apple's GPU", "Metal", "GGML_METAL"))
    return missing


def _no_backend(gpu: str, backend: str, option: str) -> Missing:
    return Missing(gpu, f"this build has no {backend} backend", install_line(f'CMAKE_ARGS="-D{option}=on"'))


def _nvidia() -> str:
    """The NVIDIA GPUs' names as their driver lists them; "" without one."""
    if not shutil.which("nvidia-smi"):
        return ""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    names = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return ", ".join(names) if done.returncode == 0 else ""


def _display_vendors(pci: Path) -> set[str]:
    """PCI vendor ids of the display controllers (class 0x03…); empty where there is no sysfs."""
    vendors = set()
    for device in pci.glob("*"):
        try:
            if (device / "class").read_text().startswith("0x03"):
                vendors.add((device / "vendor").read_text().strip())
        except OSError:
            continue
    return vendors
