"""Ctrl-C, SIGTERM, a closed terminal and a closed pipe: clean up, then end by that very signal.

A shell loop goes on after a program that exits with 130 by itself; it stops after one that SIGINT killed. So nothing
here exits with a number: `end_by` restores the default handler and sends the signal again.

Three ways to meet a signal. By default it ends the process where it stands, after the clean-ups of `on_end`; an
exception out of a handler would be lost in callbacks and garbled by imports. Inside `deferred()` it only sets `flag`,
so that an answer can be finished, shown and counted before `check` ends it; native code polls the same byte
(`engine/native.py`). Inside `stoppable()` a Ctrl-C is there to stop an answer: `forgive()` forgets it, and the process
goes on.

While a native call lasts, or a write to a pipe that nobody reads, Python runs no handlers. So a watcher thread gets
each signal through the wake-up pipe, sets the flag, and ends the process where the main thread has not done so within
its patience. A second signal ends it at once.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

#: Promised is half a second from Ctrl-C to the end.
GRACE_SECONDS = 0.4
#: Longer where there is something to finish and to show.
FINISHING_SECONDS = 2.0

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

#: 0 or 1 in the first byte, then a NUL for ever: readable by native code as a C string.
flag = bytearray(2)
received: int | None = None
_cleanups: list[Callable[[], None]] = []
_deferring = 0
_stoppable = False
_patience = GRACE_SECONDS
_watcher: threading.Thread | None = None
_wakeup = -1  # the end of the pipe that Python writes signals into
_first: int | None = None  # what the watcher has seen
_noted = 0.0  # and when
#: How many signals the handler and the watcher have met since the last `forgive`.
_handled = _watched = 0
_keep: list[socket.socket] = []
cursor_hidden = False  # set by ui/progress.py while a bar is shown


class Ended(BaseException):
    """The process is to end by this signal: raised where the program itself looks, never by a handler."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def _handle(signum: int, frame: FrameType | None) -> None:
    global received, _handled
    _handled += 1
    if received is not None or not (_deferring or _stoppable):
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
def deferred(patience: float = GRACE_SECONDS) -> Iterator[None]:
    """Signals set `flag` instead of ending the process, which has `patience` seconds to end by itself then."""
    global _deferring, _patience
    before = _patience
    _deferring += 1
    _patience = patience
    try:
        yield
    finally:
        _deferring -= 1
        _patience = before


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """A first Ctrl-C only sets `flag`, however long that lasts, and `forgive` forgets it. A second one ends all."""
    global _stoppable
    _stoppable = True
    try:
        yield
    finally:
        _stoppable = False


def forgive() -> bool:
    """Forget a Ctrl-C: True if one had come. Any other signal stays, for `check`."""
    global received, _first, _handled, _watched
    if received != signal.SIGINT:
        return False
    late = time.monotonic() + GRACE_SECONDS / 2
    while _watcher is not None and _watched < _handled and time.monotonic() < late:
        time.sleep(0.001)  # or it would note this signal when it is forgotten already
    received = _first = None
    flag[0] = 0
    _handled = _watched = 0
    return True


def check() -> None:
    """Raise `Ended` if a signal came while it was deferred."""
    if received is not None:
        raise Ended(received)


def watch() -> None:
    """Start the watcher; before native code is called. Only the main thread can.

    Called again it gets its signals back, which an event loop may have turned to itself in between.
    """
    global _watcher, _wakeup
    if threading.current_thread() is not threading.main_thread():
        return
    if _watcher is not None:
        signal.set_wakeup_fd(_wakeup, warn_on_full_buffer=False)
        return
    if os.name == "posix":
        reader, _wakeup = os.pipe()
        os.set_blocking(_wakeup, False)
    else:  # select() takes sockets only
        import socket

        _keep.extend(socket.socketpair())
        reader, _wakeup = (end.fileno() for end in _keep)
        _keep[1].setblocking(False)
    signal.set_wakeup_fd(_wakeup, warn_on_full_buffer=False)
    _watcher = threading.Thread(target=_watch, args=(reader,), daemon=True)
    _watcher.start()


def _watch(reader: int) -> None:
    global _first, _noted, _watched
    while True:
        first = _first
        waits = first is None or (_stoppable and first == signal.SIGINT)  # for the next signal only
        left = None if waits else max(0.0, _noted + _patience - time.monotonic())
        if not select.select([reader], [], [], left)[0]:
            if first is not None and first == _first and time.monotonic() >= _noted + _patience:
                _end_from_thread(first)
            continue
        signum = os.read(reader, 1)[0] if os.name == "posix" else _keep[0].recv(1)[0]
        if signum not in _SIGNALS or signal.getsignal(signum) is not _handle:
            continue
        if _first is not None:
            _end_from_thread(signum)
        _first, _noted = signum, time.monotonic()
        flag[0] = 1
        _watched += 1


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
