"""Markdown that is rendered while it streams: finished blocks are printed once, the last one is redrawn as it grows.

What a block is, only whole lines decide: "# " may become "#hashtag", and what was printed stays. So the cost of a token
depends on the last block, not on the answer, and a block that is large by itself is redrawn less often.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TextIO

from llamacli.ui.blocks import Block, Blocks
from llamacli.ui.code import Code
from llamacli.ui.output import colours
from llamacli.ui.region import Region, size
from llamacli.ui.sanitize import for_terminal

#: A redraw waits for so many times what the last one took, and at most so many seconds (a terminal may be stopped).
PAUSE, LONGEST_PAUSE = 10, 2.0
_FENCE = re.compile(r"( {0,3})(`{3,}|~{3,})(.*)")
_LISTS = ("bullet_list_open", "ordered_list_open")
#: The beginning of a line that may still become a list, a rule, a table, a fence, … or text.
_UNDECIDED = re.compile(r"[-*+#>|:=_~` \t]*|\d{1,9}[.)]?|`{3,}[^`]*|~{3,}.*")


class MarkdownStream:
    """One answer on a terminal, as it comes."""

    def __init__(self, file: TextIO, *, clock: Callable[[], float] = time.perf_counter) -> None:
        """`file` is a terminal whose cursor is at the start of a line; nobody else writes to it before `finish`."""
        self._coloured = colours(file)
        self._file, self._clock = file, clock
        self._region = Region(file)
        self._blocks = Blocks(self._coloured)
        self._not_before = 0.0
        self._reset()

    def _reset(self) -> None:
        self._tail = ""  # the source of what is not printed for good
        self._undecided = False  # whether there may be something to print for good
        self._begun = False
        self._code: Code | None = None  # the fenced block that the tail is in
        self._fence = ("", "")  # its indentation and its mark
        self._number: int | None = None  # of the next item, if the tail goes on with a list

    def feed(self, text: str) -> None:
        """A piece of the answer. It is shown now, or with a later piece if the last drawing took long."""
        self._tail += for_terminal(text)
        self._undecided = self._undecided or "\n" in text
        if self._clock() >= self._not_before:
            self._show(final=False)

    def finish(self) -> None:
        """Print what is left for good; the cursor is at the start of a new line. The next piece begins a new answer."""
        self._show(final=True)
        self._reset()

    def _show(self, *, final: bool) -> None:
        began = self._clock()
        self._width, _ = size(self._file)
        done: list[str] = []
        if self._undecided or final:
            while self._settle_code(done, final) if self._code else self._settle_blocks(done, final):
                pass
            self._undecided = False
        self._region.update(done, [] if final else self._live())
        now = self._clock()
        self._not_before = now + min(PAUSE * (now - began), LONGEST_PAUSE)

    def _settled(self, final: bool) -> str:
        """The part of the tail that no further text changes."""
        return self._tail if final else self._tail[: self._tail.rfind("\n") + 1]

    def _settle_blocks(self, done: list[str], final: bool) -> bool:
        """Print finished blocks, up to the first fence; whether there is one."""
        source = self._settled(final)
        blocks = self._blocks.read(source)
        lines = source.split("\n")
        for block in blocks:
            last = block is blocks[-1] and not final
            if block.kind not in _LISTS:
                self._number = None
            fence = _FENCE.fullmatch(lines[block.start]) if block.kind == "fence" else None
            if fence is not None:
                self._gap(done)
                self._fence = fence[1], fence[2]
                self._code = Code(fence[3].strip(), self._coloured)
                done.append(self._code.begin())
                self._drop(lines, block.start + 1)
                return True
            if block.kind in _LISTS:
                items = self._blocks.items(block, self._number)
                for item in items[:-1] if last else items:
                    self._print(item, done)
                    self._number = int(item.tokens[0].attrs["start"]) + 1
                if last:
                    self._drop(lines, items[-1].start)
                    return False
                self._number = None
            elif last:
                self._drop(lines, block.start)
                return False
            else:
                self._print(block, done)
        self._drop(lines, len(lines) - 1)
        if final:
            self._tail = ""
        return False

    def _settle_code(self, done: list[str], final: bool) -> bool:
        """Print finished lines of code; whether the block ends with them."""
        assert self._code is not None
        indent, mark = self._fence
        lines = self._settled(final).split("\n")
        if not lines[-1]:
            lines.pop()
        closing = re.compile(rf" {{0,3}}{mark[0]}{{{len(mark)},}}[ \t]*")
        end = next((index for index, line in enumerate(lines) if closing.fullmatch(line)), len(lines))
        done += self._code.add([_outdented(line, len(indent)) for line in lines[:end]])
        closed = end < len(lines)
        self._drop([*lines, ""], end + closed)
        if closed or final:
            done.append(self._code.end())
            self._code = None
        return closed

    def _drop(self, lines: list[str], count: int) -> None:
        self._tail = self._tail[sum(len(line) + 1 for line in lines[:count]) :]

    def _print(self, block: Block, done: list[str]) -> None:
        self._gap(done)
        done += self._blocks.lines(block, self._width)

    def _gap(self, lines: list[str]) -> None:
        """A blank line, but not before the first block and not between the items of a list."""
        if self._begun and self._number is None:
            lines.append("")
        self._begun = True

    def _live(self) -> list[str]:
        """The lines of what is not finished."""
        before, _, line = self._tail.rpartition("\n")
        if self._code is not None:
            indent, mark = self._fence
            may_close = not line.strip(f" \t{mark[0]}") and len(line) <= len(mark) + 3
            return self._code.peek(_outdented(line, len(indent)), self._width) if line and not may_close else []
        start = line.strip(" \t")
        undecided = _UNDECIDED.fullmatch(start) and (before or self._begun or not start.isdigit())
        source = before if undecided else self._tail
        lines: list[str] = []
        number, begun = self._number, self._begun
        for block in self._blocks.read(source):
            if begun and number is None:
                lines.append("")
            begun = True
            parts = self._blocks.items(block, number) if block.kind in _LISTS else [block]
            for part in parts:
                lines += self._blocks.lines(part, self._width, unfinished=True)
            number = None
        return lines


def _outdented(line: str, indent: int) -> str:
    """A line of code without as much indentation as its fence has."""
    return line[min(indent, len(line) - len(line.lstrip(" "))) :]
