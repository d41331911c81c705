"""Importance matrices: collected from texts chunk by chunk, gone on with, merged."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from llamacli import signals
from llamacli.engine.imatrix import Collector
from llamacli.engine.logits import log_sum_exp
from llamacli.engine.types import ContextOptions, ModelOptions
from llamacli.errors import BadModelFile, StorageError, UsageError
from llamacli.tasks.chunked import NllSums, Reader
from llamacli.tasks.files import refuse
from llamacli.tasks.imatrix_file import ImatrixFile, read_imatrix
from llamacli.tasks.imatrix_totals import Totals
from llamacli.tasks.imatrix_write import write_imatrix, write_legacy
from llamacli.tasks.perplexity import LEAST_CTX, N_CTX, Text, Warned


@dataclass(frozen=True)
class Request:
    """What to collect. `context` holds all about the context but its size; `n_ctx` 0 is the trained size.

    The tokens of all `texts`, one after the other, are cut into chunks; the first `skipped_chunks` of them are left
    out. `add` are files whose sums are added. Without texts these are merged alone, and no model is needed.

    `out`: where it is written, after every `save_every` chunks too (0: at the end alone); None keeps it in memory. What
    is there already is replaced (`force`), gone on with (`resume`, or if it is among `add` and of these texts), or an
    error. With `copy_every` a copy `OUT.at_N` is left as often.
    """

    texts: Sequence[Text]
    model: ModelOptions | None
    out: Path | None = None
    add: Sequence[Path] = ()
    force: bool = False
    resume: bool = False
    legacy: bool = False
    n_ctx: int | None = None
    most_chunks: int | None = None
    skipped_chunks: int = 0
    ppl: bool = True
    process_output: bool = False
    parse_special: bool = False
    save_every: int = 10
    copy_every: int = 0
    context: ContextOptions = field(default_factory=lambda: ContextOptions(n_ctx=0))


@dataclass(frozen=True)
class Started:
    """So many chunks in all, of which an earlier run has done some."""

    n_chunk: int
    done: int


@dataclass(frozen=True)
class Progress:
    """After one more chunk: the perplexity over the chunks of this run, by llama-perplexity's rules."""

    chunk: int  # from 1, the earlier run's included
    n_chunk: int
    ppl: float | None
    ppl_error: float | None


@dataclass(frozen=True)
class Imatrix:
    """The result. `complete` is false where a signal came before the last chunk.

    `chunks` of `n_chunk` were done, `resumed` of them by an earlier run; `chunk_count` are those in the matrix, with
    those of added files. `tokens` and `ppl` are of this run. `partial`: tensors with experts that no token reached →
    how many, of how many.
    """

    out: Path | None
    model: str | None
    datasets: tuple[str, ...]
    chunk_size: int
    chunk_count: int
    chunks: int
    n_chunk: int
    resumed: int
    tensors: int
    partial: dict[str, tuple[int, int]]
    tokens: int
    ppl: float | None
    ppl_error: float | None
    complete: bool
    seconds: float
    matrix: ImatrixFile


Event = Warned | Started | Progress | Imatrix


def imatrix(request: Request, loading: Callable[[float], None] | None = None) -> Iterator[Event]:
    """Collect, or merge: warnings, Started, Progress after each chunk, the Imatrix at the end.

    A signal, where it is deferred, ends the chunks: what was collected until then is written, and is the result,
    unless there is none. Raises UsageError for what does not fit together, and what models and files raise.
    """
    _refuse(request)
    files = {path: read_imatrix(path) for path in _inputs(request)}
    if not request.texts:
        yield _merged(request, files)
        return
    if request.model is None:
        raise UsageError("there is no model to read the texts")
    collect = partial(Collector, process_output=request.process_output)
    reader = Reader(request.model, request.context, loading, collect)
    try:
        yield from _Run(request, reader, files).events()
    finally:
        reader.close()


def _refuse(request: Request) -> None:
    """Raises UsageError where the output is in the way, or where there is nothing to do."""
    if not request.texts and not request.add:
        raise UsageError("there is no text", hint="name a file, or - for standard input; --in FILE alone merges files")
    if request.resume and request.force:
        raise UsageError("--resume and --force exclude each other: one goes on with what is there, one replaces it")
    out = request.out
    if out is None:
        return
    if out.is_file() and not (request.force or request.resume or _is_among(out, request.add)):
        raise UsageError(
            f"{out} is there already", hint="--resume goes on where it ends, --force replaces it, -o names another file"
        )
    refuse(out, force=True)
    if not os.access(out if out.exists() else out.parent, os.W_OK):
        raise StorageError(f"{out}: no permission to write there")


