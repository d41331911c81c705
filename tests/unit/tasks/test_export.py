"""A conversation as a document: what a reader of Markdown makes of it, whatever its messages hold; files."""

from __future__ import annotations

import json
import os
import random
import stat
from pathlib import Path

import pytest

from llamacli.errors import StorageError, UsageError
from llamacli.history.types import Conversation, Entry
from llamacli.tasks.export import branch, document, markdown, write

RECORD = Conversation(1, None, "tiny", None, {"temp": 0}, "chat", 0.0, 60.0, 3, 4, "Hi")
#: 1 ─ 2, with the answers 3 (of the leaf) and 4.
ENTRIES = [
    Entry(1, None, "user", "Hi"),
    Entry(2, 1, "assistant", "Hello", finish_reason="stop", model="tiny"),
    Entry(3, 2, "user", "Less?"),
    Entry(4, 2, "user", "More?"),
]


def headings(text: str) -> list[str]:
    """The headings of messages that a reader of Markdown finds, where nothing encloses them."""
    reader = pytest.importorskip("markdown_it", reason="rich brings markdown-it").MarkdownIt("commonmark")
    tokens = reader.parse(text)
    found = [
        tokens[n + 1].content for n, t in enumerate(tokens) if (t.type, t.tag, t.level) == ("heading_open", "h2", 0)
    ]
    return [heading for heading in found if heading.startswith("Role")]


def test_a_branch() -> None:
    assert [entry.id for entry in branch(ENTRIES, 3)] == [1, 2, 3]
    assert [entry.id for entry in branch(ENTRIES, 4)] == [1, 2, 4]
    assert branch(ENTRIES, None) == branch(ENTRIES, 99) == []


def test_the_document_has_all_branches() -> None:
    result = document(RECORD, ENTRIES)
    assert json.loads(json.dumps(result)) == result
    assert list(result) == [
        "id", "name", "model", "system", "settings", "origin", "created", "updated", "leaf", "n_messages", "title",
        "messages",
    ]  # fmt: skip
    assert (result["created"], result["updated"]) == ("1970-01-01T00:00:00Z", "1970-01-01T00:01:00Z")
    assert [(message["id"], message["parent"]) for message in result["messages"]] == [(1, None), (2, 1), (3, 2), (4, 2)]
    assert list(result["messages"][0]) == [
        "id", "parent", "role", "content", "reasoning", "model", "created", "finish_reason", "usage",
    ]  # fmt: skip
    assert set(result["messages"][0]["usage"]) == {
        "prompt_tokens", "evaluated_tokens", "completion_tokens", "prompt_seconds", "generation_seconds", "seed",
    }  # fmt: skip


def test_plain_text_stands_as_it_was_written() -> None:
    said = "Look:\n\n```py\nif a < b: <br>\n```\n\n- one\n  ```\n  x\n  ```\n- `<b>`, a < b"
    text = markdown(RECORD, [Entry(1, None, "user", said), Entry(2, 1, "assistant", "Yes.", finish_reason="stop")])
    title, when = text.split("\n")[:3:2]
    assert title == "# Hi"
    assert when.endswith(", tiny")
    assert text.split("\n", 4)[4] == f"## User\n\n{said}\n\n## Assistant\n\nYes.\n"


