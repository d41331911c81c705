"""`llamacli config` as a person sees it."""

from __future__ import annotations

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
