"""`llamacli config` as a person sees it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")


@pytest.fixture(params=[60, 100])
def lines(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    from screen import Terminal

    monkeypatch.setenv("LLAMACLI_HOME", str(tmp_path))
    monkeypatch.setenv("LLAMACLI_TOP_K", "7")
    terminal = Terminal("config", columns=request.param, rows=90)
    assert terminal.end() == 0
    yield [line for line in terminal.lines() if line]
    terminal.close()


def test_a_line_for_each_setting(lines: list[str]) -> None:
    from llamacli.commands.setting_table import table

    assert lines[0].split()[:3] == ["key", "value", "from"]
    assert [line.split()[0] for line in lines[1:]] == [*table()]  # none is broken in two
    assert next(line for line in lines if line.startswith("top_k")).split()[1:3] == ["7", "LLAMACLI_TOP_K"]


def test_ctrl_c_is_the_editors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pexpect

    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\necho editing\nsleep 60\n")
    editor.chmod(0o755)
    monkeypatch.setenv("LLAMACLI_HOME", str(tmp_path))
    monkeypatch.setenv("VISUAL", str(editor))
    child = pexpect.spawn(sys.executable, ["-m", "llamacli", "config", "edit"], timeout=20, encoding="utf-8")
    child.expect_exact("editing")
    child.sendintr()
    child.expect_exact("ended with code -2")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 2
    assert not (tmp_path / "config/config.toml").exists()
