"""The cache of evaluated prompts on a real model: what is loaded is what was computed, and never another's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from make_gguf import write_llama, write_lora, write_mamba

from llamacli.builtin import TINY
from llamacli.engine import prompt_cache
from llamacli.engine.context import Context
from llamacli.engine.fingerprint import fingerprint
from llamacli.engine.model import Model
from llamacli.engine.native import C
from llamacli.engine.prompt_cache import PromptCache, reuse
from llamacli.engine.types import ContextOptions, ModelOptions

TEXT = "Once upon a time, there was a little bird named Lily. She liked honey. One day Lily went to the forest. " * 2
USUAL = ContextOptions(n_ctx=256, n_threads=1)


@pytest.fixture(autouse=True)
def _small_models_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_cache, "_QUICK", 0)
    monkeypatch.setattr(prompt_cache, "_LOADING", 0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "prompts"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Path(shutil.copy(TINY, tmp_path / "model.gguf"))


def logits(context: Context) -> np.ndarray:
    return np.ctypeslib.as_array(C.llama_get_logits_ith(context.handle, -1), (context.model.n_vocab,)).copy()


def read(
    root: Path, model: ModelOptions, options: ContextOptions = USUAL, text: str = TEXT, limit: int | None = None
) -> tuple[int, np.ndarray]:
    """As one process: how many tokens came from the disk, and the logits of the last one."""
    cache = PromptCache(root, limit, [model.path, *(path for path, _ in model.loras)])
    with Model(model) as opened:
        tokens = opened.tokenize(text)
        context = Context(opened, cache.planned(opened, options, tokens))
        cache.fill(context, tokens)
        n = reuse(context, tokens)
        context.evaluate(tokens[n:])
        found = logits(context)
        cache.keep(context, len(tokens), len(tokens) - n, 1.0)
        context.close()
    return n, found


def test_what_is_loaded_is_what_was_computed(root: Path, file: Path) -> None:
    model = ModelOptions(file)
    n, first = read(root, model)
    assert n == 0
    n, again = read(root, model)
    assert n > 40
    assert np.abs(first - again).max() < 0.05
    other = TEXT[:-40] + "Then a big dog came to the house."
    n, loaded = read(root, model, text=other)
    assert n > 30
    (root / "kept").mkdir()
    _, computed = read(root / "kept", model, text=other)
    assert np.abs(loaded - computed).max() < 0.05


@pytest.mark.parametrize(
    "change",
    [
        {"type_k": "q8_0"},
        {"type_v": "bf16", "flash_attn": "on"},
        {"flash_attn": "off"},
        {"n_ubatch": 64},
    ],
)
def test_other_options_of_the_context_are_another_cache(root: Path, file: Path, change: dict[str, object]) -> None:
    read(root, ModelOptions(file))
    options = replace(USUAL, **change)  # type: ignore[arg-type]
    assert read(root, ModelOptions(file), options)[0] == 0
    assert read(root, ModelOptions(file), options)[0] > 0


def test_other_sizes_are_the_same_cache(root: Path, file: Path) -> None:
    read(root, ModelOptions(file))
    for change in ({"n_ctx": 512}, {"n_threads": 2}, {"n_sequences": 3, "n_ctx": 512}):
        assert read(root, ModelOptions(file), replace(USUAL, **change))[0] > 0  # type: ignore[arg-type]


def test_a_changed_model_is_another_cache(root: Path, file: Path, tmp_path: Path) -> None:
    model = ModelOptions(file)
    read(root, model)
    data = bytearray(file.read_bytes())
    status = file.stat()

    def changed(at: int | None, mtime: int) -> int:
        copy = tmp_path / "copy"
        copy.write_bytes(data if at is None else data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        os.utime(copy, ns=(mtime, mtime))
        os.replace(copy, file)
        return read(root, model)[0]

    assert read(root, model)[0] > 0  # nothing changed
    assert changed(None, status.st_mtime_ns + 1) == 0  # as new as a nanosecond
    assert changed(None, status.st_mtime_ns) == 0  # put there at another time, whatever the file says
    header = data.index(b"Lumi") if b"Lumi" in data else 5000
    assert changed(header, status.st_mtime_ns) == 0  # in the header, at the same time
    assert changed(len(data) - 7, status.st_mtime_ns) == 0  # in the weights that are looked at


def test_a_byte_that_is_changed_in_place_is_another_cache_whatever_the_clock_says(root: Path, file: Path) -> None:
    """One that no sample meets, with the time of the last change put back: what a person can do at most."""
    with file.open("ab") as grown:  # tensors do not reach here, and 64 samples of 64 KiB leave most of it out
        grown.truncate(64 << 20)
    model, status = ModelOptions(file), file.stat()
    read(root, model)
    assert read(root, model)[0] > 0
    sampled = fingerprint(file)
    with file.open("r+b") as changed:
        changed.seek((33 << 20) + (400 << 10))
        changed.write(b"x")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprint(file) == sampled
    assert read(root, model)[0] == 0


def test_a_model_that_is_replaced_while_it_is_open_is_not_stored(root: Path, file: Path, tmp_path: Path) -> None:
    cache = PromptCache(root, None, [file])
    with Model(ModelOptions(file)) as model, Context(model, USUAL) as context:
        tokens = model.tokenize(TEXT)
        context.evaluate(tokens)
        os.replace(shutil.copy(TINY, tmp_path / "new"), file)
        os.utime(file, ns=(1, 1))
        cache.keep(context, len(tokens), len(tokens), 1.0)
    assert not root.exists()


def test_another_library_is_another_cache(root: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    read(root, ModelOptions(file))
    monkeypatch.setattr(metadata, "version", lambda _: "0.3.99")
    assert read(root, ModelOptions(file))[0] == 0


def test_a_rebuilt_library_is_another_cache(
    root: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "lib"
    copy.mkdir()
    for path in prompt_cache._library():
        (copy / path.name).symlink_to(path)
    monkeypatch.setattr(prompt_cache, "_library", lambda: sorted(copy.iterdir()))
    read(root, ModelOptions(file))
    assert read(root, ModelOptions(file))[0] > 0
    changed = next(copy.glob("libggml-cpu*"))
    changed.unlink()
    changed.write_bytes(b"another build")
    assert read(root, ModelOptions(file))[0] == 0


def test_a_library_from_another_folder_is_another_cache(tmp_path: Path) -> None:
    """LLAMA_CPP_LIB_PATH is the bindings' own variable."""
    folder = tmp_path / "lib"
    folder.mkdir()
    for path in prompt_cache._library():
        (folder / path.name).symlink_to(path)
    script = "from llamacli.engine import prompt_cache\nprint(*prompt_cache._library(), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "LLAMA_CPP_LIB_PATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [str(path) for path in sorted(folder.iterdir())]


