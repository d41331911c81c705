"""Past conversations of the user's history: found, read, searched, removed."""

from __future__ import annotations

import bisect
import contextlib
import difflib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from llamacli import paths, signals
from llamacli.errors import UsageError, printable
from llamacli.history.store import HistoryStore
from llamacli.history.types import Conversation, Entry

__all__ = ["Conversation", "Entry", "Match", "beginning", "chosen", "conversations", "find", "read", "remove", "search"]

#: Terminal cells of a message around what was looked for.
AROUND = 100


@dataclass(frozen=True)
class Match:
    """A message in which something was found: the conversation's id, name and title, the message's number and role.

    `created` in seconds since 1970; `snippet` is one line around the first word.
    """

    id: int
    name: str | None
    title: str
    message: int
    role: str
    created: float
    snippet: str


def find(store: HistoryStore, which: str | None) -> Conversation:
    """A conversation by name or number, None for the last. Raises UsageError with the names that are near."""
    if which is None:
        last = store.last()
        if last is None:
            raise UsageError("there is no conversation yet", hint="llamacli chat begins one")
        return last
    number = int(which) if which.isdecimal() and len(which) < 20 else None
    found = store.conversation(which if number is None else number)
    if found is None:
        names = [each.name for each in store.conversations() if each.name]
        near = difflib.get_close_matches(which, names, 3, 0.5)
        raise UsageError(
            f"there is no conversation {printable(which, 80)}",
            hint=f"did you mean {' or '.join(near)}?" if near else "llamacli history ls shows them",
        )
    return found


def conversations(limit: int | None = None) -> list[Conversation]:
    """The newest first. Raises StorageError."""
    with HistoryStore(read_only=True) as store:
        return store.conversations(limit)


def read(which: str | None) -> tuple[Conversation, list[Entry]]:
    """A conversation, None for the last, with the messages of all branches. Raises UsageError, StorageError."""
    with HistoryStore(read_only=True) as store:
        conversation = find(store, which)
        return conversation, store.entries(conversation.id)


def chosen(which: Sequence[str]) -> list[Conversation]:
    """Each once, however often and by whatever it is named. Raises UsageError, StorageError."""
    with HistoryStore(read_only=True) as store:
        return list({found.id: found for found in (find(store, each) for each in which)}.values())


def search(words: Sequence[str], limit: int) -> list[Match]:
    """Messages that hold all the words, the newest first. Raises UsageError for no word, StorageError."""
    if not any(word.strip() for word in words):
        raise UsageError("there is nothing to look for", hint="llamacli history ls shows all conversations")
    with HistoryStore(read_only=True) as store:
        found = store.search(words, limit)
    return [
        Match(
            id=conversation.id,
            name=conversation.name,
            title=conversation.title,
            message=entry.id,
            role=entry.role,
            created=entry.created,
            snippet=_snippet(entry.content, words[0]),
        )
        for conversation, entry in found
    ]


def remove(conversations: Sequence[Conversation]) -> None:
    """All of them; a signal waits until that is done. With the last one goes what was typed. Raises StorageError."""
    with HistoryStore() as store, signals.deferred():
        for each in conversations:
            store.delete(each.id)
        if not store.conversations(1):
            with contextlib.suppress(OSError):
                (paths.data() / paths.TYPED).unlink()


def beginning(text: str, cells: int = AROUND) -> str:
    """The beginning of a text as one line of so many cells."""
    line = " ".join(text[: 4 * cells].split())
    end = _reach(line, 0, cells)
    return f"{line[:end]}…" if end < len(line) or len(text) > 4 * cells else line


def _snippet(text: str, word: str) -> str:
    line = " ".join(text.split())
    place = max(line.casefold().find(" ".join(word.casefold().split())), 0)
    # Folding may lengthen: ß becomes ss.
    at = place if line.isascii() else bisect.bisect(range(len(line)), place, key=lambda i: len(line[:i].casefold())) - 1
    start = at - _reach(line[max(at - AROUND, 0) : at][::-1], 0, AROUND // 3)
    end = _reach(line, start, AROUND)
    return f"{'…' if start else ''}{line[start:end]}{'…' if end < len(line) else ''}"


def _reach(line: str, start: int, cells: int) -> int:
    """Where the text of so many cells ends that begins at `start`."""
    for offset in range(start, len(line)):
        character = line[offset]
        wide = unicodedata.east_asian_width(character) in "WF"
        cells -= 0 if unicodedata.category(character) in ("Mn", "Me", "Cf") else 2 if wide else 1
        if cells < 0:
            return offset
    return len(line)
