"""What has come of a file: the part file, and a journal with a line for each piece that is on disk, with its CRC.

After a kill, or a reboot that lost what was not yet written, the pieces whose CRC holds are kept, and only the others
come again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamacli.errors import StorageError

#: Bytes that are journalled together.
PIECE = 2 << 20


@dataclass(frozen=True)
class Target:
    """What is fetched: the final path, its size in bytes and its digest (sha256, or sha1 of a git blob)."""

    path: Path
    size: int
    digest: str

    @property
    def part(self) -> Path:
        return self.path.with_name(f"{self.path.name}.llamacli-part")

    @property
    def journal(self) -> Path:
        return self.path.with_name(f"{self.path.name}.llamacli-journal")

    def hasher(self) -> Any:
        """A fresh hash object of the digest's kind."""
        if len(self.digest) == 64:
            return hashlib.sha256()
        return hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)


class Part:
    """The part file and its journal: which pieces are here."""

    def __init__(self, target: Target) -> None:
        """Open or make both, and check what is there. Raises StorageError."""
        self.target = target
        self.n_pieces = -(-target.size // PIECE)
        self.have = bytearray(self.n_pieces)
        self._lock = threading.Lock()
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
        for line in os.pread(self._journal, os.fstat(self._journal).st_size, 0).split(b"\n")[:-1]:
            number, _, crc = line.partition(b" ")
            if number.isdigit() and int(number) < self.n_pieces and not self.have[int(number)]:
                piece = os.pread(self.file, self.length(int(number)), int(number) * PIECE)
                good = len(piece) == self.length(int(number)) and b"%08x" % zlib.crc32(piece) == crc
                self.have[int(number)] = good
        os.ftruncate(self.file, self.target.size)

    def length(self, number: int) -> int:
        """Bytes of a piece; the last one may be shorter."""
        return min(PIECE, self.target.size - number * PIECE)

    @property
    def n_bytes(self) -> int:
        """Bytes that are here."""
        return sum(self.length(number) for number in range(self.n_pieces) if self.have[number])

    def write(self, number: int, data: bytes | bytearray) -> None:
        """Keep a whole piece. Raises OSError."""
        view, place = memoryview(data), number * PIECE
        while view:
            written = os.pwrite(self.file, view, place)
            view, place = view[written:], place + written
        with self._lock:
            os.write(self._journal, b"%d %08x\n" % (number, zlib.crc32(data)))
            self.have[number] = 1

    def read(self, number: int) -> bytes:
        return os.pread(self.file, self.length(number), number * PIECE)

    def close(self) -> None:
        os.close(self.file)
        os.close(self._journal)

    def remove(self) -> None:
        """Forget everything that came."""
        self.target.part.unlink(missing_ok=True)
        self.target.journal.unlink(missing_ok=True)


def storage_error(error: OSError, target: Target) -> StorageError:
    """An OSError in our words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(target.path.parent).free
        return StorageError(
            f"the disk is full: {target.size:,} bytes are needed, and {free:,} are free in {target.path.parent}",
            hint="make room and pull again: what came is kept",
        )
    return StorageError(f"{target.path.parent}: {error.strerror or error}")
