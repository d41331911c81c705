"""Settings looked up with their origin, and written into config.toml as a person would: comments and order stay."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamacli import paths, settings
from llamacli.errors import StorageError, UsageError, printable
from llamacli.settings import Setting, Table, Value

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

#: Seconds to wait for another process that writes.
PATIENCE = 10


@dataclass(frozen=True)
class Row:
    """A setting that holds. `origin`: environment, file or default; `place`: the variable, or file and line."""

    key: str
    value: Any
    origin: str
    place: str
    help: str


def rows(table: Table) -> list[Row]:
    """All settings. Raises UsageError for a mistake in the file or a variable, StorageError."""
    held = settings.read(table, lambda: table)
    return [_row(setting, held.get(setting.name)) for setting in table.values()]


def row(table: Table, key: str) -> Row:
    """One of them, by its name or as an option is written. Raises as `rows`."""
    setting = find(table, key)
    return _row(setting, settings.read({setting.name: setting}, lambda: table).get(setting.name))


def find(table: Table, key: str) -> Setting:
    """Raises UsageError with the nearest one."""
    setting = table.get(key.removeprefix("--").replace("-", "_"))
    if setting is None:
        raise UsageError(
            f"no such setting: {printable(key, 80)}{settings.meant(key, table)}", hint="llamacli config ls shows them"
        )
    return setting


def put(table: Table, key: str, texts: list[str]) -> Row:
    """Write a setting into the file; several texts, or one written as ["one", "two"], are a list.

    Raises UsageError for a value that it cannot have, and for a file with mistakes; StorageError.
    """
    setting = find(table, key)
    if len(texts) > 1 and setting.kind != "texts":
        raise UsageError(f"{setting.name} takes one value, not {len(texts)}", hint="a text of several words is quoted")
    try:
        value = setting.of_text(texts[0]) if len(texts) == 1 else setting.fitting(texts)
    except ValueError as error:
        raise UsageError(f"{setting.name} {error}") from None
    with _changed(table) as document:
        document[setting.name] = setting.kept(value)
    return _row(setting, settings.of_file({setting.name: setting}, lambda: table)[setting.name])


def drop(table: Table, key: str) -> bool:
    """Take a setting out of the file; whether it was there. Raises as `put`."""
    setting = find(table, key)
    if setting.name not in settings.of_file(table, lambda: table):
        return False
    with _changed(table) as document:
        document.pop(setting.name, None)
    return True


def _row(setting: Setting, value: Value | None) -> Row:
    held = value or Value(setting.default, "default")
    return Row(setting.name, held.value, held.origin, held.place, setting.help)


@contextlib.contextmanager
def _changed(table: Table) -> Iterator[TOMLDocument]:
    """The file's text, to be changed; then written, whole or not at all."""
    path = settings.path()
    with edited(path, lambda: settings.of_file(table, lambda: table)):
        import tomlkit

        from llamacli.tasks.files import write

        try:
            text = path.read_bytes().decode("utf-8-sig")
        except FileNotFoundError:
            text = ""
        document = tomlkit.parse(text)
        yield document
        write(path, tomlkit.dumps(document).encode(), force=True)


@contextlib.contextmanager
def edited(path: Path, check: Callable[[], object]) -> Iterator[None]:
    """While one file of settings is rewritten: its folder is there, `check` finds no mistake, no other process writes.

    Raises StorageError where that cannot be, and what `check` raises.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(paths.cache() / "settings.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        with lock.acquire(timeout=PATIENCE):
            if path.exists() and not os.access(path, os.W_OK):  # it would be replaced all the same
                raise StorageError(f"{path} is read-only")
            check()
            yield
    except Timeout as error:
        raise StorageError(f"{path}: another llamacli has been writing settings for {PATIENCE} s") from error
    except OSError as error:
        raise StorageError(f"{error.filename or path}: {error.strerror or error}") from error


@contextlib.contextmanager
def begun(path: Path, text: str) -> Iterator[None]:
    """While an editor has a file: where there was none, one with a text to begin with, which goes if it stays so.

    Raises StorageError.
    """
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            file.write(text.encode())
        is_new = True
    except FileExistsError:
        is_new = False
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if is_new and target.read_bytes() == text.encode():
                target.unlink()
