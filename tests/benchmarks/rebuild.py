"""Well-formed GGUF files with contents that make no sense: the part of `mutants.py` that gets past a parser.

A file is taken apart into metadata and tensors, one to three of the changes below are made, and it is written anew with
correct lengths, counts, offsets and sizes.
"""

from __future__ import annotations

import copy
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gguf.constants import MODEL_ARCH_NAMES, Keys

from llamacli.models.ggml_types import GGML_TYPES

_LAYOUTS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_U32, _F32, _BOOL, _STRING, _ARRAY = 4, 6, 7, 8, 9
_ALIGNMENT = 32


@dataclass
class Value:
    """A metadata value; for an array `type` is that of its elements."""

    type: int
    value: Any
    is_array: bool = False


@dataclass
class Tensor:
    name: str
    shape: list[int]
    type: int
    data: bytes


@dataclass
class File:
    metadata: dict[str, Value] = field(default_factory=dict)
    tensors: list[Tensor] = field(default_factory=list)


# ---- taking apart and writing --------------------------------------------------------------------------------------


def decode(data: bytes) -> File:
    """Take an intact GGUF file apart."""
    pos = 4

    def number(layout: str) -> Any:
        nonlocal pos
        (value,) = struct.unpack_from(f"<{layout}", data, pos)
        pos += struct.calcsize(f"<{layout}")
        return value

    def string() -> bytes:
        nonlocal pos
        length = number("Q")
        pos += length
        return data[pos - length : pos]

    def scalar(kind: int) -> Any:
        return string() if kind == _STRING else number(_LAYOUTS[kind])

    file = File()
    _version, n_tensors, n_keys = number("I"), number("Q"), number("Q")
    for _ in range(n_keys):
        key, kind = string().decode(), number("I")
        if kind == _ARRAY:
            kind = number("I")
            file.metadata[key] = Value(kind, [scalar(kind) for _ in range(number("Q"))], is_array=True)
        else:
            file.metadata[key] = Value(kind, scalar(kind))
    offsets = []
    for _ in range(n_tensors):
        name = string().decode()
        shape = [number("Q") for _ in range(number("I"))]
        file.tensors.append(Tensor(name, shape, number("I"), b""))
        offsets.append(number("Q"))
    start = pos + -pos % _ALIGNMENT
    for tensor, offset in zip(file.tensors, offsets, strict=True):
        tensor.data = data[start + offset : start + offset + _n_bytes(tensor)]
    return file


def encode(file: File) -> bytes:
    """Write a file in which lengths, counts, offsets and sizes are right."""
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(file.tensors), len(file.metadata))]
    for key, value in file.metadata.items():
        parts.append(_string(key.encode()))
        parts.append(struct.pack("<IIQ", _ARRAY, value.type, len(value.value)) if value.is_array else b"")
        parts.append(b"" if value.is_array else struct.pack("<I", value.type))
        parts += [_scalar(value.type, each) for each in (value.value if value.is_array else [value.value])]
    offset = 0
    for tensor in file.tensors:
        dims = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        parts.append(_string(tensor.name.encode()) + dims + struct.pack("<IQ", tensor.type, offset))
        offset += len(tensor.data) + -len(tensor.data) % _ALIGNMENT
    header = b"".join(parts)
    parts = [header, bytes(-len(header) % _ALIGNMENT)]
    for tensor in file.tensors:
        parts += [tensor.data, bytes(-len(tensor.data) % _ALIGNMENT)]
    return b"".join(parts)


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _scalar(kind: int, value: Any) -> bytes:
    return _string(value) if kind == _STRING else struct.pack(f"<{_LAYOUTS[kind]}", value)


def _n_bytes(tensor: Tensor) -> int:
    _, block_size, type_size = GGML_TYPES[tensor.type]
    n = 1
    for dim in tensor.shape:
        n *= dim
    return n // block_size * type_size


# ---- changes: each returns what it did -----------------------------------------------------------------------------

_NUMBERS = (0, 1, 2, 3, 4, 5, 7, 8, 16, 31, 33, 63, 64, 65, 100, 128, 511, 512, 513, 1024, 1025, 65535, 1 << 20,
            (1 << 31) - 1, 1 << 31, (1 << 32) - 2, (1 << 32) - 1)  # fmt: skip
