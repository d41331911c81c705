"""Accuracies: a bar with the running one, a table, TSV or JSON."""

from __future__ import annotations

from collections.abc import Iterable

from llamacli.tasks.evaluate import Accuracy, Evaluation, Event, Running, Warned
from llamacli.ui import columns
from llamacli.ui.output import Output, note
from llamacli.ui.progress import Bar


class Bars:
    """The bars of loading and of the questions."""

    def __init__(self, task: str) -> None:
        self._task = task
        self._loading = Bar("loading the model")
        self._questions: Bar | None = None
        self.loading = self._loading.update

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self._loading.close()
        if self._questions is not None:
            self._questions.close()

    def update(self, running: Running) -> None:
        if self._questions is None:
            self._questions = Bar(self._task, running.n, remaining=True)
            return  # what an earlier run has done says nothing about this one's speed
        self._loading.close()
        score = f" {100 * running.score:.2f} %" if running.score is not None else ""
        self._questions.update(running.done, f"{self._task}{score}")


def followed(events: Iterable[Event], bars: Bars) -> Evaluation | None:
    """The result; what comes before it is shown."""
    for event in events:
        if isinstance(event, Warned):
            note(f"warning: {event.message}", style="hint")
        elif isinstance(event, Running):
            bars.update(event)
        else:
            return event
    return None


_FIGURES = ("correct", "value", "error", "low", "high")


def show(result: Evaluation, output: Output) -> None:
    done = result.scored + sum(result.skipped.values())
    if not result.complete:
        note(f"stopped: {done} of {result.n} questions; what follows is the accuracy so far", style="dim")
    for reason, n in result.skipped.items():
        note(f"warning: {n} of {done} questions not scored: {reason}", style="hint")
    if output.mode == "json":
        output.document(result)
    elif output.mode == "plain":
        own = ("task", "model", "file", "n", "scored", "skipped")
        both = (("acc", result.accuracy), ("acc_norm", result.accuracy_norm))
        header = [*own, *(prefix if name == "value" else f"{prefix}_{name}" for prefix, _ in both for name in _FIGURES)]
        skipped = sum(result.skipped.values())
        row: list[object] = [result.task, result.model, result.file, result.n, result.scored, skipped]
        row += [_tsv(getattr(accuracy, name)) for _, accuracy in both for name in _FIGURES]
        output.tsv(header, [row])
    elif result.scored:
        rows = [
            _row("acc", result.accuracy, result, "by the sum of log-probabilities"),
            _row("acc_norm", result.accuracy_norm, result, f"by their mean over {result.normalised_by}"),
        ]
        if result.task != "choice":
            rows.reverse()  # the one that the task is known by
        columns.show(
            ("measure", "accuracy", "95 %", "correct", ""), rows, output, right=("accuracy", "95 %", "correct")
        )


def _tsv(value: float | None) -> object:
    return value if value is None or isinstance(value, int) else f"{value:.6f}"


def _row(measure: str, accuracy: Accuracy, result: Evaluation, how: str) -> list[str]:
    low, high = 100 * (accuracy.low or 0), 100 * (accuracy.high or 0)
    return [
        measure,
        f"{100 * (accuracy.value or 0):.2f} %",
        f"{low:.2f} – {high:.2f} %",
        f"{accuracy.correct} of {result.scored}",
        how,
    ]
