"""Quantise a model: what would become of it, and the file itself, written beside its name and put there when whole."""

from __future__ import annotations

import errno
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llamacli.engine import quantize as engine
from llamacli.engine.types import QuantizedTensor, QuantizeParams
from llamacli.errors import EngineError, LlamacliError, StorageError, UsageError, printable
from llamacli.models import gguf, gguf_checks, reference
from llamacli.models.ggml_types import GGML_TYPES, type_name
from llamacli.models.gguf import DEFAULT_ALIGNMENT, Header
from llamacli.models.quant import renamed
from llamacli.tasks.files import WriteBehind, refuse, staged
from llamacli.tasks.quantize_types import QuantType

if TYPE_CHECKING:  # a model without an imatrix needs no numpy
    import numpy as np

    from llamacli.tasks.imatrix_file import ImatrixFile

#: done and all bytes of the source's tensors, and the tensor whose turn it is.
Progress = Callable[[int, int, str], None]
OverrideValue = int | float | bool | str

_IDS = {kind.name: number for number, kind in GGML_TYPES.items()}
_FLOATS = ("F32", "F16", "BF16")
_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
_OUTPUT = "output.weight"
#: ggml asserts that these have an imatrix; of the others llama.cpp's quantiser says that they would be garbage.
_NEVER_WITHOUT = ("IQ2_XXS", "IQ2_XS", "IQ1_S")
_BAD_WITHOUT = ("IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S")
_LAYER = re.compile(r"^blk\.(\d+)\.")
_PART = re.compile(r"-\d{5}-of-\d{5}$")
_SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")


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

        if self.include and self.exclude:
            raise UsageError("--include-weights and --exclude-weights exclude each other")
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


def imatrix(path: Path | None, include: Sequence[str], exclude: Sequence[str]) -> Imatrix | None:
    """The file of --imatrix. Raises UsageError, BadModelFile, StorageError."""
    if path is not None:
        from llamacli.tasks.imatrix_file import read_imatrix

        return Imatrix(path, read_imatrix(path), tuple(include), tuple(exclude))
    if include or exclude:
        raise UsageError(f"{'--include-weights' if include else '--exclude-weights'} goes with --imatrix")
    return None


def default_target(named: str, source: Path, quant: str) -> Path:
    """Where a model of type `quant` goes that is not told where: beside its source if that was `named` by its path.

    Else (the built-in model, a pulled one, one of Ollama's) into the current folder: a cache is no place for it.
    """
    meant = reference.parse(named)
    beside = meant.path is not None and named != reference.BUILTIN
    name = source.name if source.suffix == ".gguf" else re.sub(r"[^\w.-]+", "-", meant.ollama or source.name)
    stem = _PART.sub("", name.removesuffix(".gguf"))
    return (source.parent if beside else Path()) / f"{renamed(stem, 'copy' if quant == 'COPY' else quant)}.gguf"


def plan(source: Path, kind: QuantType, options: QuantizeOptions) -> Quantized:
    """What `quantize` would make, exactly, without writing. Raises UsageError, and what reading the source raises."""
    return _Job(source, kind, options).planned


def check(source: Path, target: Path, kind: QuantType, options: QuantizeOptions) -> Quantized:
    """As `plan`, and raises what would keep `quantize` from beginning."""
    job = _Job(source, kind, options)
    job.targets(target)
    if job.refused is not None:
        raise job.refused
    return job.planned


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
    job = _Job(source, kind, options)
    targets = job.targets(target)
    if job.refused is not None:
        raise job.refused
    places = [_place(each, alone=len(targets) == 1) for each in targets]
    with staged(places, sum(job.sizes)) as folder:
        written = [folder / each.name for each in places]
        job.write(written, on_progress)
        sizes = [_whole(path, each) for path, each in zip(written, targets, strict=True)]
    return replace(
        job.planned,
        size=sum(sizes),
        files=tuple(targets),
        file_sizes=tuple(sizes),
        seconds=time.monotonic() - began,
    )


