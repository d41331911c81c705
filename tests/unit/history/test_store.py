"""The history: what was reported is there, whoever is killed; nothing is lost among many; errors are one clear line."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamacli.errors import StorageError, UsageError
from llamacli.history import migrations
from llamacli.history.store import HistoryStore
from llamacli.history.types import Usage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data/history.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[HistoryStore]:
    with HistoryStore(path) as opened:
        yield opened


def integrity(path: Path) -> str:
    connection = sqlite3.connect(path)
    (answer,) = connection.execute("PRAGMA integrity_check").fetchone()
    connection.close()
    return str(answer)


def talk(store: HistoryStore) -> tuple[int, int, int]:
    """A conversation of one message and a finished answer."""
    number = store.create(model="tiny", system="Be brief.", settings={"temp": 0.5})
    said = store.add(number, None, "user", "What is 7 plus 8?")
    answer = store.add(number, said, "assistant", "", model="tiny")
    for piece in ("1", "5"):
        store.append(answer, piece)
    store.append(answer, "seven and eight", reasoning=True)
    store.finish(answer, "stop", Usage(completion_tokens=2, seed=3))
    return number, said, answer


def test_what_goes_in_comes_out(store: HistoryStore) -> None:
    number, said, answer = talk(store)
    question, reply = store.entries(number)
    assert (question.id, question.parent, question.role, question.content) == (said, None, "user", "What is 7 plus 8?")
    assert (reply.id, reply.parent, reply.content, reply.reasoning) == (answer, said, "15", "seven and eight")
    assert (reply.model, reply.finish_reason, reply.usage) == ("tiny", "stop", Usage(completion_tokens=2, seed=3))
    record = store.conversation(number)
    assert record is not None
    assert (record.model, record.system, record.settings, record.leaf) == ("tiny", "Be brief.", {"temp": 0.5}, answer)
    assert (record.n_messages, record.title, record.origin) == (2, "What is 7 plus 8?", "chat")


def test_an_unfinished_answer_has_what_came(store: HistoryStore) -> None:
    number = store.create(model="tiny")
    answer = store.add(number, None, "assistant", "It ")
    store.append(answer, "is ")
    store.append(answer, "hm", reasoning=True)
    store.append(answer, "15")
    (entry,) = store.entries(number)
    assert (entry.content, entry.reasoning, entry.finish_reason) == ("It is 15", "hm", None)


def test_pieces_are_gone_when_they_are_folded(store: HistoryStore, path: Path) -> None:
    talk(store)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM piece").fetchone() == (0,)
    connection.close()


def test_foreign_text_of_any_kind(store: HistoryStore) -> None:
    number = store.create(model="m")
    message = store.add(number, None, "user", "a\0b \ud800 \x1b[31m 你好 🙂")
    store.append(message, "\udfff!")
    (entry,) = store.entries(number)
    assert entry.content == "a\0b ? \x1b[31m 你好 🙂?!"


def test_names(store: HistoryStore) -> None:
    first, second = store.create(model="m", name="talk"), store.create(model="m")
    with pytest.raises(UsageError, match="there is a conversation named talk already"):
        store.update(second, name="talk")
    with pytest.raises(UsageError, match="already"):
        store.create(model="m", name="talk")
    for bad in ("", "  ", "12", "a\nb", "\x1b"):
        with pytest.raises(UsageError, match="cannot name a conversation"):
            store.update(second, name=bad)
    store.update(first, name="talk")  # its own
    found = store.conversation("talk")
    assert found is not None
    assert found.id == first
    assert store.conversation(10**30) is None


def test_the_last_and_the_newest_first(store: HistoryStore) -> None:
    numbers = [store.create(model="m") for _ in range(3)]
    store.add(numbers[0], None, "user", "hi")
    assert [each.id for each in store.conversations()] == [numbers[0], numbers[2], numbers[1]]
    last = store.last()
    assert last is not None
    assert last.id == numbers[0]


def test_search_in_any_script(store: HistoryStore) -> None:
    number = store.create(model="m")
    for text in ("Die STRASSE ist lang", "die Straße", "北京是首都", "nothing", "İstanbul"):
        store.add(number, None, "user", text)

    def found(*words: str) -> list[str]:
        return [entry.content for _, entry in store.search(words, 10)]

    assert found("straße") == ["die Straße", "Die STRASSE ist lang"]
    assert found("京是") == ["北京是首都"]
    assert found("die", "LANG") == ["Die STRASSE ist lang"]
    assert found("%") == []
    assert len(store.search(["i"], 2)) == 2


def test_deleting_takes_all_of_it(store: HistoryStore, path: Path) -> None:
    number, _, answer = talk(store)
    store.append(answer, "more")
    store.delete(number)
    assert store.conversation(number) is None
    connection = sqlite3.connect(path)
    for table in ("conversation", "message", "piece"):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    connection.close()


def test_a_long_conversation_can_be_removed(store: HistoryStore) -> None:
    """SQLite allows a recursion of 1000."""
    number, parent = store.create(model="m"), None
    store._connection.execute("PRAGMA synchronous = off")
    for _ in range(1500):
        parent = store.add(number, parent, "user", "hi")
    store.delete(number)
    assert store.last() is None


def test_what_was_removed_is_nowhere_in_the_files(store: HistoryStore, path: Path) -> None:
    number = store.create(model="m", name="sekret-name", system="sekret-system")
    said = store.add(number, None, "user", "sekret-question " * 1000)
    answer = store.add(number, said, "assistant", "")
    store.append(answer, "sekret-piece")
    store.append(answer, "sekret-thought", reasoning=True)
    assert any(b"sekret" in file.read_bytes() for file in path.parent.iterdir())
    store.finish(answer, "stop")
    store.delete(number)
    assert [file.name for file in path.parent.iterdir() if b"sekret" in file.read_bytes()] == []


def test_an_answer_that_is_finished_makes_its_conversation_the_last(store: HistoryStore) -> None:
    first, second = store.create(model="m"), store.create(model="m")
    answer = store.add(first, None, "assistant", "")
    store.add(second, None, "user", "hi")
    store.finish(answer, "stop")
    assert (last := store.last()) is not None
    assert last.id == first


def test_the_title(store: HistoryStore) -> None:
    number = store.create(model="m")

    def title() -> str:
        record = store.conversation(number)
        assert record is not None
        return record.title

    assert title() == ""
    store.add(number, None, "assistant", "not this")
    store.add(number, None, "user", "  \n ")
    assert title() == ""
    store.add(number, None, "user", "\ud800 a\n\tlong one: " + "北" * 200)
    assert title() == "? a long one: " + "北" * 65 + "…"
    store.add(number, None, "user", "a later one")
    assert title().startswith("? a long one")


def test_a_piece_costs_the_same_however_long_the_answer_is(store: HistoryStore) -> None:
    number = store.create(model="m")
    message = store.add(number, None, "assistant", "")

    def pages() -> int:
        return int(store._connection.execute("PRAGMA page_count").fetchone()[0])

    def steps() -> int:
        """What SQLite's machine does for one piece."""
        count = 0

        def step() -> None:
            nonlocal count
            count += 1

        store._connection.set_progress_handler(step, 1)
        store.append(message, " word")
        store._connection.set_progress_handler(None, 1)
        return count

    before = pages()
    store.append(message, " word")
    first = steps()
    for _ in range(1998):
        store.append(message, " word")
    early = pages() - before
    for _ in range(1999):
        store.append(message, " word")
    assert pages() - before <= 2 * early + 2
    assert steps() == first
    assert len(store.entries(number)[0].content) == 4000 * 5


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX's")
def test_only_the_user_may_read_it(store: HistoryStore, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


WRITER = """
import sys
from pathlib import Path
from llamacli.history.store import HistoryStore
store = HistoryStore(Path(sys.argv[1]))
number = store.create(model="m")
said = store.add(number, None, "user", "go")
answer = store.add(number, said, "assistant", "")
for count in range(100000):
    store.append(answer, f"{count} ")
    print(count, flush=True)
    if count % 50 == 49:
        store.finish(answer, "stop")
        answer = store.add(number, answer, "assistant", "")
"""


def kill_at_a_random_moment(path: Path, rng: random.Random) -> tuple[int, str]:
    """The last piece that a writer has reported before it was killed, and all text that the history then has."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    reported = [int(writer.stdout.readline())]
    timer = threading.Timer(rng.uniform(0, 0.1), writer.send_signal, (signal.SIGKILL,))
    timer.start()
    reported += [int(line) for line in writer.stdout if line.endswith("\n")]
    timer.join()
    writer.stdout.close()
    writer.wait()
    with HistoryStore(path) as store:
        last = store.last()
        assert last is not None
        return reported[-1], "".join(entry.content for entry in store.entries(last.id))


def test_a_second_store_of_this_process_does_not_cost_the_first_its_locks(path: Path) -> None:
    """POSIX drops all locks that a process has on a file when it closes any descriptor of it."""
    with HistoryStore(path) as first:
        number = first.create(model="m")
        HistoryStore(path).close()
        script = "import sys, pathlib; from llamacli.history.store import HistoryStore as S; "
        script += "s = S(pathlib.Path(sys.argv[1])); s.add(1, None, 'user', 'theirs'); s.close()"
        subprocess.run([sys.executable, "-c", script, str(path)], check=True)  # it must not take itself for the last
        first.add(number, None, "user", "mine")
        with HistoryStore(path) as other:
            assert [entry.content for entry in other.entries(number)] == ["theirs", "mine"]


def test_a_conversation_that_was_removed_meanwhile(path: Path, store: HistoryStore) -> None:
    number, _, answer = talk(store)
    with HistoryStore(path) as other:
        other.delete(number)
    for write in (
        lambda: store.add(number, None, "user", "hi"),
        lambda: store.append(answer, "hi"),
        lambda: store.finish(answer, "stop"),
        lambda: store.update(number, leaf=None),
    ):
        with pytest.raises(StorageError, match="another process has removed this conversation"):
            write()
    store.create(model="m")  # no transaction is left open


@pytest.mark.parametrize("times", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_a_killed_writer_loses_nothing_it_has_reported(path: Path, times: int) -> None:
    rng = random.Random(times)
    for _ in range(times):
        reported, text = kill_at_a_random_moment(path, rng)
        words = text.removeprefix("go").split()
        assert words == [str(count) for count in range(len(words))]
        assert reported < len(words) <= reported + 2
        assert integrity(path) == "ok"


MANY = """
import sys
from pathlib import Path
from llamacli.history.store import HistoryStore
store = HistoryStore(Path(sys.argv[1]), timeout=60)
number = store.create(model="m", name=f"w{sys.argv[2]}")
parent = None
for turn in range(10):
    parent = store.add(number, parent, "user", f"question {turn}")
    parent = store.add(number, parent, "assistant", "")
    for piece in range(10):
        store.append(parent, f"{piece} ")
    store.finish(parent, "stop")
"""


def test_32_processes_at_once_lose_no_row(path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", MANY, str(path), str(n)]) for n in range(32)]
    assert [writer.wait(120) for writer in writers] == [0] * 32
    with HistoryStore(path) as store:
        conversations = store.conversations()
        assert sorted(each.name or "" for each in conversations) == sorted(f"w{n}" for n in range(32))
        for each in conversations:
            entries = store.entries(each.id)
            assert len(entries) == 20
            assert [entry.content for entry in entries[1::2]] == ["0 1 2 3 4 5 6 7 8 9 "] * 10
            assert [entry.parent for entry in entries[1:]] == [entry.id for entry in entries[:-1]]
    assert integrity(path) == "ok"


# --- what can be wrong with the file ----------------------------------------------------------------------------------


def test_a_file_that_is_no_database(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database, but long enough to be taken for one " * 100)
    for read_only in (False, True):
        with pytest.raises(StorageError, match=r"history\.sqlite3: it is damaged \(file is not a database\)") as caught:
            HistoryStore(path, read_only=read_only)
        assert caught.value.hint == "move it away, and a new one is made"
    assert path.read_bytes().startswith(b"not a database")


def test_a_damaged_database(path: Path) -> None:
    with HistoryStore(path) as store:
        for _ in range(200):
            talk(store)
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)

    def use() -> None:
        with HistoryStore(path) as store:
            for conversation in store.conversations():
                store.entries(conversation.id)
            talk(store)

    with pytest.raises(StorageError, match="damaged"):
        use()


def test_a_folder_in_its_place(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(StorageError, match="it is a folder"):
        HistoryStore(path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file: File exists"):
        HistoryStore(tmp_path / "file/history.sqlite3")


def test_a_read_only_connection_says_so(path: Path) -> None:
    """Root may write anywhere, so the permission is taken away in SQLite itself."""
    with HistoryStore(path) as store:
        store._connection.execute("PRAGMA query_only = on")
        with pytest.raises(StorageError, match="it is read-only"):
            store.create(model="m")


@contextlib.contextmanager
def unprivileged(folder: Path, mode: int) -> Iterator[None]:
    """As somebody whom permission bits bind, which root is not, in a folder of this mode."""
    root, before = os.geteuid() == 0, os.stat(folder).st_mode
    os.chmod(folder, mode)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        os.chmod(folder, before)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody reaches, as tmp_path is not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX's")
def test_a_read_only_file_and_folder(open_folder: Path) -> None:
    path = open_folder / "history.sqlite3"
    with HistoryStore(path) as store:
        number, *_ = talk(store)
    path.chmod(0o444)
    with unprivileged(open_folder, 0o555):
        for _ in range(2):
            with HistoryStore(path, read_only=True) as store:
                assert [entry.content for entry in store.entries(number)] == ["What is 7 plus 8?", "15"]
        with pytest.raises(StorageError, match="it is read-only"), HistoryStore(path) as store:
            store.create(model="m")
        with pytest.raises(StorageError, match=r"new/history\.sqlite3|new: Permission denied"):
            HistoryStore(open_folder / "new/history.sqlite3")
    assert [file.name for file in open_folder.iterdir()] == [path.name]


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX's")
@pytest.mark.parametrize("index", [True, False])
def test_what_a_killed_writer_left_in_a_read_only_folder(open_folder: Path, index: bool) -> None:
    """The log counts. Where SQLite cannot read it, that is said, and nothing is shown without it."""
    path = open_folder / "history.sqlite3"
    with HistoryStore(path) as store:
        talk(store)
    with HistoryStore(path) as store:
        store.create(model="later")
        left = {file: file.read_bytes() for file in open_folder.iterdir()}
    for file, data in left.items():
        if index or not file.name.endswith("-shm"):
            file.write_bytes(data)
            file.chmod(0o444)
    with unprivileged(open_folder, 0o555):
        if index:
            with HistoryStore(path, read_only=True) as store:
                assert [each.model for each in store.conversations()] == ["later", "tiny"]
        else:
            with pytest.raises(StorageError):
                HistoryStore(path, read_only=True)


def test_a_full_disk(path: Path) -> None:
    with HistoryStore(path) as store:
        number = store.create(model="m")
        store._connection.execute("PRAGMA max_page_count = 20")
        message = store.add(number, None, "assistant", "")

        def stream() -> None:
            for _ in range(100):
                store.append(message, "word " * 1000)

        with pytest.raises(StorageError, match="the disk is full"):
            stream()
        (entry,) = store.entries(number)
        assert entry.content.startswith("word word")


@pytest.mark.parametrize("size", [10, 100, 3000, 5000, 20000])
def test_a_truncated_database(path: Path, size: int) -> None:
    with HistoryStore(path) as store:
        number = store.create(model="m")
        for _ in range(20):
            store.add(number, None, "user", "word " * 1000)
    data = path.read_bytes()
    path.write_bytes(data[:size])
    for read_only in (True, False):
        with pytest.raises(StorageError) as caught, HistoryStore(path, read_only=read_only) as store:
            store.entries(number)
        assert "it is damaged" in caught.value.message
        assert caught.value.hint is not None
    assert path.read_bytes() == data[:size]


def test_locked_by_another_process(path: Path) -> None:
    with HistoryStore(path, timeout=0.1) as store:
        number = store.create(model="m")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="another process keeps it locked"):
            store.add(number, None, "user", "hi")
        other.execute("ROLLBACK")
        store.add(number, None, "user", "hi")  # and it goes on
        other.close()


def test_reading_makes_and_changes_nothing(path: Path) -> None:
    with HistoryStore(path, read_only=True) as store:
        assert store.conversations() == []
        assert store.last() is None
    assert not path.parent.exists()
    with HistoryStore(path) as store:
        talk(store)
    before = path.read_bytes()
    with HistoryStore(path, read_only=True) as store:
        assert len(store.conversations()) == 1
        with pytest.raises(StorageError, match="it is read-only"):
            store.create(model="m")
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_reading_an_empty_file(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    with HistoryStore(path, read_only=True) as store:
        assert store.conversations() == []
    assert path.read_bytes() == b""


# --- its form ---------------------------------------------------------------------------------------------------------


def test_an_older_form_is_brought_up_to_date(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HistoryStore(path) as store:
        number, *_ = talk(store)
    monkeypatch.setattr(migrations, "STEPS", [*migrations.STEPS, "ALTER TABLE conversation ADD COLUMN colour TEXT;"])
    with HistoryStore(path) as store:
        assert len(store.entries(number)) == 2
        assert store._connection.execute("SELECT colour FROM conversation").fetchall() == [(None,)]


def test_reading_an_older_form_leaves_it_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HistoryStore(path) as store:
        number, *_ = talk(store)
    before = path.read_bytes()
    newer = [*migrations.STEPS, "ALTER TABLE conversation ADD COLUMN colour TEXT;"]
    monkeypatch.setattr(migrations, "STEPS", newer)
    monkeypatch.setattr("llamacli.history.store.STEPS", newer)
    with HistoryStore(path, read_only=True) as store:
        assert len(store.entries(number)) == 2
        assert store._connection.execute("SELECT colour FROM conversation").fetchall() == [(None,)]
    assert path.read_bytes() == before


def test_a_step_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    HistoryStore(path).close()
    broken = "ALTER TABLE conversation ADD COLUMN colour TEXT; NONSENSE;"
    with monkeypatch.context() as patched:
        patched.setattr(migrations, "STEPS", [*migrations.STEPS, broken])
        with pytest.raises(StorageError):
            HistoryStore(path)
    with HistoryStore(path) as store:
        columns = [row[1] for row in store._connection.execute("PRAGMA table_info(conversation)")]
        assert "colour" not in columns


def test_a_newer_form_is_left_alone(path: Path) -> None:
    HistoryStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for read_only in (False, True):
        with pytest.raises(StorageError, match="a newer llamacli has made it"):
            HistoryStore(path, read_only=read_only)


def test_the_first_step_never_changes() -> None:
    """A database that has it would not get the change: add a step instead."""
    import hashlib

    assert hashlib.sha256(migrations.STEPS[0].encode()).hexdigest()[:16] == "8e9c42d9391b3859"
