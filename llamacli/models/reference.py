"""Which file is meant by `-m`. Today a path; aliases and repositories join here."""

from __future__ import annotations

import contextlib
from pathlib import Path

from llamacli.errors import ModelNotFound, UsageError


def resolve(reference: str | None) -> Path:
    """The file that a reference names. Raises UsageError without one, ModelNotFound, UsageError for a folder."""
    if not reference:
        raise UsageError("no model was named", hint="-m PATH names a GGUF file, LLAMACLI_MODEL one for all commands")
    if "\0" in reference:
        raise UsageError("a model's path holds a NUL byte")
    path = Path(reference)
    with contextlib.suppress(RuntimeError):  # ~somebody who has no home here
        path = path.expanduser()
    try:
        if path.is_dir():
            raise UsageError(f"{reference} is a folder", hint="name the GGUF file in it")
        if not path.exists():
            raise ModelNotFound(f"no such file: {reference}", hint=_hint(reference, path))
    except OSError as error:  # a name too long for the file system, say
        raise ModelNotFound(f"no such file: {reference} ({error.strerror})") from error
    return path


def _hint(reference: str, path: Path) -> str | None:
    """The GGUF files of the folder that was meant, if it has any."""
    if "://" in reference:
        return "-m takes a file on this machine: download it first"
    try:
        names = sorted(entry.name for entry in path.parent.glob("*.gguf"))[:5]
    except OSError:
        return None
    return f"in that folder: {', '.join(names)}" if names else None
