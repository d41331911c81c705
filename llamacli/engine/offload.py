"""How many layers go to the GPUs. Arithmetic only: a header, the devices' free memory and the context's size in.

llama.cpp counts the output matrix as one more layer after the last block and fills from the end: n_gpu_layers = 1 is
the output alone, n_layer + 1 is everything (`llama_model::load_tensors`). The token embeddings stay in RAM.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llamacli.engine.types import KV_TYPES

#: Left free on each device for the driver, the display and what these estimates miss; bytes.
MARGIN = 512 << 20
ALL = -1


def shared_out(free: Sequence[int], split: Sequence[float]) -> list[int]:
    """What of each device's free bytes can be used where the shares are given: the fullest one bounds them all."""
    shares = [split[i] if i < len(split) else 0.0 for i in range(len(free))]
    if not any(shares):
        return list(free)
    unit = min(memory / share for memory, share in zip(free, shares, strict=True) if share > 0)
    return [int(unit * share) for share in shares]


class _Tensor(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def n_bytes(self) -> int: ...


@dataclass(frozen=True)
class Shape:
    """What memory estimates need of a model: bytes per layer (the output last) and the KV cache's width."""

    layer_bytes: tuple[int, ...]
    n_embd_k: int
    n_embd_v: int
    n_embd: int
    n_ff: int
    n_vocab: int
    #: The output is the embeddings: a device gets a copy of them.
    tied: bool = False

    @property
    def n_layer(self) -> int:
        return len(self.layer_bytes) - 1

    @classmethod
    def of(cls, metadata: Mapping[str, Any], tensors: Sequence[_Tensor], n_vocab: int) -> Shape:
        arch = metadata.get("general.architecture", "")

        def number(key: str, default: int) -> int:
            value = metadata.get(f"{arch}.{key}", default)
            values = value.values() if hasattr(value, "values") else [value]  # some store one per layer
            numbers = [int(v) for v in values if isinstance(v, (int, float))]
            return max(numbers, default=default)

        n_layer, n_embd = number("block_count", 1), number("embedding_length", 0)
        n_head = max(number("attention.head_count", 1), 1)
        n_head_kv = number("attention.head_count_kv", n_head)
        head = n_embd // n_head
        layers = [0] * (n_layer + 1)
        embeddings = 0
        for tensor in tensors:
            block = re.match(r"blk\.(\d+)\.", tensor.name)
            if block and int(block[1]) < n_layer:
                layers[int(block[1])] += tensor.n_bytes
            elif tensor.name.startswith("output"):
                layers[n_layer] += tensor.n_bytes
            elif tensor.name == "token_embd.weight":
                embeddings = tensor.n_bytes
        tied = not any(tensor.name == "output.weight" for tensor in tensors)
        if tied:
            layers[n_layer] += embeddings  # tied: the device gets its own copy
        return cls(
            layer_bytes=tuple(layers),
            n_embd_k=number("attention.key_length", head) * n_head_kv,
            n_embd_v=number("attention.value_length", head) * n_head_kv,
            n_embd=n_embd,
            n_ff=number("feed_forward_length", 4 * n_embd),
            n_vocab=n_vocab,
            tied=tied,
        )

    def kv_bytes(self, n_ctx: int, type_k: str, type_v: str) -> int:
        """KV cache of one layer, bytes: an upper bound (sliding windows and recurrent layers need less)."""
        return int(n_ctx * (self.n_embd_k * KV_TYPES[type_k].n_bytes + self.n_embd_v * KV_TYPES[type_v].n_bytes))

    def compute_bytes(self, n_ubatch: int) -> int:
        """Buffers of one device for a batch of n_ubatch tokens: logits and a few activations in f32."""
        return 4 * n_ubatch * (self.n_vocab + 4 * self.n_embd + 3 * self.n_ff)


def layers_that_fit(
    shape: Shape, free: Sequence[int], *, n_ctx: int, n_ubatch: int, type_k: str = "f16", type_v: str = "f16"
) -> int:
    """ALL, or how many layers (counted from the output backwards) fit `free` bytes of each device.

    llama.cpp shares the layers out in proportion to free memory, so a device must hold its share of whole layers: one
    layer's worth is kept back on each where there are several.
    """
    usable = [max(0, memory - MARGIN - shape.compute_bytes(n_ubatch)) for memory in free]
    kv = shape.kv_bytes(n_ctx, type_k, type_v)
    costs = [size + (kv if i < shape.n_layer else 0) for i, size in enumerate(shape.layer_bytes)]
    budget = sum(usable) - (max(costs) * (len(free) - 1) if len(free) > 1 else 0)
    spent = 0
    for count, cost in enumerate(reversed(costs)):
        spent += cost
        if spent > budget:
            return count
    return ALL
