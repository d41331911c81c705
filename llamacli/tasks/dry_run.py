"""What a pull would bring: its files, what of them is here, room on the disk, and whether it fits in memory.

Only the head of one model is fetched, a few MiB: the other quants of a repository differ in the size of their weights.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llamacli.engine.offload import Shape
from llamacli.errors import BadModelFile, printable
from llamacli.models import pull, remote_header
from llamacli.models.gguf import Header, TensorInfo, read_header
from llamacli.models.pull import Variant
from llamacli.tasks import memory as estimates
from llamacli.tasks.fit import Fit, Machine, Verdict, fit, machine
from llamacli.tasks.memory import Memory
from llamacli.tasks.pull import Asked, Plan

#: What no recommendation prefers: twice the size of Q8_0, and no better that anybody could tell.
_UNQUANTISED = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class PlannedFile:
    """A file that would come; bytes of it that are here already."""

    name: str
    size: int
    here: int


@dataclass(frozen=True)
class Quant:
    """A model of the repository. `name` is what pull takes; `memory` estimated bytes, None where that is not known.

    `comes`: it is the one that would come. `gpu_layers`: how many layers the GPUs would hold.
    """

    name: str
    quant: str
    files: tuple[str, ...]
    size: int
    here: int
    memory: int | None
    fit: Verdict
    gpu_layers: int
    comes: bool
    recommended: bool


@dataclass(frozen=True)
class Gpu:
    """Bytes that are free now."""

    name: str
    memory_free: int


@dataclass(frozen=True)
class DryRun:
    """What would come, sizes in bytes. Without `quant` and `files`: none is chosen yet.

    `missing` is what is still to be fetched, `cache` where it would go; `memory` and `fit` are those of what would
    come. `remark` says why there is no estimate.
    """

    model: str
    repository: str
    revision: str
    commit: str
    quant: str
    files: tuple[PlannedFile, ...]
    size: int
    missing: int
    cache: Path
    disk_free: int | None
    n_ctx: int | None
    memory: Memory | None
    fit: Fit | None
    ram_available: int | None
    gpus: tuple[Gpu, ...]
    remark: str | None
    quants: tuple[Quant, ...]


@dataclass(frozen=True)
class _Basis:
    """The model whose header was read: the others' estimates come from its own. `extra`: bytes that are no weights."""

    variant: Variant
    memory: Memory
    shape: Shape
    tensors: Sequence[TensorInfo]
    extra: int

    def of(self, variant: Variant) -> tuple[Memory, Shape]:
        """The estimate for a model of the repository."""
        if variant == self.variant:
            return self.memory, self.shape
        weights = max(variant.size - self.extra, 0)
        memory = estimates.with_weights(self.memory, weights, estimates.repacked_as(self.tensors, variant.quant))
        scale = weights / max(self.memory.weights, 1)
        return memory, replace(self.shape, layer_bytes=tuple(int(n * scale) for n in self.shape.layer_bytes))


@dataclass(frozen=True)
class _Row:
    """A model of the repository with what is known of it."""

    variant: Variant
    memory: Memory | None = None
    fit: Fit | None = None

    @property
    def verdict(self) -> Verdict:
        return self.fit.verdict if self.fit else "unknown"


