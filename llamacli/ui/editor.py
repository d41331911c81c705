"""A text in the person's own editor: $VISUAL or $EDITOR."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from llamacli.errors import StorageError, UsageError


def edit(text: str) -> str:
    """The text as the editor left it, one final newline dropped. Raises UsageError where the editor does not start."""
    with tempfile.TemporaryDirectory(prefix="llamacli-") as folder:
        path = Path(folder) / "message.md"
        try:
            path.write_text(text + "\n" if text else "", encoding="utf-8", errors="replace")
            open_file(path)
            edited = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror or error}") from error
    return edited.removesuffix("\n")


def open_file(path: Path) -> None:
    """Let the person edit a file where it lies. Raises UsageError where the editor does not start, or failed."""
    named = (os.environ.get(name, "").strip() for name in ("VISUAL", "EDITOR"))
    command = next(filter(None, named), "notepad" if os.name == "nt" else "vi")
    try:
        words = shlex.split(command, posix=os.name != "nt")
    except ValueError as error:
        raise UsageError(f"EDITOR={command}: {error}") from error
    # Ctrl-C is the editor's. What is ignored here, it would ignore too.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        # The terminal is the editor's, even where stdout goes elsewhere.
        code = subprocess.run([*words, str(path)], stdout=sys.stderr, check=False).returncode
    except OSError as error:
        raise UsageError(f"no editor: {command}", hint="EDITOR names one, such as nano") from error
    finally:
        signal.signal(signal.SIGINT, before)
    if code:
        raise UsageError(f"the editor {words[0]} ended with code {code}")
