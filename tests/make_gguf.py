"""Small GGUF files for tests: a loadable LLaMA with random weights, and whatever is to be wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFValueType, GGUFWriter

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # token types
DIM, HEADS, KV_HEADS, FFN, CONTEXT = 64, 4, 2, 128, 512
PARROT, PARROT_DIM = "<|parrot|>", 512

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


def write_moe(path: Path, *, n_expert: int = 4, n_used: int = 2, n_layer: int = 2, seed: int = 0) -> Path:
    """Write a tiny LLaMA whose feed-forward layers are n_expert experts, of which each token meets n_used."""
    rng = np.random.default_rng(seed)

    def matrix(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(0.1)

    overrides: dict[str, np.ndarray | None] = {}
    for i in range(n_layer):
        overrides |= {f"blk.{i}.ffn_{name}.weight": None for name in ("gate", "up", "down")}
        overrides |= {
            f"blk.{i}.ffn_gate_inp.weight": matrix(n_expert, DIM),
            f"blk.{i}.ffn_gate_exps.weight": matrix(n_expert, FFN, DIM),
            f"blk.{i}.ffn_up_exps.weight": matrix(n_expert, FFN, DIM),
            f"blk.{i}.ffn_down_exps.weight": matrix(n_expert, DIM, FFN),
        }
    return write_llama(
        path,
        n_layer=n_layer,
        seed=seed,
        tensor_overrides=overrides,
        metadata_overrides={"llama.expert_count": n_expert, "llama.expert_used_count": n_used},
    )


def write_lora(path: Path, *, rank: int = 4) -> Path:
    """A LoRA adapter for `write_llama`'s model: it changes two matrices by random ones of this rank."""
    writer = GGUFWriter(path, "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    rng = np.random.default_rng(1)
    for name in ("blk.0.attn_v.weight", "blk.1.ffn_down.weight"):
        n_in, n_out = (DIM, 32) if "attn_v" in name else (128, DIM)
        writer.add_tensor(f"{name}.lora_a", rng.standard_normal((rank, n_in), dtype=np.float32))
        writer.add_tensor(f"{name}.lora_b", rng.standard_normal((n_out, rank), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_mamba(path: Path, *, n_layer: int = 2, chat_template: str | None = None, seed: int = 0) -> Path:
    """Write a tiny Mamba with random weights: a recurrent model, which cannot forget its last tokens."""
    tokens, inner, state, window, rank = spm_tokens(), 2 * DIM, 16, 4, 4
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.1)

    tensors = {"token_embd.weight": matrix(len(tokens), DIM), "output_norm.weight": np.ones(DIM, np.float32)}
    for i in range(n_layer):
        layer = {
            "attn_norm.weight": np.ones(DIM, np.float32),
            "ssm_in.weight": matrix(2 * inner, DIM),
            "ssm_conv1d.weight": matrix(inner, window),
            "ssm_conv1d.bias": np.zeros(inner, np.float32),
            "ssm_x.weight": matrix(rank + 2 * state, inner),
            "ssm_dt.weight": matrix(inner, rank),
            "ssm_dt.bias": np.zeros(inner, np.float32),
            "ssm_a": -np.ones((inner, state), np.float32),
            "ssm_d": np.ones(inner, np.float32),
            "ssm_out.weight": matrix(DIM, inner),
        }
        tensors |= {f"blk.{i}.{name}": array for name, array in layer.items()}
    llama = ("feed_forward_length", "head_count", "rope", "layer_norm_rms_epsilon", "vocab_size")
    overrides: dict[str, Value] = {
        key: None for key in _metadata(tokens, n_layer) if any(part in key for part in llama)
    }
    return write_llama(
        path,
        chat_template=chat_template,
        tensor_overrides={**dict.fromkeys(_tensors(len(tokens), n_layer, seed)), **tensors},
        n_layer=n_layer,
        metadata_overrides={
            **overrides,
            "general.architecture": "mamba",
            "llama.context_length": None,
            "llama.embedding_length": None,
            "llama.block_count": None,
            "mamba.context_length": CONTEXT,
            "mamba.embedding_length": DIM,
            "mamba.feed_forward_length": 0,
            "mamba.block_count": n_layer,
            "mamba.attention.head_count": 0,
            "mamba.attention.layer_norm_rms_epsilon": 1e-5,
            "mamba.vocab_size": len(tokens),
            "mamba.ssm.conv_kernel": window,
            "mamba.ssm.inner_size": inner,
            "mamba.ssm.state_size": state,
            "mamba.ssm.time_step_rank": rank,
        },
    )


def write_parrot(path: Path, text: str, *, context: int = CONTEXT, control: Sequence[str] = ()) -> Path:
    """Write a model that answers everything with `text`, and then ends: for what only a certain answer can show.

    Its tokens are pieces of the text, each predicting the next one; a token that the template writes predicts the
    first. There is no attention. `control` are pieces that are tokens of control, such as "<think>".
    """
    base = [*spm_tokens(), PARROT]
    pieces: list[str] = []
    rest = text
    while rest:
        size = next((len(mark) for mark in control if rest.startswith(mark)), 1)
        while size <= len(rest) and rest[:size] in {*pieces, *base}:  # no two tokens may have one text
            size += 1
        if size > len(rest):  # the end of the text stands in it before
            pieces[-1] += rest
        else:
            pieces.append(rest[:size])
        rest = rest[size:]
    tokens: list[str | bytes] = [*base, *pieces]
    rng = np.random.default_rng(0)
    embedding = rng.choice([-1.0, 1.0], (len(tokens), PARROT_DIM)).astype(np.float32)
    output = np.zeros_like(embedding)
    chain = [len(base) - 1, *range(len(base), len(tokens)), 2]  # … and at the end EOS
    for before, after in pairwise(chain):
        output[after] = embedding[before]
    layer = {
        "attn_norm": np.ones(PARROT_DIM, np.float32),
        "ffn_norm": np.ones(PARROT_DIM, np.float32),
        **{
            name: np.zeros((PARROT_DIM, PARROT_DIM), np.float32)
            for name in ("attn_q", "attn_k", "attn_v", "attn_output")
        },
        **{name: np.zeros((FFN, PARROT_DIM), np.float32) for name in ("ffn_gate", "ffn_up")},
        "ffn_down": np.zeros((PARROT_DIM, FFN), np.float32),
    }
    return write_llama(
        path,
        tokens=tokens,
        chat_template="{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}" + PARROT,
        n_layer=1,
        tensor_overrides={
            "token_embd.weight": embedding,
            "output.weight": output,
            "output_norm.weight": np.ones(PARROT_DIM, np.float32),
            **{f"blk.0.{name}.weight": array for name, array in layer.items()},
        },
        metadata_overrides={
            "llama.context_length": context,
            "llama.embedding_length": PARROT_DIM,
            "llama.attention.head_count": 4,
            "llama.attention.head_count_kv": 4,
            "llama.rope.dimension_count": PARROT_DIM // 4,
        },
    )
