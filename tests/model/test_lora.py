"""LoRA adapters: a real one, written for the small random model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter
from make_gguf import DIM

from llamacli.engine.context import Context
from llamacli.engine.generate import Limits, generate
from llamacli.engine.model import Model
from llamacli.engine.types import Chunk, ContextOptions, ModelOptions, Sampling
from llamacli.errors import BadModelFile

RANK = 4


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """Changes the first layer's query by a random matrix of rank 4, a large one."""
    path = tmp_path / "adapter.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(RANK))
    rng = np.random.default_rng(1)
    for name in ("blk.0.attn_v.weight", "blk.1.ffn_down.weight"):
        n_in, n_out = (DIM, 32) if "attn_v" in name else (128, DIM)
        writer.add_tensor(f"{name}.lora_a", rng.standard_normal((RANK, n_in), dtype=np.float32))
        writer.add_tensor(f"{name}.lora_b", rng.standard_normal((n_out, RANK), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def text(path: Path, *loras: tuple[Path, float]) -> bytes:
    with (
        Model(ModelOptions(path, loras=loras)) as model,
        Context(model, ContextOptions(n_ctx=256, n_threads=1)) as context,
    ):
        stream = generate(context, model.tokenize("the"), Sampling(temp=0, seed=1), Limits(30, 256))
        return b"".join(item.data for item in stream if isinstance(item, Chunk))


def test_an_adapter_changes_the_text_and_scales(plain: Path, adapter: Path) -> None:
    assert text(plain, (adapter, 1.0)) != text(plain)
    assert text(plain, (adapter, 0.0)) == text(plain)
    assert text(plain, (adapter, 0.5), (adapter, -0.5)) == text(plain)  # several add up


def test_a_file_that_is_no_adapter(plain: Path) -> None:
    with pytest.raises(BadModelFile, match="not a LoRA adapter"):
        text(plain, (plain, 1.0))
