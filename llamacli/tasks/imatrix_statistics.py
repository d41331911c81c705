"""What an importance matrix says of each tensor and layer: llama-imatrix's `--show-statistics`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from llamacli.tasks.imatrix_file import ImatrixFile

_INACTIVE = 1e-5


@dataclass(frozen=True)
class TensorStatistics:
    """Of the mean squares of one tensor's inputs, a number for each column (and expert that was reached).

    `active`: the share above 1e-5; `entropy` in bits; `zd`: the share more than a deviation above the mean; `cossim`:
    how alike the sums of the same tensor one layer before are (0 where there is none).
    """

    name: str
    layer: int | None
    tensor: str
    sum: float
    min: float
    max: float
    mean: float
    deviation: float
    active: float
    n: int
    entropy: float
    zd: float
    cossim: float

    @property
    def entropy_norm(self) -> float:
        """1 where all columns matter alike."""
        return self.entropy / math.log2(self.n) if self.n > 1 else 0.0


@dataclass(frozen=True)
class LayerStatistics:
    """Means over a layer's tensors, weighted by their size."""

    layer: int
    sum: float
    zd: float
    cossim: float


def by_tensor(file: ImatrixFile) -> list[TensorStatistics]:
    """By the tensor's kind, the largest sum first; tensors that no token reached are left out."""
    found = [s for name in file.sums if (s := _statistics(name, file)) is not None]
    return sorted(found, key=lambda s: (s.tensor, -s.sum))


def _statistics(name: str, file: ImatrixFile) -> TensorStatistics | None:
    counts = file.counts[name]
    means = (file.sums[name][counts > 0] / counts[counts > 0, None]).ravel().astype(np.float64)
    if not means.size:
        return None
    layer, tensor = _parts(name)
    mean, deviation, total = float(means.mean()), float(means.std()), float(means.sum())
    shares = means[means > 0] / total if total > 0 else np.empty(0)
    return TensorStatistics(
        name=name,
        layer=layer,
        tensor=tensor,
        sum=total,
        min=float(means.min()),
        max=float(means.max()),
        mean=mean,
        deviation=deviation,
        active=float((means > _INACTIVE).mean()),
        n=means.size,
        entropy=float(-(shares * np.log2(shares)).sum()),
        zd=float(((means - mean) / deviation > 1).mean()) if deviation > 0 else 0.0,
        cossim=_cossim(name, file.sums),
    )


def _parts(name: str) -> tuple[int | None, str]:
    """blk.3.attn_q.weight → 3, attn_q"""
    block = re.search(r"(?:^|\.)blk\.(\d+)\.", name)
    tensor = re.search(r"([^.]+)\.weight", name)
    return int(block[1]) if block else None, tensor[1] if tensor else name


def _cossim(name: str, sums: Mapping[str, np.ndarray]) -> float:
    before = re.sub(r"blk\.(\d+)\.", lambda block: f"blk.{int(block[1]) - 1}.", name, count=1)
    if before == name or before not in sums or sums[before].size != sums[name].size:
        return 0.0
    a, b = (sums[n].ravel().astype(np.float64) for n in (name, before))
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size > 0 else 0.0


def by_layer(tensors: Iterable[TensorStatistics]) -> list[LayerStatistics]:
    """From the first layer on; what belongs to none is left out."""
    layers: dict[int, list[TensorStatistics]] = {}
    for tensor in tensors:
        if tensor.layer is not None:
            layers.setdefault(tensor.layer, []).append(tensor)
    return [_mean(layer, found) for layer, found in sorted(layers.items())]


def _mean(layer: int, tensors: list[TensorStatistics]) -> LayerStatistics:
    weights = [tensor.n for tensor in tensors]
    columns = [(t.sum, t.zd, t.cossim) for t in tensors]
    return LayerStatistics(layer, *(float(x) for x in np.average(columns, axis=0, weights=weights)))
