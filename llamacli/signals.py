"""Ctrl-C, SIGTERM, a closed terminal and a closed pipe: clean up, then end by that very signal.

A shell loop goes on after a program that exits with 130 by itself; it stops after one that SIGINT killed. So nothing
here exits with a number: `end_by` restores the default handler and sends the signal again.

Two ways to meet a signal. By default it ends the process where it stands, after the clean-ups of `on_end`; an
exception out of a handler would be lost in callbacks and garbled by imports. Inside `deferred()` it only sets `flag`,
so that an answer can be finished, shown and counted before `check` ends it; native code polls the same byte
(`engine/native.py`). A native call does not let Python run its handlers, so a watcher thread sets the flag from the
wake-up pipe. A second signal ends the process at once, and so does the first where the native call has not returned
within GRACE_SECONDS.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

#: Promised is half a second from Ctrl-C to the end.
GRACE_SECONDS = 0.4

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

#: 0 or 1 in the first byte, then a NUL for ever: readable by native code as a C string.
flag = bytearray(2)
received: int | None = None
_cleanups: list[Callable[[], None]] = []
_deferring = 0
_hurry = False  # inside deferred(hurry=True)
_watcher: threading.Thread | None = None
cursor_hidden = False  # set by ui/progress.py while a bar is shown


class Ended(BaseException):
    """The process is to end by this signal: raised where the program itself looks, never by a handler."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def _handle(signum: int, frame: FrameType | None) -> None:
    global received
    if received is not None or not _deferring:
        end_by(signum)
    received = signum
    flag[0] = 1


def install() -> None:
    """Take over the signals. A signal that the parent set to be ignored (nohup) stays ignored."""
    for signum in _SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _handle)


def uninstall() -> None:
    """The work is done: a signal while the interpreter shuts down simply ends it."""
    for signum in _SIGNALS:
        if signal.getsignal(signum) is _handle:
            signal.signal(signum, signal.SIG_DFL)


@contextlib.contextmanager
def on_end(cleanup: Callable[[], None]) -> Iterator[None]:
    """While this lasts, `cleanup` runs before a signal ends the process: a child to kill, a temporary file to remove.

    It may run on another thread, in the middle of anything: keep it to one system call or two.
    """
    _cleanups.append(cleanup)
    try:
        yield
    finally:
        _cleanups.remove(cleanup)


@contextlib.contextmanager
def deferred(*, hurry: bool = False) -> Iterator[None]:
    """Signals set `flag` instead of ending the process.

    `hurry`: nothing would be lost by ending a native call that does not stop by itself, so the process ends after
    GRACE_SECONDS even inside one.
    """
    global _deferring, _hurry
    _start_watcher()
    before = _hurry
    _deferring += 1
    _hurry = hurry
    try:
        yield
    finally:
        _deferring -= 1
        _hurry = before


def check() -> None:
    """Raise `Ended` if a signal came while it was deferred."""
    if received is not None:
        raise Ended(received)


def _start_watcher() -> None:
    global _watcher
    if _watcher is not None or threading.current_thread() is not threading.main_thread():
        return
    import socket

    reader, writer = socket.socketpair()  # select() takes no pipes on Windows
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    _watcher = threading.Thread(target=_watch, args=(reader, writer), daemon=True)
    _watcher.start()


def _watch(reader: socket.socket, writer: socket.socket) -> None:
    first: int | None = None
    while True:
        patience = GRACE_SECONDS if first is not None and _hurry else None
        if not select.select([reader], [], [], patience)[0]:
            if first is not None and _hurry and _deferring:
                _end_from_thread(first)
            continue
        signum = reader.recv(1)[0]
        if signum not in _SIGNALS or not _deferring:
            continue
        if first is not None:
            _end_from_thread(signum)
        first = signum
        flag[0] = 1


def _end_from_thread(signum: int) -> None:
    """`signal.signal` works in the main thread only, which may sit in a native call: go through the C library."""
    import ctypes

    _clean_up()
    if os.name == "posix":
        ctypes.CDLL(None).signal(signum, 0)
        os.kill(os.getpid(), signum)
    os._exit(128 + signum)


def end_by(signum: int) -> None:
    """End this process by `signum`; does not return."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with contextlib.suppress(Exception):
        sys.stderr.flush()
    _clean_up()
    if os.name == "posix":
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
    os._exit(128 + signum)


def _clean_up() -> None:
    for cleanup in reversed(_cleanups):
        with contextlib.suppress(Exception):
            cleanup()
    restore_terminal()


def restore_terminal() -> None:
    """Show the cursor and reset colours, if a progress bar was on the terminal."""
    if cursor_hidden:
        with contextlib.suppress(OSError):
            os.write(2, b"\x1b[0m\x1b[?25h\n")
