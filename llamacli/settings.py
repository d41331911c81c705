"""What the user wants by default: config.toml in the folder of settings, and LLAMACLI_* variables, which win over it.

    temp = 0.2               the value of --temp where none is typed          LLAMACLI_TEMP=0.2
    stop = ["\\n\\n"]          a list, for an option that may be repeated       LLAMACLI_STOP='["\\n\\n"]'
    markdown = false         as --no-markdown                               LLAMACLI_MARKDOWN=0

Which settings there are is not known here: `commands/setting_table.py` makes a `Setting` of every option that can be
fixed. No file of the current folder is read: a repository that somebody cloned must not choose a model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llamacli import paths, toml_file
from llamacli.errors import UsageError, printable
from llamacli.toml_file import TomlFile

FILE = "config.toml"
#: Where a command's context keeps what its options are fixed by: in `meta`, parameter → an `Origin`.
ORIGINS = "llamacli.origins"
#: Variables that are no settings.
OTHERS = ("HOME", "DEBUG", "SHARED", "NO_GUARD")

Kind = Literal["text", "whole", "number", "switch", "texts"]
Origin = Literal["preset", "environment", "file", "default"]

_PREFIX = "LLAMACLI_"
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_EXPECTED: dict[Kind, str] = {
    "text": "a text",
    "whole": "a whole number",
    "number": "a number",
    "switch": "true or false",
    "texts": "a text, or a list of texts",
}


@dataclass(frozen=True)
class Setting:
    """One that there is. `check` returns a value as it is used, and raises ValueError with what is wrong with it.

    `also`: other names by which somebody may look for it. `numeric`: a text that may be a whole number.
    `switchable`: a text for which true and false stand, as "on" and "off". `names_file`: whether a
    text means a file, if there is one of that name.
    """

    name: str
    kind: Kind
    help: str
    default: Any
    check: Callable[[Any], Any]
    also: tuple[str, ...] = ()
    numeric: bool = False
    switchable: bool = False
    names_file: Callable[[str], bool] | None = None

    @property
    def variable(self) -> str:
        return _PREFIX + self.name.upper()

    def fitting(self, value: Any) -> Any:
        """A value of a file, as it is used. Raises ValueError with what is wrong, to stand after the name."""
        known = value
        if self.kind == "texts" and type(value) is str:
            known = [value]
        elif self.kind == "number" and type(value) is int:
            known = float(value)
        elif self.numeric and type(value) is int:
            known = str(value)
        elif self.switchable and type(value) is bool:
            known = "on" if value else "off"
        if not self._is_of_kind(known):
            raise ValueError(f"must be {self.expected}, not {toml_file.described(value)}")
        if isinstance(known, int) and abs(known) >= 1 << 63:
            raise ValueError("is too large a number")
        try:
            return self.check(known)
        except ValueError as error:
            raise ValueError(f"= {printable(str(error), 300)}") from error

    def of_text(self, text: str) -> Any:
        """A value as it is typed, or as a variable has it. Raises ValueError as `fitting`."""
        typed: Any = text
        shown = printable(text, 80)
        if self.kind == "switch":
            if text.strip().lower() not in _TRUE + _FALSE:
                raise ValueError(f"= {shown}: not 1 and not 0")
            typed = text.strip().lower() in _TRUE
        elif self.kind in ("whole", "number"):
            try:
                typed = int(text) if self.kind == "whole" else float(text)
            except (ValueError, OverflowError):
                raise ValueError(f"= {shown}: {self.expected} is wanted") from None
        elif self.kind == "texts" and text.lstrip().startswith("["):
            import tomllib

            try:
                typed = tomllib.loads(f"list = {text}")["list"]
            except (ValueError, RecursionError):
                raise ValueError(f'= {shown}: a list is written ["one", "two"]') from None
        return self.fitting(typed)

    def kept(self, value: Any) -> Any:
        """A value to be written down: a file that is here is meant wherever one is later."""
        if isinstance(value, list | tuple):
            return [self.kept(each) for each in value]
        if value is None or self.names_file is None or not self.names_file(value):
            return value
        place = os.path.expanduser(value)
        return os.path.abspath(place) if os.path.isfile(place) else value

    @property
    def expected(self) -> str:
        extra = ", or a whole number" if self.numeric else ", true or false" if self.switchable else ""
        return _EXPECTED[self.kind] + extra

    def _is_of_kind(self, value: Any) -> bool:
        if self.kind == "texts":
            return type(value) is list and all(type(item) is str for item in value)
        return type(value) is {"text": str, "whole": int, "number": float, "switch": bool}[self.kind]


@dataclass(frozen=True)
class Value:
    """What holds, and why: `place` is the variable, or the file and line, "" for a default."""

    value: Any
    origin: Origin
    place: str = ""


Table = Mapping[str, Setting]


def path() -> Path:
    """The user's file. It need not exist."""
    return paths.config() / FILE


