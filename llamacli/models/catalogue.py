"""Aliases like qwen3.5:0.8b and the repositories they stand for: models.toml, and the user's own file of that name.

It knows what those files say, and nothing of what the Hub or this machine really holds.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llamacli import paths
from llamacli.errors import StorageError, UsageError, printable
from llamacli.models.quant import USUAL
from llamacli.toml_file import TomlFile, described, places
from llamacli.toml_file import read as read_file

#: Tokens of a context: llama.cpp counts them in 32 bits.
MOST_TOKENS = (1 << 32) - 1

_FILE = "models.toml"
_WHAT = "catalogue of models"


@dataclass(frozen=True)
class Entry:
    """One model. All texts are one line each and do nothing to a terminal; what a file leaves out is "" or None."""

    alias: str  #: name:tag, in lower case
    repository: str  #: user/name on the Hub
    quant: str  #: a preference, such as Q4_K_M: the repository may hold something else
    about: str  #: what it is for, a short phrase
    parameters: str  #: how many, such as 0.8B, 350M or 30B-A3B
    context: int | None  #: tokens
    licence: str  #: SPDX, or the maker's own name for it
    memory: str  #: what it needs at least, such as 1.5 GB
    default: bool  #: whether the name alone means this tag
    source: Path  #: the file that says so

    @property
    def name(self) -> str:
        """The alias without its tag."""
        return self.alias.partition(":")[0]


@dataclass(frozen=True)
class Catalogue:
    #: Alias → entry, in the order of the files.
    entries: Mapping[str, Entry]

    def find(self, name: str) -> Entry | None:
        """The entry of `name:tag`, or of a name alone that has a default or only one tag. Upper or lower case."""
        entry = self.entries.get(name.lower())
        if entry:
            return entry
        tags = self._tags(name)
        return tags[0] if len(tags) == 1 else next((tag for tag in tags if tag.default), None)

    def ambiguous(self, name: str) -> tuple[str, ...]:
        """The aliases that a name alone could stand for, where it has several tags and no default; else nothing."""
        return () if self.find(name) else tuple(tag.alias for tag in self._tags(name))

    def suggestions(self, name: str) -> tuple[str, ...]:
        """Up to three aliases that hold `name` or are spelled like it, the nearest first; it may lack the tag."""
        from difflib import SequenceMatcher

        wanted = name.lower()[:100]

        def likeness(alias: str) -> float:
            texts = (alias,) if ":" in wanted else (alias, alias.partition(":")[0])
            contained = 0.9 if len(wanted) > 1 and wanted in alias else 0.0
            return max(contained, *(SequenceMatcher(None, text, wanted).ratio() for text in texts))

        scores = {alias: likeness(alias) for alias in self.entries}
        return tuple(sorted((a for a in scores if scores[a] >= 0.6), key=scores.__getitem__, reverse=True)[:3])

    def _tags(self, name: str) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.name == name.lower()]


def read() -> Catalogue:
    """What came with llamacli, then the user's own file, if there is one: it adds, and replaces by alias.

    A default of the user's takes the place of ours; ours stays where the user's file says nothing of `default`.
    Raises UsageError for the first mistake in a file, with its line and what was expected, StorageError for a file that
    cannot be read.
    """
    bundled = _bundled()
    ours = read_file(bundled, _WHAT)
    if ours is None:
        raise StorageError(
            f"the catalogue {printable(str(bundled), 1000)} is missing", hint="llamacli is damaged: install it again"
        )
    entries = _merged({}, ours)
    own = read_file(own_file(), _WHAT)
    return Catalogue(entries if own is None else _merged(entries, own))


def own_file() -> Path:
    """Where the user's own entries are looked for. It need not exist."""
    return paths.config() / _FILE


def _bundled() -> Path:
    """Inside the package where that is installed, at the repository's top level in a checkout."""
    inside, above = (Path(__file__).parents[i] / _FILE for i in (1, 2))
    return inside if inside.exists() else above


# ---- from a file to entries ----------------------------------------------------------------------------------------


#: key → the type of its value, and how that is called.
_KEYS: dict[str, tuple[type, str]] = {
    "repository": (str, 'text, like "user/name"'),
    "quant": (str, f'text, like "{USUAL}"'),
    "about": (str, 'text, like "small general chat model"'),
    "parameters": (str, 'text, like "0.8B"'),
    "context": (int, "a whole number of tokens"),
    "licence": (str, 'text, like "apache-2.0"'),
    "memory": (str, 'text, like "1.5 GB"'),
    "default": (bool, "true or false"),
}
_PART = r"\w(?:[\w.-]{0,94}\w)?"  # with what follows in _FORMS, the Hub's own rule
_COUNT = r"[0-9]+(?:\.[0-9]+)?"
#: key → what its text must look like, and how to say that.
_FORMS: dict[str, tuple[str, str]] = {
    "repository": (rf"(?!.*(?:--|\.\.)){_PART}/{_PART}", 'user/name on the Hub, like "ggml-org/gemma-3-1b-it-GGUF"'),
    "quant": (r"[A-Za-z0-9][A-Za-z0-9_.-]*", f'the name of a quantization, like "{USUAL}"'),
    "parameters": (rf"{_COUNT}[KMBT](?:-A{_COUNT}[KMBT])?", 'a number with K, M, B or T, like "0.8B" or "30B-A3B"'),
    "memory": (rf"{_COUNT} ?[KMGT]i?B", 'a number with MB or GB, like "1.5 GB"'),
}
_ALIAS = r"[A-Za-z0-9][A-Za-z0-9._-]*:[A-Za-z0-9][A-Za-z0-9._-]*"