def _inputs(request: Request) -> Iterator[Path]:
    yield from request.add
    if request.resume and request.out is not None and request.out.exists() and not _is_among(request.out, request.add):
        yield request.out


def _is_among(path: Path, others: Sequence[Path]) -> bool:
    return any(other.exists() and other.samefile(path) for other in others)


def _merged(request: Request, files: Mapping[Path, ImatrixFile]) -> Imatrix:
    totals = Totals(request.n_ctx or next((file.chunk_size for file in files.values() if file.chunk_size), N_CTX))
    for path in request.add:
        totals.add_file(path, files[path])
    matrix = totals.file(totals.datasets, totals.chunk_count)
    _write(request, matrix)
    return _result(request, matrix, totals)


def _write(request: Request, matrix: ImatrixFile, suffix: str = "") -> None:
    if request.out is not None:
        write = write_legacy if request.legacy else write_imatrix
        write(request.out.with_name(request.out.name + suffix), matrix)


def _result(request: Request, matrix: ImatrixFile, totals: Totals, **of_the_run: object) -> Imatrix:
    nothing: dict[str, object] = dict.fromkeys(("chunks", "n_chunk", "resumed", "tokens"), 0)
    nothing |= {"model": None, "ppl": None, "ppl_error": None, "complete": True, "seconds": 0.0}
    return Imatrix(
        out=request.out,
        datasets=tuple(matrix.datasets),
        chunk_size=matrix.chunk_size,
        chunk_count=matrix.chunk_count,
        tensors=len(matrix.sums),
        partial=totals.partial(),
        matrix=matrix,
        **{**nothing, **of_the_run},  # type: ignore[arg-type]
    )


