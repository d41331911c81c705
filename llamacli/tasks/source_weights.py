"""The matrices of a model file, as bytes and as numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llamacli.engine import quant_error
from llamacli.models.gguf import Header

_LAYER = re.compile(r"^blk\.(\d+)\.")


@dataclass(frozen=True, eq=False)
class SourceTensor:
    """A matrix, or one for each expert: n_matrices of `n_rows` rows with `n_columns` weights each.

    `importance`: float32 (n_matrices, n_columns), mean squares of the columns' inputs, where they are known.
    """

    path: Path
    name: str
    type: int  # ggml's number
    n_columns: int
    n_rows: int
    n_matrices: int
    offset: int  # in the file, bytes
    n_bytes: int
    importance: np.ndarray | None = None

    @property
    def layer(self) -> int | None:
        found = _LAYER.match(self.name)
        return int(found[1]) if found else None

    @property
    def kind(self) -> str:
        """The name without its layer: "attn_q.weight"."""
        return _LAYER.sub("", self.name)

    @property
    def weights(self) -> int:
        return self.n_columns * self.n_rows * self.n_matrices

    def data(self) -> np.ndarray:
        """uint8 (n_rows · n_matrices, bytes of a row), read from the file as they are used."""
        data = np.memmap(self.path, np.uint8, "r", self.offset, self.n_bytes)
        return data.reshape(self.n_rows * self.n_matrices, -1)

    def floats(self, data: np.ndarray) -> np.ndarray:
        """Rows of `data` as float32 (n, n_columns)."""
        return quant_error.floats(data, self.type, self.n_columns)

    def pieces(self, n_weights: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """The whole in order: rows as bytes, about so many weights of one matrix, and that matrix' importance."""
        step = max(1, n_weights // self.n_columns)
        for i, matrix in enumerate(self.data().reshape(self.n_matrices, self.n_rows, -1)):
            for start in range(0, self.n_rows, step):
                yield matrix[start : start + step], None if self.importance is None else self.importance[i]

    def sample(self, n_weights: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """At most so many weights: rows as float32 (n, n_columns), spread evenly, of one matrix after the other.

        Of many experts some are left out.
        """
        data = self.data().reshape(self.n_matrices, self.n_rows, -1)
        n_rows = max(1, n_weights // self.n_columns)
        chosen = _spread(self.n_matrices, n_rows)
        for i in chosen:
            rows = data[i][_spread(self.n_rows, max(1, n_rows // len(chosen)))]
            yield self.floats(rows), None if self.importance is None else self.importance[i]


def _spread(n: int, most: int) -> np.ndarray:
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(int)


def matrices(headers: Sequence[Header]) -> Iterator[SourceTensor]:
    """All tensors of a model that have rows, of two dimensions and more."""
    for header in headers:
        for tensor in header.tensors:
            if math.prod(tensor.shape[1:]) > 1:
                n_columns, n_rows, *others = tensor.shape
                yield SourceTensor(
                    path=header.path,
                    name=tensor.name,
                    type=tensor.type,
                    n_columns=n_columns,
                    n_rows=n_rows,
                    n_matrices=math.prod(others),
                    offset=header.data_offset + tensor.offset,
                    n_bytes=tensor.n_bytes,
                )
