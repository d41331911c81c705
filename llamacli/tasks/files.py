"""New files, all of them or nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from llamacli import signals
from llamacli.errors import StorageError, UsageError


def refuse(path: Path, *, force: bool) -> None:
    """Raises UsageError where `path` cannot be written as a new file: a folder, or there already without `force`."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint="name a file in it")
    if not force and not is_special(path) and os.path.lexists(path):
        raise UsageError(f"{path} is there already", hint="another name, or --force")


@contextlib.contextmanager
def new_file(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """A file that takes its name at the end, if no exception came. A device or a pipe is written as it is.

    Raises UsageError as `refuse`; StorageError where the disk is full, or read-only.
    """
    refuse(path, force=force)
    target = path if is_special(path) else Path(os.path.realpath(path))
    temporary = target if is_special(path) else target.with_name(f".{target.name[:100]}.{os.getpid()}")
    try:
        if temporary is target:
            with target.open("wb", buffering=0) as file:
                yield file
            return
        with signals.on_end(lambda: temporary.unlink(missing_ok=True)):
            try:
                with temporary.open("xb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, target)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error


def write(path: Path, data: bytes, *, force: bool) -> None:
    """A new file of these bytes. Raises as `new_file`."""
    with new_file(path, force=force) as file:
        file.write(data)


def is_special(path: Path) -> bool:
    """A device or a pipe."""
    return path.exists() and not path.is_file()
