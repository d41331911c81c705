"""Write a checkpoint of train.py as GGUF: python -m llamacli.builtin.export CHECKPOINT.pt tiny.gguf

Needs PyTorch and gguf. Matrices become F16, norms stay F32.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import gguf
import numpy as np
import torch

from llamacli.builtin import train
from llamacli.builtin import vocabulary as v
from llamacli.builtin.vocabulary import Vocabulary

#: ChatML; the vocabulary's BOS token comes first, because the file says so (add_bos_token).
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_BLOCK_NAMES = {
    "attention_norm": "attn_norm",
    "attention.q": "attn_q",
    "attention.k": "attn_k",
    "attention.v": "attn_v",
    "attention.o": "attn_output",
    "ffn_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
_ROTATED = ("attention.q.weight", "attention.k.weight")
_NAMES = {"embedding.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}


def tensor_name(name: str) -> str:
    """The GGUF name of one of train.Llama's parameters."""
    if name in _NAMES:
        return _NAMES[name]
    _, block, part = name.removesuffix(".weight").split(".", 2)
    return f"blk.{block}.{_BLOCK_NAMES[part]}.weight"


def rope_order(matrix: np.ndarray) -> np.ndarray:
    """Rows of q or k reordered from pairs (i, i + HEAD / 2) to llama.cpp's neighbours (2 i, 2 i + 1)."""
    heads = matrix.shape[0] // train.HEAD
    return matrix.reshape(heads, 2, train.HEAD // 2, -1).swapaxes(1, 2).reshape(matrix.shape)


def half_order(matrix: np.ndarray) -> np.ndarray:
    """The inverse of rope_order."""
    heads = matrix.shape[0] // train.HEAD
    return matrix.reshape(heads, train.HEAD // 2, 2, -1).swapaxes(1, 2).reshape(matrix.shape)


def load(path: Path, names: Iterable[str]) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The weights of a GGUF that `write` wrote, under train.Llama's names, and its tokens."""
    reader = gguf.GGUFReader(path)
    stored = {tensor.name: np.array(tensor.data, dtype=np.float32) for tensor in reader.tensors}
    weights = {name: stored[tensor_name(name)] for name in names}
    for name, matrix in weights.items():
        if name.endswith(_ROTATED):
            weights[name] = half_order(matrix)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    return {name: torch.from_numpy(matrix) for name, matrix in weights.items()}, tuple(tokens)


def write(checkpoint: Path, path: Path) -> None:
    """Write the GGUF file."""
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
    vocabulary = Vocabulary(tuple(stored["tokens"]))
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, vocabulary)
    for name, tensor in stored["model"].items():
        matrix = tensor.float().numpy()
        if name.endswith(_ROTATED):
            matrix = rope_order(matrix)
        writer.add_tensor(tensor_name(name), matrix.astype(np.float16 if matrix.ndim == 2 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_name("tiny")
    writer.add_description("The built-in model of llamacli: a small closed world of stories, passages and sums.")
    writer.add_license("mit")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(train.CONTEXT)
    writer.add_embedding_length(train.WIDTH)
    writer.add_block_count(train.LAYERS)
    writer.add_feed_forward_length(train.HIDDEN)
    writer.add_head_count(train.HEADS)
    writer.add_head_count_kv(train.KV_HEADS)
    writer.add_rope_dimension_count(train.HEAD)
    writer.add_rope_freq_base(train.ROPE_BASE)
    writer.add_layer_norm_rms_eps(train.EPSILON)
    writer.add_vocab_size(len(vocabulary.tokens))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_scores(vocabulary.scores())
    writer.add_token_types([_token_type(token) for token in vocabulary.tokens])
    writer.add_unk_token_id(vocabulary.number(v.UNKNOWN))
    writer.add_bos_token_id(vocabulary.number(v.BOS))
    writer.add_eos_token_id(vocabulary.number(v.EOS))
    writer.add_eot_token_id(vocabulary.number(v.TURN_END))
    writer.add_uint32("tokenizer.ggml.fim_pre_token_id", vocabulary.number(v.FIM_PREFIX))
    writer.add_uint32("tokenizer.ggml.fim_suf_token_id", vocabulary.number(v.FIM_SUFFIX))
    writer.add_uint32("tokenizer.ggml.fim_mid_token_id", vocabulary.number(v.FIM_MIDDLE))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _token_type(token: str) -> int:
    if token == v.UNKNOWN:
        return int(gguf.TokenType.UNKNOWN)
    if token in v.CONTROL:
        return int(gguf.TokenType.CONTROL)
    return int(gguf.TokenType.BYTE if token in v.BYTES else gguf.TokenType.NORMAL)


def main() -> None:
    """Convert one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("gguf", type=Path)
    arguments = parser.parse_args()
    write(arguments.checkpoint, arguments.gguf)


if __name__ == "__main__":
    main()
