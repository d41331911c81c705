"""The slash commands of a chat: one table, from which /? is made and lines are understood."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacli.errors import UsageError

if TYPE_CHECKING:
    from llamacli.ui.chat import Repl


@dataclass(frozen=True)
class Slash:
    """`names`: the first is the usual one. `kind`: what completes its argument, "" for nothing."""

    names: tuple[str, ...]
    argument: str
    help: str
    run: Callable[[Repl, str], None]
    kind: str = ""


def is_command(text: str) -> bool:
    """Whether a line is a command: "/undo", but not "/etc/hosts is a file" nor " /undo"."""
    word = text.split(maxsplit=1)[0] if text.startswith("/") else ""
    return word.startswith("/") and "/" not in word[1:]


def find(table: tuple[Slash, ...], text: str) -> tuple[Slash, str]:
    """The command of a line, and its argument. Raises UsageError with the nearest one where there is none."""
    word, _, argument = text.partition(" ")
    argument = argument.strip()
    known = {name: slash for slash in table for name in slash.names}
    slash = known.get(word.lower())
    if slash is None:
        near = difflib.get_close_matches(word.lower(), known, 1, 0.5)
        raise UsageError(
            f"no such command: {word}" + (f"; did you mean {near[0]}?" if near else ""),
            hint="/? shows them all; a space before it makes a message of it",
        )
    if argument and not slash.argument:
        raise UsageError(f"{word} takes nothing more")
    return slash, argument


def help_lines(table: tuple[Slash, ...]) -> list[tuple[str, str]]:
    """What /? shows: (command, help)."""
    return [(f"{', '.join(slash.names)} {slash.argument}".rstrip(), slash.help) for slash in table]
