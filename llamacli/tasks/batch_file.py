"""The file of a batch's answers: JSON lines, each written whole as soon as it is there, and read again to go on.

Every record says what it answers: `fingerprint` is a digest of the model and the options, and one of the line. So the
file needs no head and no companion, and records of another run are never taken for those of this one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from llamacli.errors import OutOfMemory, StorageError, UsageError
from llamacli.tasks.batch_lines import Id
from llamacli.tasks.files import is_special, lock, new_file

#: Seconds after which what was written is also forced to the disk.
_SYNC = 1.0


@dataclass(frozen=True)
class Place:
    """A record in the file. `line` is that of the input, `code` that of its error, 0 for an answer."""

    line: int
    id: Id
    start: int
    size: int
    fingerprint: str
    code: int


class AnswersFile:
    """Close it, or use it as a context manager. A device or a pipe is only written."""

    def __init__(self, path: Path, run: str) -> None:
        """Open or begin it. `run` is the digest of model and options. A last line that was cut short is dropped.

        Raises UsageError where it is another kind of file, of another run, or in use; StorageError.
        """
        self._path = path
        self._places: dict[int, Place] = {}
        self._end = 0
        self._synced = time.monotonic()
        self._superseded = False
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        self.special = is_special(path)
        try:
            self._fd = os.open(path, os.O_WRONLY if self.special else flags, 0o666)
        except IsADirectoryError as error:
            raise UsageError(f"{path} is a folder", hint="name a file in it") from error
        except OSError as error:
            raise self._failed(error) from error
        if self.special:
            return
        try:
            self._lock()
            self._read(run)
        except OSError as error:
            self.close()
            raise self._failed(error) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> AnswersFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    @property
    def n_known(self) -> int:
        """How many lines have their record."""
        return len(self._places)

    def find(self, line: int, fingerprint: str) -> Place | None:
        """A line's record. One that failed has none where it was changed since, or where memory was short.

        Raises UsageError for an answer to another text.
        """
        place = self._places.get(line)
        if place is None or place.code == OutOfMemory.exit_code:
            return None
        if place.fingerprint == fingerprint:
            return place
        if place.code:
            return None
        raise UsageError(
            f"{self._path} has the answer to another line {line}: the input was changed",
            hint="name another file, or remove it",
        )

    def add(self, record: Mapping[str, Any]) -> None:
        """Raises StorageError."""
        data = encoded(record)
        self._put(self._place(record, len(data)))
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            if not self.special and time.monotonic() > self._synced + _SYNC:
                os.fsync(self._fd)
                self._synced = time.monotonic()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._failed(error) from error

    def finish(self, *, in_order: bool) -> None:
        """All is there: each line once, and in the order of the input if that is wanted. Raises StorageError."""
        if self.special:
            return
        places = sorted(self._places.values(), key=lambda place: place.line if in_order else place.start)
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._failed(error) from error
        if not self._superseded and all(a.start < b.start for a, b in pairwise(places)):
            return
        mode = os.fstat(self._fd).st_mode & 0o777
        with open(self._fd, "rb", closefd=False) as old, new_file(self._path, force=True) as new:
            for place in places:
                old.seek(place.start)
                new.write(old.read(place.size))
            if hasattr(os, "fchmod"):
                os.fchmod(new.fileno(), mode)

    def _lock(self) -> None:
        """One process at a time; for as long as the file is open."""
        # Who had it has perhaps just put another in its place.
        if not lock(self._fd) or not os.path.samestat(os.fstat(self._fd), os.stat(self._path)):
            raise UsageError(f"{self._path}: another process is writing it", hint="name another file, or wait for it")

    def _read(self, run: str) -> None:
        with open(self._fd, "rb", closefd=False) as file:
            for number, data in enumerate(file, 1):
                if not data.endswith(b"\n"):  # the process was ended here
                    if number == 1 and not b'{"id":'.startswith(data[:6]):
                        raise self._foreign(number)
                    break
                place = self._parsed(data, number)
                if place.fingerprint.partition("-")[0] != run:
                    raise UsageError(
                        f"{self._path} has the answers of another run: of another model, or with other options",
                        hint="name another file, or remove it",
                    )
                self._put(place)
        if os.fstat(self._fd).st_size != self._end:
            os.ftruncate(self._fd, self._end)
        os.lseek(self._fd, 0, os.SEEK_END)

    def _put(self, place: Place) -> None:
        self._superseded = self._superseded or place.line in self._places
        self._places[place.line] = place
        self._end += place.size

    def _place(self, record: Mapping[str, Any], size: int) -> Place:
        """The next place. Raises KeyError, TypeError for what is no record."""
        code = record["error"]["code"] if "error" in record else 0
        return Place(record["line"], record["id"], self._end, size, record["fingerprint"], code)

    def _parsed(self, data: bytes, number: int) -> Place:
        try:
            record = json.loads(data)
            place = self._place(record, len(data))
            kinds = (type(place.line), type(place.fingerprint), type(place.code))
            if kinds == (int, str, int) and isinstance(place.id, Id) and ("text" in record or "error" in record):
                return place
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise self._foreign(number)

    def _foreign(self, number: int) -> UsageError:
        where = f"{self._path} is there already, and line {number} of it is no answer of batch"
        return UsageError(where, hint="name another file, or remove it")

    def _failed(self, error: OSError) -> StorageError:
        return StorageError(f"{self._path}: {error.strerror or error}")


def encoded(record: Mapping[str, Any]) -> bytes:
    """One line of JSON."""
    return (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
