"""`llamacli batch` on a terminal: a bar from the beginning, which gives way to what is printed or typed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")
pytest.importorskip("pyte")

from screen import Terminal


def test_the_bar_is_there_before_the_first_answer_and_gives_way_to_it(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    terminal = Terminal("batch", path, "-m", "tiny", "--temp", 0, "-t", 1, columns=100)
    with path.open("wb", buffering=0) as pipe:
        terminal.until("answering, 0.0 tokens/s")
        pipe.write(b'"Hello"\n')
        terminal.until('"fingerprint"')
        assert "answering" not in terminal.text()
        assert any(line.startswith('{"id": 1') for line in terminal.lines())
    terminal.until("1 line ·")
    assert "answering" not in terminal.text()


def test_lines_that_are_typed(tmp_path: Path) -> None:
    terminal = Terminal("batch", "-", "-m", "tiny", "--temp", 0, "-t", 1, columns=100)
    terminal.until("reading prompts from the terminal, one a line… (Ctrl-D ends them)")
    for _ in range(2):
        terminal.read(0.6)  # a bar would come now
    for line in (1, 2):
        terminal.type('"Hello"')
        terminal.until(f'{{"id": {line}')
    terminal.child.sendeof()
    terminal.until("2 lines ·")
    assert "tokens/s" not in terminal.text()
