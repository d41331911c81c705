"""Small GGUF files for tests: a loadable LLaMA with random weights, and whatever is to be wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFValueType, GGUFWriter

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # token types
DIM, HEADS, KV_HEADS, FFN, CONTEXT = 64, 4, 2, 128, 512

# a value, or a value with its GGUF type (for arrays: the type of the elements); None leaves the key out
Value = Any


def spm_tokens() -> list[str]:
    """About 300 tokens: three special ones, the 256 bytes, letters and a few words as SentencePiece writes them."""
    special = ["<unk>", "<s>", "</s>"]
    letters = [*"▁etaoinshrdlucmwfgypbvkjxqz.,!?'\"-", "▁t", "▁th", "▁the", "▁Once", "▁upon", "▁a", "he", "in"]
    return [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]


def write_llama(
    path: Path,
    *,
    metadata_overrides: Mapping[str, Value] | None = None,
    remove: Sequence[str] = (),
    chat_template: str | None = None,
    tokens: Sequence[str | bytes] | None = None,
    n_layer: int = 2,
    tensors: bool = True,
    tensor_overrides: Mapping[str, np.ndarray | None] | None = None,
    seed: int = 0,
) -> Path:
    """Write a tiny LLaMA (width 64, 4 heads, 2 key/value heads, context 512) and return `path`.

    `metadata_overrides` maps keys to a value or (value, GGUFValueType); ints become uint32, floats float32. `tokens`
    replaces the vocabulary (types and scores follow, and so do the embeddings). With `tensors` false the file holds the
    vocabulary only; `tensor_overrides` replaces single tensors, None leaves one out.
    """
    tokens = spm_tokens() if tokens is None else tokens
    metadata = {**_metadata(tokens, n_layer), **(metadata_overrides or {})}
    if chat_template is not None:
        metadata["tokenizer.chat_template"] = chat_template
    writer = GGUFWriter(path, "llama")
    if "general.alignment" in metadata:
        writer.data_alignment = metadata["general.alignment"]
    writer.kv_data[0].pop("general.architecture")  # so that a test can set or remove it
    for key, value in metadata.items():
        if key not in remove and value is not None:
            writer.add_key_value(key, *_typed(value))
    if tensors:
        weights = {**_tensors(len(tokens), n_layer, seed), **(tensor_overrides or {})}
        for name, array in weights.items():
            if array is not None:
                writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _metadata(tokens: Sequence[str | bytes], n_layer: int) -> dict[str, Value]:
    types = [_token_type(token) for token in tokens]
    return {
        "general.architecture": "llama",
        "general.name": "tiny random llama",
        "llama.context_length": CONTEXT,
        "llama.embedding_length": DIM,
        "llama.block_count": n_layer,
        "llama.feed_forward_length": FFN,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.rope.dimension_count": DIM // HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": (list(tokens), GGUFValueType.STRING),
        "tokenizer.ggml.scores": ([-float(i) for i in range(len(tokens))], GGUFValueType.FLOAT32),
        "tokenizer.ggml.token_type": (types, GGUFValueType.INT32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def _token_type(token: str | bytes) -> int:
    text = token if isinstance(token, str) else token.decode("utf-8", "replace")
    if text == "<unk>":
        return UNKNOWN
    if text.startswith("<0x") and len(text) == 6:
        return BYTE
    return CONTROL if text.startswith("<") and text.endswith(">") else NORMAL


def _typed(value: Value) -> tuple[Any, GGUFValueType, GGUFValueType | None]:
    """The value, its type and the type of its elements."""
    given = None
    if isinstance(value, tuple):
        value, given = value
    if isinstance(value, list):
        return value, GGUFValueType.ARRAY, given or _guess(value[0])
    return value, given or _guess(value), None


def _guess(value: Value) -> GGUFValueType:
    if isinstance(value, bool):
        return GGUFValueType.BOOL
    if isinstance(value, int):
        return GGUFValueType.UINT32
    return GGUFValueType.FLOAT32 if isinstance(value, float) else GGUFValueType.STRING


def _tensors(n_vocab: int, n_layer: int, seed: int) -> dict[str, np.ndarray | None]:
    rng = np.random.default_rng(seed)
    kv = DIM // HEADS * KV_HEADS

    def matrix(rows: int, columns: int) -> np.ndarray:
        return rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.1)

    ones = np.ones(DIM, np.float32)
    weights = {"token_embd.weight": matrix(n_vocab, DIM), "output_norm.weight": ones}
    weights["output.weight"] = matrix(n_vocab, DIM)
    for i in range(n_layer):
        layer = {
            "attn_norm": ones,
            "ffn_norm": ones,
            "attn_q": matrix(DIM, DIM),
            "attn_k": matrix(kv, DIM),
            "attn_v": matrix(kv, DIM),
            "attn_output": matrix(DIM, DIM),
            "ffn_gate": matrix(FFN, DIM),
            "ffn_up": matrix(FFN, DIM),
            "ffn_down": matrix(DIM, FFN),
        }
        weights |= {f"blk.{i}.{name}.weight": array for name, array in layer.items()}
    return dict(weights)
