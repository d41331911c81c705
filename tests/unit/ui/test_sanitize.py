"""Nothing foreign reaches a terminal unescaped."""

from __future__ import annotations

import json
import unicodedata

from llamacli.errors import printable
from llamacli.ui.sanitize import for_terminal, json_for_terminal

ATTACKS = "\x1b]52;c;ZXZpbA==\x07 \x1b[2J \x9b31m \x90q \u202egnp.exe \x08\x08 a\rb \x7f \x1b]0;title\x1b\\ \ud800"


def harmful(text: str) -> list[str]:
    return [c for c in text if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


def test_attacks_are_shown_not_obeyed() -> None:
    assert harmful(for_terminal(ATTACKS)) == []
    assert "\\x1b]52" in for_terminal(ATTACKS)
    assert "\\u202e" in for_terminal(ATTACKS)


def test_ordinary_text_is_untouched() -> None:
    text = "Tab\tand line\n漢字 🙂 é [/bold] café — “quotes”"
    assert for_terminal(text) == text


def test_every_control_character() -> None:
    every = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]))
    assert harmful(for_terminal(every)) == []


def test_json_stays_the_same_document() -> None:
    document = json.dumps({"text": "\x9b31m \u202e ok 漢"}, ensure_ascii=False)
    shown = json_for_terminal(document)
    assert harmful(shown) == []
    assert json.loads(shown) == json.loads(document)


def test_messages_are_one_harmless_line() -> None:
    assert printable("a\nb\x1b[31m\u202e") == "a b\\x1b[31m\\u202e"
    assert len(printable("x" * 1000)) == 500