def test_system_reasoning_and_what_was_cut_short() -> None:
    record = Conversation(1, "a `b`\n<c>", "m", "Be brief.", {}, "chat", 0, 0, 2, 2, "t")
    text = markdown(record, [Entry(2, 1, "assistant", "It", reasoning="hm </DETAILS> hm")])
    assert text.startswith("# a \\`b\\` \\<c\\>\n")
    assert "## System\n\nBe brief.\n\n## Assistant\n\n<details><summary>Reasoning</summary>\n\nhm &lt;/DETAILS>" in text
    assert text.endswith("hm\n\n</details>\n\nIt\n\n*(never finished)*\n")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("look:\n````py\n```\nx", "look:\n````py\n```\nx\n````"),  # an answer that was stopped in its code
        ("~~~", "~~~\n~~~"),
        ("  ```\n  x", "  ```\n  x\n  ```"),
        ("- x\n  ```\n```\ny", "> - x\n>   ```\n> ```\n> y"),
        ("<!-- x", "> <!-- x"),
        ("x\r```", "x\n```\n```"),
    ],
)
def test_what_is_left_open(said: str, shown: str) -> None:
    text = markdown(RECORD, [Entry(1, None, "roleA", said), Entry(2, 1, "roleB", "end")])
    assert headings(text) == ["Rolea", "Roleb"]
    assert f"\n\n## Rolea\n\n{shown}\n\n## Roleb\n\n" in text


LINES = [
    "```", "````", "~~~", "```py", "~~~ x", "``` a`b", " ```", "  ```", "   ```", "    ```", "\t```", "  ~~~", "x\r```",
    "- ```", "1. x", "  - y", "- a", "  b", "> ```", "> q", "> - ```", "* * ```", "<div>", "</div>", "<!--", "-->",
    "<script>", "</script>", "<?php", "<![CDATA[", "<!X", "- <!--", "  <pre>", "<b>x</b>", "<https://x.y>", "text", "",
    "", "# h", "## User", "    code", "`a", "[x]: <y", "***", "===", "---", "\\```",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_no_message_swallows_the_next(seed: int) -> None:
    rng = random.Random(seed)

    def text() -> str:
        return "\n".join(rng.choice(LINES) for _ in range(rng.randint(1, 7)))

    for _ in range(250):
        record = Conversation(1, None, "m", text(), {}, "chat", 0, 0, 2, 2, text())
        turns = [
            Entry(1, None, "roleA", text()),
            Entry(2, 1, "roleB", text(), reasoning=text()),
            Entry(3, 2, "roleC", ""),
        ]
        exported = markdown(record, turns)
        assert headings(exported) == ["Rolea", "Roleb", "Rolec"], exported


def test_files(tmp_path: Path) -> None:
    for name, form, start in (
        ("a.md", None, "# Hi"),
        ("a.JSON", None, "{"),
        ("a.txt", "json", "{"),
        ("b.json", "md", "#"),
    ):
        write(tmp_path / name, RECORD, ENTRIES, force=False, form=form)
        assert (tmp_path / name).read_text().startswith(start)
    with pytest.raises(UsageError, match="Markdown or JSON"):
        write(tmp_path / "a.pdf", RECORD, ENTRIES, force=False)
    with pytest.raises(UsageError, match="is there already"):
        write(tmp_path / "a.md", RECORD, ENTRIES, force=False)
    with pytest.raises(UsageError, match="is a folder"):
        write(tmp_path, RECORD, ENTRIES, force=True, form="md")
    with pytest.raises(StorageError, match="No such file"):
        write(tmp_path / "no/a.md", RECORD, ENTRIES, force=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.JSON", "a.md", "a.txt", "b.json"]


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.md").write_text("old")

    def fail(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StorageError, match="No space left on device"):
        write(tmp_path / "a.md", RECORD, ENTRIES, force=True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.md", "old")]


@pytest.mark.skipif(os.name != "posix", reason="links, devices and permission bits are POSIX's")
def test_links_devices_and_permissions(tmp_path: Path) -> None:
    (tmp_path / "link.md").symlink_to("target.md")
    (tmp_path / "target.md").write_text("old")
    write(tmp_path / "link.md", RECORD, ENTRIES, force=True)
    assert (tmp_path / "link.md").is_symlink()
    assert (tmp_path / "target.md").read_text().startswith("# Hi")
    before = os.umask(0o027)
    try:
        write(tmp_path / "new.md", RECORD, ENTRIES, force=False)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new.md").stat().st_mode) == 0o640
    (tmp_path / "null.md").symlink_to("/dev/null")
    write(tmp_path / "null.md", RECORD, ENTRIES, force=False)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
