"""The headers of files that are still on the Hub: their first bytes only, as many as it takes."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from llamacli.errors import BadModelFile, NetworkError, StorageError, printable
from llamacli.models import hub
from llamacli.models.answer import Again, Answer
from llamacli.models.gguf import Header, read_header
from llamacli.models.hub import RemoteFile, Repository, Source

#: Bytes that are asked for at first, and at most: a vocabulary of 150,000 tokens takes 6 MiB, one of 260,000 16 MiB.
FIRST, MOST = 1 << 20, 64 << 20
#: Attempts of each request; the longest pause that a server may ask for, in seconds.
_ATTEMPTS, _PAUSE = 3, 10.0


@contextlib.contextmanager
def headers(repository: Repository, files: Sequence[RemoteFile], token: str | None = None) -> Iterator[list[Header]]:
    """The header of each file; they may be asked for their arrays as long as this lasts.

    Raises BadModelFile for what has none, NetworkError, AccessDenied, ModelNotFound, StorageError.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="llamacli-", ignore_cleanup_errors=True)
    except OSError as error:
        raise StorageError(f"no temporary folder: {error.strerror or error}") from error
    with folder as name:
        yield [_header(repository, file, Path(name) / f"{i}.gguf", token) for i, file in enumerate(files)]


def _header(repository: Repository, file: RemoteFile, path: Path, token: str | None) -> Header:
    """Fetch the beginning of a file, twice as much each time, until the header is whole.

    What is missing is a hole in a file of the full size, so that the reader's own checks of sizes hold.
    """
    source, have, want = hub.source(repository, file, token), 0, FIRST
    while True:
        want = min(want, file.size)
        data = _beginning(source, have, want, file)
        try:
            with open(path, "ab") as stream:
                stream.truncate(have)
                stream.write(data)
                stream.truncate(file.size)
        except OSError as error:
            raise StorageError(f"{tempfile.gettempdir()}: {error.strerror or error}") from error
        have = want
        try:
            header = read_header(path)
            if header.data_offset <= have:  # else it read on into the hole
                return header
            raise BadModelFile(f"{printable(file.name)}: its header is larger than {MOST >> 20} MiB")
        except BadModelFile as error:
            with open(path, "rb") as stream:
                known = stream.read(4) == b"GGUF"
            if have >= min(MOST, file.size) or not known:
                reason = error.message.replace(str(path), printable(file.name))
                raise BadModelFile(reason, hint="another file, or another repository") from error
        want = have * 2


def _beginning(source: Source, start: int, end: int, file: RemoteFile) -> bytes:
    """Bytes start … end-1. Raises NetworkError after some attempts; AccessDenied and ModelNotFound at once."""
    attempt = 1
    while True:
        try:
            return _range(source, start, end, file)
        except Again as again:
            if attempt == _ATTEMPTS:
                raise again.error from again
            time.sleep(min(again.seconds or 0.5, _PAUSE))
            attempt += 1


def _range(source: Source, start: int, end: int, file: RemoteFile) -> bytes:
    """Raises Again."""
    data = bytearray()
    with Answer(source, {**source.headers, "Range": f"bytes={start}-{end - 1}"}) as answer:
        got = answer.header("content-range")
        if answer.status != 200 and got != f"bytes {start}-{end - 1}/{file.size}":
            raise Again(NetworkError(f"the server sent another part, or another file: {printable(got, 60)}"))
        skip = start if answer.status == 200 else 0  # the whole file, from a server that knows no ranges
        for block in answer.blocks():
            data += block
            if len(data) >= skip + end - start:  # the rest is never read
                return bytes(data[skip : skip + end - start])
    raise Again(NetworkError("the connection ended too early"))
