"""`llamacli search` as a process against a stand-in of the Hub: pipe, terminal, JSON, and what goes wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer, Request

Cli = Callable[..., subprocess.CompletedProcess[bytes]]
FIELDS = [
    "name",
    "alias",
    "repository",
    "downloads",
    "likes",
    "updated",
    "gated",
    "about",
    "parameters",
    "memory",
]
COLUMNS = [field for field in FIELDS if field != "alias"]
QWEN = "ggml-org/Qwen3.5-0.8B-GGUF"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    files = {"x-Q4_K_M.gguf": b"GGUF"}
    with HubServer() as server:
        server.add("someone/Zebra-Qwen3.5-0.8B-GGUF", files, downloads=5, likes=9)
        server.add(QWEN, files, downloads=1200, likes=3)
        server.add("someone/gated-zebra-GGUF", files, downloads=77, likes=1, gated=True)
        server.add("someone/zebra-weights", {"model.safetensors": b"x"}, downloads=10**6)
        yield server


@pytest.fixture
def environment(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """With settings of its own."""
    return {**environment, "LLAMACLI_HOME": str(tmp_path / "home")}


def rows(done: subprocess.CompletedProcess[bytes], code: int = 0) -> list[dict[str, str]]:
    assert done.returncode == code, done.stderr
    header, *lines = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert header == COLUMNS
    return [dict(zip(header, line, strict=True)) for line in lines]


def asked(hub: HubServer) -> list[Request]:
    return [request for request in hub.requests if request.path == "/api/models"]


def test_the_catalogue_comes_first_and_then_the_hub(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    found = rows(cli("search", "qwen3.5", "0.8b", env=environment))
    about = {"about": "small general chat model", "parameters": "0.8B", "memory": "1.5 GB"}
    figures = {"downloads": "1200", "likes": "3", "updated": "2026-01-01T00:01:00Z", "gated": "no"}
    assert found[0] == {"name": "qwen3.5:0.8b", "repository": QWEN, **figures, **about}
    other = "someone/Zebra-Qwen3.5-0.8B-GGUF"
    assert [(row["name"], row["repository"], row["about"]) for row in found[1:]] == [(other, other, "")]
    assert len(asked(hub)) == 1


def test_a_name_is_one_for_pull(cli: Cli, hub: HubServer, environment: dict[str, str], tmp_path: Path) -> None:
    there = {**environment, "HF_HUB_CACHE": str(tmp_path / "cache")}
    found = rows(cli("search", "qwen3.5:0.8b", env=environment))
    assert len(found) == 2  # the Hub was not asked for the colon
    for row in found:
        assert cli("pull", row["name"], env=there).returncode == 0


@pytest.mark.parametrize(
    ("order", "first", "gated"),
    [
        ("downloads", "someone/gated-zebra-GGUF", "yes"),
        ("likes", "someone/Zebra-Qwen3.5-0.8B-GGUF", "no"),
        ("newest", "someone/gated-zebra-GGUF", "yes"),
    ],
)
def test_order_and_limit(
    cli: Cli, hub: HubServer, environment: dict[str, str], order: str, first: str, gated: str
) -> None:
    found = rows(cli("search", "ZEBRA", "--sort", order, env=environment))
    assert (len(found), found[0]["name"], found[0]["gated"]) == (2, first, gated)
    assert rows(cli("search", "ZEBRA", "--sort", order, "-n", 1, env=environment)) == found[:1]


def test_without_words_the_whole_catalogue_and_the_most_downloaded(
    cli: Cli, hub: HubServer, environment: dict[str, str]
) -> None:
    found = rows(cli("search", env=environment))
    names = [row["name"] for row in found]
    assert names[:2] == ["qwen3.5:0.8b", "qwen3.5:4b"]
    assert names[-2:] == ["someone/gated-zebra-GGUF", "someone/Zebra-Qwen3.5-0.8B-GGUF"]
    assert len(names) == len(set(names)) > 20
    assert next(row for row in found if row["name"] == "qwen3.5:4b")["downloads"] == ""
    assert "search" not in asked(hub)[0].query


def test_what_a_catalogue_s_model_is_for_is_searched_too(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    names = [row["name"] for row in rows(cli("search", "Reasoning", env=environment))]
    assert "deepseek-r1:7b" in names
    own = Path(environment["LLAMACLI_HOME"]) / "config/models.toml"
    own.parent.mkdir(parents=True)
    own.write_text('["stripes:1b"]\nrepository = "someone/GATED-zebra-GGUF"\nabout = "striped"\n')
    for words in (["striped"], ["zebra", "gated"]):
        assert rows(cli("search", *words, env=environment))[0]["name"] == "stripes:1b"
    assert rows(cli("search", "zebra", "gated", env=environment))[0]["downloads"] == "77"


def test_json(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    done = cli("search", "0.8b", "--json", env=environment)
    known, other = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, b"")
    assert list(known) == list(other) == FIELDS
    assert (known["name"], known["alias"], known["gated"]) == ("qwen3.5:0.8b", "qwen3.5:0.8b", False)
    assert (other["alias"], other["downloads"], other["updated"]) == (None, 5, "2026-01-01T00:00:00Z")


def test_nothing_found_is_no_error(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    done = cli("search", "no", "such", env=environment)
    assert rows(done) == []
    assert done.stderr == b"note: nothing matches no such\n"
    assert json.loads(cli("search", "nosuch", "--json", env=environment).stdout) == []


@pytest.mark.parametrize("options", [["--sort", "age"], ["-n", "0"], ["-n", "1001"]])
def test_usage(cli: Cli, environment: dict[str, str], options: list[str]) -> None:
    done = cli("search", "zebra", *options, env=environment)
    assert (done.returncode, done.stdout) == (2, b"")


# ---- the Hub does not answer ---------------------------------------------------------------------------------------


def check_half(done: subprocess.CompletedProcess[bytes], code: int = 4) -> str:
    """The catalogue's matches are shown all the same."""
    assert [row["name"] for row in rows(done, code)] == ["qwen3.5:0.8b"]
    assert done.stderr.startswith(b"error: ")
    return done.stderr.decode()


