"""Evaluated prompts on disk: a model's KV cache of a prompt, which the next process loads instead of computing it.

A folder for each set of what the numbers depend on (`key`), in it a file for each prompt: magic, sizes, tokens, state,
and a digest of all that, so that a damaged file is never handed to native code. Files are written whole under another
name and take theirs at the end; nobody changes one. So any number of processes share them without a lock: the worst
that can happen is that one computes what another is about to store. A file that cannot be read is not there.

A longer prompt serves a shorter one: what it has more is cut off. So whole prompts are stored, and a beginning that
several share is found in any of them. Standard library only.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_MAGIC = b"llamacli prompt 1\n"
_HEAD = struct.Struct("<18sIIQ")  # magic, bytes of the note, tokens, bytes of the state
_SUFFIX = ".prompt"
_TOKEN = "i"  # array's name of int32
_NOTE = 1 << 16  # bytes of a note, at most
_TOKENS = 1 << 24
#: What all files may take, in bytes, and that as a share of the disk that is free.
MOST_BYTES, MOST_OF_DISK = 2 << 30, 0.1
#: One file may take this share of that.
_ONE = 0.5
#: Seconds after which a file that nobody finished is another process's no longer.
_ABANDONED = 3600.0


@dataclass(frozen=True)
class Entry:
    """A stored prompt. `model` is its file, `used` when it was last loaded or stored, seconds since 1970."""

    path: Path
    model: str
    n_tokens: int
    size: int
    used: float


def key(parts: Mapping[str, Any]) -> str:
    """The name of the folder for what `parts` say: all that the numbers in a KV cache depend on."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return _digest(text.encode("utf-8", "surrogatepass")).hex()[:32]


@dataclass(frozen=True)
class Found:
    """A file that begins like a prompt: `n_shared` of its `n_tokens` are the same. `n_state` bytes."""

    path: Path
    n_shared: int
    n_tokens: int
    n_state: int


