"""What llama.cpp would find out by aborting, or after an hour; and what a person should know of a plan."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

from llamacli.errors import UsageError, printable
from llamacli.models.ggml_types import GGML_TYPES, type_name
from llamacli.models.gguf import Header
from llamacli.tasks.quantize_request import QuantizeOptions
from llamacli.tasks.quantize_result import Tensor
from llamacli.tasks.quantize_types import QuantType

FLOATS = ("F32", "F16", "BF16")
_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
_OUTPUT = "output.weight"
#: ggml asserts that these have an imatrix; of the others llama.cpp's quantiser says that they would be garbage.
_NEVER_WITHOUT = ("IQ2_XXS", "IQ2_XS", "IQ1_S")
_BAD_WITHOUT = ("IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S")
_BLOCKS = {kind.name: kind.block_size for kind in GGML_TYPES.values()}


def check_options(header: Header, kind: QuantType, options: QuantizeOptions) -> None:
    """What can be seen without llama.cpp. Raises UsageError."""
    if kind.name == "COPY":
        for option, given in (
            ("--pure", options.pure),
            ("--output-tensor-type", options.output_tensor_type is not None),
            ("--token-embedding-type", options.token_embedding_type is not None),
        ):
            if given:
                raise UsageError(f"COPY changes no tensor, so {option} has no effect")
    if options.tensor_types and (kind.name in FLOATS or kind.name == "COPY"):
        raise UsageError(
            f"llama.cpp heeds --tensor-type only beside a quantised type, not beside {kind.name}",
            hint="a type such as Q8_0 for the others, or --tensor-type '.=f16' as the last one",
        )
    n_layer = header.hparam("block_count")
    for layer in options.prune_layers:
        if not isinstance(n_layer, int) or layer >= n_layer:
            last = n_layer - 1 if isinstance(n_layer, int) else "?"
            raise UsageError(f"--prune-layers {layer}: the layers of {header.path} are 0 to {last}")
    if isinstance(n_layer, int) and len(options.prune_layers) == n_layer:
        raise UsageError(f"--prune-layers leaves none of the {n_layer} layers")


def check_types(tensors: Sequence[Tensor], n_values: Mapping[str, int], options: QuantizeOptions) -> None:
    """`n_values`: how many numbers the importance matrix has for a tensor, by its name. Raises UsageError."""
    for tensor in tensors:
        block = _BLOCKS[tensor.type]
        if tensor.shape[0] % block:
            option = "--output-tensor-type" if tensor.name == _OUTPUT else "--token-embedding-type"
            raise UsageError(
                f"{option} {tensor.type.lower()}: the rows of {printable(tensor.name)} have {tensor.shape[0]:,} "
                f"weights, and the type comes in blocks of {block}"
            )
        found = n_values.get(tensor.name)
        if found is None or tensor.type == tensor.type_before or tensor.name in _EMBEDDINGS:
            continue
        expected = tensor.shape[0] * (tensor.shape[2] if len(tensor.shape) > 2 else 1)
        if found != expected and options.imatrix is not None:
            raise UsageError(
                f"{options.imatrix.name} is of another model: it has {found:,} values for "
                f"{printable(tensor.name)}, and {expected:,} are needed"
            )


def missing_imatrix(
    kind: QuantType, tensors: Sequence[Tensor], n_values: Mapping[str, int], options: QuantizeOptions
) -> UsageError | None:
    """What keeps tensors from types that are garbage without an importance matrix."""
    for tensor in _without_imatrix(tensors, n_values):
        own = tensor.name not in _EMBEDDINGS and tensor.name != _OUTPUT
        bad = tensor.type in _BAD_WITHOUT or (tensor.type == "Q2_K" and kind.name == "Q2_K_S")
        if tensor.type in _NEVER_WITHOUT or (own and bad):
            has = f"which has nothing for {printable(tensor.name)}" if options.imatrix else "and none is given"
            becomes = f"{printable(tensor.name)} becomes {tensor.type}"
            return UsageError(
                f"{kind.name} needs an importance matrix ({becomes}), {has}",
                hint="--calibrate TEXT makes one first; or llamacli imatrix -m MODEL TEXT, then --imatrix FILE",
            )
    return None


def requantized(header: Header, tensors: Sequence[Tensor], options: QuantizeOptions) -> UsageError | None:
    """What keeps a model from being quantised that is quantised already."""
    if options.allow_requantize:
        return None
    again = [t for t in tensors if t.type != t.type_before and t.type_before not in FLOATS]
    if not again:
        return None
    return UsageError(
        f"{header.path} is quantised already: {len(again)} tensors, {printable(again[0].name)} as "
        f"{again[0].type_before}",
        hint="start from the F16 or BF16 file; --allow-requantize does it nevertheless, and loses more",
    )


def warnings(
    kind: QuantType, tensors: Sequence[Tensor], n_values: Mapping[str, int], options: QuantizeOptions
) -> Iterator[str]:
    """What a person should know before the file is used."""
    if kind.name == "COPY" and options.imatrix:
        yield "COPY changes no tensor: the importance matrix only gets into the metadata"
    for pattern, number in options.tensor_types:
        try:
            expression = re.compile(lower(pattern))
        except re.error:  # C++ took it
            continue
        if not any(expression.search(tensor.name) for tensor in tensors):
            yield f"--tensor-type {pattern}={type_name(number).lower()} is the name of no tensor"
    if options.imatrix and missing_imatrix(kind, tensors, n_values, options) is None:
        lost = [t for t in _without_imatrix(tensors, n_values) if t.name not in _EMBEDDINGS and t.name != _OUTPUT]
        lost = [t for t in lost if t.type not in FLOATS]
        if lost:
            yield (
                f"the importance matrix has nothing for {len(lost)} of {len(tensors)} tensors, such as {lost[0].name}"
            )


def lower(pattern: str) -> str:
    r"""A pattern in lower case, as names of tensors are; llama-quantize would make \s of \S."""
    return re.sub(r"\\.|[^\\]+", lambda found: found[0] if found[0][0] == "\\" else found[0].lower(), pattern)


def _without_imatrix(tensors: Sequence[Tensor], n_values: Mapping[str, int]) -> Iterator[Tensor]:
    for tensor in tensors:
        n_needed = tensor.shape[0] * math.prod(tensor.shape[2:])
        if tensor.type != tensor.type_before and n_values.get(tensor.name) != n_needed:
            yield tensor
