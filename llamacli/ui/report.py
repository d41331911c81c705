"""What quantisations cost: a bar for the step that runs, a table, TSV or JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from llamacli.errors import printable
from llamacli.tasks.divergence import Statistic
from llamacli.tasks.report import Row, Step, Warned
from llamacli.ui import columns
from llamacli.ui.output import Output, note
from llamacli.ui.progress import Bar
from llamacli.units import size

#: Characters of what a bar says of a step.
_DETAIL = 28


class Bars:
    """One bar after the other, each for one step."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._step: tuple[str, str] | None = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, step: Step) -> None:
        label = f"{step.model}: {step.what} {printable(step.detail, _DETAIL)}".strip()
        if (step.model, step.what) != self._step:
            if self._bar is not None:
                self._bar.close()
            in_bytes = step.what == "quantizing"
            # What is drawn beside a measurement takes time from it.
            still = step.what == "speed"
            self._bar = Bar(label, step.total, transfer=in_bytes, remaining=not in_bytes, still=still)
            self._step = step.model, step.what
        if self._bar is not None:
            self._bar.update(step.done, label)


def followed(events: Iterable[Step | Warned | Row], bars: Bars) -> Iterator[Row]:
    """The rows; what comes between them is shown."""
    for event in events:
        if isinstance(event, Warned):
            note(f"warning: {event.message}", style="hint")
        elif isinstance(event, Step):
            bars.update(event)
        else:
            yield event


_HEADER = (
    *("type", "file", "size", "bits_per_weight", "ppl", "ppl_error", "ppl_difference", "ppl_difference_error"),
    *("mean_kld", "mean_kld_error", "kld_99", "same_top", "same_top_error"),
    *("pp512", "pp512_deviation", "tg128", "tg128_deviation"),
)


def show(rows: Sequence[Row], n_wanted: int, output: Output) -> None:
    """`n_wanted`: how many rows there are when all is done."""
    if len(rows) < n_wanted:
        note(f"stopped after {len(rows)} of {n_wanted} models", style="dim")
    if output.mode == "json":
        output.document({"results": [dataclasses.asdict(row) for row in rows]})
    elif not rows:
        return
    elif output.mode == "plain":
        output.tsv(_HEADER, [_tsv_row(row) for row in rows])
    else:
        header = ["size", "bits/weight", "perplexity", "difference", "mean KLD", "99 % KLD", "same top"]
        header += ["pp512 t/s", "tg128 t/s"]
        columns.folded([*header, "type"], [_cells(row) for row in rows], output, key=-1, right=header)


def _tsv_row(row: Row) -> list[Any]:
    cells: list[Any] = [row.type, row.file, row.size, row.bits_per_weight]
    for statistic in (row.ppl, row.difference, row.kld):
        cells += [f"{statistic.value:.6f}", f"{statistic.error:.6f}"] if statistic else [None, None]
    cells.append(f"{row.kld_99:.6f}" if row.kld_99 is not None else None)
    cells += [f"{row.same_top.value:.3f}", f"{row.same_top.error:.3f}"] if row.same_top else [None, None]
    for speed in (row.prompt_speed, row.generation_speed):
        cells += [f"{speed.value:.2f}", f"{speed.error:.2f}"]
    return cells


def _cells(row: Row) -> list[str]:
    return [
        size(row.size),
        f"{row.bits_per_weight:.2f}" if row.bits_per_weight else "",
        _with_error(row.ppl, 4),
        _with_error(row.difference, 4, sign="+"),
        _with_error(row.kld, 5),
        f"{row.kld_99:.4f}" if row.kld_99 is not None else "",
        f"{row.same_top.value:.2f} %" if row.same_top else "",
        *(f"{speed.value:.1f} ± {speed.error:.1f}" for speed in (row.prompt_speed, row.generation_speed)),
        row.type,
    ]


def _with_error(statistic: Statistic | None, digits: int, sign: str = "") -> str:
    return f"{statistic.value:{sign}.{digits}f} ± {statistic.error:.{digits}f}" if statistic else ""
