"""Writing importance matrices as llama-imatrix does, byte for byte: in GGUF, and in the form before it (.dat)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from llamacli.models.ggml_types import F32
from llamacli.models.gguf import DEFAULT_ALIGNMENT, STRING
from llamacli.tasks.files import new_file
from llamacli.tasks.imatrix_file import ImatrixFile

_U32, _ARRAY = 4, 9  # metadata value types


def write_imatrix(path: Path, file: ImatrixFile) -> None:
    """In GGUF, in place of what is there: all of it or nothing. Raises StorageError, UsageError for a folder."""
    arrays = dict(_arrays(file))
    with new_file(path, force=True) as target:
        target.write(_header(file, arrays))
        for array in arrays.values():
            data = array.astype("<f4").tobytes()
            target.write(data + bytes(-len(data) % DEFAULT_ALIGNMENT))


def _arrays(file: ImatrixFile) -> Iterator[tuple[str, np.ndarray]]:
    for name in sorted(file.sums, key=str.encode):
        yield f"{name}.in_sum2", file.sums[name]
        yield f"{name}.counts", file.counts[name].reshape(-1, 1)


def _header(file: ImatrixFile, arrays: dict[str, np.ndarray]) -> bytes:
    """Format: ggml/src/gguf.cpp of llama.cpp."""
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(arrays), 4)]
    parts += [_string("general.type"), struct.pack("<I", STRING), _string("imatrix")]
    parts += [_string("imatrix.datasets"), struct.pack("<IIQ", _ARRAY, STRING, len(file.datasets))]
    parts += map(_string, file.datasets)
    for key, number in (("imatrix.chunk_count", file.chunk_count), ("imatrix.chunk_size", file.chunk_size)):
        parts += [_string(key), struct.pack("<II", _U32, number)]
    offset = 0
    for name, array in arrays.items():
        n_mat, n_columns = array.shape
        shape = (n_columns, n_mat) if n_mat > 1 else (n_columns,)
        parts += [_string(name), struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, F32, offset)]
        offset += array.size * 4 + -array.size * 4 % DEFAULT_ALIGNMENT
    header = b"".join(parts)
    return header + bytes(-len(header) % DEFAULT_ALIGNMENT)


def _string(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def write_legacy(path: Path, file: ImatrixFile) -> None:
    """In the form before GGUF, which has means where this has sums, and one data set. Raises as `write_imatrix`.

    Of experts that no token reached it says 1, and it leaves out tensors that none of them did.
    """
    names = [name for name in sorted(file.sums, key=str.encode) if file.counts[name].any()]
    with new_file(path, force=True) as target:
        target.write(struct.pack("<i", len(names)))
        for name in names:
            counts = file.counts[name][:, None]
            n_calls = -(-int(counts.max()) // file.chunk_size)  # rounded up: never 0
            means = np.divide(file.sums[name], counts, out=np.ones_like(file.sums[name]), where=counts > 0)
            data = name.encode()
            target.write(struct.pack(f"<i{len(data)}sii", len(data), data, n_calls, means.size))
            target.write((means * np.float32(n_calls)).astype("<f4").tobytes())
        last = file.datasets[-1].encode("utf-8", "surrogateescape") if file.datasets else b""
        target.write(struct.pack(f"<ii{len(last)}s", file.chunk_count, len(last), last))
