"""Perplexities: a bar with the running estimate, a table, TSV or JSON, a CSV of the chunks, a plot."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from typing import Any

from llamacli.tasks.chunked import Estimate, Perplexity
from llamacli.tasks.divergence import Statistic
from llamacli.tasks.perplexity import Event, Started, Warned
from llamacli.ui import columns
from llamacli.ui.output import Output, note
from llamacli.ui.progress import Bar
from llamacli.units import size


class Bars:
    """The bars of loading and of the chunks."""

    def __init__(self) -> None:
        self._loading = Bar("loading the model")
        self._chunks: Bar | None = None
        self._done = 0
        self.loading = self._loading.update

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self._loading.close()
        if self._chunks is not None:
            self._chunks.close()

    def begin(self, n_chunk: int) -> None:
        self._loading.close()
        self._chunks = Bar("perplexity", n_chunk, remaining=True)

    def chunk(self, estimates: Sequence[Estimate]) -> None:
        """What is known after one more chunk: the estimates of all models that read it."""
        self._done += 1
        if self._chunks is not None:
            first = estimates[0]
            self._chunks.update(self._done, f"perplexity {first.ppl:.4f} ± {first.ppl_error:.4f}")


def followed(events: Iterable[Event], bars: Bars) -> list[Perplexity]:
    """The results; what comes before them is shown."""
    results: list[Perplexity] = []
    waiting: list[Estimate] = []
    for event in events:
        if isinstance(event, Warned):
            note(f"warning: {event.message}", style="hint")
        elif isinstance(event, Started):
            bars.begin(event.n_chunk)
        elif isinstance(event, Estimate):
            if waiting and (event.chunk, event.text) != (waiting[0].chunk, waiting[0].text):
                bars.chunk(waiting)
                waiting = []
            waiting.append(event)
        else:
            results.append(event)
    return results


# --- results --------------------------------------------------------------------------------------------------------


def show(results: Sequence[Perplexity], output: Output, *, full: bool) -> None:
    """`full`: with all statistics of the comparison."""
    for result in results:
        if not result.complete:
            note(f"stopped after {result.chunks} of {result.n_chunk} chunks: the estimate so far", style="dim")
            break
    if output.mode == "json":
        output.document({"results": [_document(result) for result in results]})
    elif not results:
        return
    elif output.mode == "plain":
        if full:
            output.tsv(("model", "text", "statistic", "value", "error"), _long(results))
        else:
            output.tsv(_HEADER, [_tsv_row(result) for result in results])
    else:
        _table(results, output)
        if full:
            _statistics(results, output)


def _document(result: Perplexity) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(result) if field.name not in ("running", "token_nll")]
    running = [{k: v for k, v in vars(e).items() if k not in ("model", "text", "n_chunk")} for e in result.running]
    return {**{name: getattr(result, name) for name in names}, "running": running}


_HEADER = (
    "model",
    "size",
    "bits_per_weight",
    "text",
    "n_ctx",
    "chunks",
    "tokens",
    "ppl",
    "ppl_error",
    "ppl_difference",
    "ppl_difference_error",
    "mean_kld",
    "mean_kld_error",
)


def _tsv_row(result: Perplexity) -> tuple[object, ...]:
    difference, kld = _compared(result)
    own = (result.model, result.size, result.bits_per_weight, result.text, result.n_ctx, result.chunks, result.tokens)
    pairs = [(s.value, s.error) if s else (None, None) for s in (difference, kld)]
    return (*own, f"{result.ppl:.6f}", f"{result.ppl_error:.6f}", *(_number(x) for pair in pairs for x in pair))


def _compared(result: Perplexity) -> tuple[Statistic | None, Statistic | None]:
    statistics = result.statistics or {}
    return statistics.get("Mean PPL(Q)-PPL(base)"), statistics.get("Mean KLD")


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.6f}"


def _long(results: Sequence[Perplexity]) -> list[tuple[object, ...]]:
    return [
        (r.model, r.text, name, _number(s.value), _number(s.error))
        for r in results
        for name, s in (r.statistics or {"Mean PPL(Q)": Statistic(r.ppl, r.ppl_error)}).items()
    ]


def _table(results: Sequence[Perplexity], output: Output) -> None:
    compared = any(result.statistics for result in results)
    header = ["perplexity", "tokens"]
    if compared:
        header += ["difference", "mean KLD"]
    if len({result.model for result in results}) > 1:
        header += ["size", "bits/weight"]
    if len({result.text for result in results}) > 1:
        header += ["text"]
    rows = []
    for result in results:
        difference, kld = _compared(result)
        cells = {
            "perplexity": f"{result.ppl:.4f} ± {result.ppl_error:.5f}",
            "tokens": str(result.tokens),
            "difference": f"{difference.value:+.4f} ± {difference.error:.4f}" if difference else "",
            "mean KLD": f"{kld.value:.6f} ± {kld.error:.6f}" if kld else "",
            "size": size(result.size),
            "bits/weight": f"{result.bits_per_weight:.2f}" if result.bits_per_weight else "",
            "text": result.text,
        }
        rows.append([*(cells[name] for name in header), result.model])
    columns.show([*header, "model"], rows, output, right=[name for name in header if name != "text"])


def _statistics(results: Sequence[Perplexity], output: Output) -> None:
    for result in results:
        output.text(f"\n{result.model} (Q) against {result.base}\n".encode("utf-8", "replace"))
        for name, statistic in (result.statistics or {}).items():
            unit = "%" if name.endswith("Δp") or name.startswith(("Cor", "Same")) else ""
            digits = 3 if unit else 6
            error = f" ± {statistic.error:.{digits}f}" if statistic.error is not None else ""
            output.text(f"  {name:31}{statistic.value:11.{digits}f}{error}{unit}\n".encode())


# --- chunks ---------------------------------------------------------------------------------------------------------


def table_of_chunks(results: Sequence[Perplexity]) -> bytes:
    """CSV: what was known after each chunk."""
    estimates = [estimate for result in results for estimate in result.running]
    text = io.StringIO()
    compared = any(estimate.divergence for estimate in estimates)
    header = ["model", "text", "chunk", "ppl_chunk", "ppl", "ppl_error"]
    if compared:
        names = ("ln_ppl_ratio", "kld", "dp_rms", "same_top")
        header += [each for name in names for each in (name, f"{name}_error")]
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    for e in estimates:
        row: list[object] = [e.model, e.text, e.chunk, *(f"{x:.6f}" for x in (e.ppl_chunk, e.ppl, e.ppl_error))]
        if (d := e.divergence) is not None:
            for statistic in (d.ln_ratio, d.kld, d.dp_rms, d.same_top):
                row += [f"{statistic.value:.6f}", f"{statistic.error:.6f}"]
        elif compared:
            row += [""] * 8
        table.writerow(row)
    return text.getvalue().encode("utf-8", "replace")
