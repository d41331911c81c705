"""Conversations in SQLite, written as they happen: what was added is there when the call returns.

A piece of an answer that streams is a row of its own, so that it costs the same however long the answer is; `finish`
puts the pieces into their message.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

from llamacli import paths
from llamacli.errors import StorageError, UsageError, printable
from llamacli.history.migrations import STEPS, migrate, version
from llamacli.history.types import Conversation, Entry, Usage

FILE = "history.sqlite3"
TITLE = 80  # characters
_USAGE = [field.name for field in fields(Usage)]
_CHANGES = ("name", "model", "system", "settings", "leaf")
_MESSAGE = f"""SELECT m.conversation, m.id, m.parent, m.role, m.content, m.reasoning, m.model, m.created,
    m.finish_reason, {", ".join(_USAGE)} FROM message m"""
_PIECES = "SELECT message, is_reasoning, text FROM piece"
_CONVERSATION = """SELECT c.id, c.name, c.model, c.system, c.settings, c.origin, c.created, c.updated, c.leaf,
    (SELECT count(*) FROM message WHERE conversation = c.id), c.title FROM conversation c"""


class HistoryStore:
    """Close it when done, or use it as a context manager. All methods raise StorageError."""

    def __init__(self, path: Path | None = None, *, timeout: float = 10.0, read_only: bool = False) -> None:
        """`path`: by default the user's own. `timeout`: seconds to wait for other processes. With `read_only` nothing
        is made or changed, and a file that is not there is an empty history.
        """
        self.path = path if path is not None else paths.data() / FILE
        with self._translated():
            self._connection = self._to_read(timeout) if read_only else self._to_write(timeout)

    def _to_write(self, timeout: float) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):
            # Only a file that is new: closing one that this process has open elsewhere would drop SQLite's locks.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        with _closed_if_it_fails(self._connect("", timeout)) as connection:
            with contextlib.suppress(sqlite3.OperationalError):  # no shared memory on this file system: slower, right
                connection.execute("PRAGMA journal_mode = wal")
            connection.execute("PRAGMA synchronous = normal")
            connection.execute("PRAGMA foreign_keys = on")
            connection.execute("PRAGMA secure_delete = on")  # what was removed is not to be found in the file
            migrate(connection, str(self.path))
        return connection

    def _to_read(self, timeout: float) -> sqlite3.Connection:
        if not os.path.lexists(self.path):
            return self._in_memory(None)
        # Not mode=ro: that could not take in what a killed process left, and would leave files behind. SQLite itself
        # falls back to reading where it may not write.
        with _closed_if_it_fails(self._connect("?mode=rw", timeout)) as connection:
            try:
                number = version(connection)
            except sqlite3.OperationalError as error:
                # The files that go with WAL cannot be made. Without a log there is nothing but the file itself.
                log = self.path.with_name(f"{self.path.name}-wal")
                if error.sqlite_errorcode not in _NO_SHARED_MEMORY or (log.exists() and log.stat().st_size):
                    raise
                connection.close()
                connection = self._connect("?immutable=1", timeout)
                number = version(connection)
            if number < len(STEPS):
                with contextlib.closing(connection) as older:
                    connection = self._in_memory(older)
            else:
                migrate(connection, str(self.path))  # nothing to do, or refused
            connection.execute("PRAGMA query_only = on")
        return connection

    def _in_memory(self, source: sqlite3.Connection | None) -> sqlite3.Connection:
        """What an older llamacli left, or an empty file, in today's form."""
        with _closed_if_it_fails(
            sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        ) as connection:
            if source is not None:
                source.backup(connection)
            migrate(connection, str(self.path))
        return connection

    def _connect(self, how: str, timeout: float) -> sqlite3.Connection:
        address = f"file:{quote(os.fsencode(self.path.absolute()))}{how}"
        return sqlite3.connect(address, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False)

    def __enter__(self) -> HistoryStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    # --- writing --------------------------------------------------------------------------------------------------

    def create(
        self,
        *,
        model: str,
        system: str | None = None,
        origin: str = "chat",
        settings: Mapping[str, Any] = {},
        name: str | None = None,
    ) -> int:
        """A new conversation; its number. Raises UsageError for a name that is taken, or none."""
        now = time.time()
        values = (checked_name(name), _text(model), _text(system), _json(settings), origin, now, now)
        with self._writing(name):
            return self._insert(
                "INSERT INTO conversation (name, model, system, settings, origin, created, updated) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                values,
            )

    def update(self, conversation: int, **changes: Any) -> None:
        """Change name, model, system, settings or leaf. Raises UsageError for a name that is taken, or none."""
        if unknown := set(changes) - set(_CHANGES):
            raise TypeError(f"no such column: {unknown}")
        values: dict[str, Any] = {k: _text(v) if isinstance(v, str) else v for k, v in changes.items()}
        if "name" in values:
            values["name"] = checked_name(changes["name"])
        if "settings" in values:
            values["settings"] = _json(values["settings"])
        columns = "".join(f"{name} = ?, " for name in values)
        with self._writing(changes.get("name")):
            self._change(
                f"UPDATE conversation SET {columns} updated = ? WHERE id = ?",
                (*values.values(), time.time(), conversation),
            )

    def add(
        self,
        conversation: int,
        parent: int | None,
        role: str,
        content: str,
        *,
        model: str | None = None,
        reasoning: str | None = None,
        finish_reason: str | None = None,
    ) -> int:
        """A message, which becomes the conversation's leaf; its number."""
        now, title = time.time(), _title(content) if role == "user" else ""
        with self._writing():
            message = self._insert(
                "INSERT INTO message (conversation, parent, role, content, reasoning, model, created, finish_reason) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (conversation, parent, role, _text(content), _text(reasoning), _text(model), now, finish_reason),
            )
            self._change(
                "UPDATE conversation SET leaf = ?, updated = ?, title = iif(title = '', ?, title) WHERE id = ?",
                (message, now, title, conversation),
            )
        return message

    def append(self, message: int, text: str, *, reasoning: bool = False) -> None:
        """A piece of an answer that streams."""
        with self._writing():
            self._connection.execute(
                "INSERT INTO piece (message, number, is_reasoning, text) "
                "SELECT ?1, coalesce(max(number), 0) + 1, ?2, ?3 FROM piece WHERE message = ?1",
                (message, reasoning, _text(text)),
            )

    def finish(self, message: int, finish_reason: str, usage: Usage = Usage()) -> None:
        """An answer is complete, or was stopped: its pieces go into the message."""
        columns = "".join(f", {name} = ?" for name in _USAGE)
        with self._writing():
            pieces = self._connection.execute(f"{_PIECES} WHERE message = ? ORDER BY number", (message,))
            content, reasoning = _joined(pieces).get(message, ("", None))
            self._change(
                "UPDATE message SET content = content || ?, "
                "reasoning = iif(?2 IS NULL, reasoning, coalesce(reasoning, '') || ?2), "
                f"finish_reason = ?{columns} WHERE id = ?",
                (content, reasoning, finish_reason, *astuple(usage), message),
            )
            self._connection.execute("DELETE FROM piece WHERE message = ?", (message,))
            self._connection.execute(
                "UPDATE conversation SET updated = ? WHERE id = (SELECT conversation FROM message WHERE id = ?)",
                (time.time(), message),
            )

    def delete(self, conversation: int) -> None:
        """A conversation with all its messages; nothing of their text stays in the file."""
        with self._writing():
            self._connection.execute("DELETE FROM conversation WHERE id = ?", (conversation,))
        with contextlib.suppress(sqlite3.Error):  # another process reads: the last one that closes it does this
            self._connection.execute("PRAGMA wal_checkpoint(truncate)").fetchall()

    def _insert(self, statement: str, values: Sequence[Any]) -> int:
        row = self._connection.execute(statement, values).lastrowid
        assert row is not None
        return row

    def _change(self, statement: str, values: Sequence[Any]) -> None:
        if self._connection.execute(statement, values).rowcount == 0:
            raise self._gone()

    def _gone(self) -> StorageError:
        return StorageError(f"the history {self.path}: another process has removed this conversation")

    # --- reading --------------------------------------------------------------------------------------------------

    def entries(self, conversation: int) -> list[Entry]:
        """All messages of all branches, oldest first; what an unfinished answer has so far is part of it."""
        with self._reading():
            pieces = _joined(
                self._connection.execute(
                    f"{_PIECES} WHERE message IN (SELECT id FROM message WHERE conversation = ?) "
                    "ORDER BY message, number",
                    (conversation,),
                )
            )
            rows = self._connection.execute(f"{_MESSAGE} WHERE m.conversation = ? ORDER BY m.id", (conversation,))
            return [_entry(row, pieces) for row in rows]

    def conversation(self, which: int | str) -> Conversation | None:
        """By number or by name."""
        if isinstance(which, int):
            found = self._conversations("WHERE c.id = ?", which) if abs(which) < 1 << 63 else []
        else:
            found = self._conversations("WHERE c.name = ?", _text(which.strip()))
        return found[0] if found else None

    def last(self) -> Conversation | None:
        """The one that was talked in last."""
        found = self.conversations(1)
        return found[0] if found else None

    def conversations(self, limit: int | None = None) -> list[Conversation]:
        """The newest first."""
        return self._conversations("ORDER BY c.updated DESC, c.id DESC LIMIT ?", -1 if limit is None else limit)

    def search(self, words: Sequence[str], limit: int) -> list[tuple[Conversation, Entry]]:
        """Messages with all these words in their text, upper or lower case, in any script; the newest first."""
        wanted = [word.casefold() for word in words]
        found: list[Entry] = []
        owners: list[int] = []
        with self._reading():
            pieces = _joined(self._connection.execute(f"{_PIECES} ORDER BY message, number"))
            for row in self._connection.execute(f"{_MESSAGE} ORDER BY m.id DESC"):
                if len(found) == limit:
                    break
                entry = _entry(row, pieces)
                text = entry.content.casefold()
                if all(word in text for word in wanted):
                    found.append(entry)
                    owners.append(row[0])
            conversations = {number: self.conversation(number) for number in set(owners)}
        pairs = ((conversations[number], entry) for number, entry in zip(owners, found, strict=True))
        return [(conversation, entry) for conversation, entry in pairs if conversation is not None]

    def _conversations(self, which: str, value: object) -> list[Conversation]:
        with self._translated():
            return [_conversation(row) for row in self._connection.execute(f"{_CONVERSATION} {which}", (value,))]

    # --- transactions and errors ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _writing(self, name: str | None = None) -> Iterator[None]:
        """One short transaction. IMMEDIATE: or two that begin by reading would fail each other."""
        with self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except sqlite3.IntegrityError as error:
                self._roll_back()
                if error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
                    raise self._gone() from error
                if name is not None and error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_UNIQUE:
                    raise UsageError(
                        f"there is a conversation named {printable(name, 80)} already",
                        hint="take another name, or remove that one with llamacli history rm",
                    ) from error
                raise
            except BaseException:
                self._roll_back()
                raise

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Several queries that see one state."""
        with self._translated():
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._roll_back()

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            what, hint = self._meaning(error)
            raise StorageError(f"the history {self.path}: {what}", hint=hint) from error
        except OSError as error:
            raise StorageError(f"the history {error.filename or self.path}: {error.strerror or error}") from error

    def _meaning(self, error: sqlite3.Error) -> tuple[str, str | None]:
        """What an error of SQLite's means, and what to do."""
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF  # without its details; none: Python's own
        text = printable(str(error), 200)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return "another process keeps it locked", "end that process, or wait for it"
        if code == sqlite3.SQLITE_READONLY:
            return "it is read-only, or its folder is", None
        if code == sqlite3.SQLITE_FULL:
            return "the disk is full", "free some space"
        if code == sqlite3.SQLITE_CANTOPEN:
            return "it is a folder" if self.path.is_dir() else f"it cannot be opened ({text})", None
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return f"it is damaged ({text})", "move it away, and a new one is made"
        if code == sqlite3.SQLITE_ERROR and "no such" in text:
            return f"it is not as llamacli makes it ({text})", "move it away, and a new one is made"
        return text, None


