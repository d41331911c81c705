"""The last lines on a terminal, which may still be redrawn; what is committed is never touched again."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TextIO

from rich.cells import cell_len

from llamacli.ui import wrap

_SGR = re.compile("\x1b\\[[0-9;]*m")
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"  # synchronized output: the terminal shows all of it at once
_ROW_UP = "\x1b[A\x1b[2K"  # not "clear to the end of the screen": from its top, tmux keeps a copy in the scrollback
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"


def size(file: TextIO) -> tuple[int, int]:
    """Columns and rows of a terminal, as they are now."""
    try:
        columns, lines = os.get_terminal_size(file.fileno())
    except (OSError, ValueError):
        columns = lines = 0
    return columns or 80, lines or 24


def plain(line: str) -> str:
    """A line without its colours."""
    return _SGR.sub("", line) if "\x1b" in line else line


class Region:
    """Lines below what is printed for good. Between two calls the cursor is at the start of the line below them.

    So a program that is killed leaves a sane terminal: nothing is hidden, and the prompt of the shell has its own line.
    """

    def __init__(self, file: TextIO) -> None:
        """`file` is a terminal whose cursor is at the start of a line; between calls nobody else may write to it."""
        self._file = file
        self._lines: list[str] = []
        self._width = 0

    def draw(self, lines: Sequence[str]) -> None:
        """Replace what is in the region. Of more than the screen holds, the last lines are shown.

        A line may carry colours (SGR, reset at its end) and be longer than the terminal is wide.
        """
        self.update((), lines)

    def commit(self, lines: Sequence[str]) -> None:
        """Print lines for good in place of the region, which is empty afterwards."""
        self.update(lines, ())

    def update(self, done: Sequence[str], live: Sequence[str]) -> None:
        """Commit `done` and draw `live` in one go: only what differs from the screen is written."""
        width, height = size(self._file)
        live = _last(live, width, max(height - 1, 1))
        old, new = self._lines, [*done, *live]
        same = 0
        if width == self._width:
            for before, after in zip(old, new, strict=False):
                # A line that was perhaps cut at the edge (see _write) is written again when it is to stay.
                if before != after or (same < len(done) and _uncertain(after, width)):
                    break
                same += 1
        up = sum(wrap.rows(plain(line), width) for line in old[same:])
        self._lines, self._width = live, width
        if up or same < len(new):
            self._write(up, new[same:], max(len(done) - same, 0), width)

    def _write(self, up: int, lines: Sequence[str], n_done: int, width: int) -> None:
        parts = [_BEGIN, _ROW_UP * up]
        for index, line in enumerate(lines):
            # The terminal may find a line wider than we do. What may be redrawn must not wrap then, or the rows are
            # miscounted and every redraw leaves one behind.
            cut = index >= n_done and _uncertain(line, width)
            parts.append(f"{_NO_WRAP}{line}{_WRAP}\r\n" if cut else f"{line}\r\n")
        text = "".join([*parts, _END])
        encoding = getattr(self._file, "encoding", None) or "utf-8"
        self._file.write(text.encode(encoding, "backslashreplace").decode(encoding))
        self._file.flush()


def _uncertain(line: str, width: int) -> bool:
    if line.isascii():
        return False
    text = plain(line)
    return wrap.most_cells(text) > width >= cell_len(text)


def _last(lines: Sequence[str], width: int, room: int) -> list[str]:
    """The last lines that fit into `room` rows; of a line that alone is larger, its end without colours."""
    taken: list[str] = []
    for line in reversed(lines):
        room -= wrap.rows(plain(line), width)
        if room < 0:
            if not taken:
                text = plain(line)
                cuts = wrap.fold(text, width)
                taken.append(text[cuts[-(room + wrap.rows(text, width))] :])
            break
        taken.append(line)
    return taken[::-1]
