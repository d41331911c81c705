"""`llamacli rm`: human, pipe and JSON, the question, and what a real pull left or is just bringing."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer

Cli = Callable[..., subprocess.CompletedProcess[bytes]]
REPO = "me/toy-GGUF"
HEADER = ["model", "source", "file", "freed", "removed"]


@pytest.fixture
def link(home: Path) -> Path:
    """A model as a pull leaves it."""
    folder, commit, data = home / ".cache/huggingface/hub/models--me--toy-GGUF", "1" * 40, b"GGUF" * 1000
    blob, link = folder / "blobs" / hashlib.sha256(data).hexdigest(), folder / "snapshots" / commit / "toy-Q4_K_M.gguf"
    for path in (blob, link):
        path.parent.mkdir(parents=True)
    blob.write_bytes(data)
    link.symlink_to(os.path.relpath(blob, link.parent))
    return link


def failed(done: subprocess.CompletedProcess[bytes]) -> tuple[int, list[str]]:
    assert done.stdout == b""
    return done.returncode, done.stderr.decode().splitlines()


def test_a_pipe_gets_a_row_for_each_file(cli: Cli, link: Path) -> None:
    blob = str(link.parents[2] / "blobs" / link.resolve().name)
    for arguments, removed in ((["--dry-run"], "false"), (["-n", "--yes"], "false"), (["-y"], "true")):
        assert link.exists()
        done = cli("rm", *arguments, REPO)
        assert (done.returncode, done.stderr) == (0, b"")
        assert [line.split("\t") for line in done.stdout.decode().splitlines()] == [
            HEADER,
            [REPO, "huggingface", blob, "4000", removed],
            [REPO, "huggingface", str(link), "0", removed],
        ]
    assert not link.parents[2].exists()
    assert failed(cli("rm", "-y", REPO)) == (
        3,
        ["error: me/toy-GGUF is not on this machine", "hint: llamacli ls shows what is"],
    )


def test_json(cli: Cli, link: Path) -> None:
    (result,) = json.loads(cli("rm", "--yes", "--json", f"{REPO}/toy-Q4_K_M.gguf").stdout)
    assert result == {
        "model": f"{REPO}/toy-Q4_K_M.gguf",
        "source": "huggingface",
        "unfinished": False,
        "files": [
            {"path": str(link.parents[2] / "blobs" / Path(result["files"][0]["path"]).name), "freed": 4000},
            {"path": str(link), "freed": 0},
        ],
        "kept": [],
        "freed": 4000,
        "removed": True,
    }


def test_without_a_terminal_it_needs_yes(cli: Cli, link: Path) -> None:
    code, (error, hint) = failed(cli("rm", REPO, stdin=b"y\n"))
    assert code == 2
    assert "4,000 bytes" in error
    assert "--yes" in hint
    assert link.exists()


def test_all_names_are_checked_before_the_first_goes(cli: Cli, home: Path, link: Path) -> None:
    mine = home / "mine.gguf"
    mine.write_bytes(b"GGUF")
    assert cli("rm", "-y", REPO, "me/nothing").returncode == 3
    assert cli("rm", "-y", REPO, "tiny").returncode == 2
    code, (error, hint) = failed(cli("rm", "-y", REPO, mine))
    assert (code, error) == (2, f"error: {mine} is a file of your own")
    assert "--force" in hint
    assert link.exists()
    assert mine.exists()
    assert cli("rm", "-y", "--force", REPO, mine).returncode == 0
    assert not link.exists()
    assert not mine.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a file's name is Unicode")
def test_a_name_that_is_no_utf8(cli: Cli, home: Path) -> None:
    path = os.fsencode(home) + b"/.cache/llama.cpp/\xff.gguf"
    os.makedirs(os.path.dirname(path))
    with open(path, "wb") as file:
        file.write(b"GGUF")
    done = cli("rm", "--force", "--yes", path)
    assert done.stdout.splitlines()[1] == b"\t".join([path, b"llama.cpp", path, b"4", b"true"])
    assert not os.path.exists(path)


# ---- on a terminal -------------------------------------------------------------------------------------------------


def on_a_terminal(answer: str | None, *arguments: str) -> str:
    """What is shown; with an answer, to the question."""
    pexpect: Any = pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")
    child = pexpect.spawn(sys.executable, ["-m", "llamacli", "rm", *arguments], timeout=60, dimensions=(50, 250))
    shown = ""
    if answer is not None:
        child.expect_exact("[y/N] ")
        shown = child.before.decode()
        child.sendline(answer)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    return re.sub(r"\x1b\[\d*m", "", (shown + child.before.decode()).replace("\r\n", "\n"))


def test_a_terminal_is_asked(link: Path) -> None:
    folder = "~/.cache/huggingface/hub/models--me--toy-GGUF"
    would = (
        "me/toy-GGUF (huggingface) would free 3.9 KiB:\n"
        f"  {folder}/blobs/{link.resolve().name}  3.9 KiB\n"
        f"  {folder}/snapshots/{'1' * 40}/toy-Q4_K_M.gguf\n"
    )
    assert on_a_terminal(None, "-n", REPO) == would
    for answer in ("", "n", "what"):
        assert on_a_terminal(answer, REPO) == f"{would}Remove it? {answer}\nnothing was removed\n"
        assert link.exists()
    shown = on_a_terminal("y", REPO)
    assert shown == f"{would}Remove it? y\nremoved me/toy-GGUF: 3.9 KiB freed\n"
    assert not link.exists()


def test_a_terminal_gets_no_escapes_of_files(home: Path) -> None:
    name = ".cache/llama.cpp/\x1b]0;owned\x07\n.gguf"
    (home / ".cache/llama.cpp").mkdir(parents=True)
    (home / name).write_text("GGUF")
    for answer, arguments in (("n", []), (None, ["-n"]), (None, ["-y"])):
        shown = on_a_terminal(answer, "--force", *arguments, f"~/{name}")
        assert "owned" in shown
        assert not re.search("[\x00-\x08\x0b-\x1f]", shown)


# ---- with real pulls -----------------------------------------------------------------------------------------------


@pytest.fixture
def hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        rng = random.Random(1)
        server.add(REPO, {f"toy-{quant}.gguf": rng.randbytes(5_000_001) for quant in ("Q4_K_M", "Q8_0")})
        for name, value in {"HF_TOKEN": "", "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": server.url}.items():
            monkeypatch.setenv(name, value)
        yield server


def test_what_was_pulled_goes_without_a_trace(cli: Cli, hub: HubServer, home: Path) -> None:
    path = cli("pull", f"{REPO}:Q8_0").stdout.decode().strip()
    assert Path(path).exists()
    done = cli("rm", "-y", path, "--json")
    assert json.loads(done.stdout)[0]["freed"] == 5_000_001
    root = home / ".cache/huggingface/hub"
    assert [found.relative_to(root).as_posix() for found in root.rglob("*")] == [".locks"]


def pulling(quant: str, root: Path) -> subprocess.Popen[bytes]:
    """A pull of which one of three pieces is here; it stands still."""
    command = [sys.executable, "-m", "llamacli", "pull", f"{REPO}:{quant}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    while not any(path.stat().st_size for path in root.rglob("*.llamacli-journal")):
        assert process.poll() is None
    process.send_signal(signal.SIGSTOP)
    return process


def test_a_pull_that_is_under_way(cli: Cli, hub: HubServer, home: Path) -> None:
    """That of the same file is not disturbed, nor does removing another file of its snapshot break it."""
    root = home / ".cache/huggingface/hub"
    assert cli("pull", REPO).returncode == 0
    hub.faults.bytes_per_second = 1_000_000
    with pulling("Q8_0", root) as process:
        assert cli("rm", "-y", f"{REPO}:Q4_K_M").returncode == 0
        code, (error, _) = failed(cli("rm", "-y", REPO))  # only the part is here
        assert code == 9
        assert "another process is just bringing" in error
        hub.faults.bytes_per_second = None
        process.send_signal(signal.SIGCONT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert Path(out.decode().strip()).stat().st_size == 5_000_001


def test_an_unfinished_pull_is_removed(cli: Cli, hub: HubServer, home: Path) -> None:
    root = home / ".cache/huggingface/hub"
    hub.faults.bytes_per_second = 1_000_000
    with pulling("Q4_K_M", root) as process:
        process.send_signal(signal.SIGKILL)
    (part,) = root.rglob("*.llamacli-part")
    assert "an unfinished pull" in on_a_terminal("n", REPO)
    assert part.exists()
    assert re.fullmatch(r"removed an unfinished pull of me/toy-GGUF: \S+ MiB freed\n", on_a_terminal(None, "-y", REPO))
    assert list(root.rglob("*.gguf")) == list(root.rglob("*llamacli*")) == list(root.glob("models--*")) == []


def test_a_pull_that_waited_for_a_removal(hub: HubServer, home: Path) -> None:
    """It had made its folders, which the removal found empty."""
    from filelock import FileLock

    root = home / ".cache/huggingface/hub"
    digest = hub.repositories[REPO].head["toy-Q8_0.gguf"].sha256
    lock = FileLock(root / ".locks/models--me--toy-GGUF" / f"{digest}.lock")
    Path(lock.lock_file).parent.mkdir(parents=True)
    command = [sys.executable, "-m", "llamacli", "pull", f"{REPO}:Q8_0"]
    with lock, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"waiting for it" in process.stderr.readline()
        for path in sorted((root / "models--me--toy-GGUF").rglob("*"), reverse=True):
            path.rmdir()
        (root / "models--me--toy-GGUF").rmdir()
        lock.release()
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert Path(out.decode().strip()).stat().st_size == 5_000_001