#: Codes of a database in WAL mode whose other files cannot be made or read.
_NO_SHARED_MEMORY = (
    sqlite3.SQLITE_READONLY_DIRECTORY,
    sqlite3.SQLITE_READONLY_CANTINIT,
    sqlite3.SQLITE_READONLY_RECOVERY,
    sqlite3.SQLITE_CANTOPEN,
)


@contextlib.contextmanager
def _closed_if_it_fails(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        yield connection
    except BaseException:
        connection.close()
        raise


def checked_name(name: str | None) -> str | None:
    """A conversation's name, which can be told from a number. Raises UsageError."""
    if name is None:
        return None
    name = name.strip()
    # Joiners are no control characters: Persian words and some emoji need them.
    if not name or name.isdecimal() or not name.replace("\u200c", "").replace("\u200d", "").isprintable():
        raise UsageError(
            f"{printable(name, 80) or 'nothing'} cannot name a conversation",
            hint="a name is one line, and is no number",
        )
    return name


def _text(text: str | None) -> str | None:
    """As UTF-8 can hold it: half a surrogate pair cannot be stored."""
    return None if text is None else text.encode("utf-8", "replace").decode()


def _json(settings: Mapping[str, Any]) -> str:
    return json.dumps({**settings}, default=str)


def _title(text: str) -> str:
    """The beginning of a text as one line."""
    line = " ".join(text[: 4 * TITLE].encode("utf-8", "replace").decode().split())
    return line if len(line) <= TITLE else line[: TITLE - 1] + "…"


def _joined(pieces: Iterable[tuple[int, int, str]]) -> dict[int, tuple[str, str | None]]:
    """What each message's pieces add to its content and to its reasoning, None for no reasoning."""
    parts: defaultdict[int, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for message, is_reasoning, text in pieces:
        parts[message][is_reasoning].append(text)
    return {message: ("".join(said), "".join(thought) or None) for message, (said, thought) in parts.items()}


def _entry(row: Sequence[Any], pieces: Mapping[int, tuple[str, str | None]]) -> Entry:
    """A row of _MESSAGE, with the pieces that are not in it yet."""
    _, message, parent, role, content, reasoning, model, created, finish_reason, *usage = row
    if message in pieces:
        said, thought = pieces[message]
        content += said
        reasoning = reasoning if thought is None else (reasoning or "") + thought
    return Entry(message, parent, role, content, reasoning, model, created, finish_reason, Usage(*usage))


def _conversation(row: Sequence[Any]) -> Conversation:
    number, name, model, system, settings, origin, created, updated, leaf, n_messages, title = row
    try:
        values = json.loads(settings)
    except ValueError:
        values = {}
    return Conversation(
        id=number,
        name=name,
        model=model,
        system=system,
        settings=values if isinstance(values, dict) else {},
        origin=origin,
        created=created,
        updated=updated,
        leaf=leaf,
        n_messages=n_messages,
        title=title,
    )
