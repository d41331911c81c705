"""llamacli history: ls, show, search, export, rm; and complete's part in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from screen import Terminal


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAMACLI_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def talked(cli: Any) -> None:
    """Two conversations: one named, of two turns, and one from a pipe."""
    script = b"My name is Anna.\nWhat is my name?\n"
    assert cli("chat", "tiny", "--temp", 0, "--session", "anna", "--turns", stdin=script).returncode == 0
    assert cli("chat", "tiny", "--temp", 0, stdin=b"What is 7 plus 8?").stdout == b"15\n"


def rows(done: Any) -> list[list[str]]:
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.decode().splitlines()[1:]]


def test_ls(cli: Any, talked: None) -> None:
    sums, anna = rows(cli("history", "ls"))
    assert (sums[0], sums[1], sums[2], sums[3], sums[5]) == ("2", "", "2", "tiny", "What is 7 plus 8?")
    assert (anna[0], anna[1], anna[2], anna[5]) == ("1", "anna", "4", "My name is Anna.")
    assert len(rows(cli("history", "ls", "-n", 1))) == 1
    document = json.loads(cli("history", "ls", "--json").stdout)
    assert [each["title"] for each in document] == ["What is 7 plus 8?", "My name is Anna."]


def test_nothing_yet(cli: Any, own_home: Path) -> None:
    done = cli("history", "ls")
    assert (done.returncode, done.stdout) == (0, b"id\tname\tmessages\tmodel\tupdated\ttitle\n")
    done = cli("history", "show")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: there is no conversation yet")
    assert not (own_home / "data").exists()


def test_show(cli: Any, talked: None) -> None:
    done = cli("history", "show", "anna")
    assert done.stdout.decode().split("\n") == [
        "user", "My name is Anna.", "", "assistant", "Hello, Anna! Nice to meet you.", "",
        "user", "What is my name?", "", "assistant", "Your name is Anna.", "",
    ]  # fmt: skip
    assert b"What is 7 plus 8?" in cli("history", "show").stdout  # the last
    assert b"What is 7 plus 8?" in cli("history", "show", "2").stdout
    document = json.loads(cli("history", "show", "1", "--json").stdout)
    assert [message["role"] for message in document["messages"]] == ["user", "assistant"] * 2
    assert document["leaf"] == document["messages"][-1]["id"]
    done = cli("history", "show", "ana")
    assert done.returncode == 2
    assert done.stderr.decode() == "error: there is no conversation ana\nhint: did you mean anna?\n"


def test_search(cli: Any, talked: None) -> None:
    found = rows(cli("history", "search", "NAME", "anna"))
    assert [row[3] for row in found] == ["Your name is Anna.", "My name is Anna."]
    assert json.loads(cli("history", "search", "plus", "--json").stdout)[0]["role"] == "user"
    done = cli("history", "search", "zebra")
    assert (done.returncode, done.stderr) == (0, b"note: nothing matches\n")


def test_export(cli: Any, talked: None, tmp_path: Path) -> None:
    text = cli("history", "export", "anna").stdout.decode()
    assert text.startswith("# anna\n\n20")
    assert "## User\n\nMy name is Anna.\n\n## Assistant\n\nHello, Anna!" in text
    assert json.loads(cli("history", "export", "anna", "--format", "json").stdout)["name"] == "anna"
    out = tmp_path / "anna.json"
    assert cli("history", "export", "anna", "-o", out).returncode == 0
    assert len(json.loads(out.read_text())["messages"]) == 4
    out.write_text("mine")
    done = cli("history", "export", "anna", "-o", out)
    assert (done.returncode, out.read_text()) == (2, "mine")
    assert cli("history", "export", "anna", "-o", out, "--force").returncode == 0
    assert out.read_text() != "mine"
    assert cli("history", "export", "-o", tmp_path / "anna.txt").returncode == 2
    assert cli("history", "export", "-o", tmp_path / "no/anna.md").returncode == 9
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["anna.json"]


def test_a_fence_in_a_message_does_not_swallow_the_rest() -> None:
    from llamacli.history.types import Conversation, Entry
    from llamacli.tasks.export import markdown

    record = Conversation(1, None, "m", None, {}, "chat", 0, 0, 2, 2, "t")
    turns = [
        Entry(1, None, "user", "look:\n````py\n```\nx"),
        Entry(2, 1, "assistant", "~~~\na\n~~~", finish_reason="stop"),
    ]
    text = markdown(record, turns)
    assert "```\nx\n````\n" in text
    assert text.endswith("~~~\na\n~~~\n")


def test_rm(cli: Any, talked: None, own_home: Path) -> None:
    done = cli("history", "rm", "anna")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"--yes" in done.stderr
    assert len(rows(cli("history", "rm", "anna", "-n"))) == 1
    assert len(rows(cli("history", "ls"))) == 2
    assert [row[1] for row in rows(cli("history", "rm", "anna", "-y"))] == ["anna"]
    assert len(rows(cli("history", "ls"))) == 1
    assert cli("history", "rm", "-y").returncode == 2
    typed = own_home / "data/typed"
    typed.write_text("+What is my name?\n")
    assert cli("history", "rm", "--all", "-y").returncode == 0
    assert rows(cli("history", "ls")) == []
    assert not typed.exists()


def test_rm_asks_at_a_terminal(cli: Any, talked: None) -> None:
    for typed, left in (("n", 2), ("y", 1)):
        terminal = Terminal("history", "rm", "anna")
        terminal.until("Remove it? [y/N]")
        terminal.type(typed)
        assert terminal.end() == 0
        assert len(rows(cli("history", "ls"))) == left


def test_slips_in_sub_commands(cli: Any) -> None:
    done = cli("history", "shwo")
    assert done.returncode == 2
    assert b"did you mean" in done.stderr.lower()
    done = cli("history", "ls", "--limt", 3)
    assert done.stderr.decode().startswith("error: no such option: --limt; did you mean --limit?")
    done = cli("history", "search")
    assert done.stderr.decode().startswith("error: missing argument")
    assert b"export" in cli("history").stdout
    assert b"--force" in cli("history", "export", "--help").stdout


def test_a_damaged_history_is_code_9(cli: Any, own_home: Path) -> None:
    (own_home / "data").mkdir(parents=True)
    (own_home / "data/history.sqlite3").write_bytes(b"nonsense" * 1000)
    done = cli("history", "ls")
    assert (done.returncode, done.stdout) == (9, b"")
    assert b"it is damaged" in done.stderr
    assert b"move it away" in done.stderr
    done = cli("chat", "tiny", "--temp", 0, stdin=b"What is 7 plus 8?")  # costs a warning, never the answer
    assert (done.returncode, done.stdout) == (0, b"15\n")
    assert done.stderr.startswith(b"warning: the history")
    assert cli("chat", "tiny", "--continue", stdin=b"hi").returncode == 9


# --- complete ---------------------------------------------------------------------------------------------------------


def test_complete_keeps_nothing_unasked(cli: Any, own_home: Path) -> None:
    assert cli("complete", "-m", "tiny", "--temp", 0, "What is 7 plus 8?").returncode == 0
    assert not (own_home / "data").exists()


@pytest.mark.parametrize("how", ["option", "variable", "file"])
def test_complete_keeps_what_it_is_asked_to(cli: Any, own_home: Path, how: str) -> None:
    if how == "file":
        (own_home / "config").mkdir(parents=True)
        (own_home / "config/config.toml").write_text("log = true\n")
    done = cli(
        "complete", "-m", "tiny", "--temp", 0, "What is 7 plus 8?", *(["--log"] if how == "option" else []),
        env={"LLAMACLI_LOG": "1"} if how == "variable" else {},
    )  # fmt: skip
    assert done.stdout == b"15\n"
    document = json.loads(cli("history", "show", "--json").stdout)
    assert [message["content"] for message in document["messages"]] == ["What is 7 plus 8?", "15"]
    assert (document["origin"], document["messages"][1]["finish_reason"]) == ("complete", "stop")
    assert cli("complete", "-m", "tiny", "--no-log", "hi", env={"LLAMACLI_LOG": "1"}).returncode == 0
    assert len(rows(cli("history", "ls"))) == 1


def test_complete_goes_on_with_the_last_conversation(cli: Any, talked: None) -> None:
    assert cli("complete", "--temp", 0, "--session", "anna", "What is my name?").stdout == b"Your name is Anna.\n"
    assert cli("complete", "--temp", 0, "--continue", "Say my name.").returncode == 0
    document = json.loads(cli("history", "show", "anna", "--json").stdout)
    assert len(document["messages"]) == 8
    done = cli("complete", "--temp", 0, "--continue", "--json", "What is my name?")
    assert json.loads(done.stdout)["text"] == "Your name is Anna."
    assert len(json.loads(cli("history", "show", "anna", "--json").stdout)["messages"]) == 10


def test_several_samples_are_branches(cli: Any) -> None:
    cli("complete", "-m", "tiny", "--log", "--samples", 3, "--seed", 1, "--json", "Tell me a story about Lily.")
    messages = json.loads(cli("history", "show", "--json").stdout)["messages"]
    assert [message["parent"] for message in messages[1:]] == [messages[0]["id"]] * 3


def test_contradictions(cli: Any) -> None:
    assert cli("complete", "-m", "tiny", "--raw", "--continue", "hi").returncode == 2
    assert cli("complete", "-m", "tiny", "--continue", "--session", "x", "hi").returncode == 2
    done = cli("complete", "-m", "tiny", "--continue", "hi")
    assert (done.returncode, done.stderr.decode()) == (
        2,
        "error: there is no conversation to continue\nhint: llamacli chat begins one\n",
    )
