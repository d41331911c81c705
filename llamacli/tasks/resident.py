"""How much memory this process takes."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path

_PROC = Path("/proc/self")


def forget_peak() -> None:
    """Let `peak` count from now on, where the system can (Linux); elsewhere it is that of the whole process."""
    with contextlib.suppress(OSError):
        (_PROC / "clear_refs").write_text("5")


def peak() -> int | None:
    """The most bytes of RAM that were resident, mapped files among them; None where the system does not tell."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^VmHWM:\s+(\d+) kB", (_PROC / "status").read_text(), re.MULTILINE):
            return int(found[1]) * 1024
    with contextlib.suppress(ImportError):  # Windows
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return None
