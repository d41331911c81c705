"""The resumable transfer of one file: ranges over several connections into a part file, hashed, then made visible."""

from __future__ import annotations

import contextlib
import math
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llamacli.errors import ChecksumMismatch, LlamacliError, NetworkError, StorageError, printable
from llamacli.models.answer import Again, Answer
from llamacli.models.part import PIECE, Part, Target, storage_error

if TYPE_CHECKING:
    from llamacli.models.hub import Source

#: What a kill loses is at most one piece of 2 MiB for each.
CONNECTIONS = 8
#: Another connection joins every so many seconds, as long as each would get SLOW bytes in a second, or a cut would lose
#: minutes, and fewer than FAST come: beyond, the network is not what everything waits for.
RAMP, SLOW, FAST = 0.1, 128e3, 400e6
#: Pieces that one request asks for.
SEGMENT = 32
#: Attempts without any progress before giving up.
ATTEMPTS = 5
#: Free space that is left to others, bytes.
MARGIN = 64 << 20

#: Told how many bytes are here, of how many.
Progress = Callable[[int, int], None]


class _Work:
    """Which pieces are still to fetch, shared by the connections."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.changed = threading.Condition()
        self._taken = bytearray(part.have)
        self.error: Exception | None = None
        self.stopped = False
        self.received = 0  # bytes, also of pieces that are not complete
        self.ranged = False  # the server has answered with a part of the file
        self.sequential = False  # the server answers every request with the whole file
        self._failures, self._pause_ends = 0, 0.0

    def take(self) -> range | None:
        """A run of pieces that nobody else fetches, None where there is none."""
        with self.changed:
            if self.stopped or self.error is not None or self.sequential:
                return None
            start = self._taken.find(0)
            if start < 0:
                return None
            end = start
            while end < len(self._taken) and not self._taken[end] and end - start < self._share():
                self._taken[end] = 1
                end += 1
            return range(start, end)

    def open(self) -> bool:
        """Whether a further connection would find something to do."""
        with self.changed:
            trying = not self.stopped and self.error is None and not self.sequential
            return trying and not self._failures and 0 in self._taken

    def _share(self) -> int:
        """Pieces for one request: long ones, but so that all connections have something to do."""
        return max(1, min(SEGMENT, -(-self._taken.count(0) // CONNECTIONS)))

    def give_back(self, pieces: range) -> None:
        """What of these did not come is for others."""
        with self.changed:
            for number in pieces:
                self._taken[number] = self.part.have[number]

    def done(self, number: int, crc: int) -> None:
        """A piece is complete."""
        self.part.complete(number, crc)
        with self.changed:
            self._failures = 0
            self.changed.notify_all()

    def fail(self, error: Exception) -> None:
        """Nothing more is to be tried."""
        with self.changed:
            self.error = self.error or error
            self.changed.notify_all()

    def missed(self, again: Again, began: float) -> None:
        """An attempt that began at that time failed: wait until the next one may; the last one fails for good.

        All connections fail together where the network does: that is one failure, and one pause.
        """
        with self.changed:
            if began >= self._pause_ends:
                self._failures += 1
                if self._failures >= ATTEMPTS:
                    self.error = self.error or again.error
                pause = max(min(0.25 * 2**self._failures, 8.0), again.seconds or 0.0)
                self._pause_ends = time.monotonic() + min(pause, 60.0)
                self.changed.notify_all()
            seconds = self._pause_ends - time.monotonic()
            self.changed.wait_for(lambda: self.stopped or self.error is not None, max(seconds, 0.0))


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold this lock file, whose folder is made. `waiting` is called once where another process holds it.

    Raises OSError.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if waiting is not None:
            waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def fetch(
    source: Source,
    target: Target,
    progress: Progress | None = None,
    check: Callable[[Path], None] | None = None,
) -> str:
    """Bring the file to `target.path`, resuming what is there, and return its digest. The caller holds the lock.

    `check` sees the whole part before it becomes visible. Raises NetworkError and StorageError, after
    which the part stays; ChecksumMismatch, and what `check` raises, after which it is gone; AccessDenied and
    ModelNotFound.
    """
    part, threads = Part(target), list[threading.Thread]()
    try:
        check_space(target.path.parent, target.size - part.n_bytes)
        work = _Work(part)
        if progress is not None:
            progress(part.n_bytes, target.size)  # what an earlier pull left, before anything comes
        # What has neither a digest nor a version cannot be put together from several answers.
        work.sequential = not target.digest and not source.version
        digest = _Digest(work)
        digest.start()
        try:
            _connect(source, work, threads, progress)
            if work.sequential and work.error is None:
                threads.append(threading.Thread(target=_whole, args=(source, work), daemon=True))
                threads[-1].start()
                _wait(work, threads[-1:], part, progress)
            _wait(work, [digest], part, progress)
        finally:
            work.stopped = True
            with work.changed:
                work.changed.notify_all()
            for thread in (*threads, digest):
                thread.join(timeout=1.0)
        if work.error is not None:
            raise work.error
        _finish(part, digest.hexdigest, check)
        return digest.hexdigest
    finally:
        if not any(thread.is_alive() for thread in threads):  # one that waits for a silent server may write yet
            part.close()
            if not part.n_bytes:
                with contextlib.suppress(OSError):
                    target.forget()


def _connect(source: Source, work: _Work, threads: list[threading.Thread], progress: Progress | None) -> None:
    """Fetch over one connection, then more; until all have ended."""
    began = time.monotonic()
    while True:
        speed = work.received / max(time.monotonic() - began, 1e-3)
        wanted = not threads or (len(threads) < CONNECTIONS and SLOW * (len(threads) + 1) <= speed < FAST)
        if wanted and work.open():
            threads.append(threading.Thread(target=_connection, args=(source, work), daemon=True))
            threads[-1].start()
        _wait(work, threads, work.part, progress, RAMP)
        if work.error is not None or not any(thread.is_alive() for thread in threads):
            return


def _wait(
    work: _Work, threads: list[threading.Thread], part: Part, progress: Progress | None, seconds: float = math.inf
) -> None:
    """Until the threads have ended, or something went wrong, or so many seconds have gone."""
    end = time.monotonic() + seconds
    while any(thread.is_alive() for thread in threads) and work.error is None and time.monotonic() < end:
        with work.changed:
            work.changed.wait(min(0.1, max(end - time.monotonic(), 0.0)))
        if progress is not None:
            progress(part.n_bytes, part.target.size)


def _finish(part: Part, digest: str, check: Callable[[Path], None] | None) -> None:
    """Make the file visible under its final name, if it is the right one."""
    target = part.target
    if target.digest and digest != target.digest:
        part.remove()
        raise ChecksumMismatch(
            f"what came is not what was promised: digest {digest[:16]}…, wanted {target.digest[:16]}…",
            hint="nothing was kept; try again",
        )
    try:
        if check is not None:
            try:
                check(target.part)
            except LlamacliError:
                part.remove()
                raise
        part.finish()
    except OSError as error:
        raise storage_error(error, target) from error


class _Digest(threading.Thread):
    """Hashes the pieces in their order, as soon as they are here."""

    def __init__(self, work: _Work) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.hexdigest = ""

    def run(self) -> None:
        part, hasher = self._work.part, self._work.part.target.hasher()
        try:
            for number in range(part.n_pieces):
                with self._work.changed:
                    while not part.have[number]:
                        if self._work.stopped or self._work.error is not None:
                            return
                        self._work.changed.wait()
                for block in part.read(number):
                    hasher.update(block)
        except OSError as error:
            self._work.fail(storage_error(error, part.target))
        self.hexdigest = hasher.hexdigest()


def _connection(source: Source, work: _Work) -> None:
    """One connection: take pieces and fetch them until none is left."""
    while (pieces := work.take()) is not None:
        began = time.monotonic()
        try:
            _fetch_pieces(source, work, pieces)
        except Again as again:
            work.give_back(pieces)
            work.missed(again, began)
        except OSError as error:
            work.fail(storage_error(error, work.part.target))
        except Exception as error:
            work.fail(error)


def _fetch_pieces(source: Source, work: _Work, pieces: range) -> None:
    """One request for a run of pieces. Raises Again, OSError, and what `hub.refused` gives."""
    start = pieces.start * PIECE
    end = min(pieces.stop * PIECE, work.part.target.size)
    headers = {**source.headers, "Range": f"bytes={start}-{end - 1}"}
    with Answer(source, headers) as answer:
        if answer.status == 200:
            answer.check_length(work.part.target.size)
            with work.changed:
                if work.ranged:  # some cache on the way knows none; begin anew only where nobody does
                    raise Again(NetworkError("the server sent the whole file in place of a part"))
                work.sequential = True
            return
        if answer.status != 206:
            raise Again(NetworkError(f"the server refused bytes {start}–{end - 1} ({answer.status})"))
        if answer.header("content-range") != f"bytes {start}-{end - 1}/{work.part.target.size}":
            got = printable(answer.header("content-range"), 60)
            raise Again(NetworkError(f"the server sent another part of the file, or another file: {got}"))
        work.ranged = True
        _store(answer, work, pieces)


def _whole(source: Source, work: _Work) -> None:
    """The file from its beginning, for servers that know no ranges; pieces that are here are passed over."""
    part = work.part
    while work.error is None and not work.stopped and 0 in part.have:
        began = time.monotonic()
        try:
            with Answer(source, source.headers) as answer:
                if answer.status != 200:
                    raise Again(NetworkError(f"the server answered {answer.status}"))
                answer.check_length(part.target.size)
                _store(answer, work, range(part.n_pieces))
        except Again as again:
            if not part.target.digest and not source.version and part.n_bytes:
                work.fail(again.error)  # a second answer may be another file
            work.missed(again, began)
        except OSError as error:
            work.fail(storage_error(error, part.target))
        except Exception as error:
            work.fail(error)


def _store(answer: Answer, work: _Work, pieces: range) -> None:
    """Write the body to its place, and note each piece that is complete."""
    part, number = work.part, pieces.start
    offset = crc = 0
    for data in answer.blocks():
        if work.stopped or work.error is not None:
            return
        rest = memoryview(data)
        while rest and number < pieces.stop:
            block = rest[: part.length(number) - offset]
            rest = rest[len(block) :]
            work.received += len(block)
            if not part.have[number]:
                part.put(number, offset, block)
                crc = zlib.crc32(block, crc)
            offset += len(block)
            if offset == part.length(number):
                if not part.have[number]:
                    work.done(number, crc)
                number, offset, crc = number + 1, 0, 0
        if rest:  # more than was asked for, perhaps without end
            if pieces.stop == part.n_pieces and not part.target.digest:
                raise Again(NetworkError("more came than the server had announced"))
            return
    if number < pieces.stop:  # a connection that breaks is an error of its own
        raise Again(ChecksumMismatch("the server sends less than it promised", hint="nothing bad was kept; try again"))


def check_space(folder: Path, needed: int) -> None:
    """Raises StorageError where so many bytes do not fit into a folder that is there."""
    free = shutil.disk_usage(folder).free
    if needed + min(MARGIN, needed // 10) > free:
        raise StorageError(
            f"{needed:,} bytes are needed, and {free:,} are free in {folder}",
            hint="make room and pull again: what came is kept",
        )