def find(folder: Path, tokens: Sequence[int], least: int) -> Found | None:
    """The file that shares the longest beginning with `tokens`, of several the smallest; None below `least`."""
    wanted = _packed(tokens)
    best: Found | None = None
    for path in _files(folder):
        with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
            _, stored, n_state = _read_head(file)
            found = Found(path, _shared(stored, wanted), len(stored) // 4, n_state)
            if found.n_shared >= least and (
                best is None or (found.n_shared, -found.n_state) > (best.n_shared, -best.n_state)
            ):
                best = found
    return best


def load(path: Path) -> tuple[list[int], bytearray] | None:
    """Tokens and state of a file, which counts as used now; None where it is damaged (it goes) or gone."""
    try:
        with path.open("rb") as file:
            head, packed, n_state = _read_head(file)
            state = bytearray(n_state)
            if file.readinto(state) != n_state:
                raise ValueError("cut short")
            if file.read() != _digest(head, packed, state):
                raise ValueError("damaged")
    except (OSError, ValueError, MemoryError) as error:
        if isinstance(error, ValueError):
            with contextlib.suppress(OSError):
                path.unlink()
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return array.array(_TOKEN, packed).tolist(), state


def store(folder: Path, tokens: Sequence[int], state: Any, *, model: str, limit: int | None) -> bool:
    """Write a file; whether it is there now. `state` is any buffer of bytes.

    `limit`: what all files may take, in bytes; None: the usual.
    """
    packed = _packed(tokens)
    note = json.dumps({"model": model}).encode()
    size = _HEAD.size + len(note) + len(packed) + len(state) + 32
    path = folder / f"{_digest(packed).hex()[:32]}{_SUFFIX}"
    try:
        if path.exists():
            os.utime(path)
            return True
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for each in (folder.parent, folder):
            each.chmod(0o700)
        limit = usual_limit(folder.parent) if limit is None else limit
        if size > _ONE * limit or _free(folder) < 2 * size:
            return False
        head = _HEAD.pack(_MAGIC, len(note), len(tokens), len(state)) + note
        temporary = folder / f"{path.stem}.{os.getpid()}.part"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                for part in (head, packed, state, _digest(head, packed, state)):
                    rest = memoryview(part).cast("B")
                    while rest:
                        rest = rest[file.write(rest) :]
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError:
        return False
    with contextlib.suppress(OSError):
        _drop_covered(folder, path, packed)
    shrink(folder.parent, limit)
    return True


def _drop_covered(folder: Path, path: Path, packed: bytes) -> None:
    """Remove files whose tokens are the beginning of this one's: it serves for them."""
    for other in _files(folder):
        if other != path:
            with contextlib.suppress(OSError, ValueError):
                with other.open("rb") as file:
                    stored = _read_head(file)[1]
                if packed.startswith(stored):
                    other.unlink()


def entries(root: Path) -> list[Entry]:
    """All stored prompts of all models, the one used last first. Damaged files are among them, without a model."""
    found = []
    for folder in _folders(root):
        for path in _files(folder):
            with contextlib.suppress(OSError):
                status = path.stat()
                model, n_tokens = "", 0
                with contextlib.suppress(ValueError), path.open("rb") as file:
                    head, packed, _ = _read_head(file)
                    model, n_tokens = str(json.loads(head[_HEAD.size :])["model"]), len(packed) // 4
                found.append(Entry(path, model, n_tokens, status.st_size, status.st_mtime))
    return sorted(found, key=lambda entry: entry.used, reverse=True)


def remove(root: Path, chosen: Sequence[Entry]) -> list[Entry]:
    """Remove these; those that are gone now."""
    gone = []
    for entry in chosen:
        with contextlib.suppress(OSError):
            entry.path.unlink(missing_ok=True)
            gone.append(entry)
    for folder in _folders(root):
        with contextlib.suppress(OSError):
            folder.rmdir()  # where it is empty
    return gone


def shrink(root: Path, limit: int) -> None:
    """Remove what was used longest ago until all take at most `limit` bytes; and what was never finished."""
    found: list[tuple[float, int, Path]] = []
    for folder in _folders(root):
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                with contextlib.suppress(OSError):
                    status = path.stat()
                    if path.suffix == _SUFFIX:
                        found.append((status.st_mtime, status.st_size, path))
                    elif path.suffix == ".part" and time.time() - status.st_mtime > _ABANDONED:
                        path.unlink()
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            return
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        total -= size


def usual_limit(root: Path) -> int:
    """What all files may take where nobody said: MOST_BYTES, and no large part of a small disk. Raises OSError."""
    taken = sum(path.stat().st_size for folder in _folders(root) for path in _files(folder))
    return int(min(MOST_BYTES, MOST_OF_DISK * (_free(root) + taken)))


def _free(folder: Path) -> int:
    import shutil  # brings compression along, for 5 ms

    return shutil.disk_usage(folder).free


def _folders(root: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from [path for path in root.iterdir() if path.is_dir()]


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.suffix == _SUFFIX]
    except OSError:
        return []


def _read_head(file: BinaryIO) -> tuple[bytes, bytes, int]:
    """Head with note, packed tokens, bytes of the state. Raises ValueError where these are no numbers to believe."""
    fixed = file.read(_HEAD.size)
    if len(fixed) < _HEAD.size:
        raise ValueError("cut short")
    magic, n_note, n_tokens, n_state = _HEAD.unpack(fixed)
    if magic != _MAGIC or n_note > _NOTE or n_tokens > _TOKENS or n_state > os.fstat(file.fileno()).st_size:
        raise ValueError("no stored prompt")
    note, packed = file.read(n_note), file.read(4 * n_tokens)
    if len(packed) < 4 * n_tokens:
        raise ValueError("cut short")
    return fixed + note, packed, n_state


def _digest(*parts: Any) -> bytes:
    import hashlib  # OpenSSL takes 4 MB, and most prompts are not worth a file

    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def _packed(tokens: Sequence[int]) -> bytes:
    return array.array(_TOKEN, tokens).tobytes()


def _shared(a: bytes, b: bytes) -> int:
    """How many tokens two packed sequences begin with alike."""
    low, high = 0, min(len(a), len(b)) // 4
    while low < high:  # slices compare at the speed of memory
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[4 * low : 4 * middle] == b[4 * low : 4 * middle] else (low, middle - 1)
    return low
