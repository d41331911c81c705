"""A text's chunks, read by one model or by several side by side: running estimates, then results.

llama-perplexity's algorithm: each chunk of n_ctx tokens is evaluated on its own, and the tokens of its second half are
scored, each given all before it in the chunk. With N the scored tokens and nll their negative log-likelihoods,
PPL = exp(mean nll), and its standard error is PPL · sqrt((mean nll² - (mean nll)²) / (N - 1)).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from llamacli import signals
from llamacli.engine.context import Context
from llamacli.engine.imatrix import Collector
from llamacli.engine.logits import Chunks, log_sum_exp, together
from llamacli.engine.model import Model
from llamacli.engine.types import ContextOptions, ModelOptions
from llamacli.engine.workers import workers
from llamacli.errors import BadModelFile, UsageError
from llamacli.models import store
from llamacli.models.gguf import read_header
from llamacli.models.reference import name
from llamacli.tasks import logits_file
from llamacli.tasks.divergence import Base, Divergence, Exact, Running, Statistic, Stored
from llamacli.tasks.memory import tensors_of


@dataclass(frozen=True)
class Estimate:
    """One model after one more chunk. `ppl_chunk` is that chunk's own; `divergence` where it is compared."""

    model: str
    text: str
    chunk: int  # from 1
    n_chunk: int
    ppl: float
    ppl_error: float
    ppl_chunk: float
    divergence: Running | None = None


@dataclass(frozen=True)
class Perplexity:
    """The result of one model on one text. `complete` is false where a signal came before the last chunk.

    `nll` is the mean; `tokens` are those scored; `base` is what the model was compared with, and `statistics` how, by
    llama-perplexity's names. `token_nll`: float64 (tokens,).
    """

    model: str
    text: str
    size: int
    bits_per_weight: float | None
    n_ctx: int
    n_seq: int
    n_vocab: int
    chunks: int
    n_chunk: int
    tokens: int
    ppl: float
    ppl_error: float
    nll: float
    nll_error: float
    complete: bool
    seconds: float
    base: str | None
    statistics: Mapping[str, Statistic] | None
    running: tuple[Estimate, ...]
    token_nll: np.ndarray


class Reader:
    """A model that reads chunks. `collect` makes what watches a context compute: `collectors`, once it has begun."""

    def __init__(
        self,
        options: ModelOptions,
        context: ContextOptions,
        loading: Callable[[float], None] | None,
        collect: Callable[[], Collector] | None = None,
    ) -> None:
        self.name = name(options.path)
        self._collect = collect
        self.collectors: list[Collector] = []
        self.model = Model(options, context=context, progress=loading)
        self._begun: tuple[ContextOptions, int, int] | None = None
        self._parts: list[tuple[Context, Chunks, int]] = []  # each evaluates so many chunks of a group
        if not self.model.writes_text:
            self.model.close()
            raise UsageError(f"{self.name}: this model reads text but does not write it, so it has no perplexity")

    def close(self) -> None:
        self._end()
        self.model.close()

    def _end(self) -> None:
        while self._parts:
            self._parts.pop()[0].close()
        self.collectors.clear()  # not before the contexts that call them

    def tokenize(self, text: str, *, parse_special: bool = False) -> np.ndarray:
        """int32; BOS first where the vocabulary adds it, but no EOS: the text is cut into chunks anyway."""
        tokens = self.model.tokenize(text, parse_special=parse_special)
        if self.model.adds_eos and tokens[-1:] == [self.model.eos]:
            tokens.pop()
        return np.array(tokens, np.int32)

    def begin(self, options: ContextOptions, n_ctx: int, n_seq: int) -> None:
        """Contexts for groups of n_seq chunks of n_ctx tokens, unless they are there already."""
        if self._begun == (options, n_ctx, n_seq):
            return
        self._end()
        n, each = workers(self.model, options, n_seq, exact=True)
        for i in range(n):
            share = n_seq * (i + 1) // n - n_seq * i // n
            size = n_ctx * share
            shared = replace(each, n_ctx=size, n_batch=min(each.n_batch, size), n_sequences=share, kv_unified=False)
            collector = self._collect() if self._collect is not None else None
            if collector is not None:
                self.collectors.append(collector)
            context = Context(self.model, shared, collector.callback if collector is not None else None)
            self._parts.append((context, Chunks(context, n_ctx, share, whole=collector is not None), share))
        self._begun = (options, n_ctx, n_seq)

    def evaluate(self, chunks: np.ndarray) -> list[np.ndarray] | None:
        """Logits of a group's chunks, until the next call. None if a signal came in between."""
        work = []
        for _, part, share in self._parts:
            if len(chunks):
                work.append((part, chunks[:share]))
                chunks = chunks[share:]
        found = together([partial(part.evaluate, mine) for part, mine in work])
        return None if None in found else [rows for mine in found for rows in mine or ()]

    def size(self) -> tuple[int, float | None]:
        """Bytes of the file, or files; bits per weight."""
        header = self.model.header
        headers = [header] if header.n_split == 1 else [read_header(path) for path in store.parts(header.path)]
        tensors = tensors_of(headers)
        weights = sum(math.prod(tensor.shape) for tensor in tensors)
        n_bytes = sum(tensor.n_bytes for tensor in tensors)
        return sum(h.file_size for h in headers), round(8 * n_bytes / weights, 3) if weights else None


