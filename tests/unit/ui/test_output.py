"""Where results go."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass

import pytest

from llamacli.ui.output import Output, note


@dataclass(frozen=True)
class Inner:
    number: float


@dataclass(frozen=True)
class Result:
    text: bytes
    inner: tuple[Inner, ...]
    nothing: None = None


class Terminal(io.TextIOWrapper):
    """A text stream that says it is a terminal."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def isatty(self) -> bool:
        return True

    @property
    def written(self) -> str:
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode()


def test_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Output(as_json=True).mode == "json"
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
    assert Output().mode == "plain"
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert Output().mode == "human"


def test_a_document_holds_every_field(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", stream)
    Output(as_json=True).document(Result(b"a\xff", (Inner(float("nan")), Inner(0.5))))
    assert json.loads(stream.buffer.getvalue()) == {
        "text": "a�",
        "inner": [{"number": "nan"}, {"number": 0.5}],
        "nothing": None,
    }


def test_tsv_fields_cannot_break_out(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", stream)
    Output().table(("a", "b"), [("tab\there", "line\nbreak"), (None, 1)])
    assert stream.buffer.getvalue() == b"a\tb\ntab\\there\tline\\nbreak\n\t1\n"


@pytest.mark.parametrize("markup", ["[/bold]", "[red]x[/red]", "\x1b[31mx", "[link=http://x]y[/link]"])
def test_foreign_text_in_a_table_is_no_markup(monkeypatch: pytest.MonkeyPatch, markup: str) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    Output().table(("name",), [(markup,)])
    assert markup.replace("\x1b", "\\x1b") in terminal.written


def test_notes_are_harmless_and_survive_a_closed_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    note("error: \x1b[2J", style="error")
    assert "\x1b[2J" not in terminal.written
    monkeypatch.setattr(sys, "stderr", None)
    note("nobody listens")
    closed = Terminal()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    note("nobody listens")
