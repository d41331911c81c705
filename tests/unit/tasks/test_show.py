"""What `show` says of a file: sums, parts, memory. The figures for memory are those that llama.cpp itself gave."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFValueType, GGUFWriter

from llamacli.builtin import TINY
from llamacli.errors import BadModelFile, LlamacliError, UsageError
from llamacli.tasks.show import Shortened, Token, metadata, part_of, show, template, tensors

MIB = 1 << 20


def write(path: Path, arch: str, hparams: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """A file with tensors of zeros; shapes as numpy has them."""
    from make_gguf import _typed, spm_tokens

    writer = GGUFWriter(path, arch)
    writer.add_key_value("tokenizer.ggml.tokens", spm_tokens(), GGUFValueType.ARRAY, GGUFValueType.STRING)
    for key, value in hparams.items():
        writer.add_key_value(f"{arch}.{key}", *_typed(value))
    for name, shape in shapes.items():
        writer.add_tensor(name, np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_built_in_model() -> None:
    card, theirs = show(TINY), GGUFReader(TINY)
    assert card.n_layer
    assert card.parameters == sum(int(np.prod(tensor.shape)) for tensor in theirs.tensors)
    n_bytes = sum(int(tensor.n_bytes) for tensor in theirs.tensors)
    assert card.bits_per_weight == pytest.approx(8 * n_bytes / card.parameters, abs=0.001)
    assert sum(part.parameters for part in card.parts) == card.parameters == card.active_parameters
    assert sum(part.bytes for part in card.parts) == n_bytes
    assert [(part.part, part.type, part.tensors) for part in card.parts] == [
        ("embeddings", card.quant, 1),
        ("attention", card.quant, 4 * card.n_layer),
        ("feed_forward", card.quant, 3 * card.n_layer),
        ("norms", "F32", 2 * card.n_layer + 1),
    ]
    assert (card.model, card.architecture, card.file_size) == ("tiny", "llama", TINY.stat().st_size)
    assert (card.bos, card.eos) == (Token(1, "<s>"), Token(2, "</s>"))
    assert card.vocabulary
    assert (card.vocabulary.kind, card.vocabulary.pre) == ("SPM", "default")
    assert card.chat_template
    assert card.chat_template.kind == "chatml"
    assert card.chat_template.characters == len(template(TINY))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("token_embd.weight", "embeddings"),
        ("per_layer_token_embd.weight", "embeddings"),
        ("token_embd_norm.weight", "norms"),
        ("blk.0.attn_q.weight", "attention"),
        ("blk.0.attn_output.weight", "attention"),
        ("blk.0.attn_k.bias", "attention"),
        ("blk.0.attn_q_norm.weight", "norms"),
        ("blk.0.ffn_norm.weight", "norms"),
        ("blk.0.post_ffw_norm.weight", "norms"),
        ("blk.0.ffn_down.weight", "feed_forward"),
        ("blk.0.ffn_down_exps.weight", "experts"),
        ("blk.0.ffn_gate_up_exps.weight", "experts"),
        ("blk.0.ffn_up_shexp.weight", "experts"),
        ("blk.0.ffn_gate_inp.weight", "experts"),
        ("blk.0.exp_probs_b.bias", "experts"),
        ("blk.0.ffn_down.7.weight", "experts"),
        ("blk.0.ssm_conv1d.weight", "recurrent"),
        ("blk.0.ssm_norm.weight", "norms"),
        ("blk.0.shortconv.conv.weight", "recurrent"),
        ("blk.0.time_mix_key.weight", "recurrent"),
        ("blk.0.nextn.eh_proj.weight", "other"),
        ("rope_freqs.weight", "other"),
        ("output.weight", "output"),
        ("output_norm.weight", "norms"),
        ("cls.weight", "output"),
        ("v.blk.0.ln1.weight", "norms"),
        ("mm.0.weight", "other"),
    ],
)
def test_parts(name: str, part: str) -> None:
    assert part_of(name) == part


def test_active_parameters_leave_out_idle_experts(tmp_path: Path) -> None:
    shapes = {"token_embd.weight": (300, 64), "blk.0.ffn_up_exps.weight": (8, 128, 64), "blk.0.ffn_norm.weight": (64,)}
    hparams = {"block_count": 1, "embedding_length": 64, "expert_count": 8, "expert_used_count": 2}
    card = show(write(tmp_path / "moe.gguf", "qwen3moe", hparams, shapes))
    assert card.parameters == 300 * 64 + 8 * 128 * 64 + 64
    assert card.active_parameters == 300 * 64 + 2 * 128 * 64 + 64
    assert (card.n_expert, card.n_expert_used) == (8, 2)
    damaged = show(write(tmp_path / "bad.gguf", "qwen3moe", {**hparams, "expert_used_count": 9}, shapes))
    assert damaged.active_parameters == damaged.parameters


# ---- memory --------------------------------------------------------------------------------------------------------

HEADS = {
    "context_length": 4096,
    "embedding_length": 64,
    "feed_forward_length": 128,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.key_length": 32,
    "attention.value_length": 32,
}


def attention(layers: range | list[int]) -> dict[str, tuple[int, ...]]:
    return {f"blk.{i}.attn_{which}.weight": (64, 64) for i in layers for which in "kv"}


def test_memory_of_a_llama_is_what_llama_cpp_allocates(shared: Path) -> None:
    """llama-completion -v -c 2048: KV 1.25 MiB, compute buffer 3.5215 MiB."""
    path = shared / "data/models/stories260K.gguf"
    memory = show(path).memory
    assert memory
    assert (memory.n_ctx, memory.kv_cache) == (2048, 1.25 * MIB)
    assert memory.compute == pytest.approx(3.5215 * MIB, rel=0.01)
    assert memory.weights == sum(tensor.bytes for tensor in tensors(path))
    assert memory.total == memory.weights + memory.kv_cache + memory.compute + memory.program


def test_the_context_that_is_asked_for() -> None:
    trained = show(TINY).n_ctx_train
    sizes = {n_ctx: show(TINY, n_ctx=n_ctx).memory for n_ctx in (None, 0, 100, 50_000)}
    assert {n_ctx: memory and memory.n_ctx for n_ctx, memory in sizes.items()} == {
        None: trained,
        0: trained,
        100: 100,
        50_000: 50_000,
    }
    assert sizes[100]
    assert sizes[None]
    assert sizes[100].compute * 4 < sizes[None].compute  # a batch cannot be larger than the context
    quantised = show(TINY, n_ctx=100, type_k="q8_0", type_v="q4_0").memory
    assert quantised
    assert quantised.kv_cache == pytest.approx(sizes[100].kv_cache * (34 + 18) / 128)


def test_at_most_8192_tokens_unless_asked(tmp_path: Path) -> None:
    from make_gguf import write_llama

    path = write_llama(tmp_path / "long.gguf", metadata_overrides={"llama.context_length": 131072})
    assert [m.n_ctx for m in (show(path).memory, show(path, n_ctx=0).memory) if m] == [8192, 131072]


def test_sliding_windows_are_counted_whole(tmp_path: Path) -> None:
    """As a random gemma3 of this shape in llama-completion -v -c 4096 --swa-full: 6.00 MiB, compute 9.15 MiB."""
    hparams = {**HEADS, "block_count": 6, "attention.sliding_window": 256}
    memory = show(write(tmp_path / "g.gguf", "gemma3", hparams, attention(range(6)))).memory
    assert memory
    assert memory.kv_cache == 6 * MIB
    assert memory.compute == pytest.approx(9.1465 * MIB, rel=0.02)
    assert "sliding window" in memory.remarks[0]


def test_layers_without_attention_have_no_kv_cache(tmp_path: Path) -> None:
    """As a random qwen35 in llama-completion -v -c 4096: KV 2.00 MiB in 2 layers, states 0.03 MiB in 6."""
    ssm = {"conv_kernel": 4, "inner_size": 64, "state_size": 16, "group_count": 2}
    hparams = {**HEADS, "block_count": 8, **{f"ssm.{name}": value for name, value in ssm.items()}}
    linear = {
        f"blk.{i}.{name}": (128, 64) for i in (0, 1, 2, 4, 5, 6) for name in ("attn_qkv.weight", "ssm_out.weight")
    }
    memory = show(write(tmp_path / "q.gguf", "qwen35", hparams, {**attention([3, 7]), **linear})).memory
    assert memory
    assert memory.kv_cache == 2 * MIB + 6 * 4 * (3 * 128 + 16 * 64)
    assert memory.remarks == ()


def test_layers_with_their_own_number_of_heads(tmp_path: Path) -> None:
    own = {"block_count": 3, "attention.head_count_kv": ([2, 0, 1], GGUFValueType.INT32)}
    memory = show(write(tmp_path / "h.gguf", "lfm2", {**HEADS, **own}, attention(range(3)))).memory
    assert memory
    assert memory.kv_cache == 3 * 4096 * 32 * 2 * 2


@pytest.mark.parametrize(
    ("extra", "layers"),
    [
        ({}, 4.0),
        ({"nextn_predict_layers": 1}, 3.0),  # the draft layer is not run
        ({"attention.shared_kv_layers": 3}, 1.0),
        ({"attention.key_length_mla": 16}, 2.0),  # keys alone
        ({"attention.causal": False}, 0.0),  # an encoder
    ],
)
def test_what_makes_the_kv_cache_smaller(tmp_path: Path, extra: dict[str, Any], layers: float) -> None:
    path = write(tmp_path / "a.gguf", "deepseek2", {**HEADS, "block_count": 4, **extra}, attention(range(4)))
    memory = show(path).memory
    assert memory
    assert memory.kv_cache == layers * MIB


@pytest.mark.parametrize(
    "damage",
    [
        {"llama.block_count": 2**31},
        {"llama.block_count": 0},
        {"llama.embedding_length": -1.5},
        {"llama.attention.head_count": 0},
        {"llama.attention.head_count": float("nan")},
        {"llama.attention.head_count_kv": (["x"], GGUFValueType.STRING)},
        {"llama.attention.key_length": float("inf")},
        {"llama.attention.head_count_kv": ([0, 0], GGUFValueType.INT32)},
        {"llama.context_length": 2**32 - 1},
        {"llama.context_length": "many"},
        {"llama.expert_count": 4, "llama.expert_used_count": 9},
        {"tokenizer.ggml.tokens": "none"},
        {"tokenizer.ggml.tokens": ([1, 2, 3], GGUFValueType.INT32)},
        {"tokenizer.ggml.bos_token_id": 10**6},
        {"tokenizer.ggml.eos_token_id": True},
        {"tokenizer.chat_template": 5},
        {"general.name": 7, "general.license": 1.0},
        {"general.architecture": 3},
        {"general.file_type": -1.0},
        {"llama.rope.freq_base": float("nan")},
    ],
)
def test_damaged_values_are_no_crash(tmp_path: Path, damage: dict[str, Any]) -> None:
    from make_gguf import write_llama

    path = write_llama(tmp_path / "a.gguf", metadata_overrides=damage)
    card = show(path)
    assert card.parameters >= card.active_parameters > 0
    assert card.memory is None or 0 <= card.memory.kv_cache < 2**40
    assert set(damage) <= set(metadata(path))


def test_a_vocabulary_needs_no_memory(tmp_path: Path) -> None:
    from make_gguf import write_llama

    card = show(write_llama(tmp_path / "v.gguf", tensors=False))
    assert (card.memory, card.parameters, card.bits_per_weight, card.parts) == (None, 0, None, ())


# ---- metadata, tensors, template -----------------------------------------------------------------------------------


def test_metadata(tmp_path: Path) -> None:
    from make_gguf import write_llama

    overrides = {
        "general.sampling.temp": 0.7,
        "general.sampling.top_k": 20,
        "general.flag": True,
        "general.sixteen": ([*range(16)], GGUFValueType.INT32),
        "general.seventeen": ([*range(17)], GGUFValueType.INT32),
        "general.big": (0.1, GGUFValueType.FLOAT64),
        "general.largest": 3.4028234663852886e38,
    }
    path = write_llama(tmp_path / "m.gguf", metadata_overrides=overrides)
    values = metadata(path)
    assert list(values)[:2] == ["general.architecture", "general.name"]
    assert values["llama.attention.layer_norm_rms_epsilon"] == 1e-05  # stored as 9.999999747378752e-06
    assert (values["general.flag"], values["general.big"]) == (True, 0.1)
    assert values["general.largest"] == pytest.approx(3.4028234663852886e38)
    assert values["general.sixteen"] == tuple(range(16))
    assert values["general.seventeen"] == Shortened(17, tuple(range(16)))
    assert values["tokenizer.ggml.tokens"] == Shortened(
        301, ("<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(13)))
    )
    assert show(path).sampling == {"temp": 0.7, "top_k": 20}
    json.dumps(list(values))


def test_tensors_lie_where_it_says(tmp_path: Path) -> None:
    from make_gguf import write_llama

    path = write_llama(tmp_path / "t.gguf", seed=3)
    rows, theirs = tensors(path), GGUFReader(path)
    assert [row.name for row in rows] == [tensor.name for tensor in theirs.tensors]
    row = next(row for row in rows if row.name == "blk.1.ffn_down.weight")
    assert (row.shape, row.type, row.bytes, row.file) == ((128, 64), "F32", 128 * 64 * 4, str(path))
    mine = np.frombuffer(path.read_bytes()[row.offset : row.offset + row.bytes], np.float32)
    assert np.array_equal(mine, next(t.data for t in theirs.tensors if t.name == row.name).ravel())


def test_no_template(plain: Path) -> None:
    with pytest.raises(UsageError, match="has no chat template"):
        template(plain)


# ---- split models --------------------------------------------------------------------------------------------------


@pytest.fixture
def split(tmp_path: Path) -> list[Path]:
    """A model in two files, as llama-gguf-split writes them."""
    from make_gguf import _tensors, spm_tokens, write_llama

    weights = _tensors(len(spm_tokens()), 2, 0)
    paths = []
    for number in range(2):
        path = tmp_path / f"two-Q8_0-{number + 1:05}-of-00002.gguf"
        keys = {"split.no": (number, GGUFValueType.UINT16), "split.count": (2, GGUFValueType.UINT16)}
        removed = {name: None for name in weights if name.startswith("blk.1.") != (number == 1)}
        paths.append(write_llama(path, metadata_overrides=keys, tensor_overrides=removed))
    return paths


def test_all_files_of_a_split_model_count(split: list[Path], plain: Path) -> None:
    whole = show(plain)
    for path in split:  # whichever is named
        card = show(path)
        assert card.files == tuple(map(str, split))
        assert card.parameters == whole.parameters
        assert {(p.part, p.bytes) for p in card.parts} == {(p.part, p.bytes) for p in whole.parts}
        assert card.file_size == sum(part.stat().st_size for part in split)
        assert card.memory == whole.memory
        assert {row.file for row in tensors(path)} == set(card.files)


def test_a_missing_part(split: list[Path]) -> None:
    split[1].unlink()
    with pytest.raises(BadModelFile, match="part 2 of 2 is missing"):
        show(split[0])


def test_a_renamed_part(split: list[Path]) -> None:
    with pytest.raises(LlamacliError, match="one of 2 parts"):
        show(split[0].rename(split[0].with_name("renamed.gguf")))