def dry_run(asked: Asked, *, n_ctx: int | None = None, pick: bool = False) -> DryRun:
    """What a pull would bring, and what else it could. `pick`: nothing is chosen yet. `n_ctx` as in memory.estimate.

    Raises ModelNotFound, UsageError, NetworkError, AccessDenied, StorageError.
    """
    repository, whole = asked.repository, pull.variants(asked.repository)
    present = [variant for variant in whole if len(variant.files) == variant.n_parts] or whole
    chosen = None if pick else asked.find()
    if chosen is None and (asked.named or not present):
        chosen = asked.plan().variant  # raises with what there is
    if chosen is not None:
        chosen.refuse_parts_missing()
        for file in chosen.files:
            pull.place(repository, file)  # raises for a name that leads out of the cache
    computer = machine()
    basis, remark = _basis(asked, chosen if chosen in present else next(iter(present), None), n_ctx)
    rows = [_row(variant, basis, computer) for variant in present]
    if chosen and chosen not in present:  # a vision part, say
        rows.append(_Row(chosen))
    best = recommended([(row.variant, row.verdict) for row in rows])
    mine = next((row for row in rows if row.variant == chosen), None)
    files = [PlannedFile(file.name, file.size, pull.here(repository, file)) for file in chosen.files] if chosen else []
    return DryRun(
        model=asked.reference.text,
        repository=repository.id,
        revision=repository.revision,
        commit=repository.commit,
        quant=chosen.quant if chosen else "",
        files=tuple(files),
        size=sum(file.size for file in files),
        missing=sum(file.size - file.here for file in files),
        cache=pull.cache(repository),
        disk_free=_disk_free(pull.cache(repository)),
        n_ctx=basis.memory.n_ctx if basis else None,
        memory=mine.memory if mine else None,
        fit=mine.fit if mine else None,
        ram_available=computer.ram,
        gpus=tuple(Gpu(gpu.name, gpu.memory_free) for gpu in computer.gpus),
        remark=remark,
        quants=tuple(_quant(asked, row, rows, comes=row is mine, recommended=row.variant == best) for row in rows),
    )


def plan(asked: Asked, quant: Quant) -> Plan:
    """The pull of a model that was picked."""
    return asked.plan(next(v for v in pull.variants(asked.repository) if v.files[0].name == quant.files[0]))


def recommended(rows: Sequence[tuple[Variant, Verdict]]) -> Variant | None:
    """The best quality that fits: the largest quantised model. Where none fits well the smallest that just does."""
    fitting = [variant for variant, verdict in rows if verdict == "fits"]
    quantised = [variant for variant in fitting if variant.quant not in _UNQUANTISED]
    tight = [variant for variant, verdict in rows if verdict == "tight"]
    if fitting:
        return max(quantised or fitting, key=lambda variant: variant.size)
    return min(tight, key=lambda variant: variant.size, default=None)


def _row(variant: Variant, basis: _Basis | None, computer: Machine) -> _Row:
    if basis is None:
        return _Row(variant)
    memory, shape = basis.of(variant)
    return _Row(variant, memory, fit(memory, shape, computer))


def _quant(asked: Asked, row: _Row, rows: Sequence[_Row], *, comes: bool, recommended: bool) -> Quant:
    variant, repository = row.variant, asked.repository
    alone = repository.commit and variant.quant and [r.variant.quant for r in rows].count(variant.quant) == 1
    return Quant(
        name=f"{repository.id}:{variant.quant}" if alone else f"{repository.id}/{variant.files[0].name}",
        quant=variant.quant,
        files=tuple(file.name for file in variant.files),
        size=variant.size,
        here=sum(pull.here(repository, file) for file in variant.files),
        memory=row.memory.total if row.memory else None,
        fit=row.verdict,
        gpu_layers=row.fit.gpu_layers if row.fit else 0,
        comes=comes,
        recommended=recommended,
    )


def _basis(asked: Asked, variant: Variant | None, n_ctx: int | None) -> tuple[_Basis | None, str | None]:
    """Read a model's header, or say why there is no estimate."""
    if variant is None:
        return None, None
    try:
        with _headers(asked, variant) as headers:
            memory, shape = estimates.estimate(headers, n_ctx=n_ctx), estimates.shape_of(headers)
            tensors = estimates.tensors_of(headers)
    except BadModelFile as error:
        return None, error.message
    if memory is None or shape is None:
        return None, f"{printable(variant.files[0].name)} writes no text, so no memory is estimated"
    return _Basis(variant, memory, shape, tensors, variant.size - memory.weights), None


@contextlib.contextmanager
def _headers(asked: Asked, variant: Variant) -> Iterator[list[Header]]:
    """From the disk where all files are here."""
    if all(pull.here(asked.repository, file) == file.size for file in variant.files):
        places = [pull.place(asked.repository, file) for file in variant.files]
        if all(place.exists() for place in places):
            yield [read_header(place) for place in places]
            return
    with remote_header.headers(asked.repository, variant.files, asked.token) as headers:
        yield headers


def _disk_free(folder: Path) -> int | None:
    """Bytes that are free where this folder is, or would be made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
