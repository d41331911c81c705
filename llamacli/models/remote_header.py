"""The headers of files that are still on the Hub: their first bytes only, as many as it takes."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from llamacli.errors import BadModelFile, NetworkError, StorageError, printable
from llamacli.models import hub
from llamacli.models.gguf import Header, read_header
from llamacli.models.hub import RemoteFile, Repository, Source

#: Bytes that are asked for at first, and at most: a vocabulary of 150,000 tokens takes 6 MiB, one of 260,000 16 MiB.
FIRST, MOST = 1 << 20, 64 << 20
#: Attempts of each request; seconds without a byte that end one; the longest pause that a server may ask for.
_ATTEMPTS, _SILENCE, _PAUSE = 3, 30.0, 10.0


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
        except _Again as again:
            if attempt == _ATTEMPTS:
                raise again.error from again
            time.sleep(min(again.seconds, _PAUSE))
            attempt += 1


class _Again(Exception):
    """An attempt failed in a way that another one may mend."""

    def __init__(self, error: NetworkError, seconds: float = 0.5) -> None:
        super().__init__(str(error))
        self.error, self.seconds = error, seconds


def _range(source: Source, start: int, end: int, file: RemoteFile) -> bytes:
    import httpx2

    wanted = {**source.headers, "Range": f"bytes={start}-{end - 1}"}
    timeout = httpx2.Timeout(_SILENCE)
    data = bytearray()
    try:
        with source.client.stream("GET", source.url, headers=wanted, timeout=timeout, follow_redirects=True) as answer:
            if answer.status_code >= 400:
                refusal = hub.refused(answer.status_code, "the server")
                if not isinstance(refusal, NetworkError):
                    raise refusal
                after = str(answer.headers.get("retry-after", ""))
                raise _Again(refusal, float(after) if after.isascii() and after.isdigit() else 0.5)
            got = str(answer.headers.get("content-range", ""))
            if answer.status_code == 206 and got != f"bytes {start}-{end - 1}/{file.size}":
                raise _Again(NetworkError(f"the server sent another part, or another file: {printable(got, 60)}"))
            skip = start if answer.status_code == 200 else 0  # the whole file, from a server that knows no ranges
            for block in answer.iter_raw(1 << 18):
                data += block
                if len(data) >= skip + end - start:  # the rest is never read
                    break
    except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
        raise _Again(NetworkError(f"the connection broke: {printable(str(error), 200)}")) from error
    if len(data) < skip + end - start:
        raise _Again(NetworkError("the connection ended too early"))
    return bytes(data[skip : skip + end - start])