class _Job:
    """A model's headers, what llama.cpp is told, and what it would make of each tensor."""

    def __init__(self, source: Path, kind: QuantType, options: QuantizeOptions) -> None:
        self.source, self.kind, self.options = source, kind, options
        self.parts = headers(source)
        self.entries = options.imatrix.entries() if options.imatrix else {}
        self._check_options()
        self.params = self._params()
        tensors = engine.quantize(source, None, self.params)
        self._original = self._unpruned(options.prune_layers)
        self.tensors = tuple(_sized(tensor) for tensor in tensors)
        self._check_types()
        self.sizes = self._file_sizes()
        self.refused = self._missing_imatrix() or self._requantized()
        self.planned = self._planned()

    # --- options ------------------------------------------------------------------------------------------------

    def _params(self) -> QuantizeParams:
        options = self.options
        return QuantizeParams(
            ftype=self.kind.ftype,
            nthread=options.n_threads,
            output_tensor_type=options.output_tensor_type,
            token_embedding_type=options.token_embedding_type,
            allow_requantize=options.allow_requantize,
            quantize_output_tensor=not options.leave_output_tensor,
            only_copy=self.kind.name == "COPY",
            pure=options.pure,
            keep_split=options.keep_split,
            imatrix=self.entries,
            kv_overrides=self._overrides(),
            tt_overrides=tuple((_lower(pattern), number) for pattern, number in options.tensor_types),
            prune_layers=options.prune_layers,
            max_buf_size=options.max_buffer_size,
        )

    def _overrides(self) -> tuple[tuple[str, OverrideValue], ...]:
        """The user's, and as llama-quantize says them, whence an imatrix came."""
        found = [*self.options.override_kv]
        if self.parts[0].alignment != DEFAULT_ALIGNMENT:
            found.append(("general.alignment", DEFAULT_ALIGNMENT))  # llama.cpp keeps the number, and does not obey it
        if (imatrix := self.options.imatrix) is not None:
            if imatrix.path is not None:
                found.append(("quantize.imatrix.file", _cut(str(imatrix.path))))
            if imatrix.file.datasets:
                found.append(("quantize.imatrix.dataset", _cut(imatrix.file.datasets[0])))
            found.append(("quantize.imatrix.entries_count", len(self.entries)))
            if imatrix.file.chunk_count > 0:
                found.append(("quantize.imatrix.chunks_count", imatrix.file.chunk_count))
        return tuple(found)

    def _check_options(self) -> None:
        options, name = self.options, self.kind.name
        if name == "COPY":
            for option, given in (
                ("--pure", options.pure),
                ("--output-tensor-type", options.output_tensor_type is not None),
                ("--token-embedding-type", options.token_embedding_type is not None),
            ):
                if given:
                    raise UsageError(f"COPY changes no tensor, so {option} has no effect")
        if options.tensor_types and (name in _FLOATS or name == "COPY"):
            raise UsageError(
                f"llama.cpp heeds --tensor-type only beside a quantised type, not beside {name}",
                hint="a type such as Q8_0 for the others, or --tensor-type '.=f16' as the last one",
            )
        n_layer = self.parts[0].hparam("block_count")
        for layer in options.prune_layers:
            if not isinstance(n_layer, int) or layer >= n_layer:
                last = n_layer - 1 if isinstance(n_layer, int) else "?"
                raise UsageError(f"--prune-layers {layer}: the layers of {self.source} are 0 to {last}")
        if isinstance(n_layer, int) and len(options.prune_layers) == n_layer:
            raise UsageError(f"--prune-layers leaves none of the {n_layer} layers")

    def _unpruned(self, pruned: Sequence[int]) -> dict[str, str]:
        """Numbers of layers in the new model → in the old one."""
        n_layer = self.parts[0].hparam("block_count")
        if not pruned or not isinstance(n_layer, int):
            return {}
        kept = [layer for layer in range(n_layer) if layer not in pruned]
        return {str(new): str(old) for new, old in enumerate(kept)}

    def _old_name(self, name: str) -> str:
        return _LAYER.sub(lambda found: f"blk.{self._original.get(found[1], found[1])}.", name)

    # --- what cannot be -----------------------------------------------------------------------------------------

    def _check_types(self) -> None:
        """What would end in an abort of llama.cpp, or only after an hour. Raises UsageError."""
        for tensor in self.tensors:
            block = GGML_TYPES[_IDS[tensor.type]].block_size
            if tensor.shape[0] % block:
                option = "--output-tensor-type" if tensor.name == _OUTPUT else "--token-embedding-type"
                raise UsageError(
                    f"{option} {tensor.type.lower()}: the rows of {printable(tensor.name)} have {tensor.shape[0]:,} "
                    f"weights, and the type comes in blocks of {block}"
                )
            values = self.entries.get(self._old_name(tensor.name))
            expected = tensor.shape[0] * (tensor.shape[2] if len(tensor.shape) > 2 else 1)
            if values is None or tensor.type == tensor.type_before or tensor.name in _EMBEDDINGS:
                continue
            if values.size != expected and self.options.imatrix is not None:
                raise UsageError(
                    f"{self.options.imatrix.name} is of another model: it has {values.size:,} values for "
                    f"{printable(tensor.name)}, and {expected:,} are needed"
                )

    def _missing_imatrix(self) -> UsageError | None:
        for tensor in self._without_imatrix():
            own = tensor.name not in _EMBEDDINGS and tensor.name != _OUTPUT
            bad = tensor.type in _BAD_WITHOUT or (tensor.type == "Q2_K" and self.kind.name == "Q2_K_S")
            if tensor.type in _NEVER_WITHOUT or (own and bad):
                has = f"which has nothing for {printable(tensor.name)}" if self.entries else "and none is given"
                becomes = f"{printable(tensor.name)} becomes {tensor.type}"
                return UsageError(
                    f"{self.kind.name} needs an importance matrix ({becomes}), {has}",
                    hint="llamacli imatrix -m MODEL TEXT makes one; then --imatrix FILE",
                )
        return None

    def _without_imatrix(self) -> Iterator[Tensor]:
        for tensor in self.tensors:
            if tensor.type != tensor.type_before:
                values = self.entries.get(self._old_name(tensor.name))
                if values is None or values.size != tensor.shape[0] * math.prod(tensor.shape[2:]):
                    yield tensor

    def _requantized(self) -> UsageError | None:
        if self.options.allow_requantize:
            return None
        again = [t for t in self.tensors if t.type != t.type_before and t.type_before not in _FLOATS]
        if not again:
            return None
        return UsageError(
            f"{self.source} is quantised already: {len(again)} tensors, {printable(again[0].name)} as "
            f"{again[0].type_before}",
            hint="start from the F16 or BF16 file; --allow-requantize does it nevertheless, and loses more",
        )

    def _warnings(self) -> Iterator[str]:
        if self.params.only_copy and self.entries:
            yield "COPY changes no tensor: the importance matrix only gets into the metadata"
        for pattern, number in self.options.tensor_types:
            try:
                found = any(re.search(_lower(pattern), tensor.name) for tensor in self.tensors)
            except re.error:  # C++ took it
                continue
            if not found:
                yield f"--tensor-type {pattern}={type_name(number).lower()} is the name of no tensor"
        if self.entries and self.refused is None:
            lost = [t for t in self._without_imatrix() if t.name not in _EMBEDDINGS and t.name != _OUTPUT]
            lost = [t for t in lost if t.type not in _FLOATS]
            if lost:
                yield (
                    f"the importance matrix has nothing for {len(lost)} of {len(self.tensors)} tensors, "
                    f"such as {lost[0].name}"
                )

    # --- sizes --------------------------------------------------------------------------------------------------

    def _planned(self) -> Quantized:
        weights = sum(math.prod(tensor.shape) for tensor in self.tensors)
        before = sum(tensor.n_bytes for part in self.parts for tensor in part.tensors)
        n_before = sum(part.n_elements for part in self.parts)
        return Quantized(
            source=self.source,
            type=self.kind.name,
            size_before=sum(part.file_size for part in self.parts),
            size=sum(self.sizes),
            weights=weights,
            bits_per_weight_before=8 * before / n_before,
            bits_per_weight=8 * sum(tensor.bytes for tensor in self.tensors) / weights,
            tensors=self.tensors,
            warnings=tuple(self._warnings()),
            obstacle=self.refused.message if self.refused else None,
            file_sizes=tuple(self.sizes),
        )

    def _file_sizes(self) -> list[int]:
        """Bytes of each file, as gguf_get_meta_size and the padding of llama_model_quantize_impl give them."""
        owner = {tensor.name: i for i, part in enumerate(self.parts) for tensor in part.tensors}
        last = max(owner[self._old_name(tensor.name)] for tensor in self.tensors)
        n_files = last + 1 if self.options.keep_split else 1
        headers, data = [24] * n_files, [0] * n_files
        headers[0] += self._metadata_size()
        for tensor in self.tensors:
            i = owner[self._old_name(tensor.name)] if self.options.keep_split else 0
            headers[i] += 24 + len(tensor.name.encode()) + 8 * len(tensor.shape)
            data[i] += _padded(tensor.bytes)
        if n_files > 1:
            split = sum(_pair_size(key, n_bytes) for key, n_bytes in zip(_SPLIT_KEYS, (2, 2, 4), strict=True))
            headers = [size + split for size in headers]
        empty = [i for i in range(1, n_files) if not data[i]]
        if empty:
            raise UsageError(f"--keep-split: no tensor of part {empty[0] + 1} is left", hint="leave --keep-split out")
        return [_padded(size) + n_bytes for size, n_bytes in zip(headers, data, strict=True)]

    def _metadata_size(self) -> int:
        """The old metadata, without what is removed, with what is set."""
        header = self.parts[0]
        sizes: dict[str, int | None] = dict.fromkeys(_SPLIT_KEYS)
        sizes |= {"general.quantization_version": 4, "general.file_type": 4}
        for key, value in self.params.kv_overrides:
            sizes[key] = 8 + len(_bytes(value)) if isinstance(value, str) else 1 if isinstance(value, bool) else 4
        if self.options.prune_layers:
            sizes[f"{header.architecture}.block_count"] = 4
        total = header.tensors_offset - 24
        for key, size in sizes.items():
            if key in header.metadata:
                total -= _pair_size(key, _value_size(header, key))
            if size is not None:
                total += _pair_size(key, size)
        return total

    # --- writing ------------------------------------------------------------------------------------------------

    def targets(self, target: Path) -> list[Path]:
        """The files to write. Raises UsageError where they may not be written."""
        if not target.name or target == Path("-"):
            raise UsageError(f"{target}: a model is written to a file", hint="-o FILE.gguf")
        found = [target]
        if self.options.keep_split:
            stem = _PART.sub("", target.name.removesuffix(".gguf"))
            n = len(self.sizes)
            found = [target.with_name(f"{stem}-{i + 1:05}-of-{n:05}.gguf") for i in range(n)]
        read = [part.path for part in self.parts] + [*self.options.reads]
        if self.options.imatrix is not None and self.options.imatrix.path is not None:
            read.append(self.options.imatrix.path)
        for path in found:
            for source in read:
                if _same(path, source):
                    what = "the model itself" if source in (p.path for p in self.parts) else "read for it"
                    raise UsageError(f"{path} is {what}: it would be destroyed", hint="another name for the new file")
            if path.exists() and not path.is_file() and not path.is_dir():
                raise UsageError(f"{path} is a device or a pipe", hint="--dry-run shows the sizes without writing")
            refuse(path, force=self.options.force)
            if not _place(path, alone=len(found) == 1).parent.is_dir():
                raise UsageError(f"there is no folder {path.parent}")
        return found

    def write(self, written: Sequence[Path], on_progress: Progress | None) -> None:
        """Raises StorageError where the disk is full, and as the engine."""
        sizes = iter([tensor.bytes_before for tensor in self.tensors])
        total = sum(tensor.bytes_before for tensor in self.tensors)
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
        if self.options.keep_split:
            out = out.with_name(_PART.sub("", out.name.removesuffix(".gguf")))
        try:
            made = engine.quantize(self.source, out, self.params, watch)
        except engine.WriteError as error:
            raise _why_not_written(written, error) from error
        if [_sized(tensor) for tensor in made] != [*self.tensors]:
            raise EngineError(f"{self.source} changed while it was quantised")


