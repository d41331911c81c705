"""Bounds on a chat template that is rendered in this process: one that has passed before may not with other messages.

    {% if "go" in messages[0].content %} … for ever … {% endif %}

passes with "hi". A timer of the system interrupts loops (and Python's long arithmetic), a limit of the address space
ends what allocates gigabytes. Where the system has neither, or in another thread, a child process renders.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from llamacli.engine.template_child import (
    MEMORY_LIMIT,
    MEMORY_PER_INPUT_BYTE,
    SECONDS_PER_INPUT_BYTE,
    TIME_LIMIT,
    TOOK_TOO_LONG,
    RenderFailed,
)


class _TooLong(BaseException):
    """Not an Exception: rendering retries after those."""


def possible() -> bool:
    """Whether `bounded` can keep its promise here."""
    return sys.platform == "linux" and threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def bounded(input_size: int) -> Iterator[None]:
    """What is done within ends in TIME_LIMIT seconds and with MEMORY_LIMIT bytes, plus what an input of that size
    needs. Raises RenderFailed; where memory is short, Python raises MemoryError.
    """
    import resource

    def too_long(signum: int, frame: FrameType | None) -> None:
        raise _TooLong

    size = int(Path("/proc/self/statm").read_bytes().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    wanted = size + MEMORY_LIMIT + MEMORY_PER_INPUT_BYTE * input_size
    soft = wanted if limits[0] == resource.RLIM_INFINITY else min(wanted, limits[0])
    before = signal.signal(signal.SIGALRM, too_long)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (soft, limits[1]))
        signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT + SECONDS_PER_INPUT_BYTE * input_size)
        yield
    except _TooLong:
        raise RenderFailed(TOOK_TOO_LONG) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)