_REALS = (0.0, -1.0, 1.0, 0.5, 1e-30, 1e30, float("inf"), float("-inf"), float("nan"))
_TEXTS = (b"", b"llama", b"gpt2", b"bert", b"t5", b"rwkv", b"plamo2", b"gemma4", b"none", b"no_vocab", b"default",
          b"linear", b"yarn", b"longrope", b"none", b"llama-bpe", b"phi-3", b"\xff\x00\x1b[31m")  # fmt: skip


def _same_key_other_value(file: File, rng: random.Random) -> str:
    key = rng.choice([key for key, value in file.metadata.items() if not value.is_array])
    file.metadata[key].value = _any_value(file.metadata[key].type, rng)
    return f"{key} = {file.metadata[key].value!r}"


def _any_value(kind: int, rng: random.Random) -> Any:
    if kind == _STRING:
        return rng.choice(_TEXTS)
    if kind == _BOOL:
        return rng.random() < 0.5
    if kind in (_F32, 12):
        return rng.choice(_REALS)
    bits = 8 * struct.calcsize(_LAYOUTS[kind]) - (_LAYOUTS[kind].islower())
    return rng.choice(_NUMBERS) % (1 << bits)


def _other_type(file: File, rng: random.Random) -> str:
    key = rng.choice(list(file.metadata))
    kind = rng.choice([_U32, _F32, _BOOL, _STRING, 5, 10])
    is_array = rng.random() < 0.3
    value = [_any_value(kind, rng) for _ in range(rng.choice((0, 1, 2, 4, 5, 512, 513)))]
    file.metadata[key] = Value(kind, value if is_array else _any_value(kind, rng), is_array)
    return (
        f"{key} becomes type {kind}{' array' if is_array else ''} {value[:5] if is_array else file.metadata[key].value}"
    )


def _remove_key(file: File, rng: random.Random) -> str:
    key = rng.choice(list(file.metadata))
    del file.metadata[key]
    return f"without {key}"


_TOKENIZER_KEYS = [value for value in vars(Keys.Tokenizer).values() if isinstance(value, str) and "." in value]
_ARCH_KEYS = sorted(
    {value for group in vars(Keys).values() for value in getattr(group, "__dict__", {}).values()
     if isinstance(value, str) and "{arch}" in value}
)  # fmt: skip


def _add_key(file: File, rng: random.Random) -> str:
    key = rng.choice(_TOKENIZER_KEYS) if rng.random() < 0.3 else rng.choice(_ARCH_KEYS).replace("{arch}", _arch(file))
    if file.metadata.get(key, Value(0, 0)).is_array:
        return f"{key} kept"
    kind = rng.choice((_U32, _U32, _U32, _F32, _BOOL, _STRING))
    if key.endswith(("epsilon", "freq_base", "factor", "scale", "bias")):
        kind = _F32
    value = Value(kind, _any_value(kind, rng))
    if rng.random() < 0.2:
        value = Value(kind, [_any_value(kind, rng) for _ in range(rng.choice((1, 4, 5, 8, 512)))], is_array=True)
    file.metadata[key] = value
    return f"{key} = {value.value!r}"[:200]


def _arch(file: File) -> str:
    value = file.metadata.get("general.architecture")
    return value.value.decode("utf-8", "replace") if value and isinstance(value.value, bytes) else "llama"


def _other_architecture(file: File, rng: random.Random) -> str:
    old, new = _arch(file), rng.choice(list(MODEL_ARCH_NAMES.values()))
    renamed = {key.replace(f"{old}.", f"{new}.", 1) if key.startswith(f"{old}.") else key: value
               for key, value in file.metadata.items()}  # fmt: skip
    file.metadata = renamed
    file.metadata["general.architecture"] = Value(_STRING, new.encode())
    if rng.random() < 0.5:  # most architectures name one of these
        for name in ("attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon"):
            file.metadata.setdefault(f"{new}.{name}", Value(_F32, 1e-5))
    return f"architecture {new}"


