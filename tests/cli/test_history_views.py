"""llamacli history on what no small model would say: branches, escape sequences, wide characters, a narrow terminal."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from screen import Terminal

from llamacli.history.store import HistoryStore

Cli = Callable[..., subprocess.CompletedProcess[bytes]]
EVIL = "\x1b[31mred\x1b]0;title\x07 \x9b2J \u202e"


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HistoryStore:
    monkeypatch.setenv("LLAMACLI_HOME", str(tmp_path / "home"))
    return HistoryStore()


@pytest.fixture
def forked(store: HistoryStore) -> int:
    """1 ─ 2 ┬ 3 ─ 4 ┬ 5
            └ 6, an answer that was cut short, the leaf
    └ 7, after which the talk went back to 6
    """
    number = store.create(model="m", system="Be brief.", name="fork")
    one = store.add(number, None, "user", "one\nline")
    two = store.add(number, one, "assistant", "two", reasoning="hm", finish_reason="stop")
    three = store.add(number, two, "user", "three")
    four = store.add(number, three, "assistant", "four", finish_reason="stop")
    store.add(number, four, "user", "five")
    six = store.add(number, four, "assistant", "six", finish_reason="length")
    store.add(number, two, "user", "seven")
    store.update(number, leaf=six)
    store.close()
    return number


def test_all_branches_as_a_tree(cli: Cli, forked: int) -> None:
    assert cli("history", "show", "--all").stdout.decode().splitlines() == [
        "system: Be brief.",
        "1 user: one line",
        "2 assistant: two",
        "├─ 3 user: three",
        "│  4 assistant: four",
        "│  ├─ 5 user: five",
        "│  └─ 6 assistant (length) *: six",
        "└─ 7 user: seven",
    ]


def test_the_branch_of_the_leaf(cli: Cli, forked: int) -> None:
    assert cli("history", "show", "fork").stdout.decode().split("\n") == [
        "system", "Be brief.", "", "user", "one", "line", "", "assistant", "hm", "two", "",
        "user", "three", "", "assistant", "four", "", "assistant (length)", "six", "",
    ]  # fmt: skip
    assert len(json.loads(cli("history", "show", "--json").stdout)["messages"]) == 7


def test_a_very_long_conversation_as_a_tree(cli: Cli, store: HistoryStore) -> None:
    number, parent = store.create(model="m"), None
    for _ in range(1500):
        parent = store.add(number, parent, "user", "x")
    lines = cli("history", "show", "--all").stdout.decode().splitlines()
    assert (len(lines), lines[-1]) == (1500, "1500 user *: x")


def test_foreign_text_in_a_pipe_and_on_a_terminal(cli: Cli, store: HistoryStore) -> None:
    number = store.create(model=EVIL, system=EVIL)
    store.add(number, None, "user", EVIL)
    assert cli("history", "show").stdout.decode() == f"system\n{EVIL}\n\nuser\n{EVIL}\n"
    for command in (["ls"], ["show"], ["show", "--all"], ["search", "red"], ["show", "--json"], ["export"],
                    ["export", "--format", "json"], ["rm", "-n", "1"], ["rm", "-y", "1"]):  # fmt: skip
        terminal = Terminal("history", *command, columns=200)
        assert terminal.end() == 0
        raw = terminal.raw.decode().replace("\x1b[2m", "").replace("\x1b[22m", "")  # dim
        raw = raw.replace("\x1b[1m", "").replace("\x1b[0m", "")  # the table's header
        assert "red" in raw
        assert not {c for c in raw if not c.isprintable()} - {"\r", "\n"}, command


def test_a_title_fits_a_narrow_terminal(store: HistoryStore) -> None:
    store.add(store.create(model="m", name="北京"), None, "user", "首都 " * 50)
    terminal = Terminal("history", "ls", columns=60)
    assert terminal.end() == 0
    assert len(terminal.raw.decode().splitlines()) == 2
    assert terminal.lines()[1].rstrip().endswith("…")


def test_nothing_yet_on_a_terminal() -> None:
    terminal = Terminal("history", "ls")
    assert terminal.end() == 0
    assert "there is no conversation yet" in terminal.text()


def test_searching(cli: Cli, store: HistoryStore) -> None:
    number = store.create(model="m", name="town")
    message = store.add(number, None, "user", "北京\tist eine STRASSE")
    (found,) = json.loads(cli("history", "search", "straße", "京", "--json").stdout)
    created = found.pop("created")
    assert created.endswith("Z")
    assert found == {
        "id": number, "name": "town", "title": "北京 ist eine STRASSE", "message": message, "role": "user",
        "snippet": "北京 ist eine STRASSE",
    }  # fmt: skip
    assert cli("history", "search", "京").stdout.decode().splitlines() == [
        "id\tname\trole\ttext", "1\ttown\tuser\t北京 ist eine STRASSE",
    ]  # fmt: skip
    done = cli("history", "search", "")
    assert (done.returncode, done.stdout) == (2, b"")


def test_removing_each_once_and_all_of_nothing(cli: Cli, store: HistoryStore) -> None:
    for name in ("a", "b"):
        store.create(model="m", name=name)
    assert cli("history", "rm", "-y", "a", "nothing").returncode == 2
    assert len(store.conversations()) == 2  # all names are looked up before the first goes
    assert [each["id"] for each in json.loads(cli("history", "rm", "-y", "--json", "1", "a", "1").stdout)] == [1]
    assert [each.name for each in store.conversations()] == ["b"]
    cli("history", "rm", "-y", "--all")
    done = cli("history", "rm", "--all", "--json")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"[]\n", b"")


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["shwo"], "no such command 'shwo'. Did you mean 'show'?", None),
        (["rm"], "name the conversations to remove, or --all", "llamacli history ls shows them"),
        (["search"], "missing argument 'WORDS…'", "llamacli history search --help shows the options"),
        (["export", "--outptu", "x"], "no such option: --outptu; did you mean --output?", None),
        (["--json"], "no such option: --json", "llamacli history --help shows the commands"),
        (["ls", "x"], "got unexpected extra argument(s) (x)", "llamacli history ls --help shows the options"),
    ],
)
def test_slips(cli: Cli, arguments: list[str], error: str, hint: str | None) -> None:
    done = cli("history", *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().splitlines() == [f"error: {error}", *([f"hint: {hint}"] if hint else [])]
