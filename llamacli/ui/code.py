"""Code with colours, line by line as it comes."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

from rich.color import ColorSystem
from rich.style import Style
from rich.syntax import Syntax

from llamacli.ui import wrap
from llamacli.ui.sanitize import for_terminal

#: Lines before the new ones that the lexer sees again: strings and comments that are longer lose their colour.
CONTEXT = 30
#: Characters of a line; longer ones (data, minified programs) get no colours.
LONGEST = 1000
_THEME = Syntax.get_theme("ansi_dark")
_DIM = Style(dim=True)

#: A line as texts of one style each.
Pieces = list[tuple[str, Style]]


def rule(label: str = "") -> str:
    """What stands above code, with its language, and below: the code itself is neither indented nor boxed."""
    return f"─── {label.expandtabs(4)}".rstrip()


@functools.lru_cache(maxsize=64)
def _lexer(name: str) -> Any:
    """The lexer of pygments for a language, None where it has none."""
    return Syntax("", name, tab_size=4).lexer


def highlight(lines: Sequence[str], info: str) -> list[Pieces]:
    """The lines with their styles; `info` is what stands behind the fence ("python", "{.js}", "c++ title=x")."""
    uniform: list[Pieces] = [[(line, Style.null())] for line in lines]
    name = re.search(r"[\w+#-][\w+#.-]*", info)
    if not lines or name is None or any(len(line) > LONGEST for line in lines):
        return uniform
    lexer = _lexer(name[0].lower())
    if lexer is None:
        return uniform
    pieces: list[Pieces] = [[]]
    for kind, text in lexer.get_tokens("\n".join(lines)):
        style = _THEME.get_style_for_token(kind)
        first, *more = text.split("\n")
        if first:
            pieces[-1].append((first, style))
        for part in more:
            pieces.append([(part, style)] if part else [])
    del pieces[len(lines) :]  # a line break that the lexer wants at the end
    # Some lexers drop characters; the text goes before its colours.
    same = ["".join(text for text, _ in line) for line in pieces] == list(lines)
    return pieces if same else uniform


class Code:
    """A block of code of which lines are still coming."""

    def __init__(self, info: str, coloured: bool) -> None:
        """`info`: what stands behind the fence."""
        self._info, self._coloured = info, coloured
        self._context: list[str] = []

    def begin(self) -> str:
        """The line above the code."""
        return self._styled([(rule(for_terminal(self._info)), _DIM)])

    def end(self) -> str:
        """The line below."""
        return self._styled([(rule(), _DIM)])

    def add(self, lines: Sequence[str]) -> list[str]:
        """Finished lines as they are printed: each one line, however long, so that it is copied as one."""
        if not lines:
            return []
        new = [line.expandtabs(4) for line in lines]
        known = self._context
        self._context = [*known, *new][-CONTEXT:]
        return [self._styled(pieces) for pieces in self._highlight(known, new)]

    def peek(self, line: str, width: int) -> list[str]:
        """The unfinished last line, folded so that any part of it can be shown."""
        pieces = self._highlight(self._context, [line.expandtabs(4)])[0]
        return [self._styled(part) for part in fold(pieces, width)]

    def _highlight(self, known: Sequence[str], new: Sequence[str]) -> list[Pieces]:
        if not self._coloured:
            return [[(line, Style.null())] for line in new]
        return highlight([*known, *new], self._info)[len(known) :]

    def _styled(self, pieces: Pieces) -> str:
        if not self._coloured:
            return "".join(text for text, _ in pieces)
        return "".join(style.render(text, color_system=ColorSystem.STANDARD) for text, style in pieces)


def fold(pieces: Pieces, width: int) -> list[Pieces]:
    """One line as several of at most `width` cells."""
    text = "".join(text for text, _ in pieces)
    lines: list[Pieces] = [[]]
    cuts = [*wrap.fold(text, max(width, 1)), len(text)]
    offset = 0
    for part, style in pieces:
        while offset + len(part) > cuts[0]:
            size = cuts.pop(0) - offset
            lines[-1].append((part[:size], style))
            lines.append([])
            part, offset = part[size:], offset + size
        lines[-1].append((part, style))
        offset += len(part)
    return lines
