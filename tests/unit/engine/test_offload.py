"""How many layers fit: arithmetic on shapes, no GPU needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamacli.engine.offload import ALL, MARGIN, Shape, layers_that_fit, shared_out
from llamacli.models.gguf import TensorInfo, read_header

MIB = 1 << 20


def shape(n_layer: int = 10, layer: int = 100 * MIB, output: int = 200 * MIB) -> Shape:
    return Shape((layer,) * n_layer + (output,), n_embd_k=1024, n_embd_v=1024, n_embd=2048, n_ff=8192, n_vocab=32000)


def free(*, layers: int, output: bool = True, n_ctx: int = 4096) -> int:
    """Exactly enough for so many layers, and the output."""
    s = shape()
    return MARGIN + s.compute_bytes(512) + layers * (100 * MIB + s.kv_bytes(n_ctx, "f16", "f16")) + 200 * MIB * output


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (free(layers=10), ALL),
        (free(layers=10) - 1, 10),  # the output and nine blocks
        (free(layers=3), 4),
        (free(layers=0), 1),
        (free(layers=0) - 1, 0),
        (0, 0),
    ],
)
def test_fills_from_the_output_backwards(memory: int, expected: int) -> None:
    assert layers_that_fit(shape(), [memory], n_ctx=4096, n_ubatch=512) == expected


def test_a_longer_context_leaves_room_for_fewer_layers() -> None:
    short = layers_that_fit(shape(), [free(layers=6)], n_ctx=4096, n_ubatch=512)
    long = layers_that_fit(shape(), [free(layers=6)], n_ctx=32768, n_ubatch=512)
    assert 0 < long < short


def test_two_devices_hold_more_than_one_and_less_than_their_sum() -> None:
    one = layers_that_fit(shape(), [free(layers=3)], n_ctx=4096, n_ubatch=512)
    two = layers_that_fit(shape(), [free(layers=3)] * 2, n_ctx=4096, n_ubatch=512)
    assert one < two <= 2 * one + 1


def test_a_quantised_cache_is_smaller() -> None:
    assert shape().kv_bytes(4096, "q8_0", "q8_0") == pytest.approx(shape().kv_bytes(4096, "f16", "f16") * 34 / 64)


def test_the_fullest_share_bounds_the_others() -> None:
    assert shared_out([100, 100], ()) == [100, 100]
    assert shared_out([100, 100], (3.0, 1.0)) == [100, 33]
    assert shared_out([100, 50], (1.0, 1.0)) == [50, 50]
    assert shared_out([100, 50], (1.0,)) == [100, 0]


def test_values_per_layer(tmp_path: Path) -> None:
    from make_gguf import write_llama

    plain = read_header(write_llama(tmp_path / "a.gguf"))
    arrays = {"llama.attention.head_count_kv": [2, 2], "llama.feed_forward_length": [128, 128]}
    each = read_header(write_llama(tmp_path / "b.gguf", metadata_overrides=arrays))
    assert Shape.of(each.metadata, each.tensors, 301) == Shape.of(plain.metadata, plain.tensors, 301)


def test_tied_embeddings_are_copied_to_the_device() -> None:
    metadata = {"general.architecture": "llama", "llama.block_count": 1, "llama.embedding_length": 64}
    tensors = [TensorInfo("token_embd.weight", (64, 100), 0, 0, 25600), TensorInfo("blk.0.x", (64,), 0, 0, 256)]
    assert Shape.of(metadata, tensors, 100).layer_bytes == (256, 25600)
    untied = [*tensors, TensorInfo("output.weight", (64, 100), 0, 0, 12800)]
    assert Shape.of(metadata, untied, 100).layer_bytes == (256, 12800)
