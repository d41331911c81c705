"""Speeds: a bar that stands still while it is measured, a table, TSV or JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from llamacli.tasks.bench import Event, Failed, Measured, Step, Warned
from llamacli.ui import columns
from llamacli.ui.output import Output, note, report
from llamacli.ui.progress import Bar
from llamacli.units import size


class Bars:
    """The bars of loading and of the repetitions."""

    def __init__(self) -> None:
        self._loading: Bar | None = None
        self._steps: Bar | None = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        for bar in (self._loading, self._steps):
            if bar is not None:
                bar.close()

    def loading(self, fraction: float) -> None:
        if self._loading is None and self._steps is None:
            self._loading = Bar("loading the model")
        if self._loading is not None:
            self._loading.update(fraction)

    def step(self, step: Step) -> None:
        if self._loading is not None:
            self._loading.close()
            self._loading = None
        if self._steps is None:
            self._steps = Bar("measuring", step.n_step, remaining=True, still=True)
        self._steps.update(step.step, f"{step.model} {step.test}")


def followed(events: Iterable[Event], bars: Bars) -> tuple[list[Measured], list[Failed]]:
    """The results, and what could not be measured; what comes before them is shown."""
    results: list[Measured] = []
    failures: list[Failed] = []
    for event in events:
        if isinstance(event, Warned):
            note(f"warning: {event.message}", style="hint")
        elif isinstance(event, Step):
            bars.step(event)
        elif isinstance(event, Failed):
            failures.append(event)
        else:
            results.append(event)
    return results, failures


def show(results: Sequence[Measured], output: Output) -> None:
    if output.mode == "json":
        output.document({"results": list(results)})
    elif output.mode == "plain":
        output.tsv(_HEADER, [tuple(_cell(name, getattr(result, name)) for name in _HEADER) for result in results])
    elif results:
        _table(results, output)


def show_failures(failures: Sequence[Failed]) -> None:
    for failure in failures:
        test = f" {failure.test}" if failure.test else ""
        report(f"{failure.model}{test}: {failure.error.message}", failure.error.hint, failure.error.exit_code)


_HEADER = tuple(field.name for field in dataclasses.fields(Measured) if field.name != "seconds")


def _cell(name: str, value: object) -> object:
    return f"{value:.3f}" if isinstance(value, float) else value


def _table(results: Sequence[Measured], output: Output) -> None:
    """What is the same in all rows and as by default is left out."""
    settings = [
        name
        for name, usual in _USUAL.items()
        if len(found := {getattr(r, name) for r in results}) > 1 or usual not in found
    ]
    header = ["size", "params", "backend", *settings, "test", "tokens/s", "memory", "model"]
    rows = [
        [
            size(result.size),
            _count(result.n_params),
            result.backend,
            *(str(getattr(result, name)) for name in settings),
            result.test,
            f"{result.tokens_per_second:.2f} ± {result.deviation:.2f}",
            " + ".join(size(n) for n in (result.peak, result.device_memory) if n is not None),
            result.model,
        ]
        for result in results
    ]
    right = ["size", "params", "tokens/s", "memory", *(name for name in settings if name.startswith("n_"))]
    columns.show(header, rows, output, right=right)


#: Shown where they vary, or are not this.
_USUAL: dict[str, object] = {
    "n_gpu_layers": 0,
    "n_threads": None,
    "n_batch": 2048,
    "n_ubatch": 512,
    "type_k": "f16",
    "type_v": "f16",
    "flash_attn": "auto",
}


def _count(n: int) -> str:
    """Parameters: 1.10 B."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if n >= unit:
            return f"{n / unit:.2f} {name}"
    return str(n)
