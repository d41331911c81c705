"""Header reader and checks: what is told apart, what is refused before llama.cpp sees it, and how fast."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from make_gguf import BYTE, DIM, FFN, spm_tokens, write_llama

from llamacli.builtin import TINY
from llamacli.errors import BadModelFile, ModelNotFound, StorageError, UsageError
from llamacli.models.ggml_types import GGML_TYPES, type_name
from llamacli.models.gguf import Array, brief, read_header
from llamacli.models.gguf_checks import check

MUTANTS = Path(__file__).parents[2] / "benchmarks" / "mutants.py"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf", chat_template="{{ messages }}")


def reason(path: Path) -> str:
    """Why the file is refused, without its name."""
    with pytest.raises(BadModelFile) as caught:
        check(read_header(path))
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value.message.removeprefix(f"{path}: ")


def mutated(tiny: Path, tmp_path: Path, change: Callable[[bytearray], object]) -> Path:
    data = bytearray(tiny.read_bytes())
    change(data)
    path = tmp_path / "mutated.gguf"
    path.write_bytes(data)
    return path


# ---- reading -------------------------------------------------------------------------------------------------------


def test_header_of_a_model(tiny: Path) -> None:
    header = read_header(tiny)
    assert (header.version, header.alignment, header.architecture) == (3, 32, "llama")
    assert header.metadata["llama.block_count"] == 2
    assert header.metadata_types["llama.block_count"] == GGUFValueType.UINT32
    assert header.hparam("context_length") == 512
    assert header.metadata["tokenizer.chat_template"] == "{{ messages }}"
    assert header.metadata["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    assert header.file_size == tiny.stat().st_size
    assert header.data_offset % 32 == 0
    assert header.n_split == 1
    assert len(header.tensors) == 3 + 2 * 9
    up = next(tensor for tensor in header.tensors if tensor.name == "blk.1.ffn_up.weight")
    assert (up.shape, type_name(up.type), up.n_bytes) == ((DIM, FFN), "F32", 4 * DIM * FFN)
    assert header.n_elements == sum(tensor.n_bytes for tensor in header.tensors) // 4
    check(header)


def test_arrays_are_read_when_asked(tiny: Path) -> None:
    metadata = read_header(tiny).metadata
    tokens, types, scores = (metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type", "scores"))
    assert isinstance(tokens, Array)
    assert isinstance(types, Array)
    assert isinstance(scores, Array)
    assert tokens.values() == spm_tokens()
    assert tokens.strings()[:2] == [b"<unk>", b"<s>"]
    assert types.values()[3:259] == [BYTE] * 256
    assert scores.values()[2] == -2.0


def test_array_of_a_file_that_became_shorter(tiny: Path, tmp_path: Path) -> None:
    path = mutated(tiny, tmp_path, lambda data: None)
    tokens = read_header(path).metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, Array)
    path.write_bytes(b"GGUF")
    with pytest.raises(BadModelFile, match="become shorter"):
        tokens.values()


def test_types_are_those_of_ggml() -> None:
    sizes = {**GGML_QUANT_SIZES, GGMLQuantizationType.Q8_1: (32, 36)}  # gguf still has the 40 bytes of 2023
    for ggml_type, (block_size, type_size) in sizes.items():
        assert GGML_TYPES[ggml_type] == (ggml_type.name, block_size, type_size)
    removed = {ggml_type for ggml_type, (_, block_size, _) in GGML_TYPES.items() if block_size == 0}
    assert removed == {4, 5, 31, 32, 33, 36, 37, 38}
    assert sorted(GGML_TYPES) == list(range(43))
    assert type_name(GGMLQuantizationType.Q4_K) == "Q4_K"
    assert type_name(99) == "type 99"


def test_foreign_text_is_escaped_and_cut() -> None:
    assert brief("plain – ä") == "plain – ä"
    assert brief("\x1b]52;c\x07\x9b\u202e\r\n\0") == "\\x1b]52;c\\x07\\x9b\\u202e \\x00"
    assert brief("x" * 200) == "x" * 79 + "…"
    assert len(brief("\x1b" * 79)) == 80


def test_the_built_in_model() -> None:
    header = read_header(TINY)
    check(header)
    assert (header.architecture, len(header.tensors)) == ("llama", 47)


def test_vocabularies_pass_unless_weights_are_needed(shared: Path) -> None:
    files = sorted((shared / "data/vocab").glob("*.gguf"))
    assert files
    for file in files:
        header = read_header(file)
        check(header, weights=False)
        with pytest.raises(BadModelFile, match=r"a vocabulary only \([\d,]+ tokens\), no weights"):
            check(header)


def test_fast_enough(shared: Path) -> None:
    def best(file: Path, weights: bool) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            check(read_header(file), weights=weights)
            times.append(time.perf_counter() - start)
        return min(times)

    # 0.5 ms and 0.08 s on a machine of 2024; there is room for a busy one
    assert best(TINY, True) < 0.01
    assert best(shared / "data/vocab/ggml-vocab-qwen2.gguf", False) < 0.4


# ---- what is no GGUF file, or a damaged one ------------------------------------------------------------------------


def test_missing_folder_special_and_locked(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelNotFound, match="no such file"):
        read_header(tmp_path / "none.gguf")
    with pytest.raises(ModelNotFound):
        read_header(tmp_path / ("x" * 300))
    with pytest.raises(ModelNotFound):
        read_header(tiny / "below-a-file")
    with pytest.raises(UsageError, match="is a folder"):
        read_header(tmp_path)
    with pytest.raises(UsageError, match="cannot be the name"):
        read_header("nul\0byte")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(UsageError, match="not a regular file"):
            read_header(tmp_path / "fifo")

    def locked(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", locked)
    with pytest.raises(StorageError, match="Permission denied"):
        read_header(tiny)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty"),
        (b"GG", "starts with 'GG'"),
        (b"GGUF\3\0", "ends after 6 bytes, inside its header"),
        (b"<!DOCTYPE html><html>", r"a web page \(21 bytes\)"),
        (b"\xef\xbb\xbf\r\n  <HTML>", "a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4681089344\n",
         "a Git LFS pointer for a file of 4,681,089,344 bytes"),
        (b"PK\x03\x04" + bytes(60), "a zip archive or PyTorch checkpoint"),
        (b"\x80\x02}q\0.", "a Python pickle"),
        (struct.pack("<Q", 40) + b'{"__metadata__":{"format":"pt"}}' + bytes(20), "a safetensors file"),
        (b'{"error":"Invalid credentials"}', "a JSON text"),
        (b"lmgg" + bytes(60), r"from before GGUF .* \(ggml\)"),
        (b"tjgg\3\0\0\0" + bytes(60), r"from before GGUF .* \(ggjt\)"),
        (b"\x1f\x8b\x08\0", "a gzip archive"),
        (bytes(4096), "its first bytes are all zero"),
        (bytes(range(200, 256)), "not a GGUF file: it starts with '\\\\xc8"),
        (b"GGUF" + struct.pack(">IQQ", 3, 1, 1), "a big-endian GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "GGUF version 1;"),
        (b"GGUF" + struct.pack("<IQQ", 4, 0, 0), "GGUF version 4;"),
        (b"GGUF" + struct.pack("<IQQ", 0, 0, 0), "GGUF version 0;"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 62, 0), "claims 4,611,686,018,427,387,904 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1000) + bytes(100), "and 1,000 metadata keys"),
    ],
)  # fmt: skip
def test_what_is_no_model(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(BadModelFile, match=expected) as caught:
        read_header(path)
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 6


def test_every_truncation_is_refused(tiny: Path, tmp_path: Path) -> None:
    data = tiny.read_bytes()
    header = read_header(tiny)
    path = tmp_path / "cut.gguf"
    for size in [*range(0, header.data_offset, 97), header.data_offset, len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(BadModelFile, match=r"empty|cut short|claims|starts with"):
            read_header(path)
    assert f"needs {len(data):,} bytes, the file has {len(data) - 1:,}" in reason(path)


def test_last_padding_may_be_missing(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "a.gguf", tensor_overrides={"last.bias": np.zeros(3, np.float32)})
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    assert read_header(path).tensors[-1].n_bytes == 12
    path.write_bytes(data[:-21])
    assert reason(path).startswith("cut short: the model needs")


def header_bytes(n_keys: int, keys: bytes, n_tensors: int = 0, tensors: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys) + keys + tensors + bytes(64)


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (header_bytes(2, 2 * (string(b"a.key") + struct.pack("<II", 4, 1))), "the metadata key a.key occurs twice"),
        (header_bytes(1, string(b"a\0b") + struct.pack("<II", 4, 1)), "a metadata key that is empty or holds a NUL"),
        (header_bytes(1, string(b"") + struct.pack("<II", 4, 1) + bytes(8)), "a metadata key that is empty"),
        (header_bytes(1, string(b"a\x1b[2J") + struct.pack("<II", 13, 1)), r"a\\x1b\[2J has the unknown type 13"),
        (header_bytes(1, string(b"a") + struct.pack("<IIQ", 9, 9, 1)), "a is an array of arrays"),
        (header_bytes(1, string(b"a") + struct.pack("<IIQ", 9, 4, 1 << 61)), "a claims 2,305,843,009,213,693,952"),
        (header_bytes(1, string(b"a") + struct.pack("<IIQ", 9, 8, 1 << 20)), "a claims 1,048,576 elements"),
        (header_bytes(1, string(b"a") + struct.pack("<IIQQ", 9, 8, 2, (1 << 64) - 1)), "inside the value of a"),
        (header_bytes(1, string(b"a") + struct.pack("<IQ", 8, 1 << 40)), "a string of 1,099,511,627,776 bytes"),
        (header_bytes(1, string(b"a") + struct.pack("<IQ", 8, 1 << 20)), "inside the value of a"),
        (header_bytes(1, string(b"general.alignment") + struct.pack("<II", 4, 0)), "general.alignment is 0"),
        (header_bytes(1, string(b"general.alignment") + struct.pack("<II", 4, 48)), "48, not a power of two"),
        (header_bytes(1, string(b"general.alignment") + struct.pack("<IQ", 10, 32)), "not a 32-bit unsigned integer"),
    ],
)
def test_damaged_metadata(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(BadModelFile, match=expected):
        read_header(path)


def tensor(name: bytes, shape: tuple[int, ...], ggml_type: int, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}qIQ", len(shape), *shape, ggml_type, offset)


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ([tensor(b"a", (8,), 0), tensor(b"a", (8,), 0, 32)], "the tensor a occurs twice"),
        ([tensor(b"a", (8,), 0), tensor(b"b", (8,), 0, 64)], "tensor b is said to be at 64 instead of 32"),
        ([tensor(b"a", (8,), 0, 32)], "at 32 instead of 0"),
        ([tensor(b"a", (0,), 0)], r"impossible shape \[0\]"),
        ([tensor(b"a", (-8, 2), 0)], r"impossible shape \[-8, 2\]"),
        ([tensor(b"a", (1 << 40, 1 << 40), 0)], "impossible shape"),
        ([tensor(b"a", (1 << 20, 1 << 20), 0)], r"needs 4,398,046,511,\d+ bytes, the file has"),
        ([tensor(b"a", (1, 1, 1, 1, 1), 0)], "5 dimensions"),
        ([tensor(b"a" * 64, (1,), 0)], "a name of 64 bytes"),
        ([tensor(b"a", (8,), 43)], "unknown type 43"),
        ([tensor(b"a", (8,), 0xFFFFFFFF)], "unknown type"),
        ([tensor(b"a", (32,), 4)], "type Q4_2, which llama.cpp has removed"),
        ([tensor(b"a", (33,), 2)], "rows of 33 elements, but Q4_0 comes in blocks of 32"),
    ],
)
def test_damaged_tensor_descriptions(tensors: list[bytes], expected: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(header_bytes(0, b"", len(tensors), b"".join(tensors)))
    with pytest.raises(BadModelFile, match=expected):
        read_header(path)


# ---- what would kill llama.cpp -------------------------------------------------------------------------------------

SPM = spm_tokens()
MOE = {"llama.expert_count": 8, "llama.expert_used_count": 2}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"general.architecture": None}, "general.architecture is missing"),
        ({"general.architecture": "clip"}, "a projector for images"),
        ({"general.type": "adapter"}, "a LoRA adapter"),
        ({"general.type": "imatrix"}, "an importance matrix"),
        ({"llama.block_count": 0}, "block_count is 0;"),
        ({"llama.block_count": 513}, "block_count is 513;"),
        ({"llama.nextn_predict_layers": 3}, "nextn_predict_layers is 3, more than its 2 layers"),
        ({**MOE, "llama.expert_used_count": 9}, "expert_used_count is 9 of 8 experts"),
        ({"llama.expert_used_count": 1}, "1 of 0 experts"),
        ({"llama.expert_count": 8}, "0 of 8 experts"),
        ({**MOE, "llama.expert_used_count": ([2, 9], GGUFValueType.UINT32)}, "9 of 8 experts"),
        ({"llama.expert_count": 2000, "llama.expert_used_count": 2}, "expert_count is 2,000"),
        ({**MOE, "llama.expert_group_count": 8}, "expert_group_count is 8"),
        ({**MOE, "llama.expert_group_count": 3, "llama.expert_group_used_count": 1}, "1 of 3 groups"),
        ({**MOE, "llama.expert_group_count": 2}, "0 of 2 groups"),
        ({"general.architecture": "qwen3moe"}, "qwen3moe models have experts"),
        ({"llama.attention.head_count_kv": 3}, "4 attention heads cannot share 3"),
        ({"llama.attention.head_count_kv": ([2, 3], GGUFValueType.UINT32)}, "4 attention heads cannot share 3"),
        ({"general.architecture": "gemma3"}, "attention.head_count is missing or 0"),
        ({"llama.rope.scaling.type": "linear\x1b[2J"}, r"rope.scaling.type is 'linear\\x1b\[2J'"),
        ({"llama.rope.dimension_count": 15}, "RoPE turns 15 of the 16"),
        ({"llama.rope.dimension_count": 32}, "RoPE turns 32 of the 16"),
        ({"llama.rope.dimension_count": 8}, "RoPE turns 8 of the 16"),
        ({"llama.attention.value_length": 8}, "of keys have 16 dimensions, those of values 8"),
        ({"llama.attention.head_count": 2, "llama.attention.key_length": 16, "llama.attention.value_length": 16},
         r"the tensor blk.0.attn_q.weight has the shape \[64, 64\], not 2 heads of 16 dimensions"),
        ({"llama.rope.dimension_sections": ([8, 8, 8, 0], GGUFValueType.INT32)}, "for heads of 16 dimensions"),
        ({"llama.rope.dimension_sections": ([8, -8, 0, 0], GGUFValueType.INT32)}, "8, -8, 0, 0"),
        ({"general.architecture": "qwen2vl"}, "rope.dimension_sections is missing"),
        ({"llama.attention.sliding_window": 1 << 31}, "sliding_window is 2,147,483,648"),
        ({"llama.attention.sliding_window": 8, "llama.attention.sliding_window_pattern": 1}, "no layer has"),
        ({"llama.attention.layer_norm_rms_epsilon": -1.0}, "layer_norm_rms_epsilon is -1.0"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "layer_norm_rms_epsilon is nan"),
        ({"llama.pooling_type": 17}, "pooling_type is 17"),
        ({"tokenizer.ggml.model": "none"}, "holds no vocabulary"),
        ({"tokenizer.ggml.tokens": (["a", "a"], GGUFValueType.STRING)}, "tokens 0 and 1 have the same text 'a'"),
        ({"tokenizer.ggml.tokens": (["a", "a\0b"], GGUFValueType.STRING)}, "tokens 0 and 1 have the same text"),
        ({"tokenizer.ggml.tokens": (["[EMPTY_1]", ""], GGUFValueType.STRING)}, "tokens 0 and 1"),
        ({"tokenizer.ggml.tokens": ([*SPM[:-1], "\x1b[2J", "\x1b[2J"], GGUFValueType.STRING)}, r"'\\x1b\[2J'"),
        ({"tokenizer.ggml.tokens": (SPM[:100], GGUFValueType.STRING)}, "159 of the 256 byte tokens are missing"),
        ({"tokenizer.ggml.model": "bert"}, "a WordPiece vocabulary .* with byte tokens"),
        ({"tokenizer.ggml.model": "rwkv"}, "bytes begin a token, but are no tokens themselves"),
        ({"tokenizer.ggml.model": "t5", "tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 400},
         "every text gets the bos token, but bos_token_id is 400 in a vocabulary of 301"),
        ({"tokenizer.ggml.model": "gemma4", "tokenizer.ggml.bos_token_id": None}, "bos_token_id is missing"),
    ],
)  # fmt: skip
def test_deadly_metadata_is_refused(metadata: dict[str, object], expected: str, tmp_path: Path) -> None:
    path = write_llama(tmp_path / "model.gguf", metadata_overrides=metadata)
    with pytest.raises(BadModelFile, match=expected) as caught:
        check(read_header(path))
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "metadata",
    [
        {"llama.rope.scaling.type": "yarn"},
        {"llama.rope.freq_base": 0.0},
        {"llama.attention.layer_norm_rms_epsilon": 0.0},
        {"llama.attention.head_count_kv": ([2, 2], GGUFValueType.UINT32)},
        {"llama.attention.sliding_window": 4096},
        {"llama.pooling_type": 1},
        {"llama.context_length": 0},
        {"general.alignment": 64},
        {"general.file_type": 4000},
        {"tokenizer.ggml.bos_token_id": 100_000},  # llama.cpp falls back to its default
        {"tokenizer.ggml.scores": None},
        {"tokenizer.ggml.token_type": None},
    ],
)
def test_odd_but_harmless_metadata_passes(metadata: dict[str, object], tmp_path: Path) -> None:
    check(read_header(write_llama(tmp_path / "model.gguf", metadata_overrides=metadata)))


def test_empty_vocabulary_is_refused(tmp_path: Path) -> None:
    keys = string(b"general.architecture") + struct.pack("<I", 8) + string(b"llama")
    keys += string(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 0)
    (tmp_path / "model.gguf").write_bytes(header_bytes(2, keys))
    assert reason(tmp_path / "model.gguf") == "its vocabulary is empty"


def test_vocabulary_without_any_byte_tokens_passes(tmp_path: Path) -> None:
    tokens = ["<unk>", "<s>", "</s>", *"▁abcdefgh"]
    check(read_header(write_llama(tmp_path / "model.gguf", tokens=tokens)))
    tokens.remove("▁")
    path = write_llama(tmp_path / "model.gguf", tokens=tokens)
    assert reason(path) == "248 of the 256 byte tokens are missing, for instance <0x00>"


def test_plain_characters_stand_for_byte_tokens(tmp_path: Path) -> None:
    tokens = ["\n" if token == "<0x0A>" else token for token in spm_tokens()]
    check(read_header(write_llama(tmp_path / "model.gguf", tokens=tokens)))


@pytest.mark.parametrize(
    ("name", "array", "expected"),
    [
        ("blk.0.attn_q.weight", np.zeros((DIM, DIM), np.int32), "the type I32, which cannot hold weights"),
        ("blk.0.attn_q.weight", np.zeros((DIM, DIM), np.float64), "the type F64, which cannot hold weights"),
        ("blk.0.attn_norm.weight", np.zeros(DIM, np.float16), "the type F16; llama.cpp needs F32 there"),
        ("blk.0.attn_q.bias", np.zeros(DIM, np.float16), "the type F16; llama.cpp needs F32 there"),
    ],
)
def test_deadly_tensor_types_are_refused(name: str, array: np.ndarray, expected: str, tmp_path: Path) -> None:
    path = write_llama(tmp_path / "model.gguf", tensor_overrides={name: array})
    assert expected in reason(path)


def test_harmless_tensor_types_pass(tmp_path: Path) -> None:
    overrides = {
        "blk.0.attn_q.weight": np.zeros((DIM, DIM), np.float16),
        "blk.0.ffn_gate_tid2eid.weight": np.zeros((8, 2), np.int32),
    }
    check(read_header(write_llama(tmp_path / "model.gguf", tensor_overrides=overrides)))


def test_weights_that_start_at_an_odd_byte_are_refused(tmp_path: Path) -> None:
    paths = [
        write_llama(tmp_path / f"{n}.gguf", metadata_overrides={"general.alignment": 8, "general.name": "x" * n})
        for n in (8, 16, 24, 32)
    ]
    refused = [path for path in paths if read_header(path).data_offset % 32]
    assert len(refused) == 3
    for path in refused:
        assert "not a multiple of 32 (general.alignment is 8)" in reason(path)


def test_vocabulary_only(tmp_path: Path) -> None:
    header = read_header(write_llama(tmp_path / "vocab.gguf", tensors=False))
    check(header, weights=False)
    with pytest.raises(BadModelFile, match=r"holds a vocabulary only \(301 tokens\), no weights"):
        check(header)


# ---- split models --------------------------------------------------------------------------------------------------


def write_parts(folder: Path, count: int = 2) -> list[Path]:
    """The first part holds everything, the others repeat it: enough for the checks, which do not join them."""
    return [
        write_llama(
            folder / f"model-{i + 1:05}-of-{count:05}.gguf",
            metadata_overrides={
                "split.no": (i, GGUFValueType.UINT16),
                "split.count": (count, GGUFValueType.UINT16),
                "split.tensors.count": (42, GGUFValueType.INT32),
            },
        )
        for i in range(count)
    ]


def test_split_model(tmp_path: Path) -> None:
    first, second = write_parts(tmp_path)
    header = read_header(first)
    assert header.n_split == 2
    check(header)

    assert reason(second) == "part 2 of a model in 2 parts"

    renamed = tmp_path / "model.gguf"
    renamed.write_bytes(first.read_bytes())
    assert "has been renamed" in reason(renamed)

    second.write_bytes(second.read_bytes()[:-1000])
    with pytest.raises(BadModelFile, match=r"model-00002-of-00002\.gguf: cut short"):
        check(header)

    second.write_bytes(first.read_bytes())
    with pytest.raises(BadModelFile, match="does not say that it is part 2 of 2"):
        check(header)

    second.unlink()
    with pytest.raises(BadModelFile, match="part 2 of 2 is missing") as caught:
        check(header)
    assert caught.value.hint == "download all parts into one folder"


# ---- with llama.cpp ------------------------------------------------------------------------------------------------


def run_mutants(model: Path, keep: Path, count: int) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, MUTANTS, model, "--loader", "native", "--jobs", "1", "--keep", keep, "--count", str(count)]
    environment = {**os.environ, "PYTHONPATH": str(MUTANTS.parents[2])}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each mutant runs in a fork")
def test_no_mutant_kills_llama_cpp(tiny: Path, tmp_path: Path) -> None:
    done = run_mutants(tiny, tmp_path, 200)
    assert done.returncode == 0, done.stdout + done.stderr
    ends = {line.split(maxsplit=1)[1] for line in done.stdout.splitlines()}
    assert ends == {"exit 0", "exit 6", "exit 7"}  # some still decode: the file itself is fine


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="each mutant runs in a fork")
def test_no_mutant_of_a_trained_model_kills_llama_cpp(stories: Path, tmp_path: Path) -> None:
    done = run_mutants(stories, tmp_path, 2000)
    assert done.returncode == 0, done.stdout + done.stderr