class _Run:
    """One model, and the chunks that it is to read."""

    def __init__(self, request: Request, reader: Reader, files: Mapping[Path, ImatrixFile]) -> None:
        self._request, self._reader, self._files = request, reader, files
        self._n_ctx = _chunk_size(request, reader)
        self._chunks = self._cut()
        self._nll = NllSums()
        #: The names of the tensors, where the output is gone on with.
        self._expected: set[str] | None = None
        self.resumed = self.done = self._copied = 0
        out = request.out
        begun = [path for path in files if out is not None and out.exists() and path.samefile(out)]
        others = [path for path in request.add if path not in begun]
        self._add(others)
        if not begun:
            return
        reason = self._why_not(files[begun[0]])
        if reason is None:
            self._go_on(begun[0])
        elif request.resume:
            raise UsageError(
                f"{out} cannot be gone on with: {reason}", hint=f"--in {out} adds to it; --force begins anew"
            )
        else:
            self._add([*others, *begun])  # a matrix like any other

    def _add(self, paths: Sequence[Path]) -> None:
        self._totals = Totals(self._n_ctx)
        for path in paths:
            self._totals.add_file(path, self._files[path])
        self._added = self._totals.chunk_count
        self._own = [text.name for text in self._request.texts]
        self._datasets = [*self._totals.datasets, *self._own]

    def _why_not(self, earlier: ImatrixFile) -> str | None:
        """Why the output file is not the beginning of this run."""
        if earlier.chunk_size == 0:
            return "the form before GGUF does not say how long its chunks are"
        if earlier.chunk_size != self._n_ctx:
            return f"its chunks have {earlier.chunk_size} tokens, these {self._n_ctx}"
        if earlier.datasets != self._datasets:
            return f"it is of {', '.join(earlier.datasets) or 'no text'}, this is of {', '.join(self._datasets)}"
        plain = {int(counts[0]) for counts in earlier.counts.values() if len(counts) == 1}
        if len(plain) > 1 and not self._added:
            return "it was written in the middle of a chunk, as llama-imatrix does"
        return None

    def _go_on(self, path: Path) -> None:
        earlier = self._files[path]
        self._totals = Totals(self._n_ctx)
        self._totals.add_file(path, earlier)
        self._expected = self._totals.names
        self.resumed = self.done = self._copied = min(max(earlier.chunk_count - self._added, 0), len(self._chunks))

    def _cut(self) -> np.ndarray:
        """int32 (n_chunk, n_ctx). Raises UsageError where there are fewer than two."""
        request, n_ctx = self._request, self._n_ctx
        parts = [self._reader.tokenize(text.text, parse_special=request.parse_special) for text in request.texts]
        tokens = np.concatenate(parts)
        first = request.skipped_chunks * n_ctx
        if len(tokens) < first + 2 * n_ctx:
            skipped = f" after the {request.skipped_chunks} that are left out" if first else ""
            raise UsageError(
                f"{' and '.join(text.name for text in request.texts)}: too short: {self._reader.name} makes "
                f"{len(tokens)} tokens of that, and two chunks of {n_ctx}{skipped} need {first + 2 * n_ctx}",
                hint="more text, or a smaller -c",
            )
        n_chunk = min((len(tokens) - first) // n_ctx, request.most_chunks or len(tokens))
        return tokens[first : first + n_chunk * n_ctx].reshape(n_chunk, n_ctx)

    def events(self) -> Iterator[Event]:
        n_chunk, began = len(self._chunks), time.perf_counter()
        yield from self._warnings()
        yield Started(n_chunk, self.resumed)
        # However few chunks there are, as llama-imatrix does: the context's size shows in the last digits.
        n_seq = max(1, self._request.context.n_batch // self._n_ctx)
        if self.done < n_chunk:
            self._reader.begin(self._request.context, self._n_ctx, n_seq)
        written = self.done
        for start in range(self.done, n_chunk, n_seq):
            group = self._chunks[start : start + n_seq]
            logits = self._reader.evaluate(group)
            if logits is None:  # a signal: the sums hold a part of this group
                break
            self._count(len(group))
            written = self._save(written)
            for chunk, (tokens, rows) in enumerate(zip(group, logits, strict=True), start + 1):
                if self._request.ppl and not signals.flag[0]:
                    self._score(tokens, rows[:-1])
                yield Progress(chunk, n_chunk, *self._ppl())
            if signals.flag[0]:
                break
        if self.done == 0:
            return
        matrix = self._matrix()
        if written != self.done:
            _write(self._request, matrix)
        ppl, error = self._ppl()
        yield _result(
            self._request,
            matrix,
            self._totals,
            model=self._reader.name,
            chunks=self.done,
            n_chunk=n_chunk,
            resumed=self.resumed,
            tokens=(self.done - self.resumed) * self._n_ctx,
            ppl=ppl,
            ppl_error=error,
            complete=self.done == n_chunk,
            seconds=round(time.perf_counter() - began, 3),
        )

    def _warnings(self) -> Iterator[Warned]:
        trained = self._reader.model.n_ctx_train
        if 0 < trained < self._n_ctx:
            yield Warned(
                f"chunks of {self._n_ctx} tokens, but {self._reader.name} was trained with {trained}: "
                "what it computes beyond that says little"
            )
        for name in self._own if self._expected is None else ():
            if name in self._datasets[: -len(self._own)]:
                yield Warned(f"{name} is in an added file already, and will count twice")

    def _count(self, n: int) -> None:
        """Add what n more chunks have brought."""
        collected = [collector.take() for collector in self._reader.collectors]
        found = set().union(*collected)
        if self._expected is not None and found != self._expected:
            differing = ", ".join(sorted(found ^ self._expected)[:3])
            raise UsageError(
                f"{self._request.out} cannot be gone on with: it is not of the same tensors ({differing} …)",
                hint="is it of another model, or made with another --process-output?",
            )
        self._expected = None
        for sums in collected:
            self._totals.add(sums)
        self.done += n
        if not self._totals.names:
            raise UsageError(f"nothing was collected: {self._reader.name} has no weights blk.*, or batches of under 16")

    def _save(self, written: int) -> int:
        """Write what is due; how many chunks the file then is of."""
        every, copies = self._request.save_every, self._request.copy_every
        if copies and self.done // copies > self._copied // copies:
            _write(self._request, self._matrix(), f".at_{self._added + self.done}")
        self._copied = self.done
        if not every or self.done // every == written // every:
            return written
        _write(self._request, self._matrix())
        return self.done

    def _matrix(self) -> ImatrixFile:
        return self._totals.file(self._datasets, self._added + self.done)

    def _score(self, tokens: np.ndarray, rows: np.ndarray) -> None:
        """The perplexity of a chunk's second half."""
        targets = tokens[-len(rows) :]
        nll = log_sum_exp(rows) - rows[np.arange(len(targets)), targets]
        if math.isnan(self._nll.add(nll)):
            raise BadModelFile(f"{self._reader.name}: its weights give no numbers (NaN); the file is damaged")

    def _ppl(self) -> tuple[float | None, float | None]:
        return self._nll.ppl() if self._nll.count else (None, None)


def _chunk_size(request: Request, reader: Reader) -> int:
    n_ctx = N_CTX if request.n_ctx is None else request.n_ctx or reader.model.n_ctx_train
    if n_ctx == 0:
        raise UsageError("-c 0 is the size that the model was trained with, which it does not say", hint="-c 512")
    if n_ctx < LEAST_CTX:
        raise UsageError(f"--ctx-size {n_ctx}: chunks have at least {LEAST_CTX} tokens")
    return n_ctx
