"""The files of a quantised model: where they may stand, and that all of them are there or none."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from llamacli.engine import quantize as engine
from llamacli.errors import EngineError, LlamacliError, StorageError, UsageError, printable
from llamacli.models import gguf, reference
from llamacli.models.quant import renamed
from llamacli.tasks.files import WriteBehind, refuse, staged
from llamacli.tasks.quantize_plan import Plan, sized
from llamacli.tasks.quantize_sizes import padded

#: done and all bytes of the source's tensors, and the tensor whose turn it is.
Progress = Callable[[int, int, str], None]

_PART = re.compile(r"-\d{5}-of-\d{5}$")


def default_target(named: str, source: Path, quant: str) -> Path:
    """Where a model of type `quant` goes that is not told where: beside its source if that was `named` by its path.

    Else (the built-in model, a pulled one, one of Ollama's) into the current folder: a cache is no place for it.
    """
    meant = reference.parse(named)
    beside = meant.path is not None and named != reference.BUILTIN
    name = source.name if source.suffix == ".gguf" else re.sub(r"[^\w.-]+", "-", meant.ollama or source.name)
    stem = _stem(name)
    return (source.parent if beside else Path()) / f"{renamed(stem, 'copy' if quant == 'COPY' else quant)}.gguf"


def targets(plan: Plan, target: Path) -> list[Path]:
    """The files to write: with keep_split, `target` gives the parts their names.

    Raises UsageError where they may not be written.
    """
    if not target.name or target == Path("-"):
        raise UsageError(f"{target}: a model is written to a file", hint="-o FILE.gguf")
    options, found = plan.options, [target]
    if options.keep_split:
        n = len(plan.sizes)
        found = [target.with_name(f"{_stem(target.name)}-{i + 1:05}-of-{n:05}.gguf") for i in range(n)]
    parts = [part.path for part in plan.parts]
    read = [*parts, *options.reads]
    if options.imatrix is not None and options.imatrix.path is not None:
        read.append(options.imatrix.path)
    for path in found:
        for source in read:
            if _same(path, source):
                what = "the model itself" if source in parts else "read for it"
                raise UsageError(f"{path} is {what}: it would be destroyed", hint="another name for the new file")
        if path.exists() and not path.is_file() and not path.is_dir():
            raise UsageError(f"{path} is a device or a pipe", hint="--dry-run shows the sizes without writing")
        refuse(path, force=options.force)
    return found


def write(plan: Plan, found: Sequence[Path], on_progress: Progress | None) -> list[int]:
    """Write these files; their sizes in bytes. Raises StorageError where the disk is full, and as the engine."""
    places = [_place(each, alone=len(found) == 1) for each in found]
    with staged(places, sum(plan.sizes)) as folder:
        written = [folder / each.name for each in places]
        _quantize(plan, written, on_progress)
        return [_whole(path, each) for path, each in zip(written, found, strict=True)]


def _quantize(plan: Plan, written: Sequence[Path], on_progress: Progress | None) -> None:
    sizes = iter([tensor.bytes_before for tensor in plan.tensors])
    total = sum(tensor.bytes_before for tensor in plan.tensors)
    done = running = 0
    behind = WriteBehind(written)

    def watch(name: str) -> None:
        nonlocal done, running
        behind.nudge()
        done += running
        running = next(sizes, 0)
        if on_progress is not None:
            on_progress(done, total, name)

    out = written[0]
    if plan.options.keep_split:
        out = out.with_name(_stem(out.name))
    try:
        made = engine.quantize(plan.source, out, plan.params, watch)
    except engine.WriteError as error:
        raise _why_not_written(written, error) from error
    if [sized(tensor) for tensor in made] != [*plan.tensors]:
        raise EngineError(f"{plan.source} changed while it was quantised")


def _stem(name: str) -> str:
    """Without the ending, and without the number of a part."""
    return _PART.sub("", name.removesuffix(".gguf"))


def _place(path: Path, *, alone: bool) -> Path:
    """Where a target is: links are followed, but parts of a split model stay in one folder."""
    return Path(os.path.realpath(path)) if alone else Path(os.path.realpath(path.parent)) / path.name


def _same(path: Path, other: Path) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def _why_not_written(written: Sequence[Path], error: Exception) -> LlamacliError:
    """C++ keeps the reason to itself: ask the system by writing a little more to the last file."""
    last = next((path for path in reversed(written) if path.exists()), written[0])
    try:
        with last.open("ab") as file:
            file.write(bytes(1 << 16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as found:
        full = found.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else found.strerror or str(found)
        return StorageError(f"{last.parent.parent}: {reason}", hint="make room and start again" if full else None)
    return StorageError(f"{last.parent.parent}: the new model could not be written: {printable(str(error))}")


def _whole(path: Path, target: Path) -> int:
    """Bytes of a model that was written. Raises StorageError where some are missing, which C++ need not have told."""
    try:
        header = gguf.read_header(path)
        tensors = header.tensors
        end = tensors[-1].offset + padded(tensors[-1].n_bytes) if tensors else 0
        if header.data_offset + end != header.file_size and tensors:
            raise StorageError(f"{target}: {header.file_size:,} of {header.data_offset + end:,} bytes were written")
    except LlamacliError as error:
        raise StorageError(f"{target}: it was not written whole: {error.message}") from error
    return header.file_size
