"""The database's form, step by step. Steps are only ever added: a database knows by its number how many it has had."""

from __future__ import annotations

import sqlite3

from llamacli.errors import StorageError

#: Statements, each ended by a semicolon, which stands nowhere else in them. A message's parent goes with it, whole
#: conversations at a time, so it needs no cascade: that would be a recursion as deep as a conversation is long, of
#: which SQLite allows 1000.
STEPS: list[str] = [
    """
    CREATE TABLE conversation (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT UNIQUE,
        title TEXT NOT NULL DEFAULT '',
        model TEXT NOT NULL,
        system TEXT,
        settings TEXT NOT NULL,
        origin TEXT NOT NULL,
        created REAL NOT NULL,
        updated REAL NOT NULL,
        leaf INTEGER
    );
    CREATE INDEX conversation_by_time ON conversation (updated);
    CREATE TABLE message (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        conversation INTEGER NOT NULL REFERENCES conversation (id) ON DELETE CASCADE,
        parent INTEGER REFERENCES message (id),
        role TEXT NOT NULL,
        content TEXT NOT NULL,
        reasoning TEXT,
        model TEXT,
        created REAL NOT NULL,
        finish_reason TEXT,
        prompt_tokens INTEGER,
        evaluated_tokens INTEGER,
        completion_tokens INTEGER,
        prompt_seconds REAL,
        generation_seconds REAL,
        seed INTEGER
    );
    CREATE INDEX message_by_conversation ON message (conversation);
    CREATE INDEX message_by_parent ON message (parent);
    CREATE TABLE piece (
        message INTEGER NOT NULL REFERENCES message (id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        is_reasoning INTEGER NOT NULL,
        text TEXT NOT NULL,
        PRIMARY KEY (message, number)
    ) WITHOUT ROWID;
    """,
]


def version(connection: sqlite3.Connection) -> int:
    """How many steps a database has had; 0 for an empty one."""
    (number,) = connection.execute("PRAGMA user_version").fetchone()
    assert isinstance(number, int)
    return number


def migrate(connection: sqlite3.Connection, name: str) -> None:
    """Bring a database up to date, in one transaction. Raises StorageError for one that a newer llamacli has made."""
    if version(connection) > len(STEPS):
        raise StorageError(
            f"{name}: a newer llamacli has made it (form {version(connection)}, and this one knows {len(STEPS)})",
            hint="pip install -U llamacli",
        )
    if version(connection) == len(STEPS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in STEPS[version(connection) :]:  # asked again: another process may have been faster
            for statement in step.split(";"):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(STEPS)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
