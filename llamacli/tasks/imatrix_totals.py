"""Importance matrices added up: files with files, and with what was collected."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from llamacli.engine.imatrix import Sums
from llamacli.errors import UsageError, printable
from llamacli.tasks.imatrix_file import ImatrixFile


class Totals:
    """Sums so far, by tensor, and the texts that they are of.

    float32 in steps that a file could hold: a run that goes on from a file gives what one run gives.
    """

    def __init__(self, chunk_size: int) -> None:
        self.datasets: list[str] = []
        self._chunk_size = chunk_size
        self._sums: dict[str, Sums] = {}

    @property
    def names(self) -> set[str]:
        return set(self._sums)

    @property
    def chunk_count(self) -> int:
        """As llama-imatrix counts: by the tensor that saw most."""
        return max((int(sums.counts.max()) for sums in self._sums.values()), default=0) // self._chunk_size

    def add_file(self, path: Path, file: ImatrixFile) -> None:
        """Raises UsageError where the file is of a model of another shape."""
        # The form before GGUF says how many chunks there were, but not how long they were: as long as these.
        scale = self._chunk_size if file.chunk_size == 0 else 1
        for name, values in file.sums.items():
            counts = np.rint(file.counts[name]).astype(np.int64) * scale
            self._add(name, values.ravel() * np.float32(scale), counts, f"{path}: ")
        self.datasets += file.datasets

    def add(self, collected: Mapping[str, Sums]) -> None:
        """Raises UsageError where they are of a model of another shape."""
        for name, sums in collected.items():
            known = self._sums.get(name)
            if known is not None and len(sums.counts) == 1 and len(set(known.counts)) == 1:
                known.counts = known.counts[:1]  # older files repeat the count of a tensor that has no experts
            self._add(name, sums.values, sums.counts, "")

    def _add(self, name: str, values: np.ndarray, counts: np.ndarray, place: str) -> None:
        known = self._sums.get(name)
        if known is None:
            self._sums[name] = Sums(values.copy(), counts.copy())
            return
        n, m = len(known.counts), len(counts)
        if len(known.values) != len(values) or (n != m and 1 not in (n, m)):
            raise UsageError(
                f"{place}{printable(name)} has {len(values)} sums and {m} counts here, {len(known.values)} and {n} "
                "elsewhere: these are of different models"
            )
        known.values += values
        known.counts = known.counts + counts  # one count stands for those of all experts

    def partial(self) -> dict[str, tuple[int, int]]:
        """Tensors with experts that no token reached → how many, of how many."""
        empty = {name: int((sums.counts == 0).sum()) for name, sums in self._sums.items()}
        return {name: (n, len(self._sums[name].counts)) for name, n in sorted(empty.items()) if n}

    def file(self, datasets: list[str], chunk_count: int) -> ImatrixFile:
        """As it is now; later additions change it no more."""
        return ImatrixFile(
            sums={name: sums.values.reshape(len(sums.counts), -1).copy() for name, sums in self._sums.items()},
            counts={name: sums.counts.astype(np.float32) for name, sums in self._sums.items()},
            datasets=datasets,
            chunk_count=chunk_count,
            chunk_size=self._chunk_size,
        )
