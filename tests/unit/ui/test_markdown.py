"""Markdown that is rendered while it streams, on the screen of a terminal emulator."""

from __future__ import annotations

import itertools
import os
import random
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

pyte = pytest.importorskip("pyte", reason="pyte emulates the terminal")

from llamacli.ui import wrap  # noqa: E402
from llamacli.ui.blocks import closed  # noqa: E402
from llamacli.ui.markdown import MarkdownStream  # noqa: E402
from llamacli.ui.region import Region  # noqa: E402

FD = 987_654
OURS = re.compile(r"\x1b\[(?:[0-9;]*m|\?2026[hl]|\?7[hl]|A|2K)")

DOCUMENT = """\
# Primes & co

A **prime** is *only* divisible by `1` and itself, says [a page](https://example.org/x "Title"), <https://a.b>.
Second line ~~gone~~ <b>raw</b>

## Steps ##

- one
  - nested
    1. deeper

- two with a text that is long enough for a second line on this terminal of eighty cells
- [x] three

3. third
4. fourth:
   ```bash
   ls -la
   ```
7. fifth

Setext
------

```python
def f(x):
    '''Doc'''

    return x  # a line that is longer than the terminal is wide, so that the terminal itself has to wrap it
```
Directly after.

```nonesuch
a < b && c
```

~~~
plain ``` text
~~~

| Name | Count |
|:-----|------:|
| a\\|b | 1 |
| c **d**<br>e | 22 |

> Quoted
> text
>
> - listed

---

素数是大于1的自然数，除了1和它本身以外不再有其他因数。使用Python编写函数，是学习编程的经典练习之一。

Emoji 👨‍👩‍👧 🇩🇪 👍🏽 ❤️ end.
![alt](http://x/y.png)

    indented

[ref]: http://example.org
"""

SCREEN = """\
Primes & co

A prime is only divisible by 1 and itself, says a page (https://example.org/x
"Title"), https://a.b.
Second line gone <b>raw</b>

Steps

 • one
    • nested
       1. deeper
 • two with a text that is long enough for a second line on this terminal of
   eighty cells
 • [x] three

 3. third
 4. fourth:
    ─── bash
    ls -la
    ───
 5. fifth

Setext

─── python
def f(x):
    '''Doc'''

    return x  # a line that is longer than the terminal is wide, so that the ter
minal itself has to wrap it
───

Directly after.

─── nonesuch
a < b && c
───

───
plain ``` text
───

Name  Count
───────────
a|b       1
c d      22
e

│ Quoted
│ text
│  • listed

────────────────────────────────────────

素数是大于1的自然数，除了1和它本身以外不再有其他因数。使用Python编写函数，是学习
编程的经典练习之一。

Emoji 👨‍👩‍👧 🇩🇪 👍🏽 ❤️ end.
alt (http://x/y.png)

───
indented
───

[ref]: http://example.org
"""


class Screen(pyte.HistoryScreen):  # type: ignore[misc]
    """As tmux does, an erasure of the whole screen leaves a copy of it in the scrollback.

    Emoji are drawn one by one; pyte alone gives up at a joiner.
    """

    def draw(self, data: str) -> None:
        for character in data:
            if character in "\u200d\ufe0f\u20e3":
                row, x = self.buffer[self.cursor.y], self.cursor.x - 1
                x -= not row[x].data
                row[x] = row[x]._replace(data=row[x].data + character)
            else:
                super().draw(character)

    def erase_in_display(self, how: int = 0, *args: Any, **kwargs: Any) -> None:
        if how == 2 or (how == 0 and (self.cursor.x, self.cursor.y) == (0, 0)):
            self.history.top.extend(self.buffer[y] for y in range(self.lines) if self.buffer[y])
        super().erase_in_display(how, *args, **kwargs)


