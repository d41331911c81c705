"""`llamacli pull --dry-run` and `--pick`: what would come, whether it fits, and the choice at a terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFValueType
from hub_server import HubServer
from make_gguf import _tensors, spm_tokens, write_llama

from llamacli.units import size

Cli = Callable[..., subprocess.CompletedProcess[bytes]]
REPO = "user/Model-GGUF"
QUANTS = [
    *(
        "IQ1_S",
        "IQ2_XXS",
        "IQ2_M",
        "Q2_K",
        "IQ3_XXS",
        "IQ3_M",
        "Q3_K_S",
        "Q3_K_M",
        "Q3_K_L",
        "IQ4_XS",
        "Q4_0",
        "Q4_K_S",
    ),
    *("Q4_K_M", "Q4_K_L", "Q5_K_S", "Q5_K_M", "Q6_K", "Q6_K_L", "Q8_0", "F16"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """20 models of one shape and of growing sizes."""
    folder = tmp_path_factory.mktemp("quants")
    found = {}
    for number, quant in enumerate(QUANTS):
        path = folder / f"model-{quant}.gguf"
        output = np.zeros(((number + 1) * 100, 256), np.float32)
        found[path.name] = write_llama(path, tensor_overrides={"output.weight": output})
    return found


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 11 MB with a header of 1.8 MiB."""
    return write_llama(
        tmp_path_factory.mktemp("big") / "big-Q4_K_M.gguf",
        tokens=[*spm_tokens(), *(f"word {i:09}" for i in range(60_000))],
        tensor_overrides={
            "token_embd.weight": np.zeros((8000, 256), np.float32),
            "output.weight": np.zeros((300, 64), np.float32),
        },
    )


@pytest.fixture
def hub(files: dict[str, Path], big: Path) -> Iterator[HubServer]:
    with HubServer() as server:
        server.add("user/big", {big.name: big})
        server.add(REPO, {**files, "mmproj-F16.gguf": b"GGUF" + bytes(100), "README.md": b"text"})
        server.add("user/odd", {name: files[name] for name in ("model-Q2_K.gguf", "model-Q8_0.gguf", "model-F16.gguf")})
        yield server


def document(done: subprocess.CompletedProcess[bytes]) -> Any:
    assert (done.returncode, done.stderr) == (0, b"")
    return json.loads(done.stdout)


def body_bytes(hub: HubServer) -> int:
    """Bytes of files that crossed the wire."""
    return sum(request.sent for request in hub.requests if request.path.startswith("/cdn/"))


# ---- --dry-run -----------------------------------------------------------------------------------------------------


def test_only_the_header_is_fetched(cli: Cli, hub: HubServer, environment: dict[str, str], big: Path) -> None:
    run = document(cli("pull", "--dry-run", "--json", "user/big", "-c", 300, env=environment))
    assert body_bytes(hub) == 2 << 20  # of 11 MB
    assert not Path(environment["HF_HUB_CACHE"]).exists()
    assert run["memory"] == json.loads(cli("show", "--json", big, "-c", 300).stdout)["memory"]
    assert (run["n_ctx"], run["fit"]["verdict"], run["fit"]["needed"]) == (300, "fits", run["memory"]["total"])
    assert run["files"] == [{"name": big.name, "size": big.stat().st_size, "here": 0}]
    assert run["size"] == run["missing"] == big.stat().st_size
    assert run["ram_available"] > 0
    assert run["disk_free"] > 0


def test_the_names_in_the_document(cli: Cli, environment: dict[str, str]) -> None:
    run = document(cli("pull", "--dry-run", "--json", REPO, env=environment))
    assert list(run) == [
        *("model", "repository", "revision", "commit", "quant", "files", "size", "missing", "cache", "disk_free"),
        *("n_ctx", "memory", "fit", "ram_available", "gpus", "remark", "quants"),
    ]
    assert list(run["fit"]) == ["verdict", "needed", "gpu_layers", "n_layers"]
    assert list(run["quants"][0]) == [
        *("name", "quant", "files", "size", "here", "memory", "fit", "gpu_layers", "comes", "recommended"),
    ]


