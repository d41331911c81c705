"""How much memory a model needs: from its header alone. Arithmetic; nothing is loaded.

What is estimated is the peak of the resident memory of a process that computes on the CPU and fills the context, the
mapped file included, less what a bare interpreter has: tests/benchmarks/memory.py compares it with what processes take.
"""

from __future__ import annotations

import math
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llamacli import paths
from llamacli.engine.offload import Shape
from llamacli.models.ggml_types import GGML_TYPES
from llamacli.models.gguf import MAX_LAYERS, Array, Header, TensorInfo

DEFAULT_CTX = 8192
N_UBATCH = 512
MOST_CTX = 1 << 27  # tokens; more is damage

#: Bytes of llamacli's modules, llama.cpp's library and its small buffers.
_PROGRAM = 22_000_000
#: Bytes for each token of the vocabulary (llama.cpp's tables, a row of logits, the sampler's candidates), and for each
#: merge. Measured with the vocabularies of LLaMA 2 and 3, GPT-2 and Qwen 2.
_TOKEN, _MERGE = 190, 130

#: Which types llama.cpp rearranges in RAM for this processor's kernels (`ggml_repack_get_optimal_repack_type`).
_REPACKED = {
    "avx2": ("Q4_0", "Q4_K", "IQ4_NL", "MXFP4"),
    "avx512": ("Q4_0", "Q4_K", "IQ4_NL", "MXFP4", "Q2_K"),
    "neon": ("Q4_0", "Q4_K", "IQ4_NL", "MXFP4", "Q5_K", "Q6_K", "Q8_0", "Q1_0"),
    "amx": ("Q4_0", "Q4_K", "IQ4_NL", "MXFP4", "Q2_K", "Q4_1", "Q8_0", "Q5_K", "Q6_K", "IQ4_XS"),
    "": (),
}
_ROWS = 8  # that are interleaved


@dataclass(frozen=True)
class Memory:
    """Estimated bytes for a context of n_ctx tokens, computed on the CPU.

    `weights`: the file, mapped. `repacked`: those weights once more, rearranged for this processor (--no-repack avoids
    that). `compute`: what is used of llama.cpp's buffers while it writes. `program`: llamacli, llama.cpp and the
    vocabulary, beyond a bare interpreter. `remarks` say where the figures are bounds only.
    """

    n_ctx: int
    type_k: str
    type_v: str
    weights: int
    repacked: int
    kv_cache: int
    compute: int
    program: int
    total: int
    remarks: tuple[str, ...]


def estimate(
    headers: Sequence[Header], *, n_ctx: int | None = None, type_k: str = "f16", type_v: str = "f16"
) -> Memory | None:
    """The memory of a model by the headers of all its files; None for what computes no text.

    That is a projector, a vocabulary, damaged numbers. `n_ctx`: None is the trained context, DEFAULT_CTX at most; 0 the
    whole trained context.
    """
    header, tensors = headers[0], tensors_of(headers)
    shape = shape_of(headers)
    if shape is None:
        return None
    trained = number(header, "context_length", MOST_CTX) or DEFAULT_CTX
    n_ctx = trained if n_ctx == 0 else n_ctx or min(trained, DEFAULT_CTX)
    kv_cache, remarks = _kv_cache(header, tensors, shape, (n_ctx, type_k, type_v))
    compute = _compute(shape, n_ctx, masks=2 if header.hparam("attention.sliding_window") else 1)
    program = _PROGRAM + _TOKEN * shape.n_vocab + _MERGE * _count(header, "merges")
    memory = Memory(n_ctx, type_k, type_v, 0, 0, kv_cache, compute, program, 0, tuple(remarks))
    return with_weights(memory, sum(tensor.n_bytes for tensor in tensors), repacked(tensors))


def with_weights(memory: Memory, weights: int, repacked: int) -> Memory:
    """The same model with other weights: another quantisation. Both in bytes."""
    total = weights + repacked + memory.kv_cache + memory.compute + memory.program
    return replace(memory, weights=weights, repacked=repacked, total=total)


def tensors_of(headers: Sequence[Header]) -> list[TensorInfo]:
    """The tensors of all files of a model."""
    return [tensor for header in headers for tensor in header.tensors]


def number(header: Header, name: str, most: int = 1 << 31) -> int | None:
    """A hyperparameter, the largest where each layer has its own; None where it is missing or makes no sense."""
    values = [value for value in header.per_layer(name) if type(value) is int]
    return max(values) if values and 0 <= max(values) <= most else None


def shape_of(headers: Sequence[Header]) -> Shape | None:
    """What the estimates need of a model; None for what computes no text."""
    header, tensors = headers[0], tensors_of(headers)
    if not tensors or not number(header, "block_count", MAX_LAYERS) or not number(header, "embedding_length"):
        return None
    # damaged values of other types would end in exceptions, or in absurd sizes
    plausible: dict[str, object] = {"general.architecture": header.architecture}
    for name in {key.removeprefix(f"{header.architecture}.") for key in header.metadata}:
        if (value := number(header, name)) is not None:
            plausible[f"{header.architecture}.{name}"] = value
    return Shape.of(plausible, tensors, _count(header, "tokens"))


def _count(header: Header, which: str) -> int:
    """How many tokens or merges the vocabulary has."""
    array = header.metadata.get(f"tokenizer.ggml.{which}")
    return array.count if isinstance(array, Array) else 0


# ---- weights that are rearranged -----------------------------------------------------------------------------------


