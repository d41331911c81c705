"""An answer in a chat, as it comes: reasoning dim, the text as Markdown, and a word on how it ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from llamacli.engine.types import Chunk, Finish
from llamacli.tasks.chat import Dropped, Event
from llamacli.tasks.conversation import Turn
from llamacli.ui.output import Output, colours, dim, is_terminal, note
from llamacli.ui.sanitize import for_terminal

#: How much of the reasoning is on the screen while it comes, in lines.
THOUGHT_LINES = 6


class AnswerView:
    """Shows one answer."""

    def __init__(self, output: Output, markdown: bool, thoughts: str) -> None:
        """`thoughts`: "show", "fold" to one line when done, or "hide"."""
        self._text = _Markdown() if markdown and colours_or_layout() else _Plain(output)
        self._thoughts = _thoughts(thoughts)

    def show(self, events: Iterable[Event]) -> Finish:
        """All of it; how it ended."""
        finish: Finish | None = None
        for event in events:
            if isinstance(event, Dropped):
                note(
                    f"(The context of {event.n_ctx} tokens is full: the model no longer sees the oldest "
                    f"{event.turns} messages.)",
                    style="dim",
                )
            elif isinstance(event, Finish):
                finish = event
            elif event.reasoning:
                self._thoughts.feed(event.text)
            else:
                self._thoughts.finish()
                self._text.feed(event)
        self._thoughts.finish()
        self._text.finish()
        assert finish is not None
        if ending := _ending(finish):
            note(ending, style="dim")
        return finish


def replay(turns: Sequence[Turn], output: Output, markdown: bool, thoughts: str) -> None:
    """A conversation that was kept, as it looked."""
    for turn in turns:
        if turn.role == "user":
            lines = turn.content.split("\n")
            note("\n".join([f">>> {lines[0]}", *(f"... {line}" for line in lines[1:])]))
            continue
        if turn.reasoning and thoughts != "hide":
            note(turn.reasoning if thoughts == "show" else "▸ reasoning (/think show)", style="dim")
        text = _Markdown() if markdown and colours_or_layout() else _Plain(output)
        text.feed(Chunk(turn.content.encode("utf-8", "replace")))
        text.finish()
        if turn.finish_reason is None:
            note("(The process was ended here; /retry asks again.)", style="dim")
        elif turn.finish_reason == "interrupted":
            note("(stopped)", style="dim")
        note("")


def colours_or_layout() -> bool:
    """Whether Markdown can be laid out on standard output: a terminal that can move its cursor."""
    import os

    return is_terminal(sys.stdout) and os.environ.get("TERM") != "dumb"


def _ending(finish: Finish) -> str | None:
    match finish.reason:
        case "interrupted":
            return "(stopped)"
        case "length":
            return f"(ended after {finish.stats.completion_tokens} tokens: -n)"
        case "context":
            return f"(The context of {finish.n_ctx} tokens is full; the answer ends there.)"
    return None


class _Plain:
    """The text as it is."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._last = b"\n"

    def feed(self, chunk: Chunk) -> None:
        if chunk.data:
            self._last = chunk.data[-1:]
            self._output.text(chunk.data)

    def finish(self) -> None:
        if self._last != b"\n":
            self._output.text(b"\n")


class _Markdown:
    """Laid out while it comes. rich is imported at the first piece."""

    def __init__(self) -> None:
        self._stream: Any = None

    def feed(self, chunk: Chunk) -> None:
        if self._stream is None:
            from llamacli.ui.markdown import MarkdownStream

            self._stream = MarkdownStream(sys.stdout)
        self._stream.feed(chunk.text)

    def finish(self) -> None:
        if self._stream is not None:
            self._stream.finish()


class _Hidden:
    def feed(self, text: str) -> None:
        pass

    def finish(self) -> None:
        pass


class _Shown:
    """Dim, as it comes."""

    def __init__(self) -> None:
        self._last = ""

    def feed(self, text: str) -> None:
        self._last = text or self._last
        sys.stderr.write(dim(for_terminal(text), sys.stderr))
        sys.stderr.flush()

    def finish(self) -> None:
        if self._last:
            sys.stderr.write("\n\n")
            sys.stderr.flush()
        self._last = ""


class _Folded:
    """The last lines of it while it comes, one line in their place when it is done."""

    def __init__(self) -> None:
        self._region: Any = None
        self._tail = ""
        self._began = 0.0

    def feed(self, text: str) -> None:
        if self._region is None:
            from llamacli.ui.region import Region

            self._region = Region(sys.stderr)
            self._began = time.monotonic()
        self._tail = (self._tail + text)[-2000:]
        self._region.draw(self._lines())

    def _lines(self) -> list[str]:
        from rich.cells import chop_cells

        from llamacli.ui.region import size

        width = max(size(sys.stderr)[0] - 1, 1)
        lines = for_terminal(self._tail.expandtabs(4)).split("\n")
        pieces = [piece for line in lines for piece in chop_cells(line, width) or [""]]
        return [dim(piece, sys.stderr) for piece in pieces[-THOUGHT_LINES:]]

    def finish(self) -> None:
        if self._region is not None:
            seconds = time.monotonic() - self._began
            self._region.commit([dim(f"▸ thought for {seconds:.1f} s (/think show)", sys.stderr), ""])
            self._region = None


def _thoughts(how: str) -> _Hidden | _Shown | _Folded:
    if how == "hide" or not is_terminal(sys.stderr):
        return _Hidden()
    return _Folded() if how == "fold" and colours(sys.stderr) else _Shown()