def test_all_quants_of_a_repository(
    cli: Cli, hub: HubServer, environment: dict[str, str], files: dict[str, Path]
) -> None:
    done = cli("pull", "--dry-run", REPO, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    header, *lines = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert header == ["model", "quant", "size", "here", "memory", "fit", "gpu_layers", "comes", "recommended"]
    assert [line[1] for line in lines] == sorted(QUANTS, key=lambda q: files[f"model-{q}.gguf"].stat().st_size)
    assert [int(line[2]) for line in lines] == [files[f"model-{line[1]}.gguf"].stat().st_size for line in lines]
    assert [line[0] for line in lines if line[7] == "true"] == [f"{REPO}:Q4_K_M"]
    assert [line[1] for line in lines if line[8] == "true"] == ["Q8_0"]
    assert {line[5] for line in lines} == {"fits"}
    assert body_bytes(hub) <= 1 << 20
    bodies = {request.path for request in hub.requests if request.path.startswith("/cdn/")}
    assert len(bodies) == 1


def test_quants_differ_by_their_weights(cli: Cli, environment: dict[str, str], files: dict[str, Path]) -> None:
    """Their own headers say nearly the same."""
    rows = document(cli("pull", "--dry-run", "--json", f"{REPO}:Q8_0", env=environment))["quants"]
    for row in rows:
        if row["quant"] in ("IQ1_S", "Q5_K_M", "Q8_0", "F16"):
            own = json.loads(cli("show", "--json", files[row["files"][0]]).stdout)["memory"]["total"]
            assert row["memory"] == pytest.approx(own, abs=1000)
    assert len({row["memory"] for row in rows}) == len(rows)


def test_what_is_here_and_what_is_partly_here(hub: HubServer, environment: dict[str, str], cli: Cli) -> None:
    hub.faults.bytes_per_second = 3_000_000
    command = [sys.executable, "-m", "llamacli", "pull", "user/big"]
    with subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL) as process:
        journal = None
        while journal is None or not journal.read_bytes().endswith(b"\n"):
            found = list(Path(environment["HF_HUB_CACHE"]).rglob("*.llamacli-journal"))
            journal = found[0] if found else None
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    hub.faults.bytes_per_second = None
    run = document(cli("pull", "--dry-run", "--json", "user/big", env=environment))
    assert 0 < run["files"][0]["here"] < run["size"]
    assert run["missing"] == run["size"] - run["files"][0]["here"]
    assert cli("pull", "user/big", env=environment).returncode == 0
    sent = body_bytes(hub)
    run = document(cli("pull", "--dry-run", "--json", "user/big", env=environment))
    assert (run["missing"], run["files"][0]["here"]) == (0, run["size"])
    assert run["memory"]
    assert body_bytes(hub) == sent  # its header is here too


def test_each_shard_has_its_own_header(cli: Cli, hub: HubServer, environment: dict[str, str], tmp_path: Path) -> None:
    weights = _tensors(len(spm_tokens()), 2, 0)
    paths = []
    for number in range(2):
        keys = {"split.no": (number, GGUFValueType.UINT16), "split.count": (2, GGUFValueType.UINT16)}
        removed = {name: None for name in weights if name.startswith("blk.1.") != (number == 1)}
        path = tmp_path / f"two-Q4_K_M-{number + 1:05}-of-00002.gguf"
        paths.append(write_llama(path, metadata_overrides=keys, tensor_overrides=removed))
    hub.add("user/two", {path.name: path for path in paths})
    run = document(cli("pull", "--dry-run", "--json", "user/two", env=environment))
    assert [file["name"] for file in run["files"]] == [path.name for path in paths]
    assert run["memory"] == json.loads(cli("show", "--json", paths[0]).stdout)["memory"]


def test_an_address_elsewhere(cli: Cli, hub: HubServer, environment: dict[str, str], big: Path) -> None:
    url = f"{hub.url}/user/big/resolve/main/{big.name}"
    run = document(cli("pull", "--dry-run", "--json", url, env=environment))
    assert (run["size"], run["missing"], run["commit"]) == (big.stat().st_size, big.stat().st_size, "")
    assert run["memory"]["n_ctx"] == run["n_ctx"] == 512
    assert [row["name"] for row in run["quants"]] == [url]


