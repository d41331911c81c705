"""Importance matrices as files: llama.cpp's GGUF format, and the older one (.dat) that it still reads.

Format: tools/imatrix/imatrix.cpp, common/imatrix-loader.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llamacli.errors import BadModelFile, StorageError, UsageError
from llamacli.models import gguf
from llamacli.models.ggml_types import F32
from llamacli.models.gguf import Array, brief, path_text

SUMS, COUNTS = ".in_sum2", ".counts"
DATASETS, CHUNK_COUNT, CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
_I32 = struct.Struct("<i")


@dataclass(frozen=True)
class ImatrixFile:
    """Sums of squared activations. For each tensor `sums` (n_mat, ne0) and `counts` (n_mat,), both float32; n_mat is
    the number of experts, or 1. sums / counts are the mean squares.

    `chunk_size` 0 marks the older format: what it calls sums are mean squares times the number of chunks, which are
    its counts, and a tensor with experts is one row.
    """

    sums: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]
    datasets: list[str]
    chunk_count: int
    chunk_size: int


def read_imatrix(path: Path) -> ImatrixFile:
    """Read either format. Raises UsageError (missing, a folder), StorageError, BadModelFile."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder", hint="name the file in it") from None
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    found = _read_gguf(path) if start == b"GGUF" else _read_legacy(path)
    for name, sums in found.sums.items():
        if not np.isfinite(sums).all() or not np.isfinite(found.counts[name]).all() or (sums < 0).any():
            raise gguf.bad(path, f"the entry {brief(name)} holds what no sum of squares can be", gguf.DOWNLOAD_AGAIN)
    return found


def _read_gguf(path: Path) -> ImatrixFile:
    header = gguf.read_header(path)
    datasets = header.metadata.get(DATASETS)
    n_chunk, size = (header.metadata.get(key) for key in (CHUNK_COUNT, CHUNK_SIZE))
    if not isinstance(datasets, Array) or not isinstance(n_chunk, int) or not isinstance(size, int):
        kind = header.text("general.type") or header.architecture
        what = f"a GGUF file of the kind {brief(kind)}" if kind and kind != "imatrix" else "a GGUF file"
        raise gguf.bad(path, f"{what}, not an importance matrix: {DATASETS}, … are missing")
    data = np.memmap(path, np.uint8, "r", offset=header.data_offset) if header.tensors else np.empty(0, np.uint8)
    values: dict[str, np.ndarray] = {}
    for tensor in header.tensors:
        if tensor.name.endswith((SUMS, COUNTS)):
            if tensor.type != F32:
                raise gguf.bad(path, f"the tensor {brief(tensor.name)} is not F32")
            values[tensor.name] = np.array(data[tensor.offset : tensor.offset + tensor.n_bytes]).view("<f4")
    names = {name.removesuffix(SUMS).removesuffix(COUNTS): None for name in values}
    sums, counts = {}, {}
    for name in names:
        if name + SUMS not in values or name + COUNTS not in values:
            raise gguf.bad(path, f"the entry {brief(name)} lacks its sums or its counts")
        count = values[name + COUNTS]
        if values[name + SUMS].size % count.size:
            numbers = f"{values[name + SUMS].size} sums and {count.size} counts"
            raise gguf.bad(path, f"the entry {brief(name)} has {numbers}")
        sums[name], counts[name] = values[name + SUMS].reshape(count.size, -1), count
    if not sums:
        raise gguf.bad(path, "an importance matrix without entries")
    return ImatrixFile(sums, counts, [str(text) for text in datasets.values()], n_chunk, size)


def _read_legacy(path: Path) -> ImatrixFile:
    """int32 n_entries; for each int32 length, name, int32 n_call, int32 n_value, float32 values; then, perhaps, int32
    chunks, int32 length, the text's name.
    """
    try:
        with path.open("rb") as file:
            data = file.read()
        pieces = _Pieces(data)
        sums, counts = {}, {}
        n_entries = pieces.number()
        if not 0 < n_entries < 1 << 24:
            raise ValueError
        for _ in range(n_entries):
            name = pieces.take(pieces.number()).decode("utf-8", "backslashreplace")
            n_call, n_value = pieces.number(), pieces.number()
            if not name or n_value < 1:
                raise ValueError
            sums[name] = np.frombuffer(pieces.take(4 * n_value), "<f4").reshape(1, -1).copy()
            counts[name] = np.array([n_call if n_call > 0 else 1], np.float32)
        chunks = pieces.number() if pieces.left() else 0
        dataset = pieces.take(pieces.number()).decode("utf-8", "replace") if pieces.left() else ""
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    except (ValueError, struct.error):
        raise BadModelFile(f"{path_text(path)}: not an importance matrix, or cut short") from None
    return ImatrixFile(sums, counts, [dataset] if dataset else [], max(chunks, 0), 0)


class _Pieces:
    """A position in bytes. Raises ValueError or struct.error behind the end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._pos = data, 0

    def number(self) -> int:
        (value,) = _I32.unpack_from(self._data, self._pos)
        self._pos += 4
        return int(value)

    def take(self, n_bytes: int) -> bytes:
        if not 0 <= n_bytes <= self.left():
            raise ValueError
        self._pos += n_bytes
        return self._data[self._pos - n_bytes : self._pos]

    def left(self) -> int:
        return len(self._data) - self._pos


def means(file: ImatrixFile) -> Iterator[tuple[str, np.ndarray]]:
    """Each tensor's mean squares, float32 (n_mat · ne0,), as llama-quantize has them; 1 where an expert saw nothing."""
    for name, sums in file.sums.items():
        counts = np.rint(file.counts[name]).astype(np.float32)[:, None]
        seen = counts > 0
        yield name, np.where(seen, sums / np.where(seen, counts, np.float32(1)), np.float32(1)).ravel()