def test_offline_the_catalogue_is_shown(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    said = check_half(cli("search", "qwen3.5:0.8b", env={**environment, "HF_HUB_OFFLINE": "1"}))
    assert said == (
        "error: the network is forbidden, so the Hub cannot be asked\n"
        "hint: leave out --offline, or unset HF_HUB_OFFLINE\n"
    )
    assert asked(hub) == []
    done = cli("search", "zebra", "--json", env={**environment, "HF_HUB_OFFLINE": "1"})
    assert (done.returncode, json.loads(done.stdout)) == (4, [])
    assert b"note:" not in done.stderr


def test_an_unreachable_hub(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    """At once: the library's own call would try for 23 seconds."""
    hub.stop()
    assert "the Hub cannot be reached" in check_half(cli("search", "qwen3.5:0.8b", env=environment, timeout=15))


@pytest.mark.parametrize(("status", "code"), [(503, 4), (429, 4), (404, 4), (401, 10)])
def test_a_refusal(cli: Cli, hub: HubServer, environment: dict[str, str], status: int, code: int) -> None:
    hub.faults.status, hub.faults.status_path = status, "/api/models"
    said = check_half(cli("search", "qwen3.5:0.8b", env=environment), code)
    assert str(status) in said or "offers no search" in said


@pytest.mark.parametrize("answer", [b"<html>Sign in to this network</html>", b"{}", b"[3]", b'[{"no": "id"}]'])
def test_an_answer_of_somebody_else(cli: Cli, environment: dict[str, str], answer: bytes) -> None:
    with HubServer() as stranger:
        stranger.answers["/api/models"] = answer
        said = check_half(cli("search", "qwen3.5:0.8b", env={**environment, "HF_ENDPOINT": stranger.url}))
    assert said == "error: the Hub's answer cannot be read, asked for models\n"


# ---- tokens and foreign text ---------------------------------------------------------------------------------------


def test_a_token_finds_private_repositories_and_is_never_shown(
    cli: Cli, hub: HubServer, environment: dict[str, str]
) -> None:
    canary = "hf_canary_7f3a"
    hub.tokens.add(canary)
    hub.add("someone/private-zebra", {"x-Q4_K_M.gguf": b"GGUF"}, private=True)
    assert len(rows(cli("search", "zebra", env=environment))) == 2
    debug = {**environment, "LLAMACLI_DEBUG": "1"}
    for environ, options in ((debug, ["--token", canary]), ({**debug, "HF_TOKEN": canary}, [])):
        done = cli("search", "zebra", *options, env=environ)
        assert len(rows(done)) == 3
        assert done.stderr == b""
    hub.faults.status, hub.faults.status_path, hub.faults.status_times = 500, "/api/models", 1
    done = cli("search", "zebra", "--token", canary, env=debug)
    assert done.returncode == 4
    assert canary.encode() not in done.stdout + done.stderr


def test_a_token_does_not_cross_the_network_readable(cli: Cli, environment: dict[str, str]) -> None:
    open_hub = {**environment, "HF_ENDPOINT": "http://hub.example", "HF_TOKEN": "hf_canary_7f3a"}
    done = cli("search", "zebra", env=open_hub)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"plain http" in done.stderr


@pytest.mark.parametrize("end", ["\n", "é"])
def test_a_broken_token_is_not_shown(cli: Cli, hub: HubServer, environment: dict[str, str], end: str) -> None:
    """The HTTP client's error would quote it."""
    token, debug = f"hf_canary_7f3a{end}", {**environment, "LLAMACLI_DEBUG": "1"}
    calls = [cli(*command, "--token", token, env=debug) for command in (("search", "zebra"), ("pull", QWEN))]
    if end == "é":  # the library takes line breaks away, and sends the rest
        calls.append(cli("search", "zebra", env={**debug, "HF_TOKEN": token}))
    for done in calls:
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"the token holds a character that no token has" in done.stderr
        assert b"canary" not in done.stderr


def on_a_terminal(environment: dict[str, str], *arguments: str) -> str:
    pexpect: Any = pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")
    command = ["-m", "llamacli", "search", *arguments]
    child = pexpect.spawn(sys.executable, command, env={**os.environ, **environment}, timeout=60, dimensions=(50, 80))
    child.expect(pexpect.EOF)
    assert child.wait() == 0
    return re.sub(r"\x1b\[\d*m", "", str(child.before.decode()).replace("\r\n", "\n"))


def test_a_terminal_gets_two_tables(hub: HubServer, environment: dict[str, str]) -> None:
    long = "someone/" + "z" * 70 + "-qwen3.5-0.8b"
    hub.add(long, {"x-Q4_K_M.gguf": b"GGUF"}, downloads=1_234_567, gated=True)
    assert on_a_terminal(environment, "0.8b", "--sort", "likes") == (
        "catalogue     parameters  memory  what it is for\n"
        "qwen3.5:0.8b        0.8B  1.5 GB  small general chat model\n"
        "\n"
        "downloads  likes  updated     gated  repository of the Hub\n"
        "        5      9  2026-01-01         someone/Zebra-Qwen3.5-0.8B-GGUF\n"
        f"    1,200      3  2026-01-01         {QWEN}  (qwen3.5:0.8b)\n"
        f"1,234,567      0  2026-01-01  yes    {long}\n"
    )
    assert on_a_terminal(environment, "nosuch") == "note: nothing matches nosuch\n"


def test_foreign_text_does_nothing_to_a_terminal(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    evil = "someone/zebra\x1b]0;owned\x07\x9b2J\u202e\t\n\ud800"
    item = {"id": evil, "downloads": 1, "likes": "\x1b[31m", "lastModified": "2026-01-01T00:00:00.000Z"}
    hub.answers["/api/models"] = json.dumps([item, {"id": "someone/else"}]).encode()
    for arguments in (["zebra"], ["zebra", "--json"]):
        shown = on_a_terminal(environment, *arguments)
        assert "owned" in shown
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown)
    assert [row["likes"] for row in rows(cli("search", "zebra", env=environment))] == ["", ""]
    assert len(json.loads(cli("search", "zebra", "--json", env=environment).stdout)) == 2
