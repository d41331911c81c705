"""llamacli chat and run without a terminal: one answer, or one for each line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from make_gguf import write_parrot


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAMACLI_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_one_answer_in_a_pipe(cli: Any) -> None:
    done = cli("chat", "tiny", "--temp", 0, stdin=b"What is 7 plus 8?\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"15\n", b"")


def test_each_line_is_a_turn(cli: Any) -> None:
    script = b"My name is Anna.\n\nWhat is 7 plus 8?\r\nWhat is my name?"
    done = cli("chat", "-m", "tiny", "--temp", 0, "--turns", stdin=script)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines() == ["Hello, Anna! Nice to meet you.", "15", "Your name is Anna."]


def test_run_as_ollama_has_it(cli: Any) -> None:
    assert cli("run", "tiny", "--temp", 0, "What is 7 plus 8?").stdout == b"15\n"
    review = b"The hotel was old and cold, but we had a great time."
    assert cli("run", "tiny", "--temp", 0, "Is this review positive or negative?", stdin=review).stdout == b"positive\n"


def test_a_conversation_goes_on(cli: Any) -> None:
    cli("chat", "tiny", "--temp", 0, stdin=b"My name is Anna.")
    assert cli("chat", "--temp", 0, "--continue", stdin=b"What is my name?").stdout == b"Your name is Anna.\n"
    cli("chat", "tiny", "--temp", 0, "--session", "bob", stdin=b"My name is Bob.")
    assert cli("chat", "--temp", 0, "--session", "bob", stdin=b"What is my name?").stdout == b"Your name is Bob.\n"


def test_no_history(cli: Any, own_home: Path) -> None:
    assert cli("chat", "tiny", "--temp", 0, "--no-history", stdin=b"What is 7 plus 8?").stdout == b"15\n"
    env = {"LLAMACLI_HISTORY": "0"}
    assert cli("chat", "tiny", "--temp", 0, stdin=b"What is 7 plus 8?", env=env).stdout == b"15\n"
    assert not (own_home / "data").exists()


def test_the_system_message_and_a_template_reach_the_model(cli: Any, tmp_path: Path) -> None:
    """A template that ends the turn itself shows what it was given: by the number of tokens."""
    import json

    (tmp_path / "short.jinja").write_text("{{ messages[-1].content }}{{ 'x' * count }}")
    options = ("--log", "--chat-template", tmp_path / "short.jinja", "-n", 1, "--json", "hi")
    lengths = [
        json.loads(cli("complete", "-m", "tiny", "--template-arg", f"count={count}", *options).stdout)["prompt_tokens"]
        for count in (0, 500)
    ]
    assert lengths[1] - lengths[0] > 50
    done = cli("chat", "tiny", "--temp", 0, "-s", "Be brief.", stdin=b"What is 7 plus 8?")
    assert done.stdout == b"15\n"
    assert json.loads(cli("history", "show", "--json").stdout)["system"] == "Be brief."


def test_a_model_without_a_template_says_what_helps(cli: Any, bare: Path) -> None:
    done = cli("chat", bare, stdin=b"hi")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"has no chat template" in done.stderr
    assert b"--chat-template" in done.stderr
    assert cli("chat", bare, "--chat-template", "chatml", "--temp", 0, stdin=b"What is 7 plus 8?").stdout == b"15\n"


@pytest.mark.parametrize("overflow", ["shift", "error"])
def test_five_times_as_long_as_the_context(cli: Any, overflow: str) -> None:
    script = b"Tell me a story about Lily.\n" * 16
    options = ("-c", 256, "--temp", 0, "--on-overflow", overflow, "--turns")
    done = cli("chat", "tiny", *options, stdin=script, timeout=120)
    stories = done.stdout.decode().splitlines()
    if overflow == "shift":
        assert (done.returncode, len(stories)) == (0, 16)
        assert sum(len(story.split()) for story in stories) > 4 * 256  # words: there are more tokens
        assert b"The context of 256 tokens is full: the model no longer sees the oldest" in done.stderr
    else:
        assert done.returncode == 8
        assert b", and the context holds 256" in done.stderr or b"the context of 256 tokens is full" in done.stderr
        assert 0 < len(stories) < 5
    shown = cli("history", "show").stdout.decode()
    assert [line for line in shown.split("\n") if line.startswith("Once")] == stories  # everything is kept


def test_an_answer_that_ends_early(cli: Any, tmp_path: Path) -> None:
    path = write_parrot(tmp_path / "long.gguf", "word " + " ".join(str(n) for n in range(900)), context=256)
    done = cli("chat", path, "--temp", 0, stdin=b"hi")
    assert done.returncode == 8
    assert done.stdout.startswith(b"word 0 1 2")
    assert b"error: the context of 256 tokens is full" in done.stderr
    assert cli("chat", path, "--temp", 0, "-n", 3, stdin=b"hi").returncode == 0


def test_reasoning_never_comes_to_stdout(cli: Any, tmp_path: Path) -> None:
    path = write_parrot(tmp_path / "thinks.gguf", "<think>hm hm</think>yes", control=("<think>", "</think>"))
    done = cli("chat", path, "--temp", 0, stdin=b"hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"yes\n", b"")
    shown = cli("history", "show").stdout
    assert b"hm hm" in shown


def test_slips(cli: Any, tmp_path: Path) -> None:
    assert b"two models" in cli("chat", "tiny", "-m", "other", stdin=b"hi").stderr
    assert b"there is no text" in cli("chat", "tiny", stdin=b"").stderr
    assert cli("chat", "tiny", "--turns", stdin=b"ok\n\xff\n").stderr.startswith(
        b"error: standard input is no UTF-8: line 2"
    )
    assert cli("chat", "nothing.gguf", stdin=b"hi").returncode == 3
    assert cli("chat", "tiny", "--on-overflow", "explode", stdin=b"hi").returncode == 2
    assert cli("chat", "tiny", "--no-history", "--continue", stdin=b"hi").returncode == 2
    assert cli("run").returncode == 2
    assert b"cannot name a conversation" in cli("chat", "tiny", "--session", "12", stdin=b"hi").stderr
    assert cli("chat", "tiny", "--chat-template", "chatmll", stdin=b"hi").returncode == 2


def test_the_variable_for_the_model_does_not_change_a_conversation(cli: Any, tmp_path: Path) -> None:
    path = write_parrot(tmp_path / "parrot.gguf", "polly")
    cli("chat", path, "--temp", 0, stdin=b"hi")
    env = {"LLAMACLI_MODEL": "tiny"}
    assert cli("chat", "--temp", 0, "--continue", stdin=b"hi", env=env).stdout == b"polly\n"
    assert cli("chat", "--temp", 0, stdin=b"What is 7 plus 8?", env=env).stdout == b"15\n"