def test_a_repository_without_the_usual_quant(cli: Cli, environment: dict[str, str], files: dict[str, Path]) -> None:
    for arguments in (["user/odd"], [REPO, "--pick"]):
        run = document(cli("pull", "--dry-run", "--json", *arguments, env=environment))
        assert (run["quant"], run["files"], run["size"], run["memory"], run["fit"]) == ("", [], 0, None, None)
        assert not any(row["comes"] for row in run["quants"])
        assert [row["quant"] for row in run["quants"] if row["recommended"]] == ["Q8_0"]
    done = cli("pull", "user/odd", env=environment)
    assert (done.returncode, done.stdout) == (3, b"")
    assert b"has no Q4_K_M" in done.stderr
    sizes = {quant: size(files[f"model-{quant}.gguf"].stat().st_size) for quant in ("Q2_K", "Q8_0", "F16")}
    assert f"it has {', '.join(f'{quant} ({shown})' for quant, shown in sizes.items())}\n" in done.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--dry-run", "user/odd:Q5_K_M"], 3, "has no Q5_K_M"),
        (["--dry-run", "user/none"], 3, "no repository"),
        (["--dry-run", "tiny"], 2, "not a model of the Hub"),
        (["--dry-run", "--pick", f"{REPO}:Q8_0"], 2, "names what is to come already"),
        (["--pick", f"{REPO}/model-Q8_0.gguf"], 2, "names what is to come already"),
        (["--pick", "user/odd"], 2, "name one, user/odd:QUANT; it has Q2_K"),
        (["--dry-run", REPO, "-c", "-1"], 2, "-1 is not between"),
    ],
)
def test_what_cannot_be_planned(
    cli: Cli, environment: dict[str, str], arguments: list[str], code: int, said: str
) -> None:
    done = cli("pull", *arguments, env=environment)
    assert (done.returncode, done.stdout) == (code, b"")
    assert said in done.stderr.decode()


def test_a_vision_part_needs_no_estimate(cli: Cli, environment: dict[str, str]) -> None:
    run = document(cli("pull", "--dry-run", "--json", f"{REPO}/mmproj-F16.gguf", env=environment))
    assert [file["name"] for file in run["files"]] == ["mmproj-F16.gguf"]
    assert run["memory"] is None
    assert [row["name"] for row in run["quants"] if row["comes"]] == [f"{REPO}/mmproj-F16.gguf"]


@pytest.mark.parametrize(
    "content", [b"<html>no</html>" * 1000, b"GGUF" + bytes(5000), b"GGUF\x03\0\0\0" + b"\xff" * 99]
)
def test_a_damaged_header_leaves_the_sizes(
    cli: Cli, hub: HubServer, environment: dict[str, str], content: bytes
) -> None:
    hub.add("user/bad", {"bad-Q4_K_M.gguf": content})
    run = document(cli("pull", "--dry-run", "--json", "user/bad", env=environment))
    assert (run["size"], run["memory"], run["quants"][0]["fit"]) == (len(content), None, "unknown")
    assert run["remark"].startswith("bad-Q4_K_M.gguf: ")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_error_is_passed_over(cli: Cli, hub: HubServer, environment: dict[str, str], status: int) -> None:
    hub.faults.status, hub.faults.status_times, hub.faults.status_path = status, 2, "/cdn/"
    assert document(cli("pull", "--dry-run", "--json", "user/odd:Q8_0", env=environment))["memory"]
    hub.faults.status, hub.faults.status_times = status, 10_000
    done = cli("pull", "--dry-run", "user/odd:Q8_0", env=environment)
    assert (done.returncode, done.stdout) == (4, b"")
    assert str(status) in done.stderr.decode()


def test_short_bodies_and_servers_without_ranges(cli: Cli, hub: HubServer, environment: dict[str, str]) -> None:
    hub.faults.cut_after, hub.faults.cut_times = 3000, 2
    assert document(cli("pull", "--dry-run", "--json", "user/big", env=environment))["memory"]
    hub.faults.ignore_range = True  # and only what is needed is read of what they send
    hub.faults.stall_after, hub.faults.stall_times = 5 << 20, 10
    assert document(cli("pull", "--dry-run", "--json", "user/big", env=environment))["memory"]


def test_access(cli: Cli, hub: HubServer, environment: dict[str, str], files: dict[str, Path]) -> None:
    canary = "hf_canary_91ab"
    hub.tokens.add(canary)
    hub.add("user/private", {"model-Q4_K_M.gguf": files["model-Q2_K.gguf"]}, private=True)
    hub.add("user/gated", {"model-Q4_K_M.gguf": files["model-Q2_K.gguf"]}, gated=True)
    hub.faults.redirect_host = True
    assert cli("pull", "--dry-run", "user/gated", env=environment).returncode == 10
    done = cli("pull", "--dry-run", "user/private", "--token", canary, env={**environment, "LLAMACLI_DEBUG": "1"})
    assert done.returncode == 0, done.stderr
    assert canary not in (done.stdout + done.stderr).decode()
    bodies = [request for request in hub.requests if request.path.startswith("/cdn/")]
    assert bodies
    assert all("authorization" not in request.headers for request in bodies)


