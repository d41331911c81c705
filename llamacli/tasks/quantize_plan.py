"""What would become of a model: what llama.cpp is told, and its own dry run, which finds each tensor's type."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from llamacli.engine import quantize as engine
from llamacli.engine.types import QuantizedTensor, QuantizeParams
from llamacli.models import gguf, gguf_checks
from llamacli.models.ggml_types import GGML_TYPES
from llamacli.models.gguf import DEFAULT_ALIGNMENT, Header
from llamacli.tasks import quantize_checks as checks
from llamacli.tasks.quantize_request import OverrideValue, QuantizeOptions
from llamacli.tasks.quantize_result import Quantized, Tensor
from llamacli.tasks.quantize_sizes import cut, file_sizes
from llamacli.tasks.quantize_types import QuantType

_BY_NAME = {kind.name: kind for kind in GGML_TYPES.values()}
_LAYER = re.compile(r"^blk\.(\d+)\.")


class Plan:
    """A model's headers, what llama.cpp is told, and what it would make of each tensor.

    `requantized`, `refused`: why llama.cpp would not go through with it, whatever the importance matrix, and as it is.
    """

    def __init__(self, source: Path, kind: QuantType, options: QuantizeOptions) -> None:
        """Raises UsageError where the options do not fit the model, and what reading the source raises."""
        self.source, self.kind, self.options = source, kind, options
        self.parts = headers(source)
        checks.check_options(self.parts[0], kind, options)
        self.params = self._params()
        self.tensors = tuple(map(sized, engine.quantize(source, None, self.params)))
        old = {tensor.name: name for tensor, name in zip(self.tensors, self._old_names(), strict=True)}
        imatrix = self.params.imatrix
        self._n_values = {name: imatrix[before].size for name, before in old.items() if before in imatrix}
        checks.check_types(self.tensors, self._n_values, options)
        self.sizes = file_sizes(
            self.parts,
            [(tensor, old[tensor.name]) for tensor in self.tensors],
            self.params.kv_overrides,
            keep_split=options.keep_split,
            pruned=bool(options.prune_layers),
        )
        self.requantized = checks.requantized(self.parts[0], self.tensors, options)
        self.refused = checks.missing_imatrix(kind, self.tensors, self._n_values, options) or self.requantized

    def _params(self) -> QuantizeParams:
        options = self.options
        entries = options.imatrix.entries() if options.imatrix else {}
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
            imatrix=entries,
            kv_overrides=self._overrides(len(entries)),
            tt_overrides=tuple((checks.lower(pattern), number) for pattern, number in options.tensor_types),
            prune_layers=options.prune_layers,
            max_buf_size=options.max_buffer_size,
        )

    def _overrides(self, n_entries: int) -> tuple[tuple[str, OverrideValue], ...]:
        """The user's, and as llama-quantize says them, whence an imatrix came."""
        found = [*self.options.override_kv]
        if self.parts[0].alignment != DEFAULT_ALIGNMENT:
            found.append(("general.alignment", DEFAULT_ALIGNMENT))  # llama.cpp keeps the number, and does not obey it
        if (imatrix := self.options.imatrix) is not None:
            if imatrix.path is not None:
                found.append(("quantize.imatrix.file", _whole_characters(str(imatrix.path))))
            if imatrix.file.datasets:
                found.append(("quantize.imatrix.dataset", _whole_characters(imatrix.file.datasets[0])))
            found.append(("quantize.imatrix.entries_count", n_entries))
            if imatrix.file.chunk_count > 0:
                found.append(("quantize.imatrix.chunks_count", imatrix.file.chunk_count))
        return tuple(found)

    def _old_names(self) -> list[str]:
        """The tensors' names in the source, whose layers have other numbers where some are pruned."""
        n_layer, pruned = self.parts[0].hparam("block_count"), self.options.prune_layers
        if not pruned or not isinstance(n_layer, int):
            return [tensor.name for tensor in self.tensors]
        kept = [str(layer) for layer in range(n_layer) if layer not in pruned]
        old = {str(new): layer for new, layer in enumerate(kept)}
        return [_LAYER.sub(lambda found: f"blk.{old.get(found[1], found[1])}.", tensor.name) for tensor in self.tensors]

    def result(self) -> Quantized:
        """As long as nothing is written."""
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
            warnings=tuple(checks.warnings(self.kind, self.tensors, self._n_values, self.options)),
            obstacle=self.refused.message if self.refused else None,
            file_sizes=tuple(self.sizes),
        )


def headers(source: Path) -> list[Header]:
    """The header of each part of a model, checked. Raises what reading them raises."""
    first = gguf.read_header(source)
    gguf_checks.check(first)
    parts = [first]
    for i in range(1, first.n_split):
        name = re.sub(r"-\d{5}-of-", f"-{i + 1:05}-of-", source.name)
        parts.append(gguf.read_header(source.with_name(name)))
    return parts


def sized(tensor: QuantizedTensor) -> Tensor:
    """With bytes, and without dimensions of 1 at the end."""
    shape = [*tensor.shape]
    while len(shape) > 1 and shape[-1] == 1:
        shape.pop()
    before, after, wanted = (kind.upper() for kind in (tensor.source_type, tensor.type, tensor.wanted))
    return Tensor(
        tensor.name, tuple(shape), before, after, wanted, _n_bytes(shape, before), _n_bytes(shape, after)
    )  # fmt: skip


def _n_bytes(shape: Sequence[int], kind: str) -> int:
    _, block, size = _BY_NAME[kind]
    return math.prod(shape) // block * size


def _whole_characters(text: str) -> str:
    """At most what a value may have."""
    return cut(text).decode("utf-8", "ignore")
