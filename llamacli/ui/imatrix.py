"""Importance matrices: a bar with the running perplexity, what was collected, statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from llamacli.errors import printable
from llamacli.tasks.imatrix import Event, Imatrix, Progress, Started
from llamacli.tasks.imatrix_statistics import LayerStatistics, TensorStatistics
from llamacli.tasks.perplexity import Warned
from llamacli.ui import columns
from llamacli.ui.output import Output, note
from llamacli.ui.progress import Bar
from llamacli.ui.sanitize import for_terminal


class Bars:
    """The bars of loading and of the chunks."""

    def __init__(self) -> None:
        self._loading = Bar("loading the model")
        self._chunks: Bar | None = None
        self._before = 0
        self.loading = self._loading.update

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self._loading.close()
        if self._chunks is not None:
            self._chunks.close()

    def begin(self, started: Started) -> None:
        """What an earlier run has done is no part of the bar: it says nothing about this one's speed."""
        self._loading.close()
        self._before = started.done
        self._chunks = Bar("importance matrix", started.n_chunk - started.done, remaining=True)

    def chunk(self, progress: Progress) -> None:
        if self._chunks is not None:
            ppl = f", perplexity {progress.ppl:.4f} ± {progress.ppl_error:.4f}" if progress.ppl is not None else ""
            self._chunks.update(progress.chunk - self._before, f"importance matrix{ppl}")


def followed(events: Iterable[Event], bars: Bars) -> Imatrix | None:
    """The result; what comes before it is shown."""
    for event in events:
        if isinstance(event, Warned):
            note(f"warning: {event.message}", style="hint")
        elif isinstance(event, Started):
            if event.done:
                note(f"going on after {event.done} of {event.n_chunk} chunks", style="dim")
            bars.begin(event)
        elif isinstance(event, Progress):
            bars.chunk(event)
        else:
            return event
    return None


def warn(result: Imatrix) -> None:
    """Of experts that the text did not reach."""
    if result.partial:
        name, (empty, n) = max(result.partial.items(), key=lambda item: item[1][0] / item[1][1])
        note(
            f"warning: experts that no token reached in {len(result.partial)} of {result.tensors} tensors, most in "
            f"{printable(name)}: {empty} of {n}; more text reaches more of them",
            style="hint",
        )


def show(result: Imatrix, output: Output) -> None:
    if not result.complete:
        note(
            f"stopped after {result.chunks} of {result.n_chunk} chunks; the same command with --resume goes on",
            style="dim",
        )
    warn(result)
    if output.mode == "json":
        names = [field.name for field in dataclasses.fields(result) if field.name != "matrix"]
        output.document({name: getattr(result, name) for name in names})
    elif output.mode == "plain":
        header = ("file", "chunk_size", "chunk_count", "tensors", "chunks", "n_chunk", "ppl", "ppl_error")
        ppl = [f"{x:.6f}" if x is not None else None for x in (result.ppl, result.ppl_error)]
        numbers = (result.chunk_size, result.chunk_count, result.tensors, result.chunks, result.n_chunk)
        output.tsv(header, [(result.out, *numbers, *ppl)])
    else:
        found = f", perplexity {result.ppl:.4f} ± {result.ppl_error:.5f}" if result.ppl is not None else ""
        if found and result.resumed:
            found += f" (of the last {result.chunks - result.resumed} chunks)"
        of_what = f"{result.tensors} tensors, {result.chunk_count} chunks of {result.chunk_size} tokens"
        output.text(for_terminal(f"{result.out}: {of_what}{found}\n").encode())


# --- statistics -----------------------------------------------------------------------------------------------------

_HEADER = (
    *("layer", "tensor", "sum", "min", "max", "mean", "deviation", "active", "n"),
    *("entropy", "entropy_norm", "zd", "cossim"),
)


def show_statistics(tensors: Sequence[TensorStatistics], layers: Sequence[LayerStatistics], output: Output) -> None:
    """A table of tensors, on a terminal one of layers too."""
    if output.mode == "json":
        documents = [{**dataclasses.asdict(s), "entropy_norm": s.entropy_norm} for s in tensors]
        output.document({"tensors": documents, "layers": list(layers)})
        return
    rows = [
        (
            "-" if s.layer is None else str(s.layer),
            s.tensor,
            *(f"{x:.4f}" for x in (s.sum, s.min, s.max, s.mean, s.deviation)),
            f"{100 * s.active:.2f}",
            str(s.n),
            f"{s.entropy:.4f}",
            *(f"{100 * x:.2f}" for x in (s.entropy_norm, s.zd)),
            f"{s.cossim:.4f}",
        )
        for s in tensors
    ]
    if output.mode == "plain":
        output.tsv(_HEADER, rows)
        return
    names = ["Σ act²", "min", "max", "mean", "σ", "active %", "n", "entropy", "entropy %", "ZD %", "cos sim"]
    named = [(*row[2:], s.name) for row, s in zip(rows, tensors, strict=True)]
    columns.folded([*names, "tensor"], named, output, key=-1, right=names)
    output.text(b"\n")
    header = ["Σ act²", "ZD %", "cos sim", "layer"]
    by_layer = [(f"{s.sum:.2f}", f"{100 * s.zd:.4f}", f"{s.cossim:.4f}", str(s.layer)) for s in layers]
    columns.show(header, by_layer, output, right=header)
