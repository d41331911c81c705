"""What this build of llama.cpp can compute on, and what the machine has beyond that."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from llamacli.engine import native
from llamacli.engine.threads import physical_cores
from llamacli.engine.types import Device


@dataclass(frozen=True)
class Missing:
    """A GPU that this build cannot use, and the line that installs a build which can."""

    gpu: str
    backend: str
    install: str


@dataclass(frozen=True)
class Devices:
    """`threads` is what is computed with by default, `features` the build's own line."""

    bindings: str
    features: str
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
        features=native.build(),
        backends=backends,
        threads=physical_cores(),
        devices=found,
        missing=tuple(unused_gpus(backends)),
    )


def install_line(cmake_option: str) -> str:
    """Without --force-reinstall and --no-cache-dir pip would bring back the wheel that it compiled for the CPU."""
    setting = f'CMAKE_ARGS="-D{cmake_option}=on" '
    return f"{setting}{sys.executable} -m pip install --force-reinstall --no-cache-dir --no-deps llama-cpp-python"


def unused_gpus(backends: tuple[str, ...], pci: Path = Path("/sys/bus/pci/devices")) -> list[Missing]:
    """GPUs of this machine that none of `backends` drives."""
    known = {backend.lower() for backend in backends}
    missing = []
    if not known & {"cuda", "vulkan"} and (name := _nvidia()):
        missing.append(Missing(name, "CUDA", install_line("GGML_CUDA")))
    vendors = _display_vendors(pci)
    if not known & {"rocm", "hip", "vulkan"} and "0x1002" in vendors:
        option = "GGML_HIP" if shutil.which("hipcc") else "GGML_VULKAN"
        missing.append(Missing("an AMD GPU", option.removeprefix("GGML_").capitalize(), install_line(option)))
    if not known & {"sycl", "vulkan"} and "0x8086" in vendors:
        missing.append(Missing("an Intel GPU", "Vulkan", install_line("GGML_VULKAN")))
    if not known & {"metal", "mtl"} and sys.platform == "darwin" and platform.machine() == "arm64":
        missing.append(Missing("Apple's GPU", "Metal", install_line("GGML_METAL")))
    return missing


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
