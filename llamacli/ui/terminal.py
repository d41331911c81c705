"""The terminal's modes: changed for a while, and as they were however that ends."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import IO, Any

from llamacli import signals
from llamacli.ui.output import is_terminal

_LFLAG = 3  # of what tcgetattr gives


@contextlib.contextmanager
def restored(*, echo: bool = True, after: tuple[IO[Any], bytes] | None = None) -> Iterator[None]:
    """As it was, even where a signal ends the process meanwhile; then `after` is written to its stream.

    With `echo` false what is typed does not show meanwhile: it waits for whoever reads next.
    """
    if os.name != "posix" or not is_terminal(sys.stdin):
        yield
        return
    import termios

    fd = sys.stdin.fileno()
    modes = termios.tcgetattr(fd)

    def restore() -> None:
        termios.tcsetattr(fd, termios.TCSANOW, modes)

    def restore_at_the_end() -> None:
        restore()
        if after is not None:
            os.write(after[0].fileno(), after[1])

    if not echo:
        quiet = [*modes]
        quiet[_LFLAG] &= ~termios.ECHO
        termios.tcsetattr(fd, termios.TCSANOW, quiet)
    try:
        with signals.on_end(restore_at_the_end):
            yield
    finally:
        restore()