class Terminal:
    """A file that is a terminal of this size."""

    encoding = "utf-8"

    def __init__(self, columns: int, lines: int) -> None:
        self.written: list[str] = []
        self._open(columns, lines)

    def _open(self, columns: int, lines: int) -> None:
        self.size = os.terminal_size((columns, lines))
        self.screen = Screen(columns, lines, history=100_000)
        self._stream = pyte.Stream(self.screen)

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return FD

    def flush(self) -> None: ...

    def write(self, text: str) -> int:
        self.written.append(text)
        self._stream.feed(text)
        return len(text)

    def _rows(self) -> list[str]:
        screen = self.screen
        rows = [*screen.history.top, *(screen.buffer[y] for y in range(screen.cursor.y + 1))]
        return ["".join(row[x].data for x in range(screen.columns)).rstrip() for row in rows]

    def text(self) -> str:
        """Scrollback and screen down to the cursor, which is at the start of a line."""
        assert self.screen.cursor.x == 0
        rows = self._rows()
        assert rows[-1] == ""
        return "".join(f"{row}\n" for row in rows[:-1])

    def visible(self) -> list[str]:
        return [row.rstrip() for row in self.screen.display]

    def resize(self, columns: int, lines: int) -> None:
        """As terminals that reflow do; rows that wrapped stay apart when it becomes wider."""
        rows = self._rows()
        self._open(columns, lines)
        self._stream.feed("\r\n".join(rows))


Open = Callable[..., Terminal]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Open:
    """terminal(columns, lines) → the one terminal of a test."""
    opened: list[Terminal] = []
    real = os.get_terminal_size

    def get_terminal_size(*fd: int) -> os.terminal_size:
        return opened[-1].size if fd == (FD,) else real(*fd)

    def start(columns: int = 80, lines: int = 24) -> Terminal:
        opened.append(Terminal(columns, lines))
        return opened[-1]

    monkeypatch.setattr(os, "get_terminal_size", get_terminal_size)
    return start


def show(file: Terminal, pieces: Sequence[str]) -> str:
    """Feed these, each drawn; scrollback and screen at the end."""
    stream = MarkdownStream(file, clock=lambda: 0.0)
    for piece in pieces:
        stream.feed(piece)
    stream.finish()
    return file.text()


def test_every_block_once_and_in_its_place(terminal: Open) -> None:
    assert show(terminal(80, 24), DOCUMENT) == SCREEN  # a string: character by character


def test_pieces_do_not_matter(terminal: Open) -> None:
    assert show(terminal(), [DOCUMENT]) == SCREEN
    assert show(terminal(), [DOCUMENT.replace("\n", "\r\n")]) == SCREEN
    assert show(terminal(), re.findall(r"\s?\S{1,7}|\s", DOCUMENT)) == SCREEN
    assert show(terminal(80, 5), DOCUMENT) == SCREEN


FRAGMENTS = (
    *(
        "word ",
        "**bold** ",
        "*it* ",
        "`c` ",
        "1",
        "#",
        "# ",
        "-",
        "- ",
        "* ",
        "1. ",
        "2) ",
        "> ",
        "|",
        " | ",
        "|-|-|\n",
    ),
    *("```", "~~~", "=", "---", "\n", "\n", "\n\n", "\n\n", "  ", "    ", "\t", "[a](b)", "<x>", "\\", "&lt;", "漢字"),
)


@pytest.mark.parametrize("seed", range(60))
def test_pieces_do_not_matter_for_any_text(terminal: Open, seed: int) -> None:
    """Blocks that half a line seems to end, fences that are none, lists that go on."""
    choice = random.Random(seed)
    text = "".join(choice.choices(FRAGMENTS, k=60))
    at_once = show(terminal(40, 8), [text])
    assert show(terminal(40, 8), text) == at_once
    together = re.sub(r"[\s│]", "", at_once)
    for word in ("word", "bold", "it", "漢字", "<x>"):
        assert together.count(word) >= text.count(word), word


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("para\n#tag", "para\n#tag\n"),
        ("para\n-5 degrees", "para\n-5 degrees\n"),
        ("para\n1.5 litres", "para\n1.5 litres\n"),
        ("para\n| a | b |\n|--|x", "para\n| a | b |\n|--|x\n"),
        ("para\n| a | b |\n|--|--|\n| 1 | 2 |", "para\n\na  b\n────\n1  2\n"),
        ("- a\n-b", " • a\n   -b\n"),
        ("- a\n- b\n\n* c", " • a\n • b\n\n • c\n"),
        ("9. a\n\n10. b\n11. c", " 9. a\n10. b\n11. c\n"),
        ("````\n```\n````", "───\n```\n───\n"),
        ("  ```\n    x\n y\n  ```", "───\n  x\ny\n───\n"),
        ("| a |\n|---|\n| 1 | lost? |", "| a |\n|---|\n| 1 | lost? |\n"),
        ("> | a |\n> |---|\n> | 1 |", "│ a\n│ ─\n│ 1\n"),
        ("```a|b\n|-|-|\n```", "─── a|b\n|-|-|\n───\n"),
        ("- x\n- a | b\n|-|-|", " • x\n • a | b\n   |-|-|\n"),
        ("42", "42\n"),
        ("\n\n  \n", ""),
        ("", ""),
    ],
)
def test_what_a_block_is(terminal: Open, text: str, shown: str) -> None:
    assert show(terminal(), text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("```python\nx = 1", "─── python\nx = 1\n───\n"),
        ("```", "───\n───\n"),
        ("```\nx\n``", "───\nx\n``\n───\n"),
        ("a **b", "a **b\n"),
        ("a `b", "a `b\n"),
        ("[a](http://b", "[a](http://b\n"),
        ("| a | b |\n|---|---|\n| 1", "a  b\n────\n1\n"),
        ("| a | b |", "| a | b |\n"),
        ("- a\n-", " • a\n •\n"),
    ],
)
def test_what_is_unfinished_is_shown(terminal: Open, text: str, shown: str) -> None:
    assert show(terminal(), text) == shown


