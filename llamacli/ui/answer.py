"""An answer as it comes: text on stdout, reasoning and statistics on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from llamacli.engine.types import Chunk, Finish
from llamacli.tasks.complete import Completion, Ending, Event, Progress, Started
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
        self.progress = Progress(loading=self._loading.update, prompt=self._read)

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


class _Answer:
    """What was shown of one sample."""

    def __init__(self) -> None:
        self.reasoned = self.answered = False
        self.last = b""


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
    """Show the events as they come; how each answer ended. Several samples are set apart by a line, or end with NUL."""
    answers: dict[int, _Answer] = {}
    endings: list[Ending] = []
    started: Started | None = None
    stderr = sys.stderr if thoughts and is_terminal(sys.stderr) else None
    several = False
    for event in events:
        if isinstance(event, Started):
            started, several = event, event.samples > 1
            if echo and not several:
                output.text((event.prompt + ("\n\n" if event.mode == "chat" else "")).encode("utf-8", "replace"))
            continue
        index, item = event
        answer = answers.get(index)
        if answer is None:
            answer = answers[index] = _Answer()
            if several and not null:
                note(f"── sample {index + 1} of {started.samples if started else 0} ──", style="dim")
        if isinstance(item, Finish):
            _end(output, answer, null)
            if verbose and started is not None:
                note(_line(started, item), style="dim")
            endings.append(
                Ending(item.reason, item.n_ctx, item.stats.completion_tokens, answer.reasoned, answer.answered)
            )
        elif item.reasoning:
            answer.reasoned = True
            if stderr is not None:
                stderr.write(dim(for_terminal(item.text), stderr))
                stderr.flush()
        else:
            _text(output, answer, item, stderr is not None)
    return endings


def _text(output: Output, answer: _Answer, chunk: Chunk, thoughts_shown: bool) -> None:
    if answer.reasoned and not answer.answered and thoughts_shown:
        note("\n")
    answer.answered = True
    answer.last = chunk.data[-1:]
    output.text(chunk.data)


def _end(output: Output, answer: _Answer, null: bool) -> None:
    if null:
        output.data(b"\0")
    elif answer.answered and answer.last != b"\n":
        output.text(b"\n")


def statistics(completion: Completion, verbose: bool) -> None:
    """The line of --verbose for a folded result."""
    if verbose:
        t = completion.timings
        note(
            f"prompt {completion.prompt_tokens} tokens, {t.prompt_per_second:.1f}/s · answer "
            f"{completion.completion_tokens} tokens, {t.generation_per_second:.1f}/s · load {t.load:.2f} s · "
            f"seed {completion.seed}",
            style="dim",
        )


def _line(started: Started, finish: Finish) -> str:
    s = finish.stats
    return (
        f"prompt {s.prompt_tokens} tokens, {s.prompt_per_second:.1f}/s · answer {s.completion_tokens} tokens, "
        f"{s.tokens_per_second:.1f}/s · load {s.load_seconds:.2f} s · seed {finish.seed} · "
        f"context {s.prompt_tokens + s.completion_tokens}/{finish.n_ctx} · {started.mode} · ended by {finish.reason}"
    )
