"""Without a model's name the built-in one is used, and a line says so."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.mark.parametrize("command", ["complete", "tokens"])
def test_no_name_means_tiny_and_says_so(cli: Cli, command: str, tmp_path: Path) -> None:
    (tmp_path / "other.gguf").write_bytes(b"not taken because it is here")
    done = cli(command, "--json", "Hello", cwd=tmp_path)
    assert json.loads(done.stdout)["model"] == "tiny"
    note, *rest = done.stderr.decode().splitlines()
    assert rest == []
    assert note.startswith("note: no model is named, so this is tiny")
    assert "llamacli pull qwen3.5:0.8b" in note


def test_a_named_tiny_says_nothing(cli: Cli) -> None:
    assert cli("complete", "-m", "tiny", "-n", 1, "Hello").stderr == b""
    assert cli("complete", "-n", 1, "Hello", env={"LLAMACLI_MODEL": "tiny"}).stderr == b""


def test_the_environments_model_comes_before_tiny(cli: Cli, bare: Path) -> None:
    result = json.loads(cli("complete", "-n", 1, "--json", "Hello", env={"LLAMACLI_MODEL": str(bare)}).stdout)
    assert result["model"] == str(bare)
    assert json.loads(cli("tokens", "--json", "Hello", env={"LLAMACLI_MODEL": ""}).stdout)["model"] == "tiny"


def test_a_file_named_tiny_needs_its_folder(cli: Cli, bare: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny").write_bytes(bare.read_bytes())
    for name, model in (("tiny", "tiny"), ("./tiny", "tiny"), (str(tmp_path / "tiny"), str(tmp_path / "tiny"))):
        result = json.loads(cli("complete", "-m", name, "-n", 1, "--json", "Hello", cwd=tmp_path).stdout)
        assert result["model"] == model
        assert result["mode"] == ("chat" if name == "tiny" else "text")


def test_an_empty_name_is_refused(cli: Cli) -> None:
    done = cli("complete", "-m", "", "Hello")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: -m names no model")
