"""A conversation as a document: Markdown of one branch, or JSON with all of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llamacli import signals
from llamacli.errors import StorageError, UsageError
from llamacli.history.types import Conversation, Entry

FORMATS = ("md", "json")

# Of CommonMark: a fence, alone or with a language; a line that may begin a block of HTML; what ends a line.
_FENCE = re.compile(r"( {0,3})(`{3,}(?=[^`]*$)|~{3,})(.*)")
_HTML = re.compile(r" {0,3}<[A-Za-z/!?]")
_LINE_END = re.compile(r"\r\n|\r|\n")


def branch(entries: Iterable[Entry], leaf: int | None) -> list[Entry]:
    """The messages from the first one to `leaf`."""
    by_id = {entry.id: entry for entry in entries}
    path = []
    while leaf is not None and leaf in by_id:
        path.append(by_id.pop(leaf))
        leaf = path[-1].parent
    return path[::-1]


def document(conversation: Conversation, entries: Sequence[Entry]) -> dict[str, Any]:
    """Everything, every branch; `leaf` says which one is talked on, `parent` what a message answers."""
    fields = dataclasses.asdict(conversation)
    for name in ("created", "updated"):
        fields[name] = _exact(fields[name])
    messages = [{**dataclasses.asdict(entry), "created": _exact(entry.created)} for entry in entries]
    return {**fields, "messages": messages}


def markdown(conversation: Conversation, turns: Sequence[Entry]) -> str:
    """One branch for a reader. Text of messages stands as it was written, unless it would run into what follows."""
    lines = [f"# {_heading(conversation.name or conversation.title) or 'Conversation'}", ""]
    lines += [f"{_local(conversation.created)}, {_heading(conversation.model)}", ""]
    if conversation.system:
        lines += ["## System", "", _contained(conversation.system), ""]
    for turn in turns:
        lines += [f"## {_heading(turn.role.capitalize())}", ""]
        if turn.reasoning:
            thought = re.sub("<(?=/details)", "&lt;", _contained(turn.reasoning), flags=re.IGNORECASE)
            lines += ["<details><summary>Reasoning</summary>", "", thought, "", "</details>", ""]
        lines += [_contained(turn.content), ""]
        if turn.role == "assistant" and turn.finish_reason != "stop":
            lines += [f"*({_heading(turn.finish_reason or 'never finished')})*", ""]
    return "\n".join(lines).rstrip() + "\n"


def text(form: str, conversation: Conversation, entries: Sequence[Entry]) -> str:
    """The document in one of FORMATS."""
    if form == "json":
        return json.dumps(document(conversation, entries), ensure_ascii=False, indent=2) + "\n"
    return markdown(conversation, branch(entries, conversation.leaf))


def write(
    path: Path, conversation: Conversation, entries: Sequence[Entry], *, force: bool, form: str | None = None
) -> None:
    """The document as a file, in `form` or as its name says; all of it or nothing.

    Raises UsageError where it exists already and `force` does not replace it, or the name says no format; StorageError.
    """
    form = form or path.suffix.lower().lstrip(".")
    if form not in FORMATS:
        raise UsageError(f"{path}: is it to be Markdown or JSON?", hint="a name that ends in .md or .json says it")
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint="name a file in it")
    special = path.exists() and not path.is_file()  # a device, a pipe
    if not force and not special and os.path.lexists(path):
        raise UsageError(f"{path} is there already", hint="another name, or --force")
    data = text(form, conversation, entries).encode("utf-8", "replace")
    try:
        if special:
            path.write_bytes(data)
        else:
            _replace(Path(os.path.realpath(path)), data)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}")
    with signals.on_end(lambda: temporary.unlink(missing_ok=True)):
        try:
            with temporary.open("xb") as file:
                file.write(data)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def _exact(seconds: float) -> str:
    """For a program: UTC."""
    return _moment(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def _local(seconds: float) -> str:
    """For a reader: local time with its zone."""
    return _moment(seconds).astimezone().strftime("%Y-%m-%d %H:%M %z")


def _moment(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):  # a clock's nonsense
        return datetime.fromtimestamp(0, UTC)


def _heading(text: str) -> str:
    """Text on one line that is no markup."""
    return re.sub(r"([\\`*_\[\]<>&#])", r"\\\1", " ".join(text.split()))


def _contained(text: str) -> str:
    """Text that ends where it ends. An open fence is closed; where it is not certain what a reader of Markdown takes
    for open (fences in lists, HTML), the text becomes a quotation, which nothing in it can leave.
    """
    lines = _LINE_END.split(text)
    open_fence: tuple[str, str] | None = None  # its indentation, its marks
    for line in lines:
        fence = _FENCE.fullmatch(line)
        if open_fence is None:
            if fence:
                open_fence = fence[1], fence[2]
            elif _HTML.match(line):
                return _quoted(lines)
        elif line.strip() and not line.startswith(open_fence[0]):
            return _quoted(lines)  # outside the list that the fence may be in
        elif fence and fence[2].startswith(open_fence[1]) and not fence[3].strip(" \t"):
            open_fence = None
    return "\n".join([*lines, "".join(open_fence)] if open_fence else lines)


def _quoted(lines: Iterable[str]) -> str:
    return "\n".join(f"> {line}".rstrip() for line in lines)
