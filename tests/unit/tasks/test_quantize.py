"""Importance matrices as they are read, types by name, default names: without llama.cpp."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFValueType, GGUFWriter

from llamacli.errors import BadModelFile, UsageError
from llamacli.models.quant import renamed
from llamacli.tasks.imatrix_file import means, read_imatrix
from llamacli.tasks.quantize_types import TYPES, is_type, quant_type


def write(path: Path, tensors: dict[str, np.ndarray], **metadata: int) -> Path:
    writer = GGUFWriter(path, "")
    writer.kv_data[0].clear()
    writer.add_key_value("imatrix.datasets", ["a.txt", "b"], GGUFValueType.ARRAY, GGUFValueType.STRING)
    for key, value in {"chunk_count": 3, "chunk_size": 8, **metadata}.items():
        writer.add_key_value(f"imatrix.{key}", value, GGUFValueType.UINT32)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_experts_are_averaged_each_by_its_own_count(tmp_path: Path) -> None:
    sums = np.arange(12, dtype=np.float32).reshape(3, 4)
    counts = np.array([[2], [0], [4]], np.float32)
    path = write(tmp_path / "i.gguf", {"a.in_sum2": sums, "a.counts": counts})
    file = read_imatrix(path)
    assert (file.datasets, file.chunk_count, file.chunk_size) == (["a.txt", "b"], 3, 8)
    assert (file.sums["a"].shape, file.counts["a"].shape) == ((3, 4), (3,))
    ((name, found),) = means(file)
    assert name == "a"
    assert found.dtype == np.float32
    assert found.tolist() == [0, 0.5, 1, 1.5, 1, 1, 1, 1, 2, 2.25, 2.5, 2.75]


def test_the_reference(shared: Path) -> None:
    file = read_imatrix(shared / "data/reference/stories260K-oz.imatrix.gguf")
    figures = json.loads((shared / "data/reference/llama.cpp.json").read_text())["imatrix"]
    assert (file.chunk_count, file.chunk_size) == (figures["chunks"], figures["n_ctx"])
    assert len(file.sums) + len(file.counts) == figures["tensors"]
    for name, values in file.sums.items():
        assert float(values.sum(dtype=np.float64)) == pytest.approx(figures["sums"][f"{name}.in_sum2"], rel=1e-6)
        assert float(file.counts[name].sum()) == figures["sums"][f"{name}.counts"]


def test_the_older_format(tmp_path: Path) -> None:
    """int32 counts and lengths; its values are means times the number of chunks."""
    path = tmp_path / "i.dat"
    values = np.array([3, 6, 9], "<f4").tobytes()
    entry = struct.pack("<i", 5) + b"a.wei" + struct.pack("<ii", 3, 3) + values
    path.write_bytes(struct.pack("<i", 1) + entry + struct.pack("<ii", 3, 4) + b"text")
    file = read_imatrix(path)
    assert (file.datasets, file.chunk_count, file.chunk_size) == (["text"], 3, 0)
    assert [(name, found.tolist()) for name, found in means(file)] == [("a.wei", [1, 2, 3])]
    path.write_bytes(struct.pack("<i", 1) + entry)
    assert read_imatrix(path).datasets == []
    for cut in range(4, len(entry)):
        path.write_bytes((struct.pack("<i", 1) + entry)[:cut])
        with pytest.raises(BadModelFile, match="not an importance matrix, or cut short"):
            read_imatrix(path)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"a.in_sum2": np.ones((1, 4), np.float32)}, "lacks its sums or its counts"),
        ({"a.in_sum2": np.ones((1, 4), np.float32), "a.counts": np.ones((1, 3), np.float32)}, "4 sums and 3 counts"),
        ({"a.in_sum2": np.ones((1, 4), np.float16), "a.counts": np.ones((1, 1), np.float32)}, "is not F32"),
        ({"a.in_sum2": np.full((1, 4), np.nan, np.float32), "a.counts": np.ones((1, 1), np.float32)}, "no sum of"),
        ({"b": np.ones((1, 4), np.float32)}, "without entries"),
    ],
)
def test_what_is_wrong_with_a_matrix(tmp_path: Path, tensors: dict[str, np.ndarray], reason: str) -> None:
    path = write(tmp_path / "i.gguf", tensors)
    with pytest.raises(BadModelFile, match=reason):
        read_imatrix(path)


def test_a_model_is_no_matrix(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(BadModelFile, match="a GGUF file of the kind llama, not an importance matrix"):
        read_imatrix(plain)
    with pytest.raises(UsageError, match="no such file"):
        read_imatrix(tmp_path / "none")


def test_types_by_name_alias_and_number() -> None:
    assert [quant_type(text).name for text in ("q4_k_M", "Q4_K", "15", "0", "copy")] == [
        *("Q4_K_M", "Q4_K_M", "Q4_K_M", "F32", "COPY")
    ]
    assert not any(is_type(text) for text in ("model", "4_0", "99", "7b-q4.gguf", "", "²"))
    with pytest.raises(UsageError) as raised:
        quant_type("IQ4XS")
    assert raised.value.hint is not None
    assert "did you mean IQ4_XS?" in raised.value.hint
    assert len({kind.name for kind in TYPES}) == len(TYPES)


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("model", "model-Q8_0"),
        ("Qwen3-0.6B-BF16", "Qwen3-0.6B-Q8_0"),
        ("model.f16", "model-Q8_0"),
        ("a-UD-Q4_K_XL", "a-Q8_0"),
        ("Q4_K_M", "Q8_0"),
        ("f16-of-x", "f16-of-x-Q8_0"),
    ],
)
def test_a_name_for_another_quantisation(stem: str, expected: str) -> None:
    assert renamed(stem, "Q8_0") == expected
