"""How many threads to compute with: the physical cores that this process may use. Standard library only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def physical_cores() -> int:
    """Physical cores within this process's affinity and its container's limit; at least 1.

    Two hyper-threads of one core share its arithmetic units, so more threads than cores make llama.cpp slower.
    """
    return max(1, min(_cores(), _quota(Path("/sys/fs/cgroup"))))


def logical_cores() -> int:
    """All that this process may use, hyper-threads too: for work whose threads need not wait for each other."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _quota(Path("/sys/fs/cgroup"))))


def others_run() -> bool:
    """Whether other processes want the processor at this moment; False where nobody can tell (Linux can).

    llama.cpp's threads meet many times for each token. Waiting for each other they spin, which is quickest as long as
    each has a core; where another process has it, they spin while that one computes, and are 30 times slower.
    """
    try:
        running, _, _ = Path("/proc/loadavg").read_text().split()[3].partition("/")
        return int(running) > 1  # this process is one of them
    except (OSError, ValueError, IndexError):
        return False


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return _distinct_cores(os.sched_getaffinity(0), Path("/sys/devices/system/cpu"))
    if sys.platform == "darwin":
        # Efficiency cores hold the others up: count the performance cores where the machine has both.
        for name in ("hw.perflevel0.physicalcpu", "hw.physicalcpu"):
            done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False)
            if done.returncode == 0 and done.stdout.strip().isdigit():
                return int(done.stdout)
    return max(1, (os.cpu_count() or 1) // 2)


def _distinct_cores(cpus: set[int], sysfs: Path) -> int:
    cores = set()
    for cpu in cpus:
        topology = sysfs / f"cpu{cpu}" / "topology"
        try:
            cores.add(((topology / "physical_package_id").read_text(), (topology / "core_id").read_text()))
        except OSError:
            cores.add((str(cpu), ""))  # no topology to be seen: each counts
    return len(cores)


def _quota(cgroup: Path) -> int:
    """The container's CPU limit, rounded down to whole cores (cgroup v2, then v1); a large number without one."""
    unlimited = 1 << 16
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return unlimited
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:  # "max", "-1"
        return unlimited
    return max(1, int(quota) // int(period))
