"""A batch as it goes: records as JSON lines, a bar with speed and remaining time, a line at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

from llamacli.tasks.batch import Event, Record, Running, Summary, Warned
from llamacli.ui.output import Output, is_terminal, note
from llamacli.ui.progress import Bar
from llamacli.ui.sanitize import json_for_terminal


class Bars:
    """The bars of loading and of the lines."""

    def __init__(self, *, typed: bool) -> None:
        """`typed`: somebody types the lines on this terminal, and a bar would run into them."""
        self._typed = typed
        self._loading = Bar("loading the model")
        self._lines: Bar | None = None
        self.loading = self._loading.update

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """They go, and do not come again."""
        self._loading.close()
        if self._lines is not None:
            self._lines.close()

    def update(self, running: Running) -> None:
        self._loading.close()
        if self._typed:
            return
        if self._lines is None:
            self._lines = Bar("answering", running.n_lines, remaining=True)
        speed = running.tokens / running.seconds if running.seconds else 0.0
        self._lines.update(running.done, f"answering, {speed:.1f} tokens/s")


def followed(events: Iterable[Event], output: Output, bars: Bars) -> Summary | None:
    """The end; records are printed as they come."""
    for event in events:
        if isinstance(event, Record):
            line = json.dumps(event.value, ensure_ascii=False, allow_nan=False) + "\n"
            if is_terminal(sys.stdout):
                bars.close()  # what is printed would run into them
                line = json_for_terminal(line)
            output.text(line.encode())
        elif isinstance(event, Running):
            bars.update(event)
        elif isinstance(event, Warned):
            note(f"warning: {event.message}", style="hint")
        else:
            return event
    return None


def show(summary: Summary, *, verbose: bool) -> None:
    """The figures of the run, where somebody looks or asked for them."""
    if not (verbose or is_terminal(sys.stderr)):
        return
    parts = [
        f"{summary.lines} line{'' if summary.lines == 1 else 's'}"
        + ("" if summary.complete else ", stopped before the end")
    ]
    if summary.resumed:
        parts.append(f"{summary.resumed} of them from an earlier run")
    shared = summary.prompt_tokens - summary.evaluated_tokens
    parts.append(f"prompts {summary.prompt_tokens} tokens" + (f", {shared} of them shared" if shared else ""))
    parts.append(f"answers {summary.completion_tokens} tokens, {summary.tokens_per_second:.1f}/s")
    parts.append(f"{summary.seconds:.1f} s")
    note(" · ".join(parts), style="dim")
