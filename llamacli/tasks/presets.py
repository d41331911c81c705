"""Presets: prompts with variables, and the options that go with them, each a TOML file in the folder of settings.

    system = "You review code."
    prompt = "Review this $language code:\\n\\n$input"
    temp = 0.2
    schema = "verdict, problems [str]"

    [defaults]
    language = "Python"

`$name` and `${name}` are variables, `$$` is a dollar, and any other dollar is itself. What a variable is replaced by is
not looked through again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamacli import paths, settings, toml_file
from llamacli.errors import StorageError, UsageError, printable
from llamacli.settings import Table, Value
from llamacli.tasks.config import edited
from llamacli.tasks.files import write
from llamacli.tasks.prompt import without_final_newline
from llamacli.toml_file import TomlFile, described

#: What was typed, piped and read from files.
INPUT = "input"
#: What a preset holds beside options.
OWN = ("prompt", "schema", "defaults")

_NAME = re.compile(r"\w[\w.-]{0,63}")
_VARIABLE = re.compile(r"\$(?:(\$)|([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)


@dataclass(frozen=True)
class Preset:
    """One that was read. `values`: option → its value. `schema` as --schema takes it. `defaults` of variables."""

    name: str
    path: Path
    prompt: str | None = None
    schema: str | None = None
    values: Mapping[str, Value] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)

    @property
    def system(self) -> str | None:
        return self.values["system"].value if "system" in self.values else None


@dataclass(frozen=True)
class Row:
    """A preset in a list. `remark`: what is wrong with its file."""

    name: str
    model: str | None
    prompt: str | None
    system: str | None
    variables: tuple[str, ...]
    path: Path
    remark: str | None = None


def folder() -> Path:
    return paths.config() / "presets"


def path(name: str) -> Path:
    """Where the preset of this name is kept, in the folder always. Raises UsageError for what is no name."""
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise UsageError(
            f"{printable(name, 80) or repr(name)} cannot name a preset",
            hint="a name has letters, digits, . _ and -, up to 64, and is no path",
        )
    return folder() / f"{name}.toml"


def names() -> list[str]:
    """Of all presets, sorted. Raises StorageError for a folder that cannot be read."""
    try:
        found = [file.stem for file in folder().iterdir() if file.suffix == ".toml" and _NAME.fullmatch(file.stem)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StorageError(f"{folder()}: {error.strerror or error}") from error
    return sorted(found, key=lambda name: (name.casefold(), name))


def read(name: str, table: Callable[[], Table]) -> Preset:
    """A preset; `table` gives the options that it may hold. Raises UsageError with the line of a mistake."""
    file = source(name)
    whole = file.table()
    values = {key: value for key, value in whole.items() if key not in OWN}
    prompt, schema = whole.get("prompt"), whole.get("schema")
    if prompt is not None and not isinstance(prompt, str):
        raise file.wrong(file.line("prompt"), f"prompt must be a text, not {described(prompt)}")
    defaults = _defaults(file, whole.get("defaults", {}))
    known = table()
    if wrong := next((key for key in values if key not in known), None):
        meant = settings.meant(wrong, known)
        raise file.wrong(file.line(wrong), f"a preset has no {printable(wrong, 80)}{meant}")
    checked = settings.checked(file, values, known, table)
    preset = Preset(
        name=name,
        path=file.path,
        prompt=None if prompt is None else without_final_newline(prompt),
        schema=None if schema is None else _schema(file, schema),
        values={key: Value(value.value, "preset", value.place) for key, value in checked.items()},
        defaults=defaults,
    )
    used = variables(preset.prompt, preset.system)
    if unused := next((name for name in defaults if name not in used), None):
        raise file.wrong(file.line("defaults", unused), f"neither prompt nor system holds ${unused}")
    return preset


def source(name: str) -> TomlFile:
    """A preset's file as it stands. Raises UsageError where there is none, or it is no text."""
    file = toml_file.read(found(name), "preset", f"llamacli presets edit {name} opens it")
    if file is None:
        raise UsageError(f"there is no preset {name}: its file is a link to nothing")
    return file


def found(name: str) -> Path:
    """A preset's file, whatever is in it. Raises UsageError where there is none."""
    file = path(name)
    if not os.path.lexists(file):
        import difflib

        there = names()
        near = difflib.get_close_matches(name, there, 1, 0.6)
        meant = f"; did you mean {near[0]}?" if near else ""
        hint = "llamacli presets ls shows them" if there else f"llamacli complete … --save {name} makes it"
        raise UsageError(f"there is no preset {name}{meant}", hint=hint)
    return file


def rows(table: Callable[[], Table]) -> list[Row]:
    """All presets; a damaged file is a row with a remark."""
    return [_row(name, table) for name in names()]


