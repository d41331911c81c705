"""GPUs that the build cannot use, on made-up machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamacli.tasks.devices import devices, unused_gpus


def pci(root: Path, *devices: tuple[str, str]) -> Path:
    for number, (kind, vendor) in enumerate(devices):
        folder = root / f"0000:00:{number:02x}.0"
        folder.mkdir(parents=True)
        (folder / "class").write_text(kind + "\n")
        (folder / "vendor").write_text(vendor + "\n")
    return root


@pytest.fixture
def nvidia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that lists two GPUs."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\nprintf 'NVIDIA H200\\nNVIDIA H200\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")


@pytest.mark.usefixtures("nvidia")
def test_an_nvidia_gpu_without_cuda_gets_the_exact_line(tmp_path: Path) -> None:
    (missing,) = unused_gpus(("CPU",), pci=tmp_path)
    assert missing.what == "NVIDIA H200, NVIDIA H200"
    assert "no CUDA backend" in missing.why
    assert missing.install.startswith('CMAKE_ARGS="-DGGML_CUDA=on" ')
    for flag in ("--force-reinstall", "--no-cache-dir", "llama-cpp-python"):
        assert flag in missing.install


@pytest.mark.usefixtures("nvidia")
@pytest.mark.parametrize("backend", ["CUDA", "Vulkan"])
def test_a_backend_that_drives_it_is_enough(tmp_path: Path, backend: str) -> None:
    assert unused_gpus(("CPU", backend), pci=tmp_path) == []


def test_an_amd_gpu_and_a_disk_controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    (missing,) = unused_gpus(("CPU",), pci(tmp_path, ("0x030000", "0x1002"), ("0x010601", "0x8086")))
    assert "no Vulkan backend" in missing.why
    assert "-DGGML_VULKAN=on" in missing.install


def test_a_machine_without_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert unused_gpus(("CPU",), pci(tmp_path, ("0x010601", "0x8086"))) == []


def test_this_machine() -> None:
    found = devices()
    assert "CPU" in found.backends
    assert found.threads >= 1
    assert any(device.kind == "cpu" and device.memory_total > 0 for device in found.devices)