# ---- a terminal ----------------------------------------------------------------------------------------------------


def spawn(environment: dict[str, str], *arguments: str) -> Any:
    pexpect: Any = pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")
    command = ["-m", "llamacli", "pull", *arguments]
    return pexpect.spawn(
        sys.executable, command, env={**os.environ, **environment}, timeout=60, dimensions=(60, 120), encoding="utf-8"
    )


def ended(child: Any) -> str:
    """What it said from the last question on."""
    import pexpect

    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0, child.before
    return re.sub(r"\x1b\[[\d;?]*\w", "", str(child.before)).replace("\r\n", "\n")


def test_a_terminal_gets_tables(environment: dict[str, str]) -> None:
    shown = ended(spawn(environment, "--dry-run", REPO, "-c", "400"))
    for expected in (
        rf"^{REPO}: Q4_K_M of {REPO} would come\n  model-Q4_K_M\.gguf \(1\.\d MiB\)\n1\.\d MiB to fetch, .*iB free in ",
        r"\nmemory, 400 tokens +about\nweights +1\.\d MiB\n",
        r"\nprogram and vocabulary +\d+\.\d MiB\ntogether +\d+\.\d MiB\n",
        r"\nRAM that is available: \d+\.\d GiB; context: 400 tokens\n",
        r"\n +quant +size +here +memory +fit\n +IQ1_S +\d+\.\d KiB +\d+\.\d MiB  fits\n",
        r"\n→  Q4_K_M +1\.\d MiB +\d+\.\d MiB  fits\n",
        r"\n   Q8_0 +2\.\d MiB +\d+\.\d MiB  fits \(recommended\)\n",
    ):
        assert re.search(expected, shown), (expected, shown)


def test_picking(environment: dict[str, str], files: dict[str, Path]) -> None:
    """By number, by Enter (the recommended one), by name; nothing by q or the end of input."""
    for answers, quant in (
        (["9", "x", "1"], "Q2_K"),
        ([""], "Q8_0"),
        (["f16"], "F16"),
        (["q"], None),
        (["\x04"], None),
    ):
        child = spawn(environment, "user/odd")
        for answer in answers:
            child.expect_exact("1 to 3, q for none [2]: ")
            child.send(answer if answer == "\x04" else f"{answer}\r")
        said = ended(child)
        if quant is None:
            assert "pulled" not in said
        else:
            shown = re.escape(size(files[f"model-{quant}.gguf"].stat().st_size))
            what = rf"user/odd: (pulled|already here) \({shown}, {quant}\)"
            assert re.search(rf"{what}\n.*model-{quant}\.gguf\n", said)


def test_picking_where_there_is_a_usual_quant(environment: dict[str, str]) -> None:
    child = spawn(environment, "--pick", REPO)
    child.expect(r"user/Model-GGUF: which one\?.*\n +1  IQ1_S .*\n *19  Q8_0 .*fits \(recommended\)")
    child.expect_exact("RAM that is available: ")
    child.expect_exact("1 to 20, q for none [19]: ")
    child.send("1\r")
    assert "IQ1_S)" in ended(child)


def test_nothing_foreign_reaches_a_terminal(
    hub: HubServer, environment: dict[str, str], files: dict[str, Path]
) -> None:
    evil = "\x1b]0;owned\x07\x9b31m\u202e"
    hub.add("user/evil", {f"a{evil}-Q2_K.gguf": files["model-Q2_K.gguf"], f"{evil}.gguf": b"GGUF" + evil.encode()})
    hub.add("user/worse", {"a\x9b31m\u202e-Q4_K_M.gguf": b"GGUF" + evil.encode()})
    shown = ended(spawn(environment, "--dry-run", "user/evil", "user/worse"))
    child = spawn(environment, "user/evil")
    child.expect_exact("q for none")
    shown += str(child.before)
    child.send("q\r")
    shown += ended(child)
    assert "owned" in shown
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", shown)
