"""`llamacli outdated` as a process, and the whole circle with pull and ls, against a stand-in of the Hub."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer

Cli = Callable[..., subprocess.CompletedProcess[bytes]]
FIELDS = ["model", "revision", "here", "newest", "state", "size", "remark"]
REPO, FILE = "user/Model-GGUF", "model-Q4_K_M.gguf"
NAME = f"{REPO}/{FILE}"


@pytest.fixture
def hub(plain: Path) -> Iterator[HubServer]:
    with HubServer() as server:
        server.add(REPO, {FILE: plain, "model-Q8_0.gguf": b"GGUF eight", "README.md": b"one"})
        yield server


@pytest.fixture
def pull(cli: Cli, environment: dict[str, str]) -> Callable[..., Path]:
    def run(*arguments: str) -> Path:
        done = cli("pull", *arguments, env=environment)
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.decode().strip())

    return run


@pytest.fixture
def outdated(cli: Cli, environment: dict[str, str]) -> Callable[..., list[dict[str, Any]]]:
    """The rows of --json."""

    def run(*arguments: str, code: int = 0, said: str = "", **more: str) -> list[dict[str, Any]]:
        done = cli("outdated", "--json", *arguments, env={**environment, **more})
        assert done.returncode == code, done.stderr
        assert (said in done.stderr.decode()) if said else not done.stderr
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        assert all(list(row) == FIELDS for row in rows)
        return rows

    return run


Rows = Callable[..., list[dict[str, Any]]]
Pull = Callable[..., Path]


def folder(environment: dict[str, str], repo: str = REPO) -> Path:
    return Path(environment["HF_HUB_CACHE"]) / f"models--{repo.replace('/', '--')}"


def row(here: str, newest: str | None, state: str, **rest: object) -> dict[str, object]:
    base = {"model": NAME, "revision": "main", "here": here, "newest": newest, "state": state}
    return {**base, "size": None, "remark": None, **rest}


def test_the_circle(
    cli: Cli, hub: HubServer, environment: dict[str, str], pull: Pull, outdated: Rows, plain: Path, chat: Path
) -> None:
    """Pulled, a new README, a new file, pulled by the name that outdated shows, and used from then on."""
    old = pull(REPO)
    first = hub.repositories[REPO].revisions["main"]
    assert outdated() == [row(first, first, "current")]
    second = hub.add(REPO, {"README.md": b"two"})
    assert outdated() == [row(first, second, "current")]
    third = hub.add(REPO, {FILE: chat})
    assert outdated() == [row(first, third, "outdated", size=chat.stat().st_size)]
    new = pull(outdated()[0]["model"])
    assert outdated() == [row(third, third, "current")]
    assert (old.read_bytes(), new.read_bytes()) == (plain.read_bytes(), chat.read_bytes())
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    (mine,) = [each for each in json.loads(cli("ls", "--json", env=offline).stdout) if each["name"] == NAME]
    assert mine["files"] == [str(new)]
    for name in (REPO, NAME, f"{REPO}:Q4_K_M"):
        assert json.loads(cli("show", "--json", name, env=offline).stdout)["files"] == [str(new)]


def test_a_pipe_gets_tsv(cli: Cli, hub: HubServer, environment: dict[str, str], pull: Pull) -> None:
    pull(REPO)
    here = hub.repositories[REPO].revisions["main"]
    newest = hub.add(REPO, {FILE: b"GGUF new"})
    done = cli("outdated", env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [line.split("\t") for line in done.stdout.decode().splitlines()] == [
        FIELDS,
        [NAME, "main", here, newest, "outdated", "8", ""],
    ]


def test_another_file_of_an_older_commit(hub: HubServer, pull: Pull, outdated: Rows) -> None:
    """After only one of two was pulled anew, refs/main names a commit that does not hold the other."""
    pull(REPO)
    pull(f"{REPO}:Q8_0")
    first = hub.repositories[REPO].revisions["main"]
    second = hub.add(REPO, {FILE: b"GGUF new", "model-Q8_0.gguf": b"GGUF new eight"})
    pull(REPO)
    eight = {"model": f"{REPO}/model-Q8_0.gguf", "size": 14}
    assert outdated() == [row(second, second, "current"), row(first, second, "outdated", **eight)]
    pull(eight["model"])
    assert {each["state"] for each in outdated()} == {"current"}


def test_branches_and_tags(hub: HubServer, environment: dict[str, str], pull: Pull, outdated: Rows) -> None:
    first = hub.repositories[REPO].revisions["main"]
    hub.tag(REPO, "v1")
    hub.tag(REPO, "refs/pr/1")
    for name in ("v1", "refs/pr/1"):
        pull(REPO, "--revision", name)
    assert [each["revision"] for each in outdated()] == ["refs/pr/1", "v1"]
    second = hub.add(REPO, {FILE: b"GGUF new"})
    assert {each["state"] for each in outdated()} == {"current"}
    hub.tag(REPO, "v1")
    pull(REPO)
    assert outdated(REPO) == [
        row(second, second, "current"),
        row(first, first, "current", revision="refs/pr/1"),
        row(first, second, "outdated", revision="v1", size=8),
    ]
    del hub.repositories[REPO].revisions["v1"]
    assert outdated()[2] == row(first, None, "gone", revision="v1", remark=f"{REPO} has no revision v1")


def test_what_was_pulled_by_its_commit(
    cli: Cli, hub: HubServer, environment: dict[str, str], pull: Pull, outdated: Rows
) -> None:
    pull(REPO, "--revision", hub.repositories[REPO].revisions["main"])
    assert outdated(said="note: no model here was pulled from a branch or tag of the Hub") == []
    done = cli("outdated", REPO, env=environment)
    assert (done.returncode, done.stdout) == (2, b"")
    assert f"hint: llamacli pull {NAME}" in done.stderr.decode()


def test_what_is_gone(hub: HubServer, pull: Pull, outdated: Rows) -> None:
    pull(REPO)
    first = hub.repositories[REPO].revisions["main"]
    newest = hub.add(REPO, {"other.gguf": b"GGUF"})
    del hub.repositories[REPO].commits[newest][FILE]
    assert outdated() == [row(first, newest, "gone", remark="the newest commit has no such file")]
    hub.repositories[REPO].private = True
    said = f"there is no repository {REPO} on the Hub, or it is private"
    assert outdated() == [row(first, None, "gone", remark=said)]
    del hub.repositories[REPO]
    assert outdated() == [row(first, None, "gone", remark=said)]


def test_shards(hub: HubServer, pull: Pull, outdated: Rows) -> None:
    names = [f"big-Q4_K_M-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    hub.add("user/big", {name: name.encode() * 10 for name in names})
    pull("user/big")
    hub.add("user/big", {names[1]: b"GGUF of another size"})
    (big,) = outdated("user/big")
    assert (big["model"], big["state"], big["size"]) == (f"user/big/{names[0]}", "outdated", 20)
    pull(big["model"])
    assert outdated()[0]["state"] == "current"


def test_copies_in_place_of_links(hub: HubServer, pull: Pull, outdated: Rows) -> None:
    """As on a file system without links."""
    path = pull(f"{REPO}:Q8_0")
    copy = path.resolve()
    path.unlink()
    shutil.copyfile(copy, path)
    name = f"{REPO}/model-Q8_0.gguf"
    assert outdated()[0]["state"] == "current"
    hub.add(REPO, {"README.md": b"two"})
    (same,) = outdated(code=12, said=f"error: not known for 1 of 1: {name}: the cache does not tell")
    assert same["state"] == "unknown"
    hub.add(REPO, {"model-Q8_0.gguf": b"GGUF of another size"})
    assert outdated()[0]["state"] == "outdated"


# ---- what goes wrong -----------------------------------------------------------------------------------------------


def test_one_that_cannot_be_asked_is_a_row(hub: HubServer, pull: Pull, outdated: Rows) -> None:
    for repo in ("user/a", "user/b"):
        hub.add(repo, {"x-Q4_K_M.gguf": b"GGUF"})
        pull(repo)
    hub.add("user/b", {"x-Q4_K_M.gguf": b"GGUF newer"})
    hub.faults.status, hub.faults.status_path, hub.faults.status_times = 503, "/api/models/user/a", 1
    said = "error: not known for 1 of 2: user/a/x-Q4_K_M.gguf: the Hub, asked for user/a, answered 503"
    a, b = outdated(code=12, said=said)
    assert (a["state"], a["newest"], b["state"]) == ("unknown", None, "outdated")
    assert a["remark"] == "the Hub, asked for user/a, answered 503"
    hub.answers["/api/models/user/a/revision/main"] = b"<html>Sign in</html>"
    assert outdated(code=12, said="cannot be read")[0]["state"] == "unknown"


def test_a_request_for_each_repository(hub: HubServer, pull: Pull, outdated: Rows) -> None:
    pull(REPO)
    pull(f"{REPO}:Q8_0")
    hub.add("user/b", {"x-Q4_K_M.gguf": b"GGUF"})
    pull("user/b")
    hub.requests.clear()
    assert len(outdated()) == 3
    assert sorted(request.path for request in hub.requests) == [
        f"/api/models/{REPO}/revision/main",
        "/api/models/user/b/revision/main",
    ]
    hub.requests.clear()
    assert len(outdated("user/b")) == len(hub.requests) == 1


def test_no_network_is_code_4_at_once(cli: Cli, hub: HubServer, environment: dict[str, str], pull: Pull) -> None:
    pull(REPO)
    for number in range(30):
        shutil.copytree(folder(environment), folder(environment, f"user/copy-{number}"), symlinks=True)
    hub.requests.clear()
    done = cli("outdated", env={**environment, "HF_HUB_OFFLINE": "1"})
    assert (done.returncode, done.stdout) == (4, b"")
    assert done.stderr.startswith(b"error: the network is forbidden")
    assert hub.requests == []
    hub.stop()
    done = cli("outdated", env=environment, timeout=15)
    assert (done.returncode, done.stdout) == (4, b"")
    assert done.stderr.startswith(b"error: the Hub cannot be reached")
    assert len(done.stderr.splitlines()) == 1


def test_names(cli: Cli, environment: dict[str, str], pull: Pull, plain: Path) -> None:
    path = pull(REPO)
    for name in (REPO, NAME, f"hf.co/{REPO}", str(path)):
        found = json.loads(cli("outdated", "--json", name, REPO, env=environment).stdout)
        assert [each["model"] for each in found] == [NAME]  # once
    for name, code, said in (
        ("tiny", 2, "tiny is not of the Hub cache"),
        (str(plain), 2, "is not of the Hub cache"),
        ("user/none", 3, "user/none is not on this machine"),
        ("qwen3.5:0.8", 3, "did you mean"),
    ):
        done = cli("outdated", name, env=environment)
        assert (done.returncode, done.stdout) == (code, b""), name
        assert said in done.stderr.decode()


def test_an_empty_cache_needs_no_network(cli: Cli, environment: dict[str, str]) -> None:
    done = cli("outdated", env={**environment, "HF_HUB_OFFLINE": "1"})
    assert (done.returncode, done.stdout.decode()) == (0, "\t".join(FIELDS) + "\n")
    assert done.stderr == b"note: no model here was pulled from a branch or tag of the Hub\n"


def test_strange_files_in_refs_are_passed_over(
    hub: HubServer, environment: dict[str, str], pull: Pull, outdated: Rows
) -> None:
    pull(REPO)
    refs = folder(environment) / "refs"
    (refs / "empty").write_text("")
    (refs / "binary").write_bytes(b"\xff" * 40)
    (refs / "path").write_text("../../outside")
    (refs / "link").symlink_to("nowhere")
    if hasattr(os, "mkfifo"):
        os.mkfifo(refs / "pipe")
    assert [each["revision"] for each in outdated()] == ["main"]


def test_a_token_opens_private_repositories_and_is_never_shown(
    cli: Cli, hub: HubServer, environment: dict[str, str], pull: Pull
) -> None:
    canary = "hf_canary_7f3a"
    hub.tokens.add(canary)
    pull(REPO)
    hub.repositories[REPO].private = True
    debug = {**environment, "LLAMACLI_DEBUG": "1"}
    for environ, options in ((debug, ["--token", canary]), ({**debug, "HF_TOKEN": canary}, [])):
        done = cli("outdated", "--json", *options, env=environ)
        assert (done.returncode, done.stderr) == (0, b"")
        assert json.loads(done.stdout)[0]["state"] == "current"
    wrong = f"{canary}_wrong"
    done = cli("outdated", "--json", "--token", wrong, env=debug)
    assert done.returncode == 12
    assert "refused access (401)" in json.loads(done.stdout)[0]["remark"]
    assert canary.encode() not in done.stdout + done.stderr
    done = cli("outdated", env={**debug, "HF_ENDPOINT": "http://hub.example", "HF_TOKEN": canary})
    assert (done.returncode, done.stdout) == (2, b"")
    assert canary.encode() not in done.stderr


# ---- on a terminal -------------------------------------------------------------------------------------------------


def on_a_terminal(environment: dict[str, str], code: int = 0) -> str:
    pexpect: Any = pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")
    command = ["-m", "llamacli", "outdated"]
    child = pexpect.spawn(sys.executable, command, env={**os.environ, **environment}, timeout=60, dimensions=(50, 60))
    child.expect(pexpect.EOF)
    assert child.wait() == code
    shown = re.sub(r"\x1b\[[\d;]*m", "", str(child.before.decode()).replace("\r\n", "\n"))
    # On a slow machine a bar was there, which has taken itself away.
    return re.sub(r"(?s)^\x1b\[\?25l.*\x1b\[\?25h\s*(\x1b\[1A\x1b\[2K)?", "", shown)


def test_a_terminal_gets_a_table_and_what_brings_it(hub: HubServer, environment: dict[str, str], pull: Pull) -> None:
    first = hub.repositories[REPO].revisions["main"][:7]
    hub.tag(REPO, "v1")
    pull(REPO)
    pull(REPO, "--revision", "v1")
    newest = hub.add(REPO, {FILE: b"GGUF" * 1024})[:7]
    assert on_a_terminal(environment) == (
        "state        size  revision  here     newest   model\n"
        f"outdated  4.0 KiB  main      {first}  {newest}  {NAME}\n"
        f"current            v1        {first}  {first}  {NAME}\n"
        f"hint: llamacli pull {NAME}\n"
    )
    hub.tag(REPO, "v1")
    assert f"hint: llamacli pull --revision v1 {NAME}\n" in on_a_terminal(environment)
    del hub.repositories[REPO]
    shown = on_a_terminal(environment).splitlines()
    assert shown[1:] == [
        f"gone         main      {first}          {NAME}",
        f"{' ' * 40}(there is no repository {REPO} on the Hub, or it is private)",
        f"gone         v1        {first}          {NAME}",
        f"{' ' * 40}(there is no repository {REPO} on the Hub, or it is private)",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="such names cannot be there")
def test_foreign_text_does_nothing_to_a_terminal(hub: HubServer, environment: dict[str, str], pull: Pull) -> None:
    path = pull(REPO)
    evil = path.with_name("\x1b]0;owned\x07\n\x9b.gguf")
    shutil.copyfile(path.resolve(), evil)
    (folder(environment) / "refs/\x1b[31mred").write_text(path.parent.name)
    hub.add(REPO, {"README.md": b"two"})
    shown = on_a_terminal(environment)
    assert "owned" in shown
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)
