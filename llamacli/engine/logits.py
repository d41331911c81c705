"""Logits of many tokens at once: batches of several sequences, their rows without a copy, log Σ exp of rows."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any, TypeVar

import numpy as np

from llamacli.engine import native
from llamacli.engine.context import Context
from llamacli.engine.native import C
from llamacli.engine.threads import physical_cores
from llamacli.errors import EngineError

_T = TypeVar("_T")

#: Numbers that are computed on at a time: their intermediate results stay in a core's own cache.
BLOCK = 1 << 16
#: Rows shorter than this are cheaper as whole arrays than one by one.
_LONG = 1024


class Batch:
    """A llama_batch that is filled through numpy arrays, one entry a token.

    `token`, `pos`, and `wanted` (0 or 1: whether its logits are computed); `seq` (capacity, width) with the sequences
    that a token belongs to, of which the first `n_seq` count.
    """

    def __init__(self, capacity: int, width: int = 1) -> None:
        self.token = np.zeros(capacity, np.int32)
        self.pos = np.zeros(capacity, np.int32)
        self.n_seq = np.ones(capacity, np.int32)
        self.seq = np.zeros((capacity, width), np.int32)
        self.wanted = np.zeros(capacity, np.int8)
        rows = self.seq.ctypes.data + np.arange(capacity, dtype=np.uintp) * (4 * width)
        self._rows = rows.astype(np.uintp)  # the address of each token's sequences
        self._native = C.llama_batch()
        for name, array in (
            ("token", self.token),
            ("pos", self.pos),
            ("n_seq_id", self.n_seq),
            ("seq_id", self._rows),
            ("logits", self.wanted),
        ):
            kind = dict(C.llama_batch._fields_)[name]
            setattr(self._native, name, ctypes.cast(array.ctypes.data, kind))

    def decode(self, context: Context, n_tokens: int) -> bool:
        """Evaluate the first n_tokens. Returns False if a signal came in between. Raises ContextFull, EngineError."""
        self._native.n_tokens = n_tokens
        return context.decode(self._native)


def rows(context: Context, first: int, n: int) -> np.ndarray:
    """Logits of n tokens of the last batch, from its token `first` on, all of them wanted: float32 (n, n_vocab).

    The library's own memory, which the next batch overwrites. Only a signal's abort leaves none.
    """
    pointer = C.llama_get_logits_ith(context.handle, first)
    if not pointer:
        raise EngineError(f"llama.cpp has no logits of token {first}")
    return np.ctypeslib.as_array(pointer, (n, context.model.n_vocab))


# --- arithmetic on rows -------------------------------------------------------------------------------------------


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(physical_cores() - 1, 1), "rows")


def in_parallel(function: Callable[[int, int], None], n: int, size: int) -> None:
    """function(start, stop) over 0 … n on all cores; on one where n rows of this size are too little to share."""
    n_threads = min(physical_cores(), n * size // (4 * BLOCK) + 1, n)
    cuts = [n * i // n_threads for i in range(n_threads + 1)] if n else [0, 0]
    others = [_pool().submit(function, *cuts[i : i + 2]) for i in range(1, len(cuts) - 1)]
    function(cuts[0], cuts[1])
    for other in others:
        other.result()


def together(functions: Sequence[Callable[[], _T]]) -> list[_T]:
    """What they return, called at the same time, the first by this thread."""
    first, *rest = functions
    others = [_pool().submit(function) for function in rest]
    try:
        mine = first()
    finally:
        wait(others)  # what they use may be closed after an error
    return [mine, *(other.result() for other in others)]


def log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """log Σ exp of each row, float64 (n,). A token's log-probability is its logit less this."""
    n, n_vocab = logits.shape
    result = np.empty(n)
    soft_max = _soft_max()
    if soft_max is None or n_vocab < _LONG:
        in_parallel(lambda start, stop: _by_numpy(logits[start:stop], result[start:stop]), n, n_vocab)
    else:
        in_parallel(lambda start, stop: _by_ggml(soft_max, logits[start:stop], result[start:stop]), n, n_vocab)
    return result


