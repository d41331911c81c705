"""Models from an address that is none of the Hub's: pull, use, list, verify, remove."""

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
def hub() -> Iterator[HubServer]:
    """Any server will do: this one's addresses of files redirect, and know ranges and versions."""
    with HubServer() as server:
        server.add("user/files", {"some model.gguf": TINY, "page.gguf": b"<html>not found</html>" * 100})
        yield server


@pytest.fixture
def environment(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """With a data folder of its own."""
    return {**environment, "LLAMACLI_HOME": str(tmp_path / "home")}


def address(server: HubServer, name: str = "some%20model.gguf") -> str:
    return f"{server.url}/user/files/resolve/main/{name}"


def stored(environment: dict[str, str]) -> list[str]:
    """The names of all files in the store."""
    root = Path(environment["LLAMACLI_HOME"]) / "data" / "web"
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def test_an_address_is_pulled_used_listed_verified_and_removed(
    cli: Cli, hub: HubServer, environment: dict[str, str]
) -> None:
    url = address(hub)
    missing = cli("complete", "-m", url, "Hello", env=environment)
    assert (missing.returncode, missing.stdout) == (3, b"")
    assert f"hint: llamacli pull {url}" in missing.stderr.decode()
    done = cli("pull", url, "--token", "hf_canary", env=environment)
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.decode().strip())
    assert path.read_bytes() == TINY.read_bytes()
    assert all(request.token is None for request in hub.requests)
    hub.stop()
    assert cli("complete", "-m", url, "--temp", 0, "Hello", env=environment).stdout == b"Hello! How can I help you?\n"
    (row,) = [each for each in json.loads(cli("ls", "--json", env=environment).stdout) if each["source"] == "web"]
    assert row["name"].endswith("/user/files/resolve/main/some%20model.gguf")
    (checked,) = json.loads(cli("verify", "--json", row["name"], env=environment).stdout)
    assert (checked["state"], Path(checked["file"])) == ("ok", path)
    path.write_bytes(TINY.read_bytes()[:-1] + b"x")
    damaged = cli("verify", row["name"], env=environment)
    assert damaged.returncode == 5
    assert b"llamacli rm" in damaged.stderr
    assert cli("rm", "-y", row["name"], env=environment).returncode == 0
    assert stored(environment) == []
    assert not path.parent.exists()


def test_a_cut_transfer_resumes_and_another_version_begins_anew(
    cli: Cli, hub: HubServer, environment: dict[str, str]
) -> None:
    hub.faults.cut_after, hub.faults.cut_times = 300_000, 3
    assert cli("pull", address(hub), env=environment).returncode == 0
    changed = TINY.read_bytes()[:-1] + b"x"
    hub.add("user/files", {"some model.gguf": changed})
    done = cli("pull", address(hub), env=environment)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.decode().strip()).read_bytes() == changed
    assert all("llamacli-" not in name for name in stored(environment))


def test_a_file_that_changes_while_it_comes_is_refused(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    hub.faults.change_etag_after, hub.faults.change_in_place = 1, True
    done = cli("pull", address(hub), env=environment)
    assert (done.returncode, done.stdout) == (4, b"")
    assert b"changed while it came" in done.stderr
    assert not [name for name in stored(environment) if name.endswith(".gguf")]


def test_what_is_no_gguf_is_code_6_and_not_kept(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    done = cli("pull", address(hub, "page.gguf"), env=environment)
    assert (done.returncode, done.stdout) == (6, b"")
    assert stored(environment) == []


def test_shards_of_an_address_come_together_and_never_mix(
    cli: Cli, hub: HubServer, environment: dict[str, str]
) -> None:
    names = [f"a+b(c)-0000{i}-of-00002.gguf" for i in (1, 2)]
    hub.add("user/files", {name: TINY.read_bytes()[:-1] + name[7:12].encode()[-1:] for name in names})
    done = json.loads(cli("pull", "--json", address(hub, names[1]), env=environment).stdout)
    assert [file["name"] for file in done["files"]] == names
    assert [Path(file["path"]).read_bytes()[-1:] for file in done["files"]] == [b"1", b"2"]
    hub.add("user/files", {names[0]: TINY.read_bytes()[:-1] + b"x", names[1]: b"<html>"})
    url = address(hub, names[0])
    assert cli("pull", url, env=environment).returncode == 6
    assert cli("tokens", "--count", "-m", url, "Hello", env=environment).returncode == 3
    first, second = json.loads(cli("verify", "--json", url, env=environment).stdout)
    assert (first["state"], second["state"]) == ("ok", "missing")
    assert cli("rm", "-y", url, env=environment).returncode == 0
    assert stored(environment) == []


def test_a_working_copy_stays_until_the_new_version_is_there(
    cli: Cli, hub: HubServer, environment: dict[str, str]
) -> None:
    path = Path(cli("pull", address(hub), env=environment).stdout.decode().strip())
    hub.add("user/files", {"some model.gguf": b"<html>a login page</html>" * 1000})
    assert cli("pull", address(hub), env=environment).returncode == 6
    assert path.read_bytes() == TINY.read_bytes()
    assert cli("tokens", "--count", "-m", address(hub), "Hello", env=environment).stdout == b"2\n"


def test_damage_is_found_however_the_file_is_named(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    path = Path(cli("pull", address(hub), env=environment).stdout.decode().strip())
    path.write_bytes(TINY.read_bytes()[:-1] + b"x")
    done = cli("verify", f"./{path.name}", env=environment, cwd=path.parent)
    assert done.returncode == 5
    assert b"&& llamacli pull https://" in done.stderr


def test_dry_run_of_an_address(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    run = json.loads(cli("pull", "--dry-run", "--json", address(hub), env=environment).stdout)
    assert run["size"] == run["missing"] == TINY.stat().st_size
    assert run["memory"]["weights"] > 6_000_000
    assert stored(environment) == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://example.com/model.gguf", "over https"),
        ("ftp://example.com/model.gguf", "over https"),
        ("https://example.com/model.safetensors", "no address of a GGUF file"),
        ("https://me:secret@example.com/model.gguf", "password"),
        ("ftp://me:secret@example.com/model.gguf", "password"),
        ("https://example.com:port/model.gguf", "no address"),
        ("https://[bad/model.gguf", "no address"),
        ("https://example.com/%ff.gguf", "no address"),
        ("https://example.com/%2e%2e/%2e%2e/model.gguf", "would leave the store"),
        ("https://example.com/a%5cb.gguf", "would leave the store"),
    ],
)
def test_addresses_that_are_refused(cli: Cli, environment: dict[str, str], url: str, said: str) -> None:
    for command in (("pull",), ("complete", "-m")):
        done = cli(*command, url, env=environment)
        assert (done.returncode, done.stdout) == (2, b"")
        assert said in done.stderr.decode()
        assert "secret" not in done.stderr.decode()


def test_an_address_that_leads_nowhere(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    assert cli("pull", address(hub, "none.gguf"), env=environment).returncode == 3
    assert cli("pull", address(hub), "--revision", "x", env=environment).returncode == 2
    assert cli("pull", address(hub), env={**environment, "HF_HUB_OFFLINE": "1"}).returncode == 4
    hub.stop()
    assert cli("pull", address(hub), env=environment).returncode == 4