def save(name: str, values: Mapping[str, Any], prompt: str | None, defaults: Mapping[str, str]) -> Path:
    """Write a new preset. Raises UsageError where there is one of that name, StorageError."""
    import tomlkit

    document = tomlkit.document()
    for key, value in {"prompt": prompt, **values}.items():
        if value is not None:
            several = isinstance(value, str) and "\n" in value.strip("\n")
            document[key] = tomlkit.string(value, multiline=True) if several else value
    if defaults:
        document["defaults"] = dict(defaults)
    target = path(name)
    if os.path.lexists(target):
        raise _there(name)
    with edited(target, lambda: None):
        write(target, tomlkit.dumps(document).encode(), force=False)
    return target


def remove(names: Iterable[str]) -> list[Path]:
    """Presets out of the folder; none of them where one is not there. Raises UsageError, StorageError."""
    gone = [found(name) for name in names]
    for file in gone:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{file}: {error.strerror or error}") from error
    return gone


def variables(*texts: str | None) -> list[str]:
    """The names of the variables in these texts, in order."""
    found = (match[2] or match[3] for text in texts if text for match in _VARIABLE.finditer(text) if not match[1])
    return [*dict.fromkeys(found)]


@dataclass(frozen=True)
class Filled:
    """What a preset comes to: the user's message, and the system's."""

    prompt: str | None
    system: str | None


def fill(preset: Preset, system: str | None, given: Mapping[str, str], text: str | None, *, join: str) -> Filled:
    """A preset's prompt and the system message with their variables filled in.

    `system`: the preset's own, or None where another one is wanted. `text`: the input, None where there is none; where
    no variable takes it, it stands before the prompt, with `join` between.
    Raises UsageError for variables without a value, and for values that nothing takes.
    """
    used = variables(preset.prompt, system)
    if INPUT in given:
        raise UsageError("--var input: $input is what is typed, piped, or read by --file")
    for name in given:
        if name not in used:
            raise UsageError(f"--var {name}: the preset {preset.name} has no ${name}", hint=_they_are(used))
    values = {**preset.defaults, **given}
    missing = [name for name in used if name not in values and name != INPUT]
    if missing:
        wanted = " ".join(f"--var {name}=…" for name in missing)
        raise UsageError(f"the preset {preset.name} wants {_listed(missing)}", hint=wanted)
    if INPUT in used:
        if text is None:
            raise UsageError(
                f"the preset {preset.name} wants $input", hint="give it as an argument, with --file, or through a pipe"
            )
        values[INPUT] = text
    prompt = text if preset.prompt is None else _replaced(preset.prompt, values)
    if preset.prompt is not None and text and INPUT not in used:
        prompt = text + join + (prompt or "")
    return Filled(prompt, None if system is None else _replaced(system, values))


def _replaced(text: str, values: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda match: "$" if match[1] else values[match[2] or match[3]], text)


def _they_are(used: list[str]) -> str:
    free = [name for name in used if name != INPUT]
    return f"it has {_listed(free)}" if free else "it has no variables to set"


def _listed(names: list[str]) -> str:
    return ", ".join(f"${name}" for name in names)


def _schema(file: TomlFile, schema: Any) -> str:
    """As `--schema` takes it: a text as it is, a table as JSON."""
    if isinstance(schema, str):
        return schema
    if not isinstance(schema, dict):
        raise file.wrong(file.line("schema"), f"schema must be a text or a table, not {described(schema)}")
    try:
        return json.dumps(schema, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise file.wrong(file.line("schema"), "schema holds a date or time, which JSON does not have") from error


def _defaults(file: TomlFile, defaults: Any) -> dict[str, str]:
    if not isinstance(defaults, dict):
        raise file.wrong(file.line("defaults"), f"defaults must be a table, not {described(defaults)}")
    for name, value in defaults.items():
        if not isinstance(value, str):
            line = file.line("defaults", name)
            raise file.wrong(line, f"defaults.{printable(name, 60)} must be a text, not {described(value)}")
        if name == INPUT:
            raise file.wrong(file.line("defaults", name), "$input is what is typed, piped, or read by --file")
    return defaults


def _row(name: str, table: Callable[[], Table]) -> Row:
    try:
        preset = read(name, table)
    except (UsageError, StorageError) as error:
        return Row(name, None, None, None, (), path(name), error.message.removeprefix(str(path(name))).lstrip(":, "))
    model = preset.values.get("model")
    used = tuple(variables(preset.prompt, preset.system))
    return Row(name, model.value if model else None, preset.prompt, preset.system, used, preset.path)


def _there(name: str) -> UsageError:
    return UsageError(
        f"there is a preset {name} already",
        hint=f"llamacli presets edit {name} changes it, presets rm {name} removes it",
    )
