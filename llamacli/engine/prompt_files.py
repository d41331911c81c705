"""Evaluated prompts on disk: a model's KV cache of a prompt, which the next process loads instead of computing it.

A folder for each set of what the numbers depend on (`key`), in it a file for each prompt: magic, sizes, tokens, state,
and a digest of all that, so that a damaged file is never handed to native code. Files are written whole under another
name and take theirs at the end; nobody changes one. So any number of processes share them without a lock: the worst
that can happen is that one computes what another is about to store. A file that cannot be read is not there, and goes
when it is met: it would be in the way of a good one.

A longer prompt serves a shorter one: what it has more is cut off. So whole prompts are stored, and a beginning that
several share is found in any of them. Beside the standard library only `signals`.
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

from llamacli import signals

_MAGIC = b"llamacli prompt 1\n"
_HEAD = struct.Struct("<18sIIQ")  # magic, bytes of the note, tokens, bytes of the state
_SUFFIX, _UNFINISHED = ".prompt", ".part"
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
    found = [
        Found(path, _shared(stored, wanted), len(stored) // 4, n_state) for path, stored, n_state in _stored(folder)
    ]
    best = max(found, key=lambda each: (each.n_shared, -each.n_state), default=None)
    return best if best is not None and best.n_shared >= least else None


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
    except (OSError, MemoryError):
        return None
    except ValueError:
        _unlink(path)
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
        if any(other == path for other, _, _ in _stored(folder)):
            os.utime(path)
            return True
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for each in (folder.parent, folder):
            each.chmod(0o700)
        limit = usual_limit(folder.parent) if limit is None else limit
        if size > _ONE * limit or _free(folder) < 2 * size:
            return False
        head = _HEAD.pack(_MAGIC, len(note), len(tokens), len(state)) + note
        _write(path, (head, packed, state, _digest(head, packed, state)))
    except OSError:
        return False
    for other, stored, _ in _stored(folder):
        if other != path and packed.startswith(stored):
            _unlink(other)  # the new one serves for it
    shrink(folder.parent, limit)
    return True


def _write(path: Path, parts: Sequence[Any]) -> None:
    """A new file, all of it or nothing. Raises OSError."""
    # Processes of two machines, or containers, may have one number.
    temporary = path.with_name(f"{path.stem}.{os.getpid()}-{os.urandom(4).hex()}{_UNFINISHED}")
    with signals.on_end(lambda: temporary.unlink(missing_ok=True)):
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                for part in parts:
                    rest = memoryview(part).cast("B")
                    while rest:
                        rest = rest[file.write(rest) :]
            os.replace(temporary, path)
        except BaseException:
            _unlink(temporary)
            raise


def entries(root: Path) -> list[Entry]:
    """All stored prompts of all models, the one used last first. Damaged files are among them, without a model."""
    found = []
    for path, status in _statuses(root, _SUFFIX):
        model, n_tokens = "", 0
        with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
            head, packed, _ = _read_head(file)
            model, n_tokens = str(json.loads(head[_HEAD.size :])["model"]), len(packed) // 4
        found.append(Entry(path, model, n_tokens, status.st_size, status.st_mtime))
    return sorted(found, key=lambda entry: entry.used, reverse=True)


def remove(root: Path, chosen: Sequence[Entry]) -> list[Entry]:
    """Remove these; those that are gone now."""
    gone = [entry for entry in chosen if _unlink(entry.path)]
    for folder in _folders(root):
        if not _files(folder):  # what a killed process was writing there goes too; a living one finds that it is gone
            for path in _files(folder, _UNFINISHED):
                _unlink(path)
            with contextlib.suppress(OSError):
                folder.rmdir()
    return gone


def shrink(root: Path, limit: int) -> None:
    """Remove what was used longest ago until all take at most `limit` bytes; and what was never finished."""
    for path, status in _statuses(root, _UNFINISHED):
        if time.time() - status.st_mtime > _ABANDONED:
            _unlink(path)
    found = sorted((status.st_mtime, status.st_size, path) for path, status in _statuses(root, _SUFFIX))
    total = sum(size for _, size, _ in found)
    for _, size, path in found:
        if total <= limit:
            return
        _unlink(path)
        total -= size


def usual_limit(root: Path) -> int:
    """What all files may take where nobody said: MOST_BYTES, and no large part of a small disk. Raises OSError."""
    taken = sum(status.st_size for _, status in _statuses(root, _SUFFIX))
    return int(min(MOST_BYTES, MOST_OF_DISK * (_free(root) + taken)))


def _free(folder: Path) -> int:
    import shutil  # brings compression along, for 5 ms

    return shutil.disk_usage(folder).free


def _folders(root: Path) -> list[Path]:
    try:
        return [path for path in root.iterdir() if path.is_dir()]
    except OSError:
        return []


def _files(folder: Path, suffix: str = _SUFFIX) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.suffix == suffix]
    except OSError:
        return []


def _statuses(root: Path, suffix: str) -> Iterator[tuple[Path, os.stat_result]]:
    """The files of all folders. Others may remove them meanwhile."""
    for folder in _folders(root):
        for path in _files(folder, suffix):
            with contextlib.suppress(OSError):
                yield path, path.stat()


def _stored(folder: Path) -> Iterator[tuple[Path, bytes, int]]:
    """Of each file of a folder its packed tokens, and the bytes of its state. One that has no head goes."""
    for path in _files(folder):
        try:
            with path.open("rb") as file:
                _, packed, n_state = _read_head(file)
        except OSError:
            continue
        except ValueError:
            _unlink(path)
            continue
        yield path, packed, n_state


def _unlink(path: Path) -> bool:
    """Whether it is gone."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


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
