"""Standard input: read whole; when it keeps one waiting, that is said."""

from __future__ import annotations

import os
import select
import sys

from llamacli.ui.output import is_terminal, note

#: Seconds before a wait is mentioned.
PATIENCE = 2.0


def read(*, wanted: bool = False, unwanted: bool = False) -> bytes | None:
    """All of standard input, where there is one and it is no terminal; `wanted` reads a terminal too, up to Ctrl-D.

    None where nothing was read, b"" for an empty one.
    """
    if unwanted or sys.stdin is None or sys.stdin.closed or (is_terminal(sys.stdin) and not wanted):
        return None
    return _read_bytes()


def _read_bytes() -> bytes:
    try:
        fd = sys.stdin.fileno()
    except (OSError, ValueError):  # replaced by a stream of Python's own, as tests do
        return sys.stdin.buffer.read()
    if os.name == "posix" and not os.isatty(fd) and not select.select([fd], [], [], PATIENCE)[0]:
        note("waiting for standard input… (Ctrl-C ends; --no-stdin does without)", style="dim")
    parts = []
    while part := os.read(fd, 1 << 20):
        parts.append(part)
    return b"".join(parts)
