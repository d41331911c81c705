"""Physical cores, affinity and container limits, on made-up trees of /sys."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamacli.engine import threads


def cpu(root: Path, number: int, package: int, core: int) -> None:
    folder = root / f"cpu{number}" / "topology"
    folder.mkdir(parents=True)
    (folder / "physical_package_id").write_text(f"{package}\n")
    (folder / "core_id").write_text(f"{core}\n")


def test_hyper_threads_count_once(tmp_path: Path) -> None:
    for number in range(8):
        cpu(tmp_path, number, package=0, core=number % 4)
    assert threads._distinct_cores({0, 1, 2, 3, 4, 5, 6, 7}, tmp_path) == 4
    assert threads._distinct_cores({0, 4}, tmp_path) == 1  # affinity: two threads of one core
    assert threads._distinct_cores({0, 99}, tmp_path) == 2  # unknown ones count


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000"}, 1),
        ({"cpu.max": "400000 100000"}, 4),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 1 << 16),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 1 << 16),
        ({}, 1 << 16),
    ],
)
def test_container_limits(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert threads._quota(tmp_path) == expected


def test_at_least_one() -> None:
    assert threads.physical_cores() >= 1
