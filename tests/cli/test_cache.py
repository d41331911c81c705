"""Evaluated prompts on disk, as processes share them: found again, shown, cleared, turned off."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., subprocess.CompletedProcess[bytes]]

#: llamacli, for which small models count as well: all that is too quick to be stored, is stored.
SCRIPT = (
    "from llamacli.engine import prompt_cache as cache\n"
    "cache._QUICK = cache._LOADING = 0\n"
    "cache._WORTH_SECONDS = 0.0\n"
    "from llamacli.__main__ import run\n"
    "run()"
)
TEXT = "Once upon a time, there was a little bird named Lily. She liked honey. One day Lily went to the forest. " * 3


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "LLAMACLI_HOME": str(tmp_path / "home")}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", SCRIPT, *map(str, arguments)]


def asked(env: dict[str, str], question: str, *more: object) -> dict[str, Any]:
    arguments = (
        "complete",
        "--raw",
        TEXT + question,
        "-m",
        "tiny",
        "-t",
        1,
        "--temp",
        0,
        "-n",
        5,
        "--json",
        "--no-stdin",
    )
    done = subprocess.run(command(*arguments, *more), env=env, capture_output=True, timeout=60, check=True)
    assert done.stderr == b""
    return dict(json.loads(done.stdout))


def files(env: dict[str, str]) -> list[Path]:
    return sorted(Path(env["LLAMACLI_HOME"]).rglob("*.prompt"))


def test_the_next_process_loads_what_is_shared(env: dict[str, str]) -> None:
    first = asked(env, "Who was it?")
    assert first["cached_tokens"] == 0
    (file,) = files(env)
    again = asked(env, "Who was it?")
    assert again["cached_tokens"] == again["prompt_tokens"] - 1
    assert again["text"] == first["text"]
    other = asked(env, "Then a big dog came.")
    assert 0 < again["cached_tokens"] - other["cached_tokens"] < 10
    assert other["text"] == asked(env, "Then a big dog came.", "--no-cache")["text"]
    assert file in files(env)


@pytest.mark.parametrize("how", ["option", "variable", "size"])
def test_it_can_be_turned_off(env: dict[str, str], how: str) -> None:
    more = {"option": ("--no-cache",), "size": ("--cache-size", 0)}.get(how, ())
    off = {**env, "LLAMACLI_CACHE": "0"} if how == "variable" else env
    asked(off, "", *more)
    assert files(env) == []
    asked(env, "")
    assert asked(off, "", *more)["cached_tokens"] == 0


def test_what_is_quick_is_not_kept(cli: Cli, env: dict[str, str]) -> None:
    cli("complete", "Hello", "-m", "tiny", "-n", 2, env=env)
    assert not (Path(env["LLAMACLI_HOME"]) / "cache/prompts").exists()


def test_a_chat_is_kept_for_the_next_one(env: dict[str, str]) -> None:
    for message in ("My name is Anna.", "What is my name?"):
        done = subprocess.run(
            command("chat", "tiny", "--temp", 0, "-t", 1, "--session", "a"),
            input=message.encode(),
            env=env,
            capture_output=True,
            timeout=60,
            check=True,
        )
    assert done.stdout == b"Your name is Anna.\n"
    assert len(files(env)) == 1  # the second one goes on from the first
    subprocess.run(
        command("chat", "tiny", "-t", 1, "--no-history"),
        input=b"I have a secret.",
        env=env,
        capture_output=True,
        check=True,
    )
    assert len(files(env)) == 1


@pytest.mark.slow
def test_sixteen_processes_share_it(env: dict[str, str]) -> None:
    """Half of them ask what the others ask, all at once, while a small limit lets files come and go."""
    arguments = ("-m", "tiny", "-t", 1, "--temp", 0, "-n", 5, "--json", "--no-stdin", "--cache-size", 4)
    questions = [f"{'Then a dog came. ' * 20}{i // 2}" for i in range(16)]
    for _ in range(2):
        running = [
            subprocess.Popen(
                command("complete", "--raw", TEXT + question, *arguments),
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for question in questions
        ]
        ended = [process.communicate(timeout=120) for process in running]
        assert [process.returncode for process in running] == [0] * 16
        assert [errors for _, errors in ended] == [b""] * 16
        texts = [json.loads(out)["text"] for out, _ in ended]
        assert texts[::2] == texts[1::2]
    assert 0 < sum(path.stat().st_size for path in files(env)) <= 4 << 20
    assert list(Path(env["LLAMACLI_HOME"]).rglob("*.part")) == []
    assert sum(json.loads(out)["cached_tokens"] > 0 for out, _ in ended) >= 1


def test_ls_and_clear(cli: Cli, env: dict[str, str], bare: Path) -> None:
    asked(env, "Who was it?")
    asked(env, "Who was it?", "-m", bare)
    header, *rows = (row.split("\t") for row in cli("cache", "ls", env=env).stdout.decode().splitlines())
    assert header == ["model", "tokens", "size", "age", "path"]
    assert [row[0] for row in rows] == [str(bare), "tiny"]
    assert int(rows[0][2]) == Path(rows[0][4]).stat().st_size
    listed = json.loads(cli("cache", "ls", "--json", env=env).stdout)
    assert [set(each) for each in listed] == [{"model", "tokens", "size", "used", "age", "path"}] * 2
    os.utime(rows[0][4], (time.time() - 8 * 86400,) * 2)
    assert cli("cache", "clear", "--older-than", "9d", env=env).stdout.count(b"\n") == 1
    assert cli("cache", "clear", "--older-than", "7d", "tiny", env=env).stdout.count(b"\n") == 1
    assert len(files(env)) == 2
    gone = json.loads(cli("cache", "clear", "--older-than", "7d", "--json", env=env).stdout)
    assert [each["model"] for each in gone] == [str(bare)]
    assert cli("cache", "clear", "tiny", env=env).stdout.count(b"\n") == 2
    gone = Path(shutil.copy(bare, bare.with_name("gone.gguf")))
    asked(env, "Who was it?", "-m", gone)
    gone.unlink()
    assert cli("cache", "clear", gone, env=env).stdout.count(b"\n") == 2
    assert cli("cache", "clear", gone, env=env).returncode == 3
    assert files(env) == []
    assert cli("cache", "ls", env=env).stdout == b"model\ttokens\tsize\tage\tpath\n"


@pytest.mark.parametrize("text", ["week", "-1d", "1y", ""])
def test_a_time_that_cannot_be_read(cli: Cli, text: str) -> None:
    done = cli("cache", "clear", f"--older-than={text}")
    assert (done.returncode, b"a time is wanted" in done.stderr) == (2, True)
