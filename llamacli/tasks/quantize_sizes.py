"""Bytes that a quantised model's files will have, before any is written."""

from __future__ import annotations

from collections.abc import Sequence

from llamacli.engine import quantize as engine
from llamacli.errors import UsageError
from llamacli.models import gguf
from llamacli.models.gguf import DEFAULT_ALIGNMENT, Header
from llamacli.tasks.quantize_request import OverrideValue
from llamacli.tasks.quantize_result import Tensor

_SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")


def file_sizes(
    parts: Sequence[Header],
    tensors: Sequence[tuple[Tensor, str]],
    overrides: Sequence[tuple[str, OverrideValue]],
    *,
    keep_split: bool,
    pruned: bool,
) -> list[int]:
    """Bytes of each file, as gguf_get_meta_size and the padding of llama_model_quantize_impl give them.

    `parts` are the source's headers; a tensor comes with the name that it has there. Raises UsageError where a part of
    a split model would be empty.
    """
    owner = {tensor.name: i for i, part in enumerate(parts) for tensor in part.tensors}
    n_files = max(owner[old] for _, old in tensors) + 1 if keep_split else 1
    headers, data = [24] * n_files, [0] * n_files
    headers[0] += _metadata_size(parts[0], overrides, pruned=pruned)
    for tensor, old in tensors:
        i = owner[old] if keep_split else 0
        headers[i] += 24 + len(tensor.name.encode()) + 8 * len(tensor.shape)
        data[i] += padded(tensor.bytes)
    if n_files > 1:
        split = sum(_pair_size(key, n_bytes) for key, n_bytes in zip(_SPLIT_KEYS, (2, 2, 4), strict=True))
        headers = [size + split for size in headers]
    empty = [i for i in range(1, n_files) if not data[i]]
    if empty:
        raise UsageError(f"--keep-split: no tensor of part {empty[0] + 1} is left", hint="leave --keep-split out")
    return [padded(size) + n_bytes for size, n_bytes in zip(headers, data, strict=True)]


def padded(n_bytes: int) -> int:
    """What so many bytes take in a file."""
    return n_bytes + -n_bytes % DEFAULT_ALIGNMENT


def cut(text: str) -> bytes:
    """At most what a value that is set may have."""
    return text.encode("utf-8", "surrogateescape")[: engine.MOST_VALUE]


def _metadata_size(header: Header, overrides: Sequence[tuple[str, OverrideValue]], *, pruned: bool) -> int:
    """The old metadata, without what is removed, with what is set."""
    sizes: dict[str, int | None] = dict.fromkeys(_SPLIT_KEYS)
    sizes |= {"general.quantization_version": 4, "general.file_type": 4}
    for key, value in overrides:
        sizes[key] = 8 + len(cut(value)) if isinstance(value, str) else 1 if isinstance(value, bool) else 4
    if pruned:
        sizes[f"{header.architecture}.block_count"] = 4
    total = header.tensors_offset - 24
    for key, size in sizes.items():
        if key in header.metadata:
            total -= _pair_size(key, _value_size(header, key))
        if size is not None:
            total += _pair_size(key, size)
    return total


def _pair_size(key: str, value: int) -> int:
    """Bytes of a key, its type and its value in a GGUF file."""
    return 8 + len(key.encode("utf-8", "surrogateescape")) + 4 + value


def _value_size(header: Header, key: str) -> int:
    value = header.metadata[key]
    if isinstance(value, gguf.Array):
        return 12 + value.n_bytes
    if isinstance(value, str):
        return 8 + len(value.encode())
    return gguf.scalar_size(header.metadata_types[key])
