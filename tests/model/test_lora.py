"""LoRA adapters: a real one, written for the small random model."""

from __future__ import annotations

from pathlib import Path

import pytest
from make_gguf import write_lora

from llamacli.engine.context import Context
from llamacli.engine.generate import Limits, generate
from llamacli.engine.model import Model
from llamacli.engine.types import Chunk, ContextOptions, ModelOptions, Sampling
from llamacli.errors import BadModelFile


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A large change."""
    return write_lora(tmp_path / "adapter.gguf")


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
