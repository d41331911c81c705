"""The chat as a person at a terminal sees it: a real pty, a real model, a screen."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest
from make_gguf import spm_tokens, write_llama, write_parrot
from screen import Terminal

Start = Callable[..., Terminal]


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A history of this test alone."""
    monkeypatch.setenv("LLAMACLI_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def start(own_home: Path) -> Iterator[Start]:
    opened: list[Terminal] = []

    def begin(*arguments: object, **options: object) -> Terminal:
        terminal = Terminal("chat", "tiny", "-t", 1, "--temp", 0, *arguments, **options)  # type: ignore[arg-type]
        opened.append(terminal)
        terminal.prompt()
        return terminal

    yield begin
    for terminal in opened:
        terminal.close()


def test_a_conversation_that_refers_back_and_branches(start: Start, tmp_path: Path) -> None:
    chat = start()
    assert "Hello, Anna!" in chat.ask("My name is Anna.")
    assert "15" in chat.ask("What is 7 plus 8?")
    assert "Anna" in chat.ask("What is my name?")
    assert "Taken back: What is my name?" in chat.ask("/undo")
    assert "19" in chat.ask("/edit What is 9 plus 10?")
    branches = chat.ask("/branch")
    assert re.search(r"^  1 +6 messages +What is my name\?$", branches, re.MULTILINE)
    assert re.search(r"^\* 2 +4 messages +What is 9 plus 10\?$", branches, re.MULTILINE)
    assert ">>> What is my name?" in chat.ask("/branch 1")
    assert "Anna" in chat.ask("/retry")
    assert "3 " in chat.ask("/branch")
    assert "temp" in chat.ask("/set temp 0")
    assert "Kept as talk" in chat.ask("/save talk")
    assert "Written" in chat.ask(f"/export {tmp_path}/talk.json")
    assert len(json.loads((tmp_path / "talk.json").read_text())["messages"]) == 9
    assert "A new conversation" in chat.ask("/clear")
    assert "did not tell" in chat.ask("What is my name?")
    assert ">>> My name is Anna." in chat.ask("/load talk")
    assert "Anna" in chat.ask("What is my name?")
    chat.type("/bye")
    assert chat.end() == 0


def test_ctrl_c_keeps_the_answer_and_a_second_one_leaves(start: Start) -> None:
    chat = start("--logit-bias", "2-inf", "-c", 1024)
    chat.type("Tell me a story about Lily.")
    chat.until("Once upon")
    chat.child.sendintr()
    chat.until("(stopped)")
    chat.prompt()
    assert "Once upon" in chat.text()
    chat.type("\x03", enter=False)
    assert chat.end() == -signal.SIGINT


def test_ctrl_c_at_the_prompt(start: Start) -> None:
    chat = start()
    chat.type("half a line", enter=False)
    chat.until("half a line")
    chat.type("\x03", enter=False)
    chat.prompt()
    chat.type("\x03", enter=False)
    chat.until("Ctrl-C again")
    chat.type("What is 7 plus 8?")  # so it does not leave
    chat.until("15")
    chat.prompt()
    chat.type("\x04", enter=False)
    assert chat.end() == 0


def test_the_terminal_is_as_it_was(own_home: Path) -> None:
    """Modes of the terminal after Ctrl-D, and after a signal while a line is edited and while an answer comes."""
    import sys

    command = f'stty -a >"$0/before"; "{sys.executable}" -m llamacli chat tiny; stty -a >"$0/after"'
    own_home.mkdir()
    for end in ("eof", "term"):
        child = pexpect.spawn("bash", ["-c", command, str(own_home)], timeout=30, dimensions=(24, 80))
        child.expect(">>>")
        if end == "eof":
            child.send("\x04")
        else:
            pid = int(Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()[0])
            os.kill(pid, signal.SIGTERM)
        child.expect(pexpect.EOF)
        child.close()
        assert (own_home / "before").read_text() == (own_home / "after").read_text()


def test_several_lines_are_one_message(start: Start) -> None:
    chat = start()
    chat.ask('"""Say the word\r"honey"."""')
    chat.ask('Say the word\x1b\r"honey".')  # Alt-Enter
    chat.ask('\x1b[200~Say the word\n"honey".\x1b[201~')  # pasted
    chat.ask("/export " + str(Path(os.environ["LLAMACLI_HOME"]) / "t.json"))
    document = json.loads((Path(os.environ["LLAMACLI_HOME"]) / "t.json").read_text())
    said = [message["content"] for message in document["messages"] if message["role"] == "user"]
    assert said == ['Say the word\n"honey".'] * 3


def test_what_was_typed_is_there_in_the_next_session(start: Start) -> None:
    chat = start()
    chat.ask("What is 7 plus 8?")
    chat.type("\x04", enter=False)
    chat.end()
    chat = start()
    chat.type("\x1b[A", enter=False)
    chat.until(lambda: chat.line() == ">>> What is 7 plus 8?")
    chat.type("\x03", enter=False)
    chat.prompt()
    chat.type("\x12plus", enter=False)  # Ctrl-R
    chat.until("What is 7 plus 8?")


def test_completion(start: Start, tmp_path: Path) -> None:
    chat = start()
    chat.type("/ret\t", enter=False)
    chat.until(lambda: chat.line() == ">>> /retry")
    chat.type("\x03", enter=False)
    chat.prompt()
    (tmp_path / "letter.txt").write_text("x")
    chat.type(f"/read {tmp_path}/let\t", enter=False)
    chat.until("letter.txt")
    chat.type("\x03", enter=False)
    chat.prompt()
    chat.type("/model tin\t", enter=False)
    chat.until(lambda: chat.line() == ">>> /model tiny")


def test_edit_takes_the_editor(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "editor"
    script.write_text('#!/bin/sh\nsed -i "s/7/2/" "$1"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("EDITOR", str(script))
    chat = start()
    chat.ask("What is 7 plus 8?")
    shown = chat.ask("/edit")
    assert ">>> What is 2 plus 8?" in shown
    assert "10" in shown
    monkeypatch.setenv("EDITOR", "nothing-of-that-name")


def test_the_status_line(start: Start) -> None:
    chat = start()
    chat.ask("What is 7 plus 8?")
    chat.until(lambda: re.search(r"tiny  \S+ *░* \d+/1,024 tokens  [\d.]+ tokens/s", chat.text()) is not None)


MARKDOWN = """\
# The parts of a model

A **GGUF file** holds *three* things, and `llamacli show` prints them:

| part | what it is | size |
|---|:--|--:|
| header | 词汇表和超参数 | 2 MB |
| tensors | the weights 🙂 | 636 MB |

1. first, read the header
2. then map the tensors

```python
def read(path: str) -> bytes:
    return open(path, "rb").read()  # 打开
```

> 模型在本地运行，不需要网络。它把整个权重文件映射到内存里，只有用到的页面才会被真正读取。🎉

That is all.
"""
SHOWN = """\
The parts of a model

A GGUF file holds three things, and llamacli show prints them:

part     what it is        size
───────────────────────────────
header   词汇表和超参数    2 MB
tensors  the weights 🙂  636 MB

 1. first, read the header
 2. then map the tensors

─── python
def read(path: str) -> bytes:
    return open(path, "rb").read()  # 打开
───

│ 模型在本地运行，不需要网络。它把整个权重文件映射到内存里，只有用到的页面才会被
│ 真正读取。🎉

That is all."""


def squeezed(text: str) -> str:
    """A screen's text without the cells that a wide character takes up beside its own."""
    return re.sub(r"[ \u200d]", "", text)


@pytest.fixture
def parrot(tmp_path: Path, own_home: Path) -> Iterator[Callable[..., Terminal]]:
    """A chat with a model that answers everything with one text."""
    opened: list[Terminal] = []

    def begin(text: str, *arguments: object, control: tuple[str, ...] = (), **options: object) -> Terminal:
        path = write_parrot(tmp_path / "parrot.gguf", text, context=2048, control=control)
        terminal = Terminal("chat", path, "-t", 1, "--temp", 0, *arguments, **options)  # type: ignore[arg-type]
        opened.append(terminal)
        terminal.prompt()
        return terminal

    yield begin
    for terminal in opened:
        terminal.close()


def test_an_answer_with_a_table_and_code(parrot: Callable[..., Terminal]) -> None:
    chat = parrot(MARKDOWN)
    shown = chat.ask("show")
    assert squeezed(shown) == squeezed(f">>> show\n{SHOWN}\n\n>>>")
    assert squeezed(SHOWN) in squeezed(chat.ask("again"))
    assert b"\x1b[1m" in chat.raw  # bold


def test_an_answer_in_40_columns(parrot: Callable[..., Terminal]) -> None:
    """After a resize (in mid-answer: tests/unit/ui): every line fits, no character is cut, nothing stands twice."""
    chat = parrot(MARKDOWN, rows=60)
    chat.resize(40, 60)
    text = squeezed(chat.ask("show"))
    assert "�" not in text
    assert text.count("defread") == text.count("Thatisall.") == text.count("Thepartsofamodel") == 1
    quote = "".join(line.strip("│") for line in text.split("\n") if line.startswith("│"))
    assert quote == squeezed(
        "模型在本地运行，不需要网络。它把整个权重文件映射到内存里，只有用到的页面才会被真正读取。🎉"
    )


def test_a_family_is_one_character(parrot: Callable[..., Terminal]) -> None:
    """As bytes: the screen of these tests knows no joined emoji."""
    chat = parrot("x" * 38 + " 👩‍👩‍👧", columns=40)
    chat.type("show")
    chat.until(lambda: "👩‍👩‍👧".encode() in chat.raw)


def test_no_markdown(parrot: Callable[..., Terminal]) -> None:
    chat = parrot(MARKDOWN, "--no-markdown")
    assert "| header | 词" in chat.ask("show").replace("  ", " ")


def test_reasoning_is_folded_shown_or_hidden(parrot: Callable[..., Terminal]) -> None:
    chat = parrot("<think>I wonder about that.</think>Yes, it is.", control=("<think>", "</think>"))
    shown = chat.ask("hi")
    assert re.search(r"^▸ thought for \d+\.\d s \(/think show\)\n\nYes, it is\.$", shown, re.MULTILINE)
    assert "I wonder" not in shown
    assert "I wonder about that." in chat.ask("/think show")
    assert "I wonder about that.\n\nYes, it is." in chat.ask("hi")
    chat.ask("/think hide")
    shown = chat.ask("hi")
    assert "I wonder" not in shown
    assert "thought" not in shown
    assert "Yes, it is." in shown


def test_kill_in_mid_answer_loses_nothing_that_was_shown(parrot: Callable[..., Terminal], own_home: Path) -> None:
    killed_in_mid_answer(parrot, own_home, times=3)


@pytest.mark.slow
def test_50_kills_in_mid_answer(parrot: Callable[..., Terminal], own_home: Path) -> None:
    killed_in_mid_answer(parrot, own_home, times=50)


def killed_in_mid_answer(parrot: Callable[..., Terminal], own_home: Path, times: int) -> None:
    """SIGKILL at a random moment of the second answer; --continue shows the first and what was on the screen."""
    rng = random.Random(times)
    answer = " ".join(f"word{n}" for n in range(300)) + "."
    cut = 0
    for number in range(times):
        chat = parrot(answer, "--session", f"s{number}", "-c", 2048)
        chat.ask("first")
        chat.type("second")
        wanted = f"word{int(299 * rng.random() ** 2)}"
        chat.until(lambda: len(re.findall(rf"\b{wanted}\b", chat.text())) == 2)  # noqa: B023
        chat.child.kill(signal.SIGKILL)
        while chat.read(0.2):
            pass
        seen = re.findall(r"word\d+", chat.text().rpartition(">>> second")[2])
        chat.close()
        after = parrot(answer, "--session", f"s{number}")
        shown = after.text()
        assert ">>> first" in shown
        assert re.findall(r"word\d+", shown.partition(">>> second")[0]) == [f"word{n}" for n in range(300)]
        kept = re.findall(r"word\d+", shown.partition(">>> second")[2])
        begun = kept.index(seen[0])  # of what is longer than the screen, the end was on it
        assert kept[begun : begun + len(seen) - 1] == seen[:-1]  # the last word may have been half of it
        assert len(kept) >= begun + len(seen)
        cut += len(kept) < 300
        assert ("The process was ended here" in shown) == (len(kept) < 300)
        after.close()
    assert cut > 0
    (database,) = own_home.rglob("*.sqlite3")
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


HELP = """\
/help, /?                         this list
/exit, /bye                       leave; so does Ctrl-D
/clear                            begin a new conversation
/retry                            another answer to your last message
/undo                             take back your last message and its answer
/edit [TEXT]                      change your last message, in $EDITOR or to TEXT, and send it
/system [TEXT]                    show or set the system message; none removes it
/set [NAME VALUE]                 show or set a sampling value, such as temp 0
/show [system|template]           what is talked with, and how
/model [NAME]                     show the models, or let another one answer
/read FILE                        put a file before your next message
/save NAME                        give this conversation a name
/load NAME                        go on with another conversation
/branch [N]                       show the branches that /undo, /edit and /retry made, or go to one
/export FILE                      write the conversation to FILE.md or FILE.json
/tokens [TEXT]                    how many tokens the conversation, or a text, has
/stats                            what the last answer cost
/think [show|fold|hide|on|off|…]  how reasoning is shown, and if it is asked for

\"""        begins a message of several lines, and ends it; Alt-Enter breaks a line
Ctrl-C     stops the answer and keeps it; at an empty prompt twice: leaves
Ctrl-D     leaves
Ctrl-R, ↑  looks through what was typed before
Ctrl-G     takes what is typed into $EDITOR"""

#: An error of each command that can have one; the others take any text.
ERRORS = """\
>>> /help me
error: /help takes nothing more
>>> /exit now
error: /exit takes nothing more
>>> /clear all
error: /clear takes nothing more
>>> /retry
error: there is nothing to answer again
>>> /undo
error: there is nothing to take back
>>> /edit
error: no editor: no-such-editor
hint: EDITOR names one, such as nano
>>> /set tempp 1
error: /set tempp: no such value; did you mean temp?
hint: /set shows them all
>>> /set temp
error: /set temp: a value is missing
hint: /set temp default takes it back
>>> /set temp -1
error: --temp -1.0: it must be 0 or more
>>> /show everything
error: /show everything: there are /show, /show system and /show template
>>> /model nothing.gguf
error: no such file: nothing.gguf
>>> /read nothing.txt
error: --file nothing.txt: no such file
>>> /read
error: /read names no file
>>> /save
error: /save needs a name
hint: every conversation is kept as it happens; a name makes it easy to find
>>> /save 12
error: 12 cannot name a conversation
hint: a name is one line, and is no number
>>> /load nothing
error: there is no conversation nothing
hint: llamacli history ls shows them
>>> /load
error: /load needs a name or a number
hint: llamacli history ls shows them
>>> /branch 3
error: there is no branch yet
>>> /export
error: /export names no file
hint: /export talk.md or /export talk.json
>>> /export talk.txt
error: talk.txt: is it to be Markdown or JSON?
hint: a name that ends in .md or .json says it
>>> /stats now
error: /stats takes nothing more
>>> /stats
error: there is no answer yet
>>> /think loud
error: /think loud: it is one of show, fold, hide, on, off, low, medium, high
>>> /undu
error: no such command: /undu; did you mean /undo?
hint: /? shows them all; a space before it makes a message of it
>>>"""


def test_the_transcript_of_help(start: Start) -> None:
    chat = start(columns=100)
    assert chat.ask("/?") == f">>> /?\n{HELP}\n>>>"


def test_the_transcript_of_errors(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITOR", "no-such-editor")
    monkeypatch.delenv("VISUAL", raising=False)
    chat = start(columns=100)
    for command in re.findall(r"^>>> (.+)$", ERRORS, re.MULTILINE):
        chat.ask(command)
    text = "\n".join(chat.lines())
    assert text[text.index(">>>") :] == ERRORS


def test_escapes_of_the_model_do_nothing(tmp_path: Path, own_home: Path) -> None:
    evil = "\x1b]52;c;ZXZpbA==\x07"
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    path = write_llama(tmp_path / "evil.gguf", tokens=[*spm_tokens(), evil], chat_template=template)
    chat = Terminal("chat", path, "--logit-bias", f"{len(spm_tokens())}+10000", "-n", 2, "--temp", 0)
    chat.prompt()
    chat.type("x")
    chat.until("(ended after 2 tokens")
    chat.prompt()
    assert b"\x1b]52" not in chat.raw
    assert "\\x1b]52" in chat.text()
    chat.close()


def test_a_dumb_terminal_gets_plain_text(start: Start) -> None:
    chat = start(env={"TERM": "dumb"})
    chat.type("What is 7 plus 8?")
    chat.until("15")
    assert b"\x1b[?2026h" not in chat.raw


def test_no_colour(start: Start) -> None:
    chat = start(env={"NO_COLOR": "1"})
    chat.ask("What is 7 plus 8?")
    chat.ask("/stats")
    codes = {code for group in re.findall(rb"\x1b\[([0-9;]*)m", chat.raw) for code in group.split(b";")}
    assert not {code for code in codes if re.fullmatch(rb"[349][0-7]|10[0-7]|38|48", code)}


def test_no_history_leaves_none(start: Start, own_home: Path) -> None:
    chat = start("--no-history")
    chat.ask("What is 7 plus 8?")
    assert "the history is off" in chat.ask("/save x")
    chat.type("\x04", enter=False)
    chat.end()
    assert not list(own_home.rglob("*.sqlite3*"))
    assert not (own_home / "data/typed").exists()


def test_a_history_that_breaks_costs_a_warning(start: Start, own_home: Path) -> None:
    """Another process takes the table away in the middle of the talk."""
    chat = start()
    chat.ask("What is 7 plus 8?")
    (database,) = own_home.rglob("*.sqlite3")
    with sqlite3.connect(database) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        connection.execute("PRAGMA foreign_keys = off")
        for name in tables:
            if not name.startswith("sqlite_"):
                connection.execute(f"DROP TABLE {name}")
    connection.close()
    shown = chat.ask("What is 9 plus 10?")
    assert "warning:" in shown
    assert "19" in shown
    assert "warning:" not in chat.ask("What is 7 plus 8?")