def test_bold_is_bold_before_it_is_closed(terminal: Open) -> None:
    file = terminal()
    stream = MarkdownStream(file, clock=lambda: 0.0)
    stream.feed("see **the `co")
    assert file.visible()[0] == "see the co"
    assert file.screen.buffer[0][4].bold
    assert [closed(text) for text in ("a **b*", "2 ** 3", r"\**x", "a *b*", "a **", "``x`y", "~~a")] == [
        *("a **b**", "2 ** 3", r"\**x", "a *b*", "a ", "``x`y``", "~~a~~")
    ]


TALL = "".join(f"line{n:03} \\\n" for n in range(60))


@pytest.mark.parametrize(
    "text",
    [
        TALL,
        "| n |\n|---|\n" + "".join(f"| line{n:03}{'x' * (n // 8)} |\n" for n in range(60)),
        "- first\n\n" + "".join(f"  line{n:03}\n\n" for n in range(60)),
        "> " + TALL.replace("\n", "\n> "),
        "```\n" + "".join(f"line{n:03}\n" for n in range(60)),
        "```\n" + " ".join(f"line{n:03}" for n in range(60)),
    ],
    ids=["paragraph", "table", "item", "quote", "code", "line of code"],
)
def test_a_block_taller_than_the_screen(terminal: Open, text: str) -> None:
    file = terminal(20, 10)
    stream = MarkdownStream(file, clock=lambda: 0.0)
    stream.feed("before\n\n")
    for start in range(0, len(text), 5):
        stream.feed(text[start : start + 5])
    stream.feed("END")
    assert "".join(file.visible()).endswith("END")
    assert "line059" in "".join(file.visible())
    stream.feed("\n\n")
    stream.finish()
    shown = "".join(file.text().split("\n"))
    assert [shown.count(f"line{n:03}") for n in range(60)] == [1] * 60
    assert shown.count("before") == shown.count("END") == 1


@pytest.mark.parametrize("columns", [40, 120])
def test_a_resize_in_the_middle(terminal: Open, columns: int) -> None:
    file = terminal(80, 24)
    stream = MarkdownStream(file, clock=lambda: 0.0)
    stream.feed("A first paragraph.\n\n")
    text = " ".join(f"word{n:02}" for n in range(50))
    for index, character in enumerate(text):
        if index == 300:
            file.resize(columns, 24)
        stream.feed(character)
    stream.finish()
    assert file.text() == show(terminal(columns, 24), ["A first paragraph.\n\n", text])


@pytest.mark.parametrize("columns", [20, 12, 5, 2, 1])
def test_narrow_terminals(terminal: Open, columns: int) -> None:
    file = terminal(columns, 10)
    shown = show(file, DOCUMENT)
    together = "".join(shown.split())
    for word in ("prime", "nested", "deeper", "Count", "22", "listed", "Quoted", "fourth", "indented", "nonesuch"):
        assert word in together.replace("│", "").replace("•", ""), word


def test_wide_characters_are_not_cut(terminal: Open) -> None:
    text = "漢字" * 30 + " 👨‍👩‍👧👍🏽🇩🇪" * 10
    for columns in range(7, 15):
        file = terminal(columns, 10)
        show(file, [text])
        lines = "".join(file.written).split("\r\n")
        assert all(wrap.cell_len(OURS.sub("", line)) <= columns for line in lines)
        assert not any(line.startswith(("\u200d", "🏽", "\ufe0f")) for line in lines)
        assert all(line.count("🇩") == line.count("🇪") for line in lines)