def _other_heads(file: File, rng: random.Random) -> str:
    """Numbers of heads that often agree with the shapes of the tensors."""
    arch = _arch(file)
    head_dim = rng.choice((1, 2, 4, 8, 16, 32, 64, 3, 12))
    values = {
        "head_count": rng.choice((64 // head_dim, 8, 1)),
        "head_count_kv": rng.choice((32 // head_dim, 64 // head_dim, 4)),
        "key_length": head_dim,
        "value_length": rng.choice((head_dim, head_dim, 8)),
    }
    for name, value in values.items():
        file.metadata[f"{arch}.attention.{name}"] = Value(_U32, value)
    file.metadata[f"{arch}.rope.dimension_count"] = Value(_U32, rng.choice((head_dim, head_dim, 2)))
    return f"heads {values}"


def _tensor_type(file: File, rng: random.Random) -> str:
    tensor = rng.choice(file.tensors)
    tensor.type = rng.choice(
        [kind for kind, (_, block, _) in GGML_TYPES.items() if block and tensor.shape[0] % block == 0]
    )
    _fit(tensor)
    return f"{tensor.name} becomes {GGML_TYPES[tensor.type].name}"


def _fit(tensor: Tensor) -> None:
    needed = _n_bytes(tensor)
    tensor.data = tensor.data[:needed].ljust(needed, b"\x3c")


def _all_tensor_types(file: File, rng: random.Random) -> str:
    """All matrices of one type, as in a quantised model."""
    kind = rng.choice([kind for kind, (_, block, _) in GGML_TYPES.items() if block])
    for tensor in file.tensors:
        if len(tensor.shape) > 1 and tensor.shape[0] % GGML_TYPES[kind].block_size == 0:
            tensor.type = kind
            _fit(tensor)
    return f"matrices become {GGML_TYPES[kind].name}"


def _tensor_shape(file: File, rng: random.Random) -> str:
    tensor = rng.choice(file.tensors)
    i = rng.randrange(len(tensor.shape))
    tensor.shape[i] = rng.choice((0, 1, 2, tensor.shape[i] * 2, tensor.shape[i] // 2, tensor.shape[i] - 1))
    if rng.random() < 0.2:
        tensor.shape.append(rng.choice((1, 2)))
    if tensor.shape[0] % GGML_TYPES[tensor.type].block_size:
        tensor.type = 0
    _fit(tensor)
    return f"{tensor.name} becomes {tensor.shape}"


def _remove_tensor(file: File, rng: random.Random) -> str:
    return f"without {file.tensors.pop(rng.randrange(len(file.tensors))).name}"


_EXTRA = ("attn_q.bias", "attn_k.bias", "attn_output.bias", "ffn_up.bias", "ffn_down.bias", "attn_q_norm.weight",
          "attn_k_norm.weight", "rope_freqs.weight", "attn_q.scale", "ffn_gate_inp.weight")  # fmt: skip


def _add_tensor(file: File, rng: random.Random) -> str:
    prefix = rng.choice(("", "blk.0.", "blk.4."))
    tensor = Tensor(
        prefix + rng.choice(_EXTRA), [rng.choice((1, 4, 8, 32, 64, 172))], rng.choice((0, 0, 1, 26, 30)), b""
    )
    _fit(tensor)
    if tensor.name not in {each.name for each in file.tensors}:
        file.tensors.append(tensor)
    return f"with {tensor.name} {tensor.shape} {GGML_TYPES[tensor.type].name}"


def _vocabulary(file: File, rng: random.Random) -> str:
    """Token lists of other lengths, tokens without text, other types and scores."""
    arrays = [key for key, value in file.metadata.items() if value.is_array and value.value]
    if not arrays:
        return "no arrays"
    key = rng.choice(arrays)
    value = file.metadata[key]
    if rng.random() < 0.5:
        value.value = value.value[: rng.choice((0, 1, 2, 3, 10, 100, len(value.value) - 1))]
        return f"{key} has {len(value.value)} elements"
    for _ in range(rng.choice((1, 5, 100))):
        value.value[rng.randrange(len(value.value))] = _any_value(value.type, rng)
    return f"{key} has other elements"


_CHANGES: tuple[Callable[[File, random.Random], str], ...] = (
    _same_key_other_value,
    _same_key_other_value,
    _other_type,
    _remove_key,
    _add_key,
    _add_key,
    _add_key,
    _other_architecture,
    _other_heads,
    _tensor_type,
    _all_tensor_types,
    _tensor_shape,
    _remove_tensor,
    _add_tensor,
    _vocabulary,
)


def mutant(intact: File, rng: random.Random) -> tuple[str, bytes]:
    """What was changed, and the file."""
    file = copy.deepcopy(intact)
    done = []
    for change in rng.choices(_CHANGES, k=rng.choice((1, 1, 2, 3))):
        if file.tensors and any(not value.is_array for value in file.metadata.values()):
            done.append(change(file, rng))
    return "; ".join(done), encode(file)
