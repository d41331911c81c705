"""What the user wants by default: config.toml in the folder of settings, and LLAMACLI_* variables, which win over it.

model = "qwen3.5:0.8b"   the model of commands without -m     LLAMACLI_MODEL
pull = true              fetch a model that is not here       LLAMACLI_PULL=1
history = false          keep no conversation of `chat`       LLAMACLI_HISTORY=0
log = true               keep what `complete` does, too       LLAMACLI_LOG=1
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamacli import paths
from llamacli.errors import StorageError, UsageError, printable

FILE = "config.toml"
_SWITCHES = ("pull", "history", "log")
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True)
class Settings:
    """`model`: as for -m, None for none. `pull`: as --pull. `history`: chats are kept. `log`: completions are, too."""

    model: str | None = None
    pull: bool = False
    history: bool = True
    log: bool = False


def read() -> Settings:
    """The settings that hold now. Raises UsageError for mistakes, StorageError for a file that cannot be read."""
    path = paths.config() / FILE
    values = _checked(path, _table(path))
    if model := os.environ.get("LLAMACLI_MODEL"):
        values["model"] = model
    for name in _SWITCHES:
        if text := os.environ.get(f"LLAMACLI_{name.upper()}", "").strip().lower():
            if text not in _TRUE + _FALSE:
                raise UsageError(f"LLAMACLI_{name.upper()}={printable(text, 80)}: not 1 and not 0")
            values[name] = text in _TRUE
    return Settings(**values)


def _table(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    import tomllib

    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: {printable(str(error), 200)}") from error


def _checked(path: Path, table: dict[str, Any]) -> dict[str, Any]:
    kinds: dict[str, tuple[type, str]] = {"model": (str, "a text")}
    kinds |= dict.fromkeys(_SWITCHES, (bool, "true or false"))
    for key, value in table.items():
        if key not in kinds:
            raise UsageError(f"{path}: no such setting: {printable(key, 80)}", hint=f"there are {', '.join(kinds)}")
        kind, expected = kinds[key]
        if type(value) is not kind or value == "":
            raise UsageError(f"{path}: {key} must be {expected}")
    return table
