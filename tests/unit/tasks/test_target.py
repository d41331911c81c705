"""Names as patterns that llama-quantize takes, sizes, sensitivities; the choice itself: tests/model/test_target.py."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from llamacli.engine import quant_error
from llamacli.errors import UsageError
from llamacli.models.ggml_types import GGML_TYPES
from llamacli.tasks import quantize_options
from llamacli.tasks.quantize_types import TENSOR_TYPES
from llamacli.tasks.source_weights import SourceTensor
from llamacli.tasks.target import CANDIDATES, pattern

NAMES = ("blk.1.ffn_down.weight", "output.weight", "A.B=c d.weight", "blk.1.ffn_up_exps.weight", "x+(y)[z]-1", "naïve")


@pytest.mark.parametrize("name", NAMES)
def test_a_pattern_is_of_one_name_only(name: str) -> None:
    """As llama-quantize reads it: a file's words, up to the first "=", in lower case, then searched for."""
    word = f"{pattern(name)}=q4_k"
    assert word.split() == [word]
    read = word[: word.index("=")].lower()
    others = [*NAMES, f"{name}s", f"x{name}", name.replace(".", "_") + "_", name.upper() + "_"]
    found = [other for other in others if re.search(read.encode(), other.encode())]
    assert found == [name]


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("4GiB", 4 << 30),
        ("4.2MB", 4_200_000),
        ("1.5 KiB", 1536),
        ("7kB", 7000),
        ("4gib", 4 << 30),
        ("1Gb", 10**9),
        ("123", 123),
    ],
)
def test_sizes(text: str, n_bytes: int) -> None:
    assert quantize_options.file_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "4G", "-1GB", "0", "4 gigabytes", "1e9", "nan", "9" * 30])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="a size is wanted"):
        quantize_options.file_size(text)


# --- errors of types ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((16, 512)).astype(np.float32)


def test_more_bits_mean_less_error(rows: np.ndarray) -> None:
    errors = []
    for name in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "F16"):
        error, energy = quant_error.sums(rows, quant_error.round_trip(rows, TENSOR_TYPES[name]))
        errors.append(error / energy)
    assert errors == sorted(errors, reverse=True)
    assert 0.05 < errors[0] < 0.2
    assert errors[-1] < 1e-6


def test_every_candidate_can_be_read_back(rows: np.ndarray) -> None:
    importance = np.ones(512, np.float32)
    for kind in CANDIDATES:
        if GGML_TYPES[kind].name in ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S"):
            continue  # their tables take seconds each; llama.cpp's own quantiser is tested with them
        data = quant_error.quantised(rows, kind, importance)
        assert data.shape == (16, 512 // GGML_TYPES[kind].block_size * GGML_TYPES[kind].type_size)
        error, energy = quant_error.sums(rows, quant_error.floats(data, kind, 512))
        assert error < 0.15 * energy


def test_importance_moves_the_error_to_where_it_does_not_matter(rows: np.ndarray) -> None:
    importance = np.where(np.arange(512) % 2, 100.0, 0.01).astype(np.float32)
    kind = TENSOR_TYPES["Q4_K"]
    plain = quant_error.sums(rows, quant_error.round_trip(rows, kind), importance)[0]
    weighted = quant_error.sums(rows, quant_error.round_trip(rows, kind, importance), importance)[0]
    assert weighted < 0.9 * plain


# --- tensors of a file ----------------------------------------------------------------------------------------------


@pytest.fixture
def experts(tmp_path: Path) -> SourceTensor:
    """Three experts of 8 rows of 64 weights, behind 32 other bytes; each weight is its expert's number."""
    values = np.repeat(np.arange(3, dtype=np.float32), 8 * 64)
    path = tmp_path / "weights"
    path.write_bytes(bytes(32) + values.tobytes())
    importance = np.arange(3 * 64, dtype=np.float32).reshape(3, 64)
    return SourceTensor(path, "blk.7.ffn_up_exps.weight", 0, 64, 8, 3, 32, 4 * len(values), importance)


def test_pieces_are_the_whole_and_of_one_expert_each(experts: SourceTensor) -> None:
    pieces = list(experts.pieces(64 * 3))
    assert [len(rows) for rows, _ in pieces] == [3, 3, 2] * 3
    assert np.array_equal(np.concatenate([rows for rows, _ in pieces]), experts.data())
    for rows, importance in pieces:
        (expert,) = set(experts.floats(rows).ravel())
        assert importance is not None
        assert importance[0] == 64 * expert


def test_a_sample_is_spread_over_the_experts(experts: SourceTensor) -> None:
    for n_rows, expected in ((2, [(0, 1), (2, 1)]), (3, [(0, 1), (1, 1), (2, 1)]), (24, [(0, 8), (1, 8), (2, 8)])):
        sample = list(experts.sample(64 * n_rows))
        assert [(rows[0, 0], len(rows)) for rows, _ in sample] == expected
        assert all(importance is not None and importance[0] == 64 * rows[0, 0] for rows, importance in sample)


def test_names_tell_the_layer(experts: SourceTensor) -> None:
    assert (experts.layer, experts.kind, experts.weights) == (7, "ffn_up_exps.weight", 3 * 8 * 64)
