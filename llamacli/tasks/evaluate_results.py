"""The results of single questions as JSON lines: written as they come, and read again to go on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llamacli.errors import StorageError, UsageError
from llamacli.tasks.files import lock

_FORMAT = "llamacli eval 1"


@dataclass(frozen=True)
class Outcome:
    """One question. `logprobs` are sums over each choice's scored tokens, `lengths` what they are normalised by.

    `item` is its number in the file, from 0; `skipped` says why it could not be scored.
    """

    item: int
    gold: int
    predicted: int | None = None
    predicted_norm: int | None = None
    logprobs: tuple[float, ...] = ()
    lengths: tuple[int, ...] = ()
    skipped: str | None = None

    @property
    def correct(self) -> bool:
        return self.predicted == self.gold

    @property
    def correct_norm(self) -> bool:
        return self.predicted_norm == self.gold


class ResultsFile:
    """A file that begins with a line of what was asked. Close it, or use it as a context manager."""

    def __init__(self, path: Path, asked: Mapping[str, Any]) -> None:
        """Open or begin it. A last line that was cut short is dropped.

        Raises UsageError where it is no such file, or one of other questions, options or another model.
        """
        self._path = path
        self.outcomes: list[Outcome] = []
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        except IsADirectoryError as error:
            raise UsageError(f"{path} is a folder", hint="name a file in it") from error
        except OSError as error:
            raise _failed(path, error) from error
        try:
            if not lock(self._fd):
                raise UsageError(f"{self._path}: another process is writing it", hint="name another file")
            self._begin(asked)
        except OSError as error:
            self.close()
            raise _failed(path, error) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Raises StorageError."""
        lines = "".join(json.dumps(_row(outcome)) + "\n" for outcome in outcomes)
        try:
            self._write(lines.encode())
        except OSError as error:
            raise _failed(self._path, error) from error

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def _begin(self, asked: Mapping[str, Any]) -> None:
        with open(self._fd, "rb", closefd=False) as file:
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        begun = (json.dumps({"format": _FORMAT, **asked}) + "\n").encode()
        if not whole and begun.startswith(data):  # new, or cut short in its first line
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
            self._write(begun)
            return
        head, *lines = whole.split(b"\n")[:-1] or [data]
        self._compare(head, begun)
        for number, line in enumerate(lines, 2):
            self.outcomes.append(self._outcome(line, number))
        os.ftruncate(self._fd, len(whole))
        os.lseek(self._fd, 0, os.SEEK_END)

    def _compare(self, head: bytes, begun: bytes) -> None:
        found, wanted = _object(head), json.loads(begun)
        if found is None or found.get("format") != _FORMAT:
            raise UsageError(f"{self._path} is there already, and holds no results of eval", hint="name another file")
        changed = [key for key in wanted if found.get(key) != wanted[key]]
        if changed:
            differences = ", ".join(f"{key} {found.get(key)}, not {wanted[key]}" for key in changed)
            raise UsageError(
                f"{self._path} holds the results of another run: {differences}", hint="name another file, or remove it"
            )

    def _outcome(self, line: bytes, number: int) -> Outcome:
        row = _object(line) or {}
        try:
            names = ("item", "gold", "predicted", "predicted_norm", "skipped")
            known: dict[str, Any] = {name: row[name] for name in names}
            return Outcome(**known, logprobs=tuple(row["logprobs"]), lengths=tuple(row["lengths"]))
        except (KeyError, TypeError) as error:
            raise UsageError(
                f"{self._path}, line {number}: it is no result of eval", hint="name another file, or remove that line"
            ) from error


def _row(outcome: Outcome) -> dict[str, Any]:
    return {**asdict(outcome), "correct": outcome.correct, "correct_norm": outcome.correct_norm}


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _failed(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path}: {error.strerror or error}")