def repacked(tensors: Sequence[TensorInfo]) -> int:
    """Bytes of the weights that llama.cpp holds a second time, rearranged for this processor."""
    types = _REPACKED[processor()]
    tied = not any(tensor.name == "output.weight" for tensor in tensors)
    return sum(
        tensor.n_bytes
        for tensor in tensors
        if GGML_TYPES[tensor.type].name in types
        and (_is_matrix(tensor) or tensor.name == "output.weight" or (tied and tensor.name == "token_embd.weight"))
    )


def repacked_as(tensors: Sequence[TensorInfo], quant: str) -> int:
    """The same if the model were quantised so ("Q4_K_M"): at most this, as a few of its weights have other types."""
    name = quant.upper().removeprefix("UD-")
    types = [kind for kind in GGML_TYPES.values() if kind.block_size and name.startswith(kind.name)]
    main = max(types, key=lambda kind: len(kind.name), default=None)
    if main is None or main.name not in _REPACKED[processor()]:
        return 0
    elements = sum(math.prod(tensor.shape) for tensor in tensors if _is_matrix(tensor))
    return elements // main.block_size * main.type_size


def _is_matrix(tensor: TensorInfo) -> bool:
    """Whether a layer multiplies by it: matrices, and experts as a pile of them."""
    dimensions = 3 if "exps" in tensor.name else 2
    fits = len(tensor.shape) == dimensions and tensor.shape[1] % _ROWS == 0
    return fits and re.match(r"blk\.\d+\.(?!.*(norm|conv1d))", tensor.name) is not None


def processor() -> str:
    """The row of _REPACKED for this machine; builds for older processors than this one rearrange less."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return "neon" if sys.platform == "darwin" or "asimddp" in _flags() else ""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return ""
    flags = _flags()
    if "amx_int8" in flags and (tried := _amx_verdict()):
        return "amx" if tried == "works" else ""
    return "avx512" if "avx512f" in flags else "avx2" if "avx2" in flags or sys.platform != "linux" else ""


def _flags() -> set[str]:
    """What Linux says that the processor can; empty on other systems."""
    try:
        with open("/proc/cpuinfo") as file:
            line = next((line for line in file if re.match(r"(flags|Features)\s*:", line)), "")
    except OSError:
        return set()
    return set(line.partition(":")[2].split())


def _amx_verdict() -> str:
    """What engine/amx.py found out when a model was last loaded: "works", "fails"; "" where the build has no AMX."""
    tried = {path.stat().st_mtime: path.name for path in (paths.cache() / "amx").glob("*-*")}
    return tried[max(tried)].rpartition("-")[2] if tried else ""


# ---- context -------------------------------------------------------------------------------------------------------


def _kv_cache(
    header: Header, tensors: Sequence[TensorInfo], shape: Shape, cache: tuple[int, str, str]
) -> tuple[int, list[str]]:
    """Bytes of the KV cache (n_ctx, type_k, type_v) and of recurrent layers' state, and where that is a bound only."""
    attending, recurrent = _layers(tensors, r"attn_k\."), _layers(tensors, "ssm_|shortconv|time_mix_")
    attending |= _layers(tensors, r"attn_(qkv|kv|kv_a_mqa)\.") - recurrent
    own = shape.n_layer - (number(header, "nextn_predict_layers") or 0)
    own = 20 if header.architecture == "gemma3n" else own - (number(header, "attention.shared_kv_layers") or 0)
    if header.hparam("attention.causal") is False:  # an encoder
        own = 0
    if header.hparam("attention.key_length_mla"):  # the values are part of the keys
        shape = replace(shape, n_embd_v=0)
    heads = [n if isinstance(n, int) else 0 for n in header.per_layer("attention.head_count_kv")]
    heads = heads if len(heads) == shape.n_layer else [1] * shape.n_layer
    whole = shape.kv_bytes(*cache)
    total = sum(whole * heads[i] // max(*heads, 1) for i in attending if i < own)
    remarks = []
    if header.hparam("attention.sliding_window"):
        remarks.append("layers with a sliding window are counted whole, as llamacli keeps them")
    if header.hparam("attention.key_length_swa"):
        remarks.append("their heads are smaller, so the KV cache is at most this")
    if recurrent and (inner := number(header, "ssm.inner_size")):
        states, groups = number(header, "ssm.state_size") or 0, number(header, "ssm.group_count") or 0
        window = max((number(header, "ssm.conv_kernel") or 1) - 1, 0)
        total += 4 * len(recurrent) * (window * (inner + 2 * groups * states) + states * inner)
    elif recurrent:
        remarks.append("the state of recurrent layers is not counted")
    return total, remarks


def _layers(tensors: Sequence[TensorInfo], pattern: str) -> set[int]:
    """The layers with a tensor whose name begins so."""
    found = (re.match(rf"blk\.(\d+)\.(?:{pattern})", tensor.name) for tensor in tensors)
    return {int(match[1]) for match in found if match}


def _compute(shape: Shape, n_ctx: int, masks: int) -> int:
    """What a batch of a prompt uses of llama.cpp's compute buffer, with flash attention: activations and masks.

    Within 4 MiB for LLaMAs of 256 to 2048 dimensions and contexts of 512 to 65536 tokens; other graphs differ more. The
    buffer itself may be larger: it has room for the logits of all tokens of a batch, of which writing uses the last.
    """
    n = min(N_UBATCH, n_ctx)
    return shape.compute_bytes(n) - 4 * n * shape.n_vocab + masks * 2 * n * n_ctx
