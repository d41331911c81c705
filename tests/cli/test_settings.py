"""config.toml, LLAMACLI_* variables, --pull and --offline: which of them wins, and what mistakes say."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import HubServer

from llamacli.builtin import TINY

Cli = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "home" / "config" / "config.toml"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add("user/tiny-GGUF", {"tiny-F16.gguf": TINY})
        yield server


@pytest.fixture
def environment(environment: dict[str, str], config: Path) -> dict[str, str]:
    """With the settings' folder."""
    return {**environment, "LLAMACLI_HOME": str(config.parent.parent)}


def model_of(done: subprocess.CompletedProcess[bytes]) -> str:
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["model"])


def test_the_model_of_the_settings(cli: Cli, config: Path, environment: dict[str, str], bare: Path) -> None:
    config.write_text(f"model = '{bare}'\n")
    done = cli("tokens", "--json", "Hello", env=environment)
    assert (model_of(done), done.stderr) == (str(bare), b"")
    assert model_of(cli("tokens", "--json", "Hello", env={**environment, "LLAMACLI_MODEL": "tiny"})) == "tiny"
    assert model_of(cli("tokens", "--json", "-m", "tiny", "Hello", env=environment)) == "tiny"


def test_pull_by_option_variable_and_setting(
    cli: Cli, config: Path, environment: dict[str, str], hub: HubServer
) -> None:
    command = ("tokens", "--count", "-m", "user/tiny-GGUF", "Hello")
    assert cli(*command, env=environment).returncode == 3
    config.write_text("pull = true\n")
    assert cli(*command, env={**environment, "LLAMACLI_PULL": "no"}).returncode == 3
    refused = cli(*command, "--offline", env=environment)
    assert refused.returncode == 3
    assert hub.requests == []
    assert cli(*command, env=environment).stdout == b"2\n"
    assert cli(*command, "--offline", env={**environment, "HF_ENDPOINT": "http://127.0.0.1:9"}).stdout == b"2\n"


def test_the_variable_alone_pulls(cli: Cli, environment: dict[str, str]) -> None:
    done = cli("tokens", "--count", "-m", "user/tiny-GGUF", "Hello", env={**environment, "LLAMACLI_PULL": "1"})
    assert done.stdout == b"2\n", done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model = 3", "model must be a text"),
        ("pull = 'yes'", "pull must be true or false"),
        ("modell = 'x'", "no such setting: modell"),
        ("pull = \n", "line 1"),
        ("\xff", "no UTF-8"),
    ],
)
def test_mistakes(cli: Cli, config: Path, environment: dict[str, str], text: str, said: str) -> None:
    config.write_bytes(text.encode("latin-1"))
    done = cli("tokens", "Hello", env=environment)
    assert (done.returncode, done.stdout) == (2, b"")
    assert said in done.stderr.decode()
    assert "config.toml" in done.stderr.decode()


def test_a_wrong_variable(cli: Cli, environment: dict[str, str]) -> None:
    done = cli("tokens", "Hello", env={**environment, "LLAMACLI_PULL": "perhaps"})
    assert done.returncode == 2
    assert b"LLAMACLI_PULL=perhaps" in done.stderr
