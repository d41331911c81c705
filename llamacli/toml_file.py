"""A TOML file that a person writes: its text, where things stand in it, and messages that name file and line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamacli.errors import StorageError, UsageError, printable

#: Bytes of a file.
MOST = 1 << 20


@dataclass(frozen=True)
class TomlFile:
    """A file as text, with \\n as the end of its lines: it makes the messages about itself, all with `hint`."""

    path: Path
    text: str
    hint: str | None = None

    def where(self, line: int | None = None) -> str:
        where = printable(str(self.path), 1000)
        return where if line is None else f"{where}, line {line}"

    def wrong(self, line: int | None, what: str, hint: str | None = None) -> UsageError:
        return UsageError(f"{self.where(line)}: {what}", hint=hint or self.hint)

    def line(self, *keys: str) -> int:
        """Where a table or a key stands first; inside of a value, the line where that begins."""
        found = next((line for line, place in places(self.text) if place[: len(keys)] == keys), None)
        return found or (self.line(*keys[:-1]) if keys else 1)

    def table(self) -> dict[str, Any]:
        """What it says. Raises UsageError with the line for what is no TOML."""
        import tomllib

        try:
            return tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            line, what = self.mistake(str(error))
            if what.startswith(("invalid value", "expected newline")):
                what += '; expected text in quotes, like "text", a number, or true or false in lower case'
            elif what == "cannot overwrite a value":
                what = "the same name a second time"
            elif what.endswith("character '\\n'"):  # "illegal", or "found invalid"
                what = 'a text in quotes ends on its line; one of several lines stands in """'
            raise self.wrong(line, what) from error
        except (RecursionError, ValueError) as error:  # thousands of brackets, or of digits: Python does not say where
            raise self.wrong(None, "brackets or numbers are far too long") from error

    def mistake(self, message: str) -> tuple[int, str]:
        """The line of tomllib's message, and what it says."""
        what, _, place = message.partition(" (at ")
        found = re.match(r"line (\d+)", place)
        line = int(found[1]) if found else self.text.rstrip().count("\n") + 1
        return line, printable(what[:1].lower() + what[1:], 200)


def read(path: Path, what: str, hint: str | None = None) -> TomlFile | None:
    """None where there is no file. `what` it should be is for the message about a file far too large, `hint` for all.

    Raises UsageError for what is no UTF-8, StorageError for a file that cannot be read.
    """
    where = printable(str(path), 1000)
    try:
        with path.open("rb") as file:
            data = file.read(MOST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"cannot read {where}: {error.strerror or error}") from error
    if len(data) > MOST:
        raise UsageError(f"{where}: it is larger than {MOST >> 20} MiB: that is no {what}", hint=hint)
    try:
        return TomlFile(path, data.decode("utf-8-sig").replace("\r\n", "\n"), hint)
    except UnicodeDecodeError as error:  # its offsets are into its own object, which lacks a byte-order mark
        wrong, line = error.object[error.start], error.object.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{where}, line {line}: the byte 0x{wrong:02x} is no UTF-8; save the file as UTF-8", hint=hint
        ) from error


def described(value: object) -> str:
    """A TOML value for a message."""
    if isinstance(value, str):
        return f"the text '{printable(value, 80)}'"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {printable(str(value), 40)}"
    return "a list" if isinstance(value, list) else "a table" if isinstance(value, dict) else "a date or time"


# ---- where things stand: tomllib does not tell ---------------------------------------------------------------------


_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_LINE = re.compile(r"[^\n]*")
_KEY = re.compile(r"[ \t]*(\"(?:\\.|[^\"\\\n])*\"|'[^'\n]*'|[A-Za-z0-9_-]+)[ \t]*")
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"""+'
    r"|'''.*?'''+"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[^\"'#\[\]{}\n]+"
    r"|.",
    re.DOTALL,
)


def places(text: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The line of each table header and each key that begins a line, with its full name: table and key.

    `text` is TOML, at least up to what is looked for: the rest is left out from where it cannot be followed.
    """
    table: tuple[str, ...] = ()
    line, counted = 1, 0
    at = _end(_BLANK, text, 0)
    while at < len(text):
        line += text.count("\n", counted, at)
        counted = at
        header = text[at] == "["
        keys, at = _dotted(text, at + (2 if text.startswith("[[", at) else 1) if header else at)
        if not keys:
            return
        if header:
            table = keys
        yield line, table if header else table + keys
        at = _after_value(text, at + 1) if not header else _end(_LINE, text, at)
        at = _end(_BLANK, text, at)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


def _dotted(text: str, at: int) -> tuple[tuple[str, ...], int]:
    """The parts of a key like a."b:c".d at a place, and where it ends; no parts where there is no key."""
    import tomllib

    parts: list[str] = []
    while found := _KEY.match(text, at):
        at = found.end()
        try:
            parts.append(tomllib.loads(f"key = {found[1]}")["key"] if found[1][0] in "\"'" else found[1])
        except ValueError:  # an escape that TOML does not have
            return (), at
        if not text.startswith(".", at):
            return tuple(parts), at
        at += 1
    return (), at


def _after_value(text: str, at: int) -> int:
    """The end of the value that begins at a place: a line's end outside of strings and brackets."""
    depth = 0
    while at < len(text):
        token = text[at : _end(_TOKEN, text, at)]
        if token == "\n" and depth <= 0:
            return at
        depth += (token in ("[", "{")) - (token in ("]", "}"))
        at += len(token)
    return at