def _by_numpy(logits: np.ndarray, result: np.ndarray) -> None:
    step = max(BLOCK // logits.shape[1], 1)
    buffer = np.empty((min(step, len(logits)), logits.shape[1]), np.float32)
    for start in range(0, len(logits), step):
        block = logits[start : start + step]
        exponentials, most = buffer[: len(block)], block.max(1)
        np.subtract(block, most[:, None], out=exponentials)
        np.exp(exponentials, out=exponentials)
        result[start : start + step] = most + np.log(exponentials.sum(1, dtype=np.float64))


def _by_ggml(soft_max: Any, logits: np.ndarray, result: np.ndarray) -> None:
    buffer = np.empty(logits.shape[1], np.float32)
    target, source, step, n = buffer.ctypes.data, logits.ctypes.data, logits.strides[0], logits.shape[1]
    for i, row in enumerate(logits):
        most = row.max()  # while it is in the cache
        result[i] = most + np.log(soft_max(n, target, source + i * step, most))


@cache
def _soft_max() -> Any:
    """double ggml_vec_soft_max_f32(n, y, x, max): y = exp(x - max), and their sum. Half the time of numpy's row by row.

    None where the library does not export it: Windows, and builds that choose among several CPU backends.
    """
    try:
        function = native.cpu_library().ggml_vec_soft_max_f32
    except (AttributeError, EngineError):
        return None
    function.restype = ctypes.c_double
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_float]
    return function


# --- chunks of a text ---------------------------------------------------------------------------------------------


class Chunks:
    """Evaluates chunks of n_ctx tokens, up to n_seq of them side by side: logits of their second halves.

    The context is one of `n_ctx * n_seq` tokens with `n_seq` sequences. With `whole` the last layers are computed for
    the first halves as well, as whoever watches them needs.
    """

    def __init__(self, context: Context, n_ctx: int, n_seq: int, *, whole: bool = False) -> None:
        self.first = n_ctx // 2  # the first position whose logits are returned
        self._computed = 0 if whole else self.first
        self._context, self._n_ctx = context, n_ctx
        vocab = context.model.vocab
        self._bos = context.model.bos if C.llama_vocab_get_add_bos(vocab) else None
        self._batch = Batch(n_ctx * n_seq)
        self._batch.pos[:] = np.tile(np.arange(n_ctx), n_seq)
        self._batch.seq[:, 0] = np.repeat(np.arange(n_seq), n_ctx)
        self._batch.wanted[:] = self._batch.pos >= self._computed

    def evaluate(self, chunks: np.ndarray) -> list[np.ndarray] | None:
        """Logits of each of the chunks, int32 (n, n_ctx): float32 (n_ctx - first, n_vocab), until the next call.

        BOS takes the place of each chunk's first token where the vocabulary adds it. None if a signal came in between.
        """
        context, batch, n_ctx = self._context, self._batch, self._n_ctx
        context.clear()
        if context.n_batch < n_ctx:
            (chunk,) = chunks
            return self._in_parts(chunk)
        batch.token[: chunks.size] = chunks.ravel()
        if self._bos is not None:
            batch.token[: chunks.size : n_ctx] = self._bos
        if not batch.decode(context, chunks.size):
            return None
        return [rows(context, i * n_ctx + self.first, n_ctx - self.first) for i in range(len(chunks))]

    def _in_parts(self, chunk: np.ndarray) -> list[np.ndarray] | None:
        """One chunk that is larger than a batch. The logits of the parts are collected."""
        context, batch, size = self._context, self._batch, self._context.n_batch
        parts = []
        for start in range(0, self._n_ctx, size):
            n = min(size, self._n_ctx - start)
            batch.token[:n] = chunk[start : start + n]
            if start == 0 and self._bos is not None:
                batch.token[0] = self._bos
            batch.pos[:n] = np.arange(start, start + n)
            batch.wanted[:n] = batch.pos[:n] >= self._computed
            if not batch.decode(context, n):
                return None
            skipped = max(self.first - start, 0)
            if skipped < n:
                parts.append(rows(context, skipped, n - skipped).copy())
        return [np.concatenate(parts)]
