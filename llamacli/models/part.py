"""What has come of a file: the part file, and a journal with a line for each piece that is on disk, with its CRC.

After a kill, or a reboot that lost what was not yet written, the pieces whose CRC holds are kept, and only the others
come again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamacli.errors import StorageError

#: Bytes that are journalled together.
PIECE = 2 << 20
#: Bytes that are read at once: small enough for the allocator to use the same memory again and again.
BLOCK = 64 << 10


@dataclass(frozen=True)
class Target:
    """What is fetched: the final path, its size in bytes and its digest (sha256, or sha1 of a git blob).

    Where no digest is known it is "", and `version` keeps the parts of different versions apart.
    """

    path: Path
    size: int
    digest: str
    version: str = ""

    @property
    def part(self) -> Path:
        return self._beside("part")

    @property
    def journal(self) -> Path:
        return self._beside("journal")

    def _beside(self, what: str) -> Path:
        version = f".{self.version}" if self.version else ""
        return self.path.with_name(f"{self.path.name}{version}.llamacli-{what}")

    def forget(self) -> None:
        """Remove what came of it, if anything did. Raises OSError."""
        self.part.unlink(missing_ok=True)
        self.journal.unlink(missing_ok=True)

    def hasher(self) -> Any:
        """A fresh hash object of the digest's kind."""
        if len(self.digest) == 40:
            return hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)
        return hashlib.sha256()


if sys.platform == "win32":
    _place = threading.Lock()

    def _pread(file: int, length: int, place: int) -> bytes:
        with _place:
            os.lseek(file, place, os.SEEK_SET)
            return os.read(file, length)

    def _pwrite(file: int, data: memoryview, place: int) -> int:
        with _place:
            os.lseek(file, place, os.SEEK_SET)
            return os.write(file, data)

else:
    _pread, _pwrite = os.pread, os.pwrite


class Part:
    """The part file and its journal: which pieces are here."""

    def __init__(self, target: Target) -> None:
        """Open or make both, and check what is there. Raises StorageError."""
        self.target = target
        self.n_pieces = -(-target.size // PIECE)
        self.have = bytearray(self.n_pieces)
        #: Bytes that are here.
        self.n_bytes = 0
        self._lock = threading.Lock()
        self._closed = False
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            target.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = os.open(target.part, flags, 0o644)
            self._journal = os.open(target.journal, flags | os.O_APPEND, 0o644)
            self._recover()
        except OSError as error:
            raise storage_error(error, target) from error

    def _recover(self) -> None:
        """Believe a line of the journal where the piece's CRC is what it says."""
        for line in _pread(self._journal, os.fstat(self._journal).st_size, 0).split(b"\n")[:-1]:
            number, _, crc = line.partition(b" ")
            if number.isdigit() and int(number) < self.n_pieces and not self.have[int(number)]:
                self.have[int(number)] = b"%08x" % self._crc(int(number)) == crc
        self.n_bytes = sum(self.length(number) for number in range(self.n_pieces) if self.have[number])
        os.ftruncate(self.file, self.target.size)

    def _crc(self, number: int) -> int:
        crc = 0
        for block in self.read(number):
            crc = zlib.crc32(block, crc)
        return crc

    def length(self, number: int) -> int:
        """Bytes of a piece; the last one may be shorter."""
        return min(PIECE, self.target.size - number * PIECE)

    def put(self, number: int, offset: int, data: memoryview) -> None:
        """Write a block of a piece, `offset` bytes from the piece's start. Raises OSError."""
        place = number * PIECE + offset
        while data:
            written = _pwrite(self.file, data, place)
            data, place = data[written:], place + written

    def complete(self, number: int, crc: int) -> None:
        """All of a piece is written, with this CRC. Raises OSError."""
        with self._lock:
            os.write(self._journal, b"%d %08x\n" % (number, crc))
            self.have[number] = 1
            self.n_bytes += self.length(number)

    def read(self, number: int) -> Iterator[bytes]:
        """A piece, in blocks. Raises OSError."""
        start = number * PIECE
        for place in range(start, start + self.length(number), BLOCK):
            yield _pread(self.file, min(BLOCK, start + self.length(number) - place), place)

    def close(self) -> None:
        """May be called again."""
        if not self._closed:
            self._closed = True
            os.close(self.file)
            os.close(self._journal)

    def finish(self) -> None:
        """Everything is here: give the file its final name. Raises OSError."""
        os.fsync(self.file)
        self.close()  # Windows renames no file that is open
        os.replace(self.target.part, self.target.path)
        self.target.journal.unlink(missing_ok=True)

    def remove(self) -> None:
        """Forget everything that came."""
        self.close()
        self.target.forget()


def storage_error(error: OSError, target: Target) -> StorageError:
    """An OSError in our words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(target.path.parent).free
        return StorageError(
            f"the disk is full: {target.size:,} bytes are needed, and {free:,} are free in {target.path.parent}",
            hint="make room and pull again: what came is kept",
        )
    return StorageError(f"{target.path.parent}: {error.strerror or error}")