class Run:
    """A text's chunks, int32 (n_chunk, n_ctx), and the models that read them at once.

    All models after the first are compared with it, or all with `file`, which knows unlikely tokens as such only:
    `base_nll`, float64 (tokens,), says how unlikely they were. Without `base_is_shown` the first is there to
    be compared with only.
    """

    def __init__(
        self,
        text: str,
        readers: list[Reader],
        chunks: np.ndarray,
        *,
        file: logits_file.Reader | None = None,
        base_nll: np.ndarray | None = None,
        base_is_shown: bool = True,
    ) -> None:
        self.chunks = chunks
        self._readers, self._file = readers, file
        self._base_nll = base_nll
        self._counted = 0  # tokens
        base = str(file.path) if file else readers[0].name
        self._followed = [_Followed(reader, text, base if file or i else None) for i, reader in enumerate(readers)]
        self._shown = self._followed if base_is_shown else self._followed[1:]

    def measure(
        self, context: ContextOptions, save: Path | None = None, *, force: bool = False
    ) -> Iterator[Estimate | Perplexity]:
        """An Estimate after each chunk of each model, then a Perplexity of each; `save` keeps the logits.

        A deferred signal ends it: what was measured until then is the result, unless that is nothing.
        """
        n_chunk, n_ctx = self.chunks.shape
        n_seq = min(max(1, context.n_batch // n_ctx), n_chunk)  # more would only take room
        began = time.perf_counter()
        for reader in self._readers:
            reader.begin(context, n_ctx, n_seq)
        with contextlib.suppress(_Interrupted), self._writer(save, force) as writer:
            for start in range(0, n_chunk, n_seq):
                for _ in self._group(self.chunks[start : start + n_seq], writer):
                    for followed in self._shown:
                        yield followed.estimate(n_chunk)
        seconds = time.perf_counter() - began
        for followed in self._shown:
            if followed.running:
                yield followed.result(n_ctx, n_seq, n_chunk, seconds)

    @contextlib.contextmanager
    def _writer(self, save: Path | None, force: bool) -> Iterator[logits_file.Writer | None]:
        if save is None:
            yield None
            return
        with logits_file.create(save, self._readers[0].model.n_vocab, self.chunks, force=force) as writer:
            yield writer

    def _group(self, chunks: np.ndarray, writer: logits_file.Writer | None) -> Iterator[None]:
        """Evaluate chunks side by side and count them, one after the other. Raises _Interrupted."""
        logits = []
        for reader in self._readers:
            logits.append(reader.evaluate(chunks))
            if logits[-1] is None:
                raise _Interrupted
        for i, tokens in enumerate(chunks):
            if signals.flag[0]:
                raise _Interrupted
            self._count(tokens, [rows[i][:-1] for rows in logits if rows is not None], writer)
            yield

    def _count(self, tokens: np.ndarray, logits: list[np.ndarray], writer: logits_file.Writer | None) -> None:
        targets = tokens[-len(logits[0]) :]
        base: Base | None = Stored(*self._file.next(), targets) if self._file else None
        if base is not None and self._base_nll is not None:
            base.nll = self._base_nll[self._counted : self._counted + len(targets)]
        self._counted += len(targets)
        for followed, rows in zip(self._followed, logits, strict=True):
            sums = log_sum_exp(rows)
            nll = sums - rows[np.arange(len(targets)), targets]
            followed.add(nll)
            if followed.divergence is not None and base is not None:
                followed.divergence.add(rows, sums, nll, base)
            base = base or Exact(rows, sums, nll)
            if writer is not None:
                writer.add(rows, sums)


class _Interrupted(Exception):
    """A signal came before the last chunk."""


class _Followed:
    """What is known of one model so far."""

    def __init__(self, reader: Reader, text: str, base: str | None) -> None:
        """`base`: the name of what it is compared with."""
        self._reader, self._text, self._base = reader, text, base
        self._sums = NllSums()
        self._nll: list[np.ndarray] = []
        self._chunk_ppl = 0.0
        self.divergence = Divergence() if base is not None else None
        self.running: list[Estimate] = []

    def add(self, nll: np.ndarray) -> None:
        """A chunk's."""
        self._chunk_ppl = self._sums.add(nll)
        self._nll.append(nll)
        if math.isnan(self._chunk_ppl):
            raise BadModelFile(f"{self._reader.name}: its weights give no numbers (NaN); the file is damaged")

    def estimate(self, n_chunk: int) -> Estimate:
        ppl, error = self._sums.ppl()
        divergence = self.divergence.running() if self.divergence is not None else None
        i = len(self.running) + 1
        found = Estimate(self._reader.name, self._text, i, n_chunk, ppl, error, self._chunk_ppl, divergence)
        self.running.append(found)
        return found

    def result(self, n_ctx: int, n_seq: int, n_chunk: int, seconds: float) -> Perplexity:
        nll, (ppl, ppl_error) = self._sums.nll(), self._sums.ppl()
        size, bits = self._reader.size()
        return Perplexity(
            model=self._reader.name,
            text=self._text,
            size=size,
            bits_per_weight=bits,
            n_ctx=n_ctx,
            n_seq=n_seq,
            n_vocab=self._reader.model.n_vocab,
            chunks=len(self.running),
            n_chunk=n_chunk,
            tokens=self._sums.count,
            ppl=ppl,
            ppl_error=ppl_error,
            nll=nll.value,
            nll_error=nll.error or 0.0,
            complete=len(self.running) == n_chunk,
            seconds=round(seconds, 3),
            base=self._base,
            statistics=self.divergence.statistics() if self.divergence is not None else None,
            running=tuple(self.running),
            token_nll=np.concatenate(self._nll),
        )


class NllSums:
    """Of the nll of the tokens so far."""

    def __init__(self) -> None:
        self.count, self._nll, self._nll2 = 0, 0.0, 0.0

    def add(self, nll: np.ndarray) -> float:
        """A chunk's; its own perplexity."""
        total = float(nll.sum())
        self.count += len(nll)
        self._nll += total
        self._nll2 += float((nll * nll).sum())
        return _exp(total / len(nll))

    def nll(self) -> Statistic:
        mean = self._nll / self.count
        variance = self._nll2 / self.count - mean * mean
        return Statistic(mean, math.sqrt(variance / (self.count - 1)) if variance > 0 and self.count > 1 else 0.0)

    def ppl(self) -> tuple[float, float]:
        nll = self.nll()
        return _exp(nll.value), _exp(nll.value) * (nll.error or 0)


def _exp(x: float) -> float:
    return math.inf if x >= 709 else math.exp(x)  # NaN stays NaN
