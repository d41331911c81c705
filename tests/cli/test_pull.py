"""`llamacli pull` as a process, with the real huggingface_hub client, against a stand-in of the Hub."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer

from llamacli.builtin import TINY

Cli = Callable[..., subprocess.CompletedProcess[bytes]]
REPO = "user/Model-GGUF"
SIZE = 9_000_001


@pytest.fixture(scope="module")
def content() -> bytes:
    """Bytes of a file of several pieces, none like another."""
    return random.Random(1).randbytes(SIZE)


@pytest.fixture
def hub(content: bytes) -> Iterator[HubServer]:
    with HubServer() as server:
        server.add(REPO, {"model-Q4_K_M.gguf": content, "model-Q8_0.gguf": content[::-1], "README.md": b"text"})
        yield server


def cached(environment: dict[str, str]) -> list[Path]:
    """Every file in the cache, links apart."""
    root = Path(environment["HF_HUB_CACHE"])
    return sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())


def blobs(environment: dict[str, str]) -> list[Path]:
    return [path for path in cached(environment) if path.parent.name == "blobs"]


def body_bytes(hub: HubServer) -> int:
    """Bytes of files that crossed the wire."""
    return sum(request.sent for request in hub.requests if request.path.startswith("/cdn/"))


def test_a_pull_lands_in_the_standard_cache(
    cli: Cli, hub: HubServer, environment: dict[str, str], content: bytes
) -> None:
    done = cli("pull", REPO, env=environment)
    assert done.returncode == 0
    start = repr(content[:4])[1:].encode()
    assert done.stderr == (  # it is noise
        b"note: what came is what the Hub promised, but it is no model: "
        b"model-Q4_K_M.gguf: not a GGUF file: it starts with " + start + b" instead of 'GGUF'\n"
    )
    path = Path(done.stdout.decode().strip())
    assert path.read_bytes() == content
    digest = hashlib.sha256(content).hexdigest()
    assert blobs(environment) == [path.resolve()]
    assert path.resolve().name == digest
    script = (
        "from huggingface_hub import hf_hub_download as d; "
        f"print(d({REPO!r}, 'model-Q4_K_M.gguf', local_files_only=True))"
    )
    theirs = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    assert theirs.stdout.strip() == str(path)


def test_what_is_here_is_not_fetched_again(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    first = json.loads(cli("pull", "--json", REPO, env=environment).stdout)
    assert (first["model"], first["repository"], first["quant"], first["fetched"]) == (REPO, REPO, "Q4_K_M", SIZE)
    sent = body_bytes(hub)
    again = json.loads(cli("pull", "--json", REPO, env=environment).stdout)
    assert again["fetched"] == 0
    assert body_bytes(hub) == sent
    assert again["files"] == first["files"]


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        (REPO + ":Q8_0", 0, ""),
        (REPO + ":q8_0", 0, ""),
        (REPO + "/model-Q8_0.gguf", 0, ""),
        ("hf.co/" + REPO, 0, ""),
        (REPO + ":Q2_K", 3, "hint: it has Q4_K_M (8.6 MiB), Q8_0 (8.6 MiB)"),
        (REPO + ":q4km", 3, "has no Q4KM\nhint: did you mean Q4_K_M? it has Q4_K_M (8.6 MiB), "),
        (REPO + "/none.gguf", 3, "no file none.gguf"),
        ("user/none", 3, "no repository user/none"),
        ("tiny", 2, "not a model of the Hub"),
        ("qwen3.5:0.8", 3, "did you mean"),
    ],
)
def test_names(cli: Cli, environment: dict[str, str], name: str, code: int, said: str) -> None:
    done = cli("pull", name, env=environment)
    assert done.returncode == code, done.stderr
    assert said in done.stderr.decode()
    assert bool(done.stdout) == (code == 0)


def test_a_pulled_model_is_named_everywhere(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    hub.add("user/tiny-GGUF", {"tiny-F16.gguf": TINY})
    missing = cli("complete", "-m", "user/tiny-GGUF", "-n", 3, "Hello", env=environment)
    assert missing.returncode == 3
    assert b"hint: llamacli pull user/tiny-GGUF" in missing.stderr
    assert cli("pull", "user/tiny-GGUF", env=environment).returncode == 0
    for name in ("user/tiny-GGUF:F16", "user/tiny-GGUF/tiny-F16.gguf"):
        done = cli("complete", "-m", name, "--temp", 0, "Hello", env={**environment, "HF_HUB_OFFLINE": "1"})
        assert done.stdout == b"Hello! How can I help you?\n", done.stderr


def test_a_missing_model_is_asked_for_on_a_terminal(
    hub: HubServer, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pexpect: Any = pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")
    hub.add("user/tiny-GGUF", {"tiny-F16.gguf": TINY})
    command = ["-m", "llamacli", "complete", "-m", "user/tiny-GGUF", "--temp", "0", "Hello"]
    for answer, code, said in (("n\r", 3, b"is not on this machine"), ("\r", 0, b"Hello! How can I help you?")):
        child = pexpect.spawn(sys.executable, command, env={**os.environ, **environment}, timeout=60)
        child.expect_exact("Pull it (6.6 MiB, F16)? [Y/n]")
        child.send(answer)
        child.expect(pexpect.EOF)
        assert said in child.before
        assert child.wait() == code


def test_pull_says_yes_in_advance(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    hub.add("user/tiny-GGUF", {"tiny-F16.gguf": TINY})
    for command in (("tokens", "--count"), ("complete", "-n", 1), ("show", "--template")):
        assert cli(*command, "-m", "user/other-GGUF", "Hello", env=environment).returncode in (2, 3)
    done = cli("tokens", "--count", "-m", "user/tiny-GGUF", "--pull", "Hello", env=environment)
    assert (done.returncode, done.stdout) == (0, b"2\n"), done.stderr


def test_shards_come_together(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    names = [f"big-Q4_K_M-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    hub.add("user/big", {name: name.encode() * 1000 for name in names})
    result = json.loads(cli("pull", "--json", "user/big", env=environment).stdout)
    assert [file["name"] for file in result["files"]] == names
    assert all(Path(file["path"]).is_file() for file in result["files"])


# ---- faults --------------------------------------------------------------------------------------------------------


def test_cut_connections_resume(cli: Cli, hub: HubServer, environment: dict[str, str], content: bytes) -> None:
    hub.faults.cut_after, hub.faults.cut_times = 300_000, 3
    done = cli("pull", REPO, env=environment)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.decode().strip()).read_bytes() == content
    assert [path.name for path in blobs(environment)] == [hashlib.sha256(content).hexdigest()]


def test_a_server_without_ranges(cli: Cli, hub: HubServer, environment: dict[str, str], content: bytes) -> None:
    hub.faults.ignore_range = True
    done = cli("pull", REPO, env=environment)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.decode().strip()).read_bytes() == content


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_error_is_passed_over(cli: Cli, hub: HubServer, environment: dict[str, str], status: int) -> None:
    hub.faults.status, hub.faults.status_times, hub.faults.status_path = status, 2, "/cdn/"
    assert cli("pull", REPO, env=environment).returncode == 0


def test_a_lasting_error_is_code_4_and_keeps_what_came(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    hub.faults.cut_after, hub.faults.cut_times = 2_200_000, 10_000
    done = cli("pull", REPO, env=environment, timeout=120)
    hub.faults.cut_times = 0
    assert done.returncode in (0, 4), done.stderr  # each attempt may bring a piece
    hub.faults.status, hub.faults.status_times, hub.faults.status_path = 503, 10_000, "/cdn/"
    done = cli("pull", REPO + ":Q8_0", env=environment, timeout=120)
    assert (done.returncode, done.stdout) == (4, b"")
    assert b"503" in done.stderr


@pytest.mark.parametrize("fault", ["flip", "swap", "short"])
def test_a_corrupted_body_is_code_5_and_never_visible(
    cli: Cli, hub: HubServer, environment: dict[str, str], content: bytes, fault: str
) -> None:
    if fault == "flip":
        hub.faults.flip, hub.faults.flip_times = 5_000_000, 100
    elif fault == "swap":
        hub.faults.swap = content[::-1]
    else:
        hub.faults.short, hub.faults.short_times = 1000, 10_000
    done = cli("pull", REPO, env=environment)
    assert (done.returncode, done.stdout) == (5, b"")
    kept = ("llamacli-part", "llamacli-journal") if fault == "short" else ()  # what came is good so far
    assert [path for path in blobs(environment) if not path.name.endswith(kept)] == []
    assert list(Path(environment["HF_HUB_CACHE"]).rglob("*.gguf")) == []
    hub.faults.flip = hub.faults.swap = hub.faults.short = None
    done = cli("pull", REPO, env=environment)
    assert Path(done.stdout.decode().strip()).read_bytes() == content


def test_a_kill_loses_at_most_16_mib(hub: HubServer, environment: dict[str, str], cli: Cli) -> None:
    """Killed when part of the body is here; the next pull fetches no more than the rest and what was in flight."""
    big = random.Random(2).randbytes(60_000_000)
    hub.add("user/large", {"large-Q4_K_M.gguf": big})
    hub.faults.bytes_per_second = 60_000_000
    command = [sys.executable, "-m", "llamacli", "pull", "user/large"]
    with subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL) as process:
        journal = None
        while journal is None or len(journal.read_bytes().splitlines()) < 8:
            found = list(Path(environment["HF_HUB_CACHE"]).rglob("*.llamacli-journal"))
            journal = found[0] if found else None
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    kept = len(journal.read_bytes().splitlines()) * (2 << 20)
    hub.stop()  # what is still on its way to the dead process is not counted
    hub.requests.clear()
    hub.faults.bytes_per_second = None
    hub.restart()
    done = cli("pull", "user/large", env=environment)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.decode().strip()).read_bytes() == big
    assert kept > 0
    assert body_bytes(hub) <= len(big) - kept + (2 << 20)
    assert all("llamacli" not in path.name for path in cached(environment))


def test_pieces_that_a_reboot_lost_come_again(
    hub: HubServer, environment: dict[str, str], cli: Cli, content: bytes
) -> None:
    """The journal says that they are here, and the disk says otherwise."""
    folder = Path(environment["HF_HUB_CACHE"]) / "models--user--Model-GGUF" / "blobs"
    folder.mkdir(parents=True)
    digest = hashlib.sha256(content).hexdigest()
    (folder / f"{digest}.llamacli-part").write_bytes(bytes(len(content)))
    first = zlib.crc32(content[: 2 << 20])
    (folder / f"{digest}.llamacli-journal").write_bytes(b"0 %08x\n1 12345678\nnonsense\n99 00000000\n2 " % first)
    done = cli("pull", REPO, env=environment)
    assert Path(done.stdout.decode().strip()).read_bytes() == content
    assert body_bytes(hub) == len(content)


def test_what_is_too_large_for_http_goes_through_the_library_and_is_hashed(
    hub: HubServer, environment: dict[str, str], content: bytes
) -> None:
    """With the bound of 50 GB set to nothing: huggingface_hub brings the file, and what it does not check, we do."""
    code = "import llamacli.models.pull as p; p.LARGEST_OVER_HTTP = 0; from llamacli.__main__ import run; run()"
    command = [sys.executable, "-c", code, "pull", REPO]
    env = {**os.environ, **environment}
    hub.faults.flip, hub.faults.flip_times = 5_000_000, 100
    done = subprocess.run(command, env=env, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (5, b""), done.stderr
    assert list(Path(environment["HF_HUB_CACHE"]).rglob("*.gguf")) == []
    hub.faults.flip = None
    done = subprocess.run(command, env=env, capture_output=True, check=True)
    assert Path(done.stdout.decode().strip()).read_bytes() == content


def test_what_plain_http_refuses_goes_through_the_library(
    cli: Cli, hub: HubServer, environment: dict[str, str], content: bytes
) -> None:
    hub.faults.status, hub.faults.status_path = 406, "/cdn/"
    done = cli("pull", REPO, env=environment)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.decode().strip()).read_bytes() == content
    assert [path.name for path in blobs(environment)] == [hashlib.sha256(content).hexdigest()]
    hub.faults.status, hub.faults.status_times = 406, 100
    done = cli("pull", REPO + ":Q8_0", env=environment)
    assert (done.returncode, done.stdout) == (4, b"")


def test_twelve_processes_and_one_transfer(hub: HubServer, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "llamacli", "pull", REPO]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen(command, env={**os.environ, **environment}, **pipes) for _ in range(4)]
    paths = {process.communicate(timeout=120)[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    assert len(paths) == 1
    assert body_bytes(hub) == SIZE


# ---- names, tokens, links ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x.gguf", "..\\x.gguf", "C:\\x.gguf", "\\\\h\\s.gguf", "/x.gguf", "a\0b.gguf"])
def test_names_that_lead_out_of_the_cache(cli: Cli, hub: HubServer, environment: dict[str, str], name: str) -> None:
    hub.add("user/evil", {name: b"evil" * 100})
    done = cli("pull", "user/evil", env=environment)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"would leave the cache" in done.stderr
    assert cached(environment) == []


def test_a_planted_link_is_not_followed(
    cli: Cli, hub: HubServer, environment: dict[str, str], content: bytes, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = Path(environment["HF_HUB_CACHE"]) / "models--user--Model-GGUF"
    (folder / "blobs").mkdir(parents=True)
    digest = hashlib.sha256(content).hexdigest()
    for name in (digest, f"{digest}.llamacli-part", f"{digest}.llamacli-journal"):
        (outside / name).write_bytes(b"precious")
        (folder / "blobs" / name).symlink_to(outside / name)
    assert cli("pull", REPO, env=environment).returncode == 9
    for name in (f"{digest}.llamacli-part", f"{digest}.llamacli-journal"):
        (folder / "blobs" / name).unlink()
    assert cli("pull", REPO, env=environment).returncode == 0
    assert {path.read_bytes() for path in outside.iterdir()} == {b"precious"}
    (folder / "snapshots").rename(tmp_path / "aside")
    (folder / "snapshots").symlink_to(outside)
    done = cli("pull", REPO, env=environment)
    assert done.returncode == 9
    assert b"leads out of the cache" in done.stderr
    assert len(list(outside.iterdir())) == 3


def test_the_token_goes_to_the_hub_alone(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    canary = "hf_canary_7f3a"
    hub.tokens.add(canary)
    hub.add("user/private", {"model-Q4_K_M.gguf": b"x" * 3000}, private=True)
    hub.faults.redirect_host = True
    refused = cli("pull", "user/private", env=environment)
    assert refused.returncode in (3, 10)
    done = cli("pull", "user/private", "--token", canary, "--json", env={**environment, "LLAMACLI_DEBUG": "1"})
    assert done.returncode == 0, done.stderr
    assert canary not in (done.stdout + done.stderr).decode()
    bodies = [request for request in hub.requests if request.path.startswith("/cdn/")]
    assert bodies
    assert all("authorization" not in request.headers for request in bodies)
    assert all(canary.encode() not in path.read_bytes() for path in cached(environment))


def test_a_gated_repository_is_code_10(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    hub.add("user/gated", {"model-Q4_K_M.gguf": b"x" * 3000}, gated=True)
    for token, then in (
        ([], b"then set HF_TOKEN"),
        (["--token", "hf_stranger"], b"the token must belong to the account"),
    ):
        done = cli("pull", "user/gated", *token, env=environment)
        assert (done.returncode, done.stdout) == (10, b"")
        assert b"error: user/gated is gated" in done.stderr
        assert b"https://huggingface.co/user/gated; " + then in done.stderr
        assert cli("pull", "--dry-run", "user/gated", *token, env=environment).stderr == done.stderr
    hub.faults.status, hub.faults.status_path = 403, "/cdn/"  # of an open one
    done = cli("pull", REPO, env=environment)
    assert (done.returncode, done.stdout) == (10, b"")
    assert b"gated" not in done.stderr


def test_offline_and_unreachable(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    hub.add("user/tiny-GGUF", {"tiny-F16.gguf": TINY})
    done = cli("pull", "--json", "user/tiny-GGUF", env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    pulled = json.loads(done.stdout)
    assert (pulled["fetched"], pulled["remark"]) == (TINY.stat().st_size, None)
    names = [f"Q4_K_M/big-Q4_K_M-0000{i}-of-00002.gguf" for i in (1, 2)]
    hub.add("user/big", {name: name.encode() * 1000 for name in names})
    split = json.loads(cli("pull", "--json", "user/big", env=environment).stdout)
    assert [file["name"] for file in split["files"]] == names
    hub.requests.clear()
    assert json.loads(cli("pull", "--offline", "--json", "user/big", env=environment).stdout) == {**split, "fetched": 0}
    done = cli("pull", "--offline", REPO, env=environment)
    assert (done.returncode, done.stdout) == (4, b"")
    assert b"the network is forbidden" in done.stderr
    assert b"leave out --offline" in done.stderr
    found = cli("pull", "--offline", "--json", "user/tiny-GGUF", env=environment)
    assert json.loads(found.stdout) == {**pulled, "fetched": 0}
    assert hub.requests == []
    hub.stop()
    assert cli("pull", REPO, env=environment).returncode == 4


def test_one_that_fails_does_not_keep_the_others(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    hub.add("user/tiny-GGUF", {"tiny-F16.gguf": TINY})
    done = cli("pull", "user/none", "user/tiny-GGUF", env=environment)
    assert done.returncode == 12
    assert Path(done.stdout.decode().strip()).read_bytes() == TINY.read_bytes()
    assert b"error: there is no repository user/none on the Hub" in done.stderr
    assert b"error: 1 of 2 models did not come" in done.stderr
    done = cli("pull", "user/tiny-GGUF", "https://bob:secret@h.example/x.gguf", env=environment)
    assert (done.returncode, done.stdout.count(b"\n")) == (12, 1)
    assert b"error: x.gguf: an address with a password" in done.stderr
    assert b"secret" not in done.stderr


def test_a_split_model_that_the_hub_holds_in_part(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    names = [f"big-Q4_K_M-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    hub.add("user/big", {name: name.encode() * 1000 for name in (names[0], names[2])})
    for option in ([], ["--dry-run"]):
        done = cli("pull", *option, "user/big", env=environment)
        assert (done.returncode, done.stdout) == (3, b"")
        assert f"{names[0]}: the repository holds only part 1, 3 of 3" in done.stderr.decode()
    assert body_bytes(hub) == 0
    hub.add("user/big", {"big-Q4_K_M.gguf": b"whole" * 1000})  # beside them
    assert cli("pull", "user/big/big-Q4_K_M.gguf", env=environment).returncode == 0


def test_a_split_model_that_is_here_in_part(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    names = [f"big-Q4_K_M-0000{i}-of-00002.gguf" for i in (1, 2)]
    hub.add("user/big", {name: name.encode() * 1000 for name in names})
    result = json.loads(cli("pull", "--json", "user/big", env=environment).stdout)
    Path(result["files"][1]["path"]).unlink()
    done = cli("complete", "-m", "user/big", "Hello", env=environment)
    assert done.returncode == 3
    assert b"user/big is not whole on this machine: part 2 of 2 is missing\nhint: llamacli pull user/big" in done.stderr


def test_ctrl_c_keeps_what_came(hub: HubServer, environment: dict[str, str], cli: Cli) -> None:
    pexpect: Any = pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")
    hub.faults.bytes_per_second = 1_000_000
    child = pexpect.spawn(
        sys.executable, ["-m", "llamacli", "pull", REPO], env={**os.environ, **environment}, timeout=60
    )
    child.expect(rb"[\d.]*[1-9]/8\.6 MiB")  # something came, and the process knows
    child.sendintr()
    child.expect_exact("stopped: what came is kept, and the next pull goes on")
    child.expect(pexpect.EOF)
    child.close()
    assert child.signalstatus == signal.SIGINT
    hub.faults.bytes_per_second = None
    done = cli("pull", "--json", REPO, env=environment)
    assert done.returncode == 0
    assert 0 < json.loads(done.stdout)["fetched"] < SIZE
