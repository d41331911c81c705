"""What a model became, or would become: tensor by tensor, and by types."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tensor:
    """A tensor before and after. `wanted` is another type than `type` where that did not fit its rows."""

    name: str
    shape: tuple[int, ...]
    type_before: str
    type: str
    wanted: str
    bytes_before: int
    bytes: int


@dataclass(frozen=True)
class TypeRow:
    """The new model's tensors of one type. `fallbacks`: how many of them should have had another type."""

    type: str
    tensors: int
    weights: int
    bytes_before: int
    bytes: int
    fallbacks: int


@dataclass(frozen=True)
class Quantized:
    """What was made, or would be: then `files` is empty. Sizes in bytes, of whole files; weights without metadata.

    `obstacle` is why it could not be made as things are.
    """

    source: Path
    type: str
    size_before: int
    size: int
    weights: int
    bits_per_weight_before: float
    bits_per_weight: float
    tensors: tuple[Tensor, ...]
    warnings: tuple[str, ...]
    obstacle: str | None
    files: tuple[Path, ...] = ()
    file_sizes: tuple[int, ...] = ()
    seconds: float = 0.0

    @property
    def types(self) -> tuple[TypeRow, ...]:
        """Tensors by type, the one with most bytes first."""
        rows = []
        for kind in {tensor.type for tensor in self.tensors}:
            tensors = [tensor for tensor in self.tensors if tensor.type == kind]
            rows.append(
                TypeRow(
                    type=kind,
                    tensors=len(tensors),
                    weights=sum(math.prod(t.shape) for t in tensors),
                    bytes_before=sum(t.bytes_before for t in tensors),
                    bytes=sum(t.bytes for t in tensors),
                    fallbacks=sum(t.type != t.wanted for t in tensors),
                )
            )
        return tuple(sorted(rows, key=lambda row: (-row.bytes, row.type)))

    @property
    def fallbacks(self) -> tuple[Tensor, ...]:
        return tuple(tensor for tensor in self.tensors if tensor.type != tensor.wanted)
