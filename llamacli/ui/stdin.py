"""Standard input: read whole; when it keeps one waiting, that is said."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator

from llamacli.errors import UsageError
from llamacli.ui.output import is_terminal, note

#: Seconds before a wait is mentioned.
PATIENCE = 2.0
#: Bytes.
MOST = 1 << 30


def read(*, wanted: bool = False, unwanted: bool = False) -> bytes | None:
    """All of standard input, where there is one and it is no terminal; `wanted` reads a terminal too, up to Ctrl-D.

    None where nothing was read, b"" for an empty one.
    """
    if unwanted or sys.stdin is None or sys.stdin.closed or (is_terminal(sys.stdin) and not wanted):
        return None
    return _read_bytes()


def lines() -> Iterator[str]:
    """The lines of standard input as they come, without their ends; empty ones are left out. Raises UsageError."""
    if sys.stdin is None or sys.stdin.closed:
        raise UsageError("standard input is closed")
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
        except UnicodeDecodeError as error:
            raise UsageError(f"standard input is no UTF-8: line {number}, byte {error.start + 1}") from error
        if text.strip():
            yield text


def raw_lines() -> Iterator[bytes]:
    """The lines of standard input as they come, with their ends. For a thread of its own: it holds no lock at the end.

    Raises UsageError.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise UsageError("standard input is closed")
    try:
        fd = sys.stdin.fileno()
    except (OSError, ValueError):  # a stream of Python's own, as tests put there
        yield from sys.stdin.buffer
        return
    if os.isatty(fd):
        note("reading prompts from the terminal, one a line… (Ctrl-D ends them)", style="dim")
    held: list[bytes] = []
    n_held = 0
    while part := _some(fd):
        *whole, rest = part.split(b"\n")
        for line in whole:
            yield b"".join([*held, line, b"\n"])
            held.clear()
            n_held = 0
        held.append(rest)
        n_held += len(rest)
        if n_held > MOST:
            raise UsageError(f"a line of standard input is larger than {MOST >> 30} GiB; no context holds that")
    if held:
        yield b"".join(held)


def _some(fd: int) -> bytes:
    """What there is to read, at least one byte; b"" at the end. Raises UsageError."""
    while True:
        try:
            return os.read(fd, 1 << 20)
        except BlockingIOError:  # the parent made it non-blocking
            select.select([fd], [], [])
        except OSError as error:
            raise UsageError(f"standard input cannot be read: {error.strerror}") from error


def _read_bytes() -> bytes:
    try:
        fd = sys.stdin.fileno()
    except (OSError, ValueError):  # a stream of Python's own, as tests put there
        return sys.stdin.buffer.read()
    if os.name == "posix" and not os.isatty(fd) and not select.select([fd], [], [], PATIENCE)[0]:
        note("waiting for standard input… (Ctrl-C ends; --no-stdin does without)", style="dim")
    if os.isatty(fd):
        note("reading the prompt from the terminal… (Ctrl-D ends it)", style="dim")
    parts: list[bytes] = []
    size = 0
    while part := _some(fd):
        parts.append(part)
        size += len(part)
        if size > MOST:
            raise UsageError(f"standard input is larger than {MOST >> 30} GiB; no context holds that")
    return b"".join(parts)