def test_where_lines_break() -> None:
    def lines(text: str, width: int) -> list[str]:
        cuts = [0, *wrap.divide(text, width), len(text)]
        return [text[a:b] for a, b in itertools.pairwise(cuts)]

    assert lines("one two three", 8) == ["one two ", "three"]
    assert lines("使用 Python 编写一个函数，很好。", 14) == ["使用 Python 编", "写一个函数，很", "好。"]
    assert lines("abcdefghij kl", 4) == ["abcd", "efgh", "ij ", "kl"]
    assert list(wrap.clusters("e\u0301👨‍👩‍👧🇩🇪🇫🇷👍🏽1️⃣漢")) == ["e\u0301", "👨‍👩‍👧", "🇩🇪", "🇫🇷", "👍🏽", "1️⃣", "漢"]
    assert wrap.rows("漢字漢", 3) == 3
    assert wrap.rows("abcd", 4) == wrap.rows("", 4) == 1


HOSTILE = (
    "\x1b[2J \x1b]8;;http://evil\x07x\x1b]8;;\x07 \x9b31m &#27;[2J &#x1b;c &#x9b; &#x202e;txt &#12; \x08 \u202eabc\n\n"
    "[bold]not bold[/bold] [/nothing] [link=http://e]x[/link] [@click=f]y[/]\n\n"
    "# [red]heading[/red] \x1b[31m\n\n- [/x] \x1b]52;c;AAAA\x07\n\n"
    "| [/b] | \x1b[1m |\n|---|---|\n| [u] | &#x202e; |\n\n"
    "[text](http://host/\x1b[2J&#x202e;) ![image](javascript:alert\x07)\n\n"
    "```py\x1b[2J\n[/bold] \x1b[2J &#27;\n```\n\n> \x1b[2J\n> ```\x1b[0c\tx\n> \x9b2J\n"
)


def test_nothing_foreign_is_obeyed(terminal: Open) -> None:
    for pieces in (HOSTILE, [HOSTILE]):
        file = terminal(60, 24)
        shown = show(file, pieces)
        rest = OURS.sub("", "".join(file.written))
        assert [
            c for c in rest if (ord(c) < 32 and c not in "\r\n") or 127 <= ord(c) < 160 or c in "\u202e\u2066"
        ] == []
        for text in (
            "[bold]not bold[/bold] [/nothing]",
            "[link=http://e]x[/link]",
            "[red]heading[/red]",
            "[/b]",
            "[u]",
        ):
            assert text in shown
        assert "\\x1b]52;c;AAAA\\x07" in shown
        assert "image(javascript:alert\\x07)" in "".join(shown.split())


@pytest.mark.parametrize(
    "text",
    [
        ">" * 10_000 + "end",
        "[" * 10_000 + "end",
        "![" * 8000 + "end",
        "[a](" * 4000 + "end",
        "- " * 200 + "end",
        "\n".join(" " * 2 * n + "- x" for n in range(200)) + "\n\nend",
        "*a " * 8000 + "end",
        "**a** " * 4000 + "end",
        "_a" * 8000 + "end",
        "> - " * 300 + "end",
        "|" * 5000 + "\n" + "|-" * 5000 + "\n\nend",
        "```" + "x" * 10_000 + "\n" + "(" * 10_000 + "end",
        " " * 10_000 + "end",
        "-" * 10_000 + " end",
        "&" * 10_000 + "<" * 10_000 + "end",
    ],
    ids=lambda text: text[:6],
)
def test_deep_nesting_neither_fails_nor_hangs(terminal: Open, text: str) -> None:
    file = terminal(80, 24)
    began = time.process_time()
    stream = MarkdownStream(file)
    for start in range(0, len(text), 1000):
        stream.feed(text[start : start + 1000])
    stream.finish()
    assert time.process_time() - began < 4  # most of it is the emulator's
    assert "".join(file.text().split()).replace("───", "").endswith("end")


