"""The options that replace the model's chat template and give it variables, for every verb that answers."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Annotated, NoReturn

from llamacli.commands import words
from llamacli.commands.options import ADVANCED, Flags, setting
from llamacli.errors import OF_THE_DISK, StorageError, UsageError, printable

#: Bytes of a template's file; the largest that model makers publish have 30 KB.
LARGEST = 1 << 20
#: Levels of a JSON value: what looks through it later calls itself for each.
DEEPEST = 64

#: What the engine itself gives a template, on which the form of the prompt depends.
RESERVED = ("messages", "add_generation_prompt", "bos_token", "eos_token", "strftime_now", "raise_exception")


@dataclasses.dataclass(frozen=True)
class TemplateFlags(Flags):
    """Which chat template, and what it is told."""

    chat_template: Annotated[
        str | None,
        setting(
            "--chat-template",
            metavar="FILE|NAME",
            autocompletion=words.templates,
            help="A Jinja file, or a known format such as chatml, instead of the model's own.",
            rich_help_panel=ADVANCED,
        ),
    ] = None
    template_arg: Annotated[
        list[str] | None,
        setting(
            "--template-arg",
            metavar="NAME=VALUE",
            help="A variable for the chat template; VALUE is JSON, or else text; repeatable.",
            rich_help_panel=ADVANCED,
        ),
    ] = None

    @property
    def wanted(self) -> bool:
        """Whether one was asked for."""
        return self.asked("chat_template") or self.asked("template_arg")

    def given(self) -> tuple[str | None, dict[str, object]]:
        """The template's source, None for the model's own, and its variables. Raises UsageError, StorageError."""
        source = None if self.chat_template is None else _source(self.chat_template)
        return source, dict(_variable(text) for text in self.template_arg or ())


def _source(text: str) -> str:
    from llamacli.engine import template_names

    if not text:
        raise UsageError("--chat-template is empty", hint="it takes a Jinja file, or a format such as chatml")
    if "{{" in text or "{%" in text:
        raise UsageError("--chat-template takes a file or a name, not the template itself", hint="put it into a file")
    known = template_names.source(text)  # no format's name looks like a path: ./chatml is a file
    if known is not None:
        return known
    shown = printable(text, 200)
    try:
        with Path(text).open("rb") as file:
            data = file.read(LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        if not (text.endswith(".jinja") or any(mark in text for mark in (os.sep, os.altsep) if mark)):
            _no_such_format(text, template_names.names())
        raise UsageError(f"--chat-template {shown}: no such file") from None
    except IsADirectoryError:
        raise UsageError(f"--chat-template {shown}: it is a folder") from None
    except OSError as error:
        kind = StorageError if error.errno in OF_THE_DISK else UsageError
        raise kind(f"--chat-template {shown}: {error.strerror}") from error
    return _decode(data, shown)


def _no_such_format(text: str, names: list[str]) -> NoReturn:
    import difflib

    typed = text.lower()
    begun = [name for name in names if name.startswith(typed)]
    nearest = next(iter(begun or difflib.get_close_matches(typed, names, 1)), None)
    meant = f"; did you mean {nearest}?" if nearest else ""
    raise UsageError(
        f"--chat-template {printable(text, 200)}: no file and no format of that name{meant}",
        hint=f"the formats are {', '.join(names)}",
    )


def _decode(data: bytes, shown: str) -> str:
    if len(data) > LARGEST:
        raise UsageError(f"--chat-template {shown}: it is larger than {LARGEST >> 20} MiB, so it is no chat template")
    try:
        source = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"byte 0x{data[error.start]:02x} at offset {error.start}"
        raise UsageError(f"--chat-template {shown}: it is no UTF-8: {where}") from None
    if not source.strip():
        raise UsageError(f"--chat-template {shown}: the file is empty")
    return source


def _variable(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    shown = printable(text, 60)
    if not equals:
        raise UsageError(f"--template-arg {shown}: NAME=VALUE is wanted, such as enable_thinking=false")
    if not name.isidentifier():
        raise UsageError(f"--template-arg {shown}: {printable(name, 60)!r} is no name that a template can use")
    if name in RESERVED:
        raise UsageError(f"--template-arg {shown}: {name} is not free, llamacli sets it itself")
    return name, _value(value, shown)


def _value(text: str, shown: str) -> object:
    """JSON as what it says, anything else as text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"--template-arg {shown}: it is no UTF-8") from None
    value: object = None
    try:
        value = json.loads(text, parse_constant=_no_constant)
        too_deep = _is_deeper(value, DEEPEST)
    except RecursionError:
        too_deep = True
    except ValueError:
        return text
    if too_deep:
        raise UsageError(f"--template-arg {shown}: it is nested deeper than {DEEPEST} levels")
    return value


def _no_constant(name: str) -> NoReturn:
    """NaN and Infinity are Python's, not JSON's."""
    raise ValueError(name)


def _is_deeper(value: object, levels: int) -> bool:
    if not isinstance(value, (list, dict)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in inner)
