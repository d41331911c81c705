"""Whether a file is the one that it was: a digest that does not read gigabytes. Standard library only."""

from __future__ import annotations

import hashlib
from pathlib import Path


def fingerprint(path: Path) -> str:
    """Of a file's size and of 64 pieces spread over it, 4 MiB in all: the whole of a large model takes long to read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = file.seek(0, 2)
        digest.update(str(size).encode())
        piece = 1 << 16
        for i in range(64):
            file.seek(max(size - piece, 0) * i // 63)
            digest.update(file.read(piece))
    return digest.hexdigest()
