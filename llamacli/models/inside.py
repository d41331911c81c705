"""Names and folders that stay inside a store: nothing that comes from elsewhere may lead out of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from llamacli.errors import StorageError


def leads_out(names: Sequence[str]) -> bool:
    """Whether a path of these names would leave its folder, here or on another system."""
    return any(name in ("", ".", "..") or re.search(r"[\\:\x00-\x1f\x7f]", name) for name in names)


def make(root: Path, folders: Iterable[Path]) -> None:
    """Make folders below a store's root. Raises StorageError where a planted link leads out of it, and OSError."""
    root.mkdir(parents=True, exist_ok=True)
    real = root.resolve()
    for folder in folders:
        current = root
        for name in folder.relative_to(root).parts:
            current = current / name
            if not current.resolve().is_relative_to(real):
                raise StorageError(f"{current} is a link that leads out of the cache", hint="remove it")
            current.mkdir(exist_ok=True)