def read(wanted: Table, whole: Callable[[], Table]) -> dict[str, Value]:
    """What file and environment say of the settings `wanted`. `whole` gives all settings, for names not among these.

    Raises UsageError for a mistake in the file, in a variable of those, or in a variable's name; StorageError for a
    file that cannot be read.
    """
    return {**of_file(wanted, whole), **of_environment(wanted, whole)}


def of_file(wanted: Table, whole: Callable[[], Table]) -> dict[str, Value]:
    file = toml_file.read(path(), "file of settings", _MENDED)
    if file is None:
        return {}
    found = checked(file, file.table(), wanted, whole)
    return {name: value for name, value in found.items() if name in wanted}


def checked(file: TomlFile, table: Mapping[str, Any], wanted: Table, whole: Callable[[], Table]) -> dict[str, Value]:
    """The values of a file's table, each as its setting wants it. Raises UsageError with the line of the first mistake.

    For names that are not among those `wanted`, `whole` gives all settings.
    """
    found = {}
    for key, value in table.items():
        setting = wanted.get(key) or whole().get(key)
        if setting is None:
            raise file.wrong(file.line(key), f"no such setting: {printable(key, 80)}{meant(key, whole())}")
        try:
            fitting = setting.fitting(value)
        except ValueError as error:
            raise file.wrong(file.line(key), f"{key} {error}") from None
        found[key] = Value(fitting, "file", file.where(file.line(key)))
    return found


def of_environment(wanted: Table, whole: Callable[[], Table]) -> dict[str, Value]:
    """An empty variable is none. One that nearly has a setting's name is a slip; others may be somebody's own."""
    found = {}
    for name in _unknown(wanted) and unknown_variables(whole()):  # all settings are made where it matters only
        near = meant(name.removeprefix(_PREFIX), whole(), "{}")
        if near and os.environ[name]:
            raise UsageError(f"{name}: no such setting; did you mean {_PREFIX}{near.upper()}?")
    for name, setting in wanted.items():
        if text := os.environ.get(setting.variable):
            try:
                value = setting.of_text(text)
            except ValueError as error:
                raise UsageError(f"{setting.variable}{_closed_up(str(error))}") from None
            found[name] = Value(value, "environment", setting.variable)
    return found


def unknown_variables(table: Table) -> list[str]:
    """The names of LLAMACLI_* variables that mean nothing."""
    return sorted(_unknown(table))


def _unknown(table: Table) -> set[str]:
    known = {setting.variable for setting in table.values()} | {_PREFIX + name for name in OTHERS}
    return {name for name in os.environ if name.startswith(_PREFIX)} - known


def meant(name: str, table: Table, template: str = "; did you mean {}?") -> str:
    """The setting that a wrong name most likely stands for, as the end of a message; "" where there is none."""
    import difflib

    plain = name.lower().lstrip("-").replace("-", "_")
    spelled = {other: setting.name for setting in table.values() for other in (*setting.also, setting.name)}
    near = [plain] if plain in spelled else difflib.get_close_matches(plain, spelled, 1, 0.7) or _begun(plain, spelled)
    return template.format(spelled[near[0]]) if near else ""


def _begun(plain: str, names: Iterable[str]) -> list[str]:
    begun = [name for name in names if len(plain) > 2 and name.startswith(plain)]
    return begun if len(begun) == 1 else []


def _closed_up(message: str) -> str:
    """As a shell writes it: NAME=value."""
    return f"={message[2:]}" if message.startswith("= ") else f" {message}"


_MENDED = "llamacli config edit opens it"
