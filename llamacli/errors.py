"""What can go wrong, and how the process then ends. Standard library only.

    LlamacliError            1   a bug of ours, unless a subclass says otherwise
    ├── UsageError           2   options, arguments or input that cannot be used
    ├── ModelNotFound        3   no such model or file
    ├── NetworkError         4   a retry may help
    ├── ChecksumMismatch     5   what came is not what was promised
    ├── BadModelFile         6   not a model, damaged, or dangerous to load
    ├── EngineError          7   llama.cpp failed or aborted
    ├── ContextFull          8   prompt or answer does not fit the context
    ├── StorageError         9   disk full, read-only, no permission
    ├── AccessDenied        10   no token, gated: a retry does not help
    ├── OutOfMemory         11   neither RAM nor the devices can hold it
    └── SomeItemsFailed     12   finished, but some items of a batch failed

A message says in one line what happened, with the numbers; a hint says what to do. They are printed as `error: …` and
`hint: …` by the one boundary in `cli.py`.
"""

from __future__ import annotations

import errno

#: Numbers of an OSError that are the disk's: full, read-only, no permission, broken.
OF_THE_DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG, errno.EBADF,
)  # fmt: skip


class LlamacliError(Exception):
    """Base of all errors that end a command; `exit_code` is part of the interface."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(LlamacliError):
    exit_code = 2


class ModelNotFound(LlamacliError):
    exit_code = 3


class NetworkError(LlamacliError):
    exit_code = 4


class ChecksumMismatch(LlamacliError):
    exit_code = 5


class BadModelFile(LlamacliError):
    exit_code = 6


class EngineError(LlamacliError):
    exit_code = 7


class ContextFull(LlamacliError):
    exit_code = 8


class StorageError(LlamacliError):
    exit_code = 9


class AccessDenied(LlamacliError):
    exit_code = 10


class OutOfMemory(LlamacliError):
    exit_code = 11


class SomeItemsFailed(LlamacliError):
    exit_code = 12


def printable(text: str, limit: int = 500) -> str:
    """Foreign text (a file's name, its metadata, a library's message) as one line that does nothing to a terminal.

    Control characters, C1 codes, bidirectional overrides and unpaired surrogates are shown as escapes.
    """
    line = " ".join(text.split())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
