"""llama-perplexity's files of base log-probabilities (`--kl-divergence-base`), read and written.

    "_logits_", int32 n_ctx, int32 n_vocab, int32 n_chunk, int32 tokens[n_chunk · n_ctx]; then for each chunk
    n_ctx - 1 - n_ctx/2 rows of 2·⌈n_vocab/2⌉ + 4 uint16: float32 scale, float32 least, q[n_vocab]; in each row
    log p = scale · q + least

All numbers are little-endian. The least log-probability is at most 16 below the greatest.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from llamacli.engine.logits import BLOCK, in_parallel
from llamacli.errors import BadModelFile, StorageError, UsageError
from llamacli.tasks.files import new_file

_MAGIC = b"_logits_"
_HEADER = 20  # bytes
_WIDEST, _STEPS = np.float32(16), np.float32(65535)


def _width(n_vocab: int) -> int:
    """uint16 numbers in a row."""
    return 2 * ((n_vocab + 1) // 2) + 4


def _n_rows(n_ctx: int) -> int:
    return n_ctx - 1 - n_ctx // 2


def _size(n_ctx: int, n_vocab: int, n_chunk: int) -> int:
    return _HEADER + n_chunk * (4 * n_ctx + 2 * _n_rows(n_ctx) * _width(n_vocab))


class Reader:
    """An open file of base log-probabilities. Close it, or use it as a context manager."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError for what is no such file, BadModelFile for one that is cut short, StorageError."""
        self.path = path
        if path.exists() and not path.is_file():
            raise UsageError(f"--kl-base {path}: it must be a file")
        try:
            self._file: BinaryIO = path.open("rb")
        except FileNotFoundError as error:
            raise UsageError(f"--kl-base {path}: no such file", hint="--save-logits writes one") from error
        except OSError as error:
            raise StorageError(f"--kl-base {path}: {error.strerror}") from error
        try:
            self._read_header()
        except BaseException:
            self._file.close()
            raise

    def _read_header(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        start = self._file.read(_HEADER)
        if start[:8] != _MAGIC[: len(start)] or not start:
            raise UsageError(
                f"--kl-base {self.path}: it holds no log-probabilities: it does not begin with _logits_",
                hint="--save-logits, or llama-perplexity's --save-all-logits, writes such a file",
            )
        if len(start) < _HEADER:
            raise self._cut(size, _HEADER, "its header alone has")
        self.n_ctx, self.n_vocab, self.n_chunk = (int(n) for n in np.frombuffer(start, "<i4", 3, 8))
        if self.n_ctx < 4 or self.n_vocab < 1 or self.n_chunk < 1:
            raise BadModelFile(
                f"--kl-base {self.path}: its header makes no sense: "
                f"n_ctx {self.n_ctx}, n_vocab {self.n_vocab}, n_chunk {self.n_chunk}"
            )
        whole = _size(self.n_ctx, self.n_vocab, self.n_chunk)
        if size < whole:
            raise self._cut(size, whole, f"{self.n_chunk} chunks of {self.n_ctx} tokens need")
        if size > whole:
            raise BadModelFile(
                f"--kl-base {self.path}: it has {size} bytes, {size - whole} more than its header says ({whole})"
            )
        data = self._file.read(4 * self.n_chunk * self.n_ctx)
        #: (n_chunk, n_ctx)
        self.tokens = np.frombuffer(data, "<i4").astype(np.int32).reshape(self.n_chunk, self.n_ctx)
        if self.tokens.min() < 0 or self.tokens.max() >= self.n_vocab:
            wrong = int(self.tokens[(self.tokens < 0) | (self.tokens >= self.n_vocab)][0])
            raise BadModelFile(f"--kl-base {self.path}: token {wrong} is none of its vocabulary of {self.n_vocab}")
        self._row = np.empty((_n_rows(self.n_ctx), _width(self.n_vocab)), "<u2")

    def _cut(self, size: int, whole: int, what: str) -> BadModelFile:
        return BadModelFile(
            f"--kl-base {self.path}: it is cut short: it has {size} bytes, and {what} {whole}",
            hint="write it again; the disk may have been full",
        )

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def next(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The next chunk: q uint16 (n, n_vocab), scale and least float32 (n,). Valid until the next call."""
        n = self._file.readinto(self._row.data.cast("B"))  # type: ignore[attr-defined]
        if n < self._row.nbytes:
            raise StorageError(f"--kl-base {self.path}: it became shorter while it was read")
        numbers = self._row[:, :4].copy().view("<f4")
        return self._row[:, 4 : 4 + self.n_vocab], numbers[:, 0].copy(), numbers[:, 1].copy()


class Writer:
    """Takes the chunks one after the other."""

    def __init__(self, file: BinaryIO, n_vocab: int, tokens: np.ndarray) -> None:
        """`tokens`: int32 (n_chunk, n_ctx)."""
        n_chunk, n_ctx = tokens.shape
        file.write(_MAGIC + np.array([n_ctx, n_vocab, n_chunk], "<i4").tobytes())
        _write(file, tokens.astype("<i4"))
        self._file = file
        self._rows = np.zeros((_n_rows(n_ctx), _width(n_vocab)), "<u2")

    def add(self, logits: np.ndarray, log_sum_exp: np.ndarray) -> None:
        """The rows of a chunk, with `engine.logits.log_sum_exp` of them."""
        n, n_vocab = logits.shape
        in_parallel(lambda start, stop: self._fill(logits, log_sum_exp, start, stop), n, n_vocab)
        _write(self._file, self._rows)

    def _fill(self, logits: np.ndarray, log_sum_exp: np.ndarray, start: int, stop: int) -> None:
        n_vocab = logits.shape[1]
        step = max(BLOCK // n_vocab, 1)
        buffer = np.empty((min(step, stop - start), n_vocab), np.float32)
        for i in range(start, stop, step):
            j = min(i + step, stop)
            block, q = logits[i:j], buffer[: j - i]
            most = block.max(1)
            least = np.maximum(block.min(1), most - _WIDEST)
            sums = (log_sum_exp[i:j] - most).astype(np.float32)
            scale = (most - least) / _STEPS
            numbers = np.stack([scale, least - most - sums], 1).astype("<f4")
            self._rows[i:j, :4] = numbers.view("<u2")
            inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
            np.subtract(block, least[:, None], out=q)
            np.maximum(q, 0, out=q)
            q *= inverse[:, None]
            np.rint(q, out=q)
            self._rows[i:j, 4 : 4 + n_vocab] = q


def _write(file: BinaryIO, array: np.ndarray) -> None:
    """All of it, to a file without a buffer too."""
    rest = np.ascontiguousarray(array).data.cast("B")
    while rest:
        rest = rest[file.write(rest) :]


@contextlib.contextmanager
def create(path: Path, n_vocab: int, tokens: np.ndarray, *, force: bool) -> Iterator[Writer]:
    """A new file for these chunks, int32 (n_chunk, n_ctx), all of it or nothing.

    Raises UsageError where it exists and `force` does not replace it, StorageError where there is no room.
    """
    n_chunk, n_ctx = tokens.shape
    needed = _size(n_ctx, n_vocab, n_chunk)
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(path.absolute().parent).free
        if needed > free and (path.is_file() or not path.exists()):
            raise StorageError(
                f"{path}: it will have {needed} bytes, and {free} are free there",
                hint="fewer --chunks, or --against MODEL, which needs no file",
            )
    with new_file(path, force=force) as file:
        yield Writer(file, n_vocab, tokens)
