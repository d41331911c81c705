"""Quantise a model: what would become of it, and the file itself, written beside its name and put there when whole."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from llamacli.tasks.quantize_plan import Plan
from llamacli.tasks.quantize_request import QuantizeOptions
from llamacli.tasks.quantize_result import Quantized
from llamacli.tasks.quantize_types import QuantType
from llamacli.tasks.quantize_write import Progress, targets, write


def plan(source: Path, kind: QuantType, options: QuantizeOptions) -> Quantized:
    """What `quantize` would make, exactly, without writing. Raises UsageError, and what reading the source raises."""
    return Plan(source, kind, options).result()


def check(
    source: Path, target: Path | None, kind: QuantType, options: QuantizeOptions, *, imatrix_follows: bool = False
) -> Quantized:
    """As `plan`, and raises what would keep `quantize` from beginning.

    Without a target nothing is to be written. `imatrix_follows`: an importance matrix is still to be made.
    """
    planned = Plan(source, kind, options)
    if target is not None:
        targets(planned, target)
        if (refused := planned.requantized if imatrix_follows else planned.refused) is not None:
            raise refused
    return planned.result()


def quantize(
    source: Path,
    target: Path,
    kind: QuantType,
    options: QuantizeOptions,
    *,
    on_progress: Progress | None = None,
) -> Quantized:
    """Make `target`, or nothing: it appears, or is replaced, when all is written and on the disk.

    With keep_split, `target` gives the parts their names. A signal that is not deferred ends the process and leaves
    nothing; the next call removes what a killed one left. Raises UsageError where the target is what is read, is there
    without `force`, or the options do not fit the model; BadModelFile, OutOfMemory, StorageError, EngineError.
    """
    began = time.monotonic()
    planned = Plan(source, kind, options)
    files = targets(planned, target)
    if planned.refused is not None:
        raise planned.refused
    sizes = write(planned, files, on_progress)
    return replace(
        planned.result(),
        size=sum(sizes),
        files=tuple(files),
        file_sizes=tuple(sizes),
        seconds=time.monotonic() - began,
    )
