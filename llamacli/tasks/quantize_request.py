"""What a model is to become, beside its type: an importance matrix, types of single tensors, metadata, and the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llamacli.errors import UsageError

if TYPE_CHECKING:  # a model without an imatrix needs no numpy
    import numpy as np

    from llamacli.tasks.imatrix_file import ImatrixFile

OverrideValue = int | float | bool | str


@dataclass(frozen=True)
class Imatrix:
    """An importance matrix, and for which tensors it is used: names that contain one of these texts, or none of them.

    `path` goes into the new model's metadata, if it is a file's; so does the name of the text that it was made of.
    """

    path: Path | None
    file: ImatrixFile
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return str(self.path) if self.path is not None else "the importance matrix"

    def entries(self) -> dict[str, np.ndarray]:
        """What llama.cpp is given. Raises UsageError where nothing is left."""
        from llamacli.tasks.imatrix_file import means

        found = dict(means(self.file))
        kept = {
            name: values
            for name, values in found.items()
            if not any(text in name for text in self.exclude)
            and (not self.include or any(text in name for text in self.include))
        }
        if not kept:
            option = "--include-weights" if self.include else "--exclude-weights"
            raise UsageError(f"{option} leaves none of the {len(found)} entries of {self.name}")
        return kept


@dataclass(frozen=True)
class QuantizeOptions:
    """Everything but the models and the type. Types of tensors are ggml's numbers (`quantize_types.TENSOR_TYPES`)."""

    imatrix: Imatrix | None = None
    output_tensor_type: int | None = None
    token_embedding_type: int | None = None
    tensor_types: tuple[tuple[str, int], ...] = ()  # (regex over names, type): the first that is found decides
    allow_requantize: bool = False
    leave_output_tensor: bool = False
    pure: bool = False
    prune_layers: tuple[int, ...] = ()
    override_kv: tuple[tuple[str, OverrideValue], ...] = ()
    keep_split: bool = False
    max_buffer_size: int = 0  # bytes, 0: 8 GiB
    n_threads: int = 0  # 0: all that this process may use
    force: bool = False  # replace a target that is there
    reads: tuple[Path, ...] = ()  # further files that must not become the target


def imatrix(path: Path | None, include: Sequence[str], exclude: Sequence[str]) -> Imatrix | None:
    """The file of --imatrix. Raises UsageError, BadModelFile, StorageError."""
    if path is not None:
        from llamacli.tasks.imatrix_file import read_imatrix

        return Imatrix(path, read_imatrix(path), tuple(include), tuple(exclude))
    if include or exclude:
        raise UsageError(f"{'--include-weights' if include else '--exclude-weights'} goes with --imatrix")
    return None
