"""Reading importance matrices: llama.cpp's GGUF form, and the form it had before (.dat)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llamacli.errors import BadModelFile
from llamacli.models import gguf
from llamacli.models.ggml_types import F32
from llamacli.tasks.prompt import read_file

_SUMS, _COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True)
class ImatrixFile:
    """An importance matrix.

    `sums`: of each tensor float32 (n_mat, ne0), the squares of its inputs summed; `counts`: float32 (n_mat,), the rows
    that were summed. n_mat counts experts, and is 1 for other tensors. The form before GGUF has chunk_size 0, in
    `counts` the number of chunks, and in `sums` so many times the mean square.
    """

    sums: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]
    datasets: list[str]
    chunk_count: int
    chunk_size: int


def read_imatrix(path: Path) -> ImatrixFile:
    """Raises UsageError where there is no such file, BadModelFile where it is no importance matrix, StorageError."""
    data = read_file(path, str(path))
    return _read_gguf(path, data) if data[:4] == b"GGUF" else _read_legacy(path, data)


def _read_gguf(path: Path, data: bytes) -> ImatrixFile:
    header = gguf.read_header(path)
    arrays = {}
    for tensor in header.tensors:
        if tensor.type != F32:
            raise BadModelFile(f"{path}: no importance matrix: {gguf.brief(tensor.name)} is not F32")
        start = header.data_offset + tensor.offset
        values = np.frombuffer(data, "<f4", tensor.n_bytes // 4, start).astype(np.float32)
        arrays[tensor.name] = values.reshape(-1, tensor.shape[0])
    names = sorted(name.removesuffix(_SUMS) for name in arrays if name.endswith(_SUMS))
    if not names or len(arrays) != 2 * len(names) or any(name + _COUNTS not in arrays for name in names):
        raise BadModelFile(f"{path}: a GGUF file, but no importance matrix")
    datasets = header.metadata.get("imatrix.datasets")
    return ImatrixFile(
        sums={name: arrays[name + _SUMS] for name in names},
        counts={name: arrays[name + _COUNTS].ravel() for name in names},
        datasets=datasets.values() if isinstance(datasets, gguf.Array) else [],
        chunk_count=_number(header, "imatrix.chunk_count"),
        chunk_size=_number(header, "imatrix.chunk_size"),
    )


def _number(header: gguf.Header, key: str) -> int:
    value = header.metadata.get(key)
    return value if isinstance(value, int) else 0


def _read_legacy(path: Path, data: bytes) -> ImatrixFile:
    sums, counts, pos = {}, {}, 4
    try:
        (n_entries,) = struct.unpack_from("<i", data)
        if not 0 < n_entries <= len(data):
            raise BadModelFile(f"{path}: no importance matrix")
        for _ in range(n_entries):
            (length,) = struct.unpack_from("<i", data, pos)
            name = data[pos + 4 : pos + 4 + length].decode("utf-8", "replace")
            n_calls, n_values = struct.unpack_from("<ii", data, pos := pos + 4 + length)
            if length < 1 or n_values < 1:
                raise BadModelFile(f"{path}: no importance matrix")
            sums[name] = np.frombuffer(data, "<f4", n_values, pos + 8).astype(np.float32).reshape(1, -1)
            counts[name] = np.array([n_calls], np.float32)
            pos += 8 + 4 * n_values
    except (struct.error, ValueError) as error:
        raise BadModelFile(f"{path}: no importance matrix, or cut short") from error
    datasets, chunk_count = [], 0
    if len(data) >= pos + 8:
        chunk_count, length = struct.unpack_from("<ii", data, pos)
        datasets = [data[pos + 8 : pos + 8 + length].decode("utf-8", "replace")] if length > 0 else []
    return ImatrixFile(sums, counts, datasets, chunk_count, 0)