# --- headers --------------------------------------------------------------------------------------------------------


def headers(source: Path) -> list[Header]:
    """The header of each part of a model, checked. Raises what reading them raises."""
    first = gguf.read_header(source)
    gguf_checks.check(first)
    parts = [first]
    for i in range(1, first.n_split):
        name = re.sub(r"-\d{5}-of-", f"-{i + 1:05}-of-", source.name)
        parts.append(gguf.read_header(source.with_name(name)))
    return parts


def _sized(tensor: QuantizedTensor) -> Tensor:
    shape = [*tensor.shape]
    while len(shape) > 1 and shape[-1] == 1:
        shape.pop()
    before, after, wanted = (kind.upper() for kind in (tensor.source_type, tensor.type, tensor.wanted))
    return Tensor(
        tensor.name, tuple(shape), before, after, wanted, _n_bytes(shape, before), _n_bytes(shape, after)
    )  # fmt: skip


def _n_bytes(shape: Sequence[int], kind: str) -> int:
    _, block, size = GGML_TYPES[_IDS[kind]]
    return math.prod(shape) // block * size


def _padded(n_bytes: int) -> int:
    return n_bytes + -n_bytes % DEFAULT_ALIGNMENT


def _pair_size(key: str, value: int) -> int:
    """Bytes of a key, its type and its value in a GGUF file."""
    return 8 + len(key.encode()) + 4 + value


def _value_size(header: Header, key: str) -> int:
    value = header.metadata[key]
    if isinstance(value, gguf.Array):
        return 12 + value.n_bytes
    if isinstance(value, str):
        return 8 + len(value.encode())
    return gguf.scalar_size(header.metadata_types[key])


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")[: engine.MOST_VALUE]


def _cut(text: str) -> str:
    """At most what a value may have, in whole characters."""
    return _bytes(text).decode("utf-8", "ignore")


def _lower(pattern: str) -> str:
    r"""A pattern in lower case, as names of tensors are; llama-quantize would make \s of \S."""
    return re.sub(r"\\.|[^\\]+", lambda found: found[0] if found[0][0] == "\\" else found[0].lower(), pattern)


# --- files ----------------------------------------------------------------------------------------------------------


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
        end = tensors[-1].offset + _padded(tensors[-1].n_bytes) if tensors else 0
        if header.data_offset + end != header.file_size and tensors:
            raise StorageError(f"{target}: {header.file_size:,} of {header.data_offset + end:,} bytes were written")
    except LlamacliError as error:
        raise StorageError(f"{target}: it was not written whole: {error.message}") from error
    return header.file_size
