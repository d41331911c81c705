"""New files, all of them or nothing."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from llamacli import signals
from llamacli.errors import StorageError, UsageError


def refuse(path: Path, *, force: bool) -> None:
    """Raises UsageError where `path` cannot be written as a new file: a folder, or in none, or there already without
    `force`.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint="name a file in it")
    if not force and not is_special(path) and os.path.lexists(path):
        raise UsageError(f"{path} is there already", hint="another name, or --force")
    if not Path(os.path.realpath(path)).parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}")


@contextlib.contextmanager
def new_file(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """A file that takes its name at the end, if no exception came. A device or a pipe is written as it is.

    A link goes on pointing to its file, and a file that is replaced keeps its permissions. What a killed process left
    of the same name is removed first.

    Raises UsageError as `refuse`; StorageError where the disk is full, or read-only.
    """
    refuse(path, force=force)
    target = path if is_special(path) else Path(os.path.realpath(path))
    try:
        if is_special(path):
            with target.open("wb", buffering=0) as device:
                yield cast(BinaryIO, device)
            return
        temporary, file = _create(target)
        with signals.on_end(lambda: temporary.unlink(missing_ok=True)):
            try:
                with file:
                    with contextlib.suppress(OSError):
                        os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                    if os.name != "posix":
                        file.close()  # Windows renames no open file; elsewhere the lock stays until it has its name
                    os.replace(temporary, target)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error


def _create(target: Path) -> tuple[Path, BinaryIO]:
    """A hidden file beside `target`, which carries a lock as long as it is written. Those without one go."""
    prefix = f".{target.name[:50]}."
    with contextlib.suppress(OSError):
        for other in list(target.parent.iterdir()):
            if other.name.startswith(prefix) and re.fullmatch("[0-9a-f]{8}", other.name[len(prefix) :]):
                with contextlib.suppress(OSError), other.open("rb") as left:
                    if lock(left.fileno()):
                        other.unlink()
    while True:
        path = target.with_name(prefix + os.urandom(4).hex())
        file = path.open("xb")
        with contextlib.suppress(OSError):
            lock(file.fileno())
        if path.exists():  # nobody took it for left behind before it was locked
            return path, file
        file.close()


def lock(descriptor: int) -> bool:
    """Whether an open file is this process's alone, as long as it is open. Raises OSError where nothing can be locked.

    filelock makes a file of its own, so it locks names, and none that is replaced. Windows needs no lock here: there an
    open file is neither removed nor replaced.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def workspace(parent: Path, purpose: str, n_bytes: int) -> Iterator[Path]:
    """A hidden folder in `parent` that is gone at the end, whatever happens. `n_bytes` of room are needed.

    What a killed process left of the same purpose is removed first. Raises UsageError where another process works for
    it; StorageError where there is no room, or no permission.
    """
    import hashlib

    from filelock import FileLock, Timeout

    name = hashlib.sha256(os.fsencode(purpose)).hexdigest()[:12]
    folder = parent / f".llamacli-{name}.part"
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()  # if nobody is in it
            raise
    except Timeout:
        raise UsageError(f"another process is writing {purpose}", hint="wait for it, or choose another name") from None
    except OSError as error:
        raise StorageError(f"{purpose}: {error.strerror or error}") from error
    with signals.on_end(lambda: shutil.rmtree(folder, ignore_errors=True)):
        try:
            for stale in folder.iterdir():
                if stale.name != ".lock":
                    stale.unlink()
            free = shutil.disk_usage(folder).free
            if n_bytes > free:
                raise StorageError(
                    f"{n_bytes:,} bytes are needed, and {free:,} are free in {parent}", hint="make room first"
                )
            yield folder
        except OSError as error:
            raise StorageError(f"{purpose}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()
            with contextlib.suppress(OSError):  # Windows removes no open file
                shutil.rmtree(folder)


@contextlib.contextmanager
def staged(targets: Sequence[Path], n_bytes: int) -> Iterator[Path]:
    """A workspace beside the targets, for a library that writes by name: files of their names in it take their places
    at the end, if no exception came. The targets are of one folder, and are no links. Raises as `workspace`.
    """
    parent = targets[0].parent
    with workspace(parent, str(targets[0]), n_bytes) as folder:
        yield folder
        for target in targets:
            _sync(folder / target.name)
        for target in targets:
            os.replace(folder / target.name, target)
        _sync(parent)


class WriteBehind:
    """Lets the disk begin with what a library has written, so that `staged` need not wait for all of it at the end."""

    _STEP = 16 << 20  # bytes

    def __init__(self, paths: Sequence[Path]) -> None:
        self._begun = dict.fromkeys(paths, 0)

    def nudge(self) -> None:
        """Every few seconds is enough."""
        if not hasattr(os, "posix_fadvise"):
            return
        for path, begun in self._begun.items():
            with contextlib.suppress(OSError):
                size = path.stat().st_size
                if size - begun >= self._STEP:
                    file = os.open(path, os.O_RDONLY)
                    try:
                        # None of these pages is on the disk: Linux begins to write them, and forgets none.
                        os.posix_fadvise(file, begun, size - begun, os.POSIX_FADV_DONTNEED)
                    finally:
                        os.close(file)
                    self._begun[path] = size


def _sync(path: Path) -> None:
    """Nothing but the disk's own failure loses it from now on. Raises OSError."""
    if path.is_dir() and os.name != "posix":
        return  # Windows opens no folder
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def write(path: Path, data: bytes, *, force: bool) -> None:
    """A new file of these bytes. Raises as `new_file`."""
    with new_file(path, force=force) as file:
        file.write(data)


def is_special(path: Path) -> bool:
    """A device or a pipe."""
    return path.exists() and not path.is_file()
