"""An answer as it comes: text on stdout, reasoning and statistics on stderr."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from llamacli.engine.types import Chunk, Finish
from llamacli.tasks.complete import Event, Progress, Started
from llamacli.tasks.completion import Completion, Ending
from llamacli.ui import heat
from llamacli.ui.output import Output, colours, dim, is_terminal, note
from llamacli.ui.progress import Bar
from llamacli.ui.sanitize import for_terminal

if TYPE_CHECKING:
    from types import TracebackType


class Bars:
    """The bars of loading and of reading a long prompt."""

    def __init__(self) -> None:
        self._loading = Bar("loading the model")
        self._prompt: Bar | None = None
        seen = is_terminal(sys.stderr)
        self.progress = Progress(self._loading.update if seen else None, self._read if seen else None)

    def __enter__(self) -> Bars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loading.close()
        if self._prompt is not None:
            self._prompt.close()

    def _read(self, done: int, total: int) -> None:
        self._loading.close()
        if self._prompt is None:
            self._prompt = Bar("reading the prompt", total)
        self._prompt.update(done)


def with_warnings(events: Iterable[Event]) -> Iterator[Event]:
    """The events as they are; a line on stderr for what a person should know."""
    for event in events:
        if isinstance(event, Started) and 0 < event.n_ctx_train < event.n_ctx:
            note(
                f"warning: a context of {event.n_ctx} tokens, but the model was trained with {event.n_ctx_train}: "
                "beyond that its text falls apart",
                style="hint",
            )
        yield event


@dataclass(frozen=True)
class Style:
    """How answers are shown. `extract` picks the part of an answer to show, None where there is none."""

    echo: bool = False
    verbose: bool = False
    thoughts: bool = True
    null: bool = False
    partial: bool = True  # also an answer that has not its whole shape
    extract: Callable[[bytes], bytes | None] | None = None
    confidence: bool = False  # colours for how probable the text was, where there are colours


def show(events: Iterable[Event], output: Output, style: Style) -> list[Ending]:
    """Show the events as they come; how each answer ended.

    Several samples are shown when complete, under a line of their own; with `null` in their order, each ended by NUL.
    What must be whole, or is a part of the answer, is shown when the answer is complete.
    """
    null = style.null
    view = _View(output, sys.stderr if style.thoughts and is_terminal(sys.stderr) else None, style)
    finished: dict[int, list[Chunk | Finish]] = {}
    pending: dict[int, list[Chunk | Finish]] = {}
    for event in events:
        if isinstance(event, Started):
            view.started = event
            if style.echo:
                view.text((event.prompt + ("\n\n" if event.mode == "chat" else "")).encode("utf-8", "replace"))
            continue
        if not isinstance(event, tuple):
            continue
        index, item = event
        if view.samples == 1:
            view.show(item)
            continue
        pending.setdefault(index, []).append(item)
        if isinstance(item, Finish):
            finished[index] = pending.pop(index)
        while finished and (not null or len(view.endings) in finished):
            index = len(view.endings) if null else next(iter(finished))
            items = finished.pop(index)
            view.begin(index, next(item.seed for item in items if isinstance(item, Finish)))
            for item in items:
                view.show(item)
    return view.endings


class _View:
    """Where the items of one answer after the other go."""

    def __init__(self, output: Output, stderr: TextIO | None, style: Style) -> None:
        """`stderr`: where the reasoning is shown, if anywhere."""
        self._output, self._stderr, self._style = output, stderr, style
        self._holds = not style.partial or style.extract is not None
        self._colours = style.confidence and colours(sys.stdout)
        self._writing = Bar("writing the answer") if self._holds else None
        self.started: Started | None = None
        self.endings: list[Ending] = []
        self._begin()

    @property
    def samples(self) -> int:
        return self.started.samples if self.started else 1

    def _begin(self) -> None:
        self._reasoned = self._answered = False
        self._last = b""
        self._held: list[Chunk] = []

    def begin(self, index: int, seed: int) -> None:
        """The next sample."""
        self._begin()
        if not self._style.null:
            note(f"── sample {index + 1} of {self.samples}, seed {seed} ──", style="dim")

    def show(self, item: Chunk | Finish) -> None:
        if isinstance(item, Finish):
            self._end(item)
        elif item.reasoning:
            self._reasoned = True
            if self._stderr is not None:
                self._stderr.write(dim(for_terminal(item.text), self._stderr))
                self._stderr.flush()
        else:
            if self._reasoned and not self._answered and self._stderr is not None:
                note("\n")
            self._answered = True
            if self._writing is None:
                self._chunk(item)
            else:
                self._held.append(item)
                self._writing.update(0)

    def text(self, data: bytes) -> None:
        if data:
            self._last = data[-1:]
            self._output.text(data)

    def _chunk(self, chunk: Chunk) -> None:
        if not self._colours or chunk.logprob is None:
            self.text(chunk.data)
            return
        self._last = chunk.data[-1:]
        shade = heat.colour(-chunk.logprob / math.log(2))
        # A colour that is on at the end of a row would fill the row.
        parts = (f"{shade}{part}\x1b[0m" if part else "" for part in for_terminal(chunk.text).split("\n"))
        self._output.data("\n".join(parts).encode(sys.stdout.encoding or "utf-8", "backslashreplace"))

    def _release(self, finish: Finish) -> None:
        """Show what was held back."""
        if self._writing is not None:
            self._writing.close()
        if finish.whole is False and not self._style.partial:
            return
        if self._style.extract is None:
            for chunk in self._held:
                self._chunk(chunk)
            return
        data = b"".join(chunk.data for chunk in self._held)
        part = self._style.extract(data)
        if part is None and data:
            note("warning: there is no code block in the answer; this is all of it", style="hint")
        self.text(data if part is None else part)

    def _end(self, finish: Finish) -> None:
        if self._holds:
            self._release(finish)
        if self._style.null:
            self._output.data(b"\0")
        elif self._last not in (b"", b"\n"):
            self._output.text(b"\n")
        if self._reasoned and not self._answered and self._stderr is not None:
            note("")  # what follows on stderr has a line of its own
        if self._colours and self._last:
            self._output.data(f"{heat.legend()}\n".encode(sys.stdout.encoding or "utf-8", "backslashreplace"))
        stats = finish.stats
        if self._style.verbose and self.started is not None:
            used = stats.prompt_tokens + stats.completion_tokens
            _statistics(
                stats.prompt_tokens,
                stats.prompt_per_second,
                stats.completion_tokens,
                stats.tokens_per_second,
                stats.load_seconds,
                f"seed {finish.seed} · context {used}/{finish.n_ctx} · {self.started.mode} · ended by {finish.reason}",
            )
        whole = finish.whole is not False
        self.endings.append(
            Ending(finish.reason, finish.n_ctx, stats.completion_tokens, self._reasoned, self._answered, whole)
        )


def statistics(completion: Completion) -> None:
    """The line of --verbose for a folded result."""
    t = completion.timings
    _statistics(
        completion.prompt_tokens,
        t.prompt_per_second,
        completion.completion_tokens,
        t.generation_per_second,
        t.load,
        f"seed {completion.seed} · {completion.mode} · ended by {completion.finish_reason}",
    )


def _statistics(n_prompt: int, prompt_rate: float, n_answer: int, rate: float, load: float, rest: str) -> None:
    note(
        f"prompt {n_prompt} tokens, {prompt_rate:.1f}/s · answer {n_answer} tokens, {rate:.1f}/s · "
        f"load {load:.2f} s · {rest}",
        style="dim",
    )
