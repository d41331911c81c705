"""The cache of evaluated prompts: opened for a model, shown, cleared."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from llamacli import paths
from llamacli.engine import prompt_files
from llamacli.engine.prompt_cache import PromptCache
from llamacli.engine.types import ModelOptions
from llamacli.models import store
from llamacli.models.reference import name


@dataclass(frozen=True)
class Stored:
    """A stored prompt. `model` is as for -m, "" of a damaged file. `used`: seconds since 1970, `age`: since that."""

    model: str
    tokens: int
    size: int
    used: float
    age: float
    path: Path


def root() -> Path:
    """The folder of all stored prompts. Not created here."""
    return paths.cache() / "prompts"


def opened(model: ModelOptions, limit: int | None) -> PromptCache:
    """Those of a model that is about to be opened. `limit`: what all may take, in bytes; None: the usual."""
    return PromptCache(root(), limit, [*store.parts(model.path), *(path for path, _ in model.loras)])


def stored() -> list[Stored]:
    """All stored prompts, the one used last first."""
    return [_stored(entry, time.time()) for entry in prompt_files.entries(root())]


def model_called(text: str) -> Path | None:
    """The model of stored prompts that has this name or path, though its file may be gone; None for none."""
    models = {Path(entry.model) for entry in prompt_files.entries(root()) if entry.model}
    return next((path for path in models if name(path) == text or path == Path(text).absolute()), None)


def clear(*, model: Path | None = None, older_than: float | None = None) -> list[Stored]:
    """Remove stored prompts: of this model's file, unused for so many seconds; all without either. Those removed."""
    now = time.time()
    chosen = [
        entry
        for entry in prompt_files.entries(root())
        if (model is None or Path(entry.model) == model.absolute())
        and (older_than is None or now - entry.used > older_than)
    ]
    return [_stored(entry, now) for entry in prompt_files.remove(root(), chosen)]


def _stored(entry: prompt_files.Entry, now: float) -> Stored:
    called = name(Path(entry.model)) if entry.model else ""
    return Stored(called, entry.n_tokens, entry.size, entry.used, max(now - entry.used, 0.0), entry.path)
