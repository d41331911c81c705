"""Remove models: find out what would go of each, then let it go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llamacli import signals
from llamacli.errors import UsageError, printable
from llamacli.models import removal
from llamacli.models.folders import hub_cache
from llamacli.models.removal import Removal

_OWNERS = {
    "ollama": "a model of Ollama's",
    "lmstudio": "a file of LM Studio's",
    "llama.cpp": "a file of llama.cpp's",
    "file": "a file of your own",
}


@dataclass(frozen=True)
class GoneFile:
    """A file or link, and the bytes that removing it frees: none for a link."""

    path: Path
    freed: int


@dataclass(frozen=True)
class Removed:
    """A model that was removed, or with `removed` false would be. `freed` in bytes over all `files`.

    `unfinished`: only what an interrupted pull left; `kept`: data that stays, for something else uses it.
    """

    model: str
    source: str
    unfinished: bool
    files: tuple[GoneFile, ...]
    kept: tuple[Path, ...]
    freed: int
    removed: bool


def plan(models: Sequence[str], *, force: bool = False) -> tuple[Removal, ...]:
    """What would go; nothing is changed. Another program's models, and files outside of all stores, need `force`.

    Raises UsageError, ModelNotFound, StorageError.
    """
    plans: list[Removal] = []
    for model in models:
        planned = removal.plan(model, plans)
        other = planned.root is not None and planned.source == "huggingface" and not _same(planned.root, hub_cache())
        if (planned.source in _OWNERS or other) and not force:
            raise _refusal(planned)
        if not any({*planned.files} == {*other.files} for other in plans):  # named twice
            plans.append(planned)
    return tuple(plans)


def preview(plans: Sequence[Removal]) -> tuple[Removed, ...]:
    """What would go, with sizes."""
    return tuple(_result(each, {path: removal.freed(path) for path in each.files}, removed=False) for each in plans)


def remove(plans: Sequence[Removal]) -> tuple[Removed, ...]:
    """Remove all of it; a signal waits until that is done. Raises StorageError."""
    with signals.deferred():
        return tuple(_result(planned, gone, removed=True) for planned, gone in removal.remove(plans))


def _result(planned: Removal, files: dict[Path, int], *, removed: bool) -> Removed:
    gone = tuple(GoneFile(path, freed) for path, freed in files.items())
    total = sum(files.values())
    return Removed(planned.model, planned.source, planned.unfinished, gone, planned.kept, total, removed)


def _refusal(planned: Removal) -> UsageError:
    model = printable(planned.model)
    hint = "--force removes it all the same"
    if planned.source == "ollama" and planned.model.startswith("ollama:"):
        hint = f"`ollama rm {model.removeprefix('ollama:')}` is the better way; {hint}"
    return UsageError(f"{model} is {_OWNERS.get(planned.source, _OWNERS['llama.cpp'])}", hint=hint)


def _same(folder: Path, other: Path) -> bool:
    return os.path.realpath(folder) == os.path.realpath(other)