def test_a_context_that_grows_over_the_border_of_long_factors_begins_anew(
    root: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was turned by the factors for short texts is neither gone on with there nor stored."""
    cache = PromptCache(root, None, [file])
    monkeypatch.setattr(Model, "turns_long", lambda _, n_ctx: n_ctx > 256)
    with Model(ModelOptions(file)) as model, Context(model, USUAL) as context:
        tokens = model.tokenize(TEXT)
        root.mkdir()
        cache.fill(context, tokens)
        context.evaluate(tokens)
        context.resize(512)
        assert context.tokens == []
        cache.keep(context, len(tokens), len(tokens), 1.0)
        assert list(root.iterdir()) == []
        context.evaluate(tokens)
        context.resize(600)
        assert context.tokens == tokens
        cache.keep(context, len(tokens), len(tokens), 1.0)
        assert len(list(root.iterdir())) == 1


def test_loras_and_their_scales_are_another_cache(root: Path, file: Path, tmp_path: Path) -> None:
    plain = write_llama(tmp_path / "plain.gguf")
    text = "the cat sat on the mat and looked at the dog " * 3
    adapter = write_lora(tmp_path / "lora.gguf")
    for loras in ((), ((adapter, 1.0),), ((adapter, 0.5),)):
        model = ModelOptions(plain, loras=loras)
        assert read(root, model, text=text)[0] == 0
        assert read(root, model, text=text)[0] > 0


def test_options_of_loading_are_another_cache_but_mapping_is_not(root: Path, file: Path) -> None:
    read(root, ModelOptions(file))
    assert read(root, ModelOptions(file, mmap=False))[0] > 0
    assert read(root, ModelOptions(file, repack=False))[0] == 0


def test_what_is_quick_is_not_stored(root: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = PromptCache(root, None, [file])
    with Model(ModelOptions(file)) as model, Context(model, USUAL) as context:
        tokens = model.tokenize(TEXT)
        context.evaluate(tokens)
        cache.keep(context, len(tokens), len(tokens), 0.4)
        assert not root.exists()
        monkeypatch.undo()  # as it is: this model is small
        cache.keep(context, len(tokens), len(tokens), 9.0)
    assert not root.exists()


def test_a_recurrent_model_is_not_stored(root: Path, tmp_path: Path) -> None:
    model = ModelOptions(write_mamba(tmp_path / "mamba.gguf"))
    for _ in range(2):
        assert read(root, model, text="the cat sat on the mat and looked at the dog " * 4)[0] == 0
    assert not root.exists()


def test_a_longer_prompt_serves_a_shorter_one(root: Path, file: Path) -> None:
    read(root, ModelOptions(file), replace(USUAL, n_ctx=1024), text=TEXT * 6)
    n, found = read(root, ModelOptions(file))
    assert n > 40
    assert np.isfinite(found).all()


def test_a_state_that_the_context_cannot_hold_is_left(root: Path, file: Path) -> None:
    read(root, ModelOptions(file), replace(USUAL, n_ctx=1024), text=TEXT * 6)
    cache = PromptCache(root, None, [file])
    with Model(ModelOptions(file)) as model, Context(model, USUAL) as context:
        cache.fill(context, model.tokenize(TEXT))
        assert context.tokens == []
        assert context.evaluate(model.tokenize(TEXT))


def test_a_damaged_file_is_a_miss_and_is_replaced(root: Path, file: Path) -> None:
    read(root, ModelOptions(file))
    (damaged,) = root.rglob("*.prompt")
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    assert read(root, ModelOptions(file))[0] == 0
    assert read(root, ModelOptions(file))[0] > 0
