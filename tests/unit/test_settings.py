"""The switches of config.toml and their variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamacli import settings
from llamacli.errors import UsageError
from llamacli.settings import Settings


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAMACLI_HOME", str(tmp_path))
    for name in ("PULL", "HISTORY", "LOG"):
        monkeypatch.delenv(f"LLAMACLI_{name}", raising=False)
    (tmp_path / "config").mkdir()
    return tmp_path / "config/config.toml"


def test_by_default_chats_are_kept_and_completions_are_not(config: Path) -> None:
    assert settings.read() == Settings(model=None, pull=False, history=True, log=False)


def test_the_file_and_the_variables_which_win(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("history = false\nlog = true\n")
    assert settings.read() == Settings(history=False, log=True)
    monkeypatch.setenv("LLAMACLI_HISTORY", " Yes ")
    monkeypatch.setenv("LLAMACLI_LOG", "0")
    assert settings.read() == Settings(history=True, log=False)
    monkeypatch.setenv("LLAMACLI_HISTORY", "")
    assert settings.read() == Settings(history=False, log=False)


@pytest.mark.parametrize("name", ["pull", "history", "log"])
def test_mistakes(config: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    config.write_text(f"{name} = 'no'\n")
    with pytest.raises(UsageError, match=f"{name} must be true or false"):
        settings.read()
    config.unlink()
    monkeypatch.setenv(f"LLAMACLI_{name.upper()}", "perhaps")
    with pytest.raises(UsageError, match=f"LLAMACLI_{name.upper()}=perhaps"):
        settings.read()