def test_a_redraw_writes_only_what_changed(terminal: Open) -> None:
    file = terminal(80, 24)
    stream = MarkdownStream(file, clock=lambda: 0.0)
    stream.feed("word " * 200)
    file.written.clear()
    stream.feed("more")
    assert 0 < len("".join(file.written)) < 80 + 40
    assert "".join(file.written).count("\x1b[A") == 1
    file.written.clear()
    stream.feed(" ")  # shows nothing new
    assert file.written == []
    stream.finish()
    assert file.written == []  # it is on the screen already


def test_a_terminal_that_is_killed_is_sane(terminal: Open) -> None:
    file = terminal(30, 10)
    show(file, DOCUMENT)
    for written in file.written:
        assert "\x1b[?25l" not in written
        assert written.startswith("\x1b[?2026h")
        assert written.endswith(("\r\n\x1b[?2026l", "\x1b[2K\x1b[?2026l"))
        assert written.count("\x1b[?7l") == written.count("\x1b[?7h")


def test_no_color(terminal: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    file = terminal(80, 24)
    shown = show(file, DOCUMENT)
    assert re.search(r"\x1b\[[0-9;]*m", "".join(file.written)) is None
    changes = {"Primes & co": "# Primes & co", "Steps": "## Steps", "Setext": "## Setext", "gone": "~~gone~~"}
    expected = SCREEN.replace("by 1 and", "by `1` and")
    for plain, marked in changes.items():
        expected = expected.replace(plain, marked, 1)
    assert shown == expected


def test_code_has_colours(terminal: Open) -> None:
    file = terminal()
    show(file, "```python\nreturn 1\n'''one\ntwo\n'''\n```\n")
    keyword, opening, inside = (file.screen.buffer[y][0] for y in (1, 2, 3))
    assert "default" not in (keyword.fg, opening.fg)
    assert inside.fg == opening.fg != keyword.fg  # the string began on a line that is printed already
    assert keyword.bg == opening.bg == "default"


def test_a_huge_block_is_drawn_less_often(terminal: Open) -> None:
    """Each reading of the clock costs, so a drawing takes at least as long as one reading."""
    now = 0.0
    drawing = 0.02

    def clock() -> float:
        nonlocal now
        now += drawing
        return now

    file = terminal()
    stream = MarkdownStream(file, clock=clock)
    stream.feed("a")
    stream.feed("b")
    assert file.visible()[0] == "a"
    for _ in range(20):
        stream.feed("c")
    assert file.visible()[0].startswith("abcc")
    assert len(file.written) <= 4
    stream.finish()
    assert file.text() == "ab" + "c" * 20 + "\n"


def test_a_second_answer(terminal: Open) -> None:
    file = terminal()
    stream = MarkdownStream(file)
    for text in ("1. one\n2. two", "3. three\n\n```\nopen", "last"):
        stream.feed(text)
        stream.finish()
    assert file.text() == " 1. one\n 2. two\n 3. three\n\n───\nopen\n───\nlast\n"


def test_a_region_by_itself(terminal: Open) -> None:
    file = terminal(10, 5)
    region = Region(file)
    region.commit(["above"])
    region.draw(["\x1b[2mdim\x1b[0m", "a line of twenty two."])
    assert file.text() == "above\ndim\na line of\ntwenty two\n.\n"
    region.draw(["x"])
    assert file.text() == "above\nx\n"
    region.draw([])
    assert file.text() == "above\n"
    region.draw([f"{n}" for n in range(9)])
    assert file.visible() == ["5", "6", "7", "8", ""]
    region.commit(["folded"])
    region.draw(["next"])
    assert file.text() == "above\nfolded\nnext\n"


def test_a_terminal_that_finds_emoji_wider(terminal: Open) -> None:
    """pyte draws a family as three people: what may be redrawn is cut at the edge, what stays is not."""
    file = terminal(20, 10)
    region = Region(file)
    for n in range(5):
        region.draw([f"👨‍👩‍👧👨‍👩‍👧👨‍👩‍👧👨‍👩‍👧👨‍👩‍👧 end{n}"])
    assert file.text().count("\n") == 1
    region.commit(["👨‍👩‍👧👨‍👩‍👧👨‍👩‍👧👨‍👩‍👧👨‍👩‍👧 end4"])
    assert file.text().count("end") == 1
    assert file.text().endswith("end4\n")


def test_an_encoding_that_knows_little(terminal: Open) -> None:
    file = terminal(40, 10)
    file.encoding = "ascii"
    assert "x \\u6f22" in show(file, ["- x 漢"])