def _merged(below: Mapping[str, Entry], source: TomlFile) -> dict[str, Entry]:
    """The entries `below` and those of a file, which win."""
    spelled: dict[str, str] = {}  # alias → as the file spells it
    defaults: dict[str, str] = {}  # name → as the file spells the alias of its default
    entries: dict[str, Entry] = {}
    tables = _tables(source)
    for key, table in tables.items():
        entry = _entry(source, key, table)
        alias, name = entry.alias, entry.name
        if alias in spelled:
            first = source.line(spelled[alias])
            what = f"{_shown(key)} is the same alias as in line {first}: upper and lower case do not tell them apart"
            raise source.wrong(source.line(key), what)
        if entry.default and name in defaults:
            first = source.line(defaults[name], "default")
            what = f"{_shown(key)} is a second default of {name}, after line {first}; expected at most one"
            raise source.wrong(source.line(key, "default"), what)
        spelled[alias], entries[alias] = key, entry
        if entry.default:
            defaults[name] = key
    merged = {
        alias: replace(entry, default=entry.default and entry.name not in defaults) for alias, entry in below.items()
    }
    for alias, entry in entries.items():
        kept = "default" not in tables[spelled[alias]] and alias in merged and merged[alias].default
        merged[alias] = replace(entry, default=entry.default or kept)
    return merged


def _tables(source: TomlFile) -> dict[str, dict[str, Any]]:
    """What a file says of each alias, as it spells it. Raises UsageError where it is no TOML or no such tables."""
    try:
        tables = tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax(source, str(error)) from error
    except (RecursionError, ValueError) as error:  # thousands of brackets, or of digits: Python does not say where
        raise source.wrong(None, "brackets or numbers are far too long for a catalogue of models") from error
    for key, table in tables.items():
        if not isinstance(table, dict) and not re.fullmatch(_ALIAS, key):
            what = f'the key {_shown(key)} belongs to no model; expected a table ["name:tag"] before it'
            raise source.wrong(source.line(key), what)
        if not re.fullmatch(_ALIAS, key):
            expected = 'expected ["name:tag"] in quotes, of letters, digits, . _ - and one colon'
            raise source.wrong(source.line(key), f"{_shown(key)} is no alias; {expected}")
        if not isinstance(table, dict):
            raise source.wrong(source.line(key), f'{_shown(key)} must be a table, ["{key}"], not {described(table)}')
    return tables


def _syntax(source: TomlFile, message: str) -> UsageError:
    """tomllib's message, with its line in front and what people most often meant behind."""
    line, what = source.mistake(message)
    written = source.text.split("\n")[line - 1].strip()
    if what.startswith(("cannot declare", "cannot overwrite")):
        what = _twice(source, line) or f"{what}; expected once"
    elif re.match(r"\[+[^\"'\]]*:", written):
        what = f'an alias stands in quotes, like ["name:tag"], not {printable(written, 80)}'
    elif what.startswith(("invalid value", "expected newline")):
        what += '; expected text in quotes, like "Q4_K_M", a whole number, or true or false in lower case'
    else:
        what = f"no TOML: {what}"
    return source.wrong(line, what)


def _twice(source: TomlFile, line: int) -> str | None:
    """What is declared a second time at a line, and where it was first."""
    before = [(at, place) for at, place in places(source.text) if at <= line]
    _, second = before[-1] if before else (0, ())
    first = next((at for at, place in before[:-1] if place == second), None)
    if first is None:
        return None
    what = f"the key {_shown(second[-1])} of {_shown(second[0])}" if len(second) > 1 else _shown(second[0])
    return f"{what} was already given in line {first}; expected once"


def _entry(source: TomlFile, key: str, table: dict[str, Any]) -> Entry:
    for item, value in table.items():
        if item not in _KEYS:
            raise source.wrong(source.line(key, item), f"{_shown(item)}: {_meant(item)}")
        _check(source, key, item, value)
    if "repository" not in table:
        what = f'{_shown(key)} has no repository; expected repository = "user/name"'
        raise source.wrong(source.line(key), what)
    return Entry(
        alias=key.lower(),
        repository=table["repository"],
        quant=table.get("quant", USUAL),
        about=printable(table.get("about", "")),
        parameters=table.get("parameters", ""),
        context=table.get("context"),
        licence=printable(table.get("licence", "")),
        memory=table.get("memory", ""),
        default=table.get("default", False),
        source=source.path,
    )


def _check(source: TomlFile, key: str, item: str, value: object) -> None:
    """Raises UsageError for a value that its key cannot have."""
    kind, expected = _KEYS[item]
    if type(value) is not kind:  # true is an int to isinstance
        raise source.wrong(source.line(key, item), f"{item} must be {expected}, not {described(value)}")
    if type(value) is int and not 1 <= value <= MOST_TOKENS:
        raise source.wrong(
            source.line(key, item), f"{item} must be {expected} from 1 to {MOST_TOKENS}, not {described(value)}"
        )
    form = _FORMS.get(item)
    if form and isinstance(value, str) and not re.fullmatch(form[0], value, re.IGNORECASE | re.ASCII):
        raise source.wrong(source.line(key, item), f"{item} must be {form[1]}, not {described(value)}")


def _meant(item: str) -> str:
    from difflib import get_close_matches

    begun = [key for key in _KEYS if len(item) > 1 and key.startswith(item.lower())]
    near = begun or get_close_matches(item.lower(), _KEYS, 1, 0.7)
    return f"did you mean {near[0]}?" if near else f"there is no such key; expected one of {', '.join(_KEYS)}"


def _shown(key: str) -> str:
    return printable(key, 80) if key.strip() else f"'{key}'"
