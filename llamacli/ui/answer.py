"""An answer as it comes: text on stdout, reasoning and statistics on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TextIO

from llamacli.engine.types import Chunk, Finish
from llamacli.tasks.complete import Event, Progress, Started
from llamacli.tasks.completion import Completion, Ending
from llamacli.ui.output import Output, dim, is_terminal, note
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


def show(
    events: Iterable[Event], output: Output, *, echo: bool, verbose: bool, thoughts: bool, null: bool
) -> list[Ending]:
    """Show the events as they come; how each answer ended.

    Several samples are shown when complete, under a line of their own; with `null` in their order, each ended by NUL.
    """
    view = _View(output, sys.stderr if thoughts and is_terminal(sys.stderr) else None, verbose, null)
    finished: dict[int, list[Chunk | Finish]] = {}
    pending: dict[int, list[Chunk | Finish]] = {}
    for event in events:
        if isinstance(event, Started):
            view.started = event
            if echo:
                view.text((event.prompt + ("\n\n" if event.mode == "chat" else "")).encode("utf-8", "replace"))
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

    def __init__(self, output: Output, stderr: TextIO | None, verbose: bool, null: bool) -> None:
        """`stderr`: where the reasoning is shown, if anywhere."""
        self._output, self._stderr, self._verbose, self._null = output, stderr, verbose, null
        self.started: Started | None = None
        self.endings: list[Ending] = []
        self._begin()

    @property
    def samples(self) -> int:
        return self.started.samples if self.started else 1

    def _begin(self) -> None:
        self._reasoned = self._answered = False
        self._last = b""

    def begin(self, index: int, seed: int) -> None:
        """The next sample."""
        self._begin()
        if not self._null:
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
            self.text(item.data)

    def text(self, data: bytes) -> None:
        if data:
            self._last = data[-1:]
            self._output.text(data)

    def _end(self, finish: Finish) -> None:
        if self._null:
            self._output.data(b"\0")
        elif self._last not in (b"", b"\n"):
            self._output.text(b"\n")
        if self._reasoned and not self._answered and self._stderr is not None:
            note("")  # what follows on stderr has a line of its own
        stats = finish.stats
        if self._verbose and self.started is not None:
            used = stats.prompt_tokens + stats.completion_tokens
            _statistics(
                stats.prompt_tokens,
                stats.prompt_per_second,
                stats.completion_tokens,
                stats.tokens_per_second,
                stats.load_seconds,
                f"seed {finish.seed} · context {used}/{finish.n_ctx} · {self.started.mode} · ended by {finish.reason}",
            )
        ending = Ending(finish.reason, finish.n_ctx, stats.completion_tokens, self._reasoned, self._answered)
        self.endings.append(ending)


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
