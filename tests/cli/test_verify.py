"""`llamacli verify`: every store, every kind of damage; human, pipe and JSON."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamacli.builtin import TINY
from llamacli.tasks.verify import Checked, refuse_damaged, size, targets, verify

Cli = Callable[..., subprocess.CompletedProcess[bytes]]
REPO, COMMIT = "me/toy-GGUF", "1" * 40
UNKNOWN = "no checksum is known; its header is sound, and it holds all tensors"


def hub_file(home: Path, name: str, data: bytes, digest: str = "") -> Path:
    folder = home / ".cache/huggingface/hub/models--me--toy-GGUF"
    blob, link = folder / "blobs" / (digest or hashlib.sha256(data).hexdigest()), folder / "snapshots" / COMMIT / name
    for path in (blob, link):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    link.symlink_to(os.path.relpath(blob, link.parent))
    return link


def ollama_model(home: Path, data: bytes) -> Path:
    digest, manifest = hashlib.sha256(data).hexdigest(), home / "ollama/manifests/registry.ollama.ai/library/toy/1b"
    blob = home / f"ollama/blobs/sha256-{digest}"
    for path in (blob, manifest):
        path.parent.mkdir(parents=True)
    blob.write_bytes(data)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": len(data)}
    manifest.write_text(json.dumps({"layers": [layer]}))
    return blob


@pytest.fixture
def stocked(home: Path, plain: Path) -> Path:
    """A sound model in each store."""
    data = plain.read_bytes()
    hub_file(home, "toy-Q4_K_M.gguf", data)
    hub_file(home, "small-Q8_0.gguf", data, hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())
    ollama_model(home, data)
    for path in (home / ".lmstudio/models/me/toy/toy.gguf", home / ".cache/llama.cpp/toy.gguf"):
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    return home


def flip(path: Path, place: int = -1000) -> None:
    """One bit of a file is another one."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def states(*models: str) -> dict[str, tuple[str, str]]:
    """In this process: name or, of several files, file → (state, detail)."""
    rows = verify(targets(models))
    several = {row.model for row in rows if sum(other.model == row.model for other in rows) > 1}
    return {row.file.name if row.model in several else row.model: (row.state, row.detail) for row in rows}


def test_a_pipe_gets_tsv(cli: Cli, stocked: Path, plain: Path) -> None:
    data = plain.read_bytes()
    sha256, sha1 = hashlib.sha256(data).hexdigest(), hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    done = cli("verify")
    assert (done.returncode, done.stderr) == (0, b"")
    header, *rows = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert header == ["model", "file", "state", "detail"]
    snapshot = stocked / ".cache/huggingface/hub/models--me--toy-GGUF/snapshots" / COMMIT
    assert rows == [
        ["tiny", str(TINY), "unchecked", UNKNOWN],
        [f"{REPO}/small-Q8_0.gguf", str(snapshot / "small-Q8_0.gguf"), "ok", f"git's sha1 {sha1}"],
        [f"{REPO}/toy-Q4_K_M.gguf", str(snapshot / "toy-Q4_K_M.gguf"), "ok", f"sha256 {sha256}"],
        [str(stocked / ".cache/llama.cpp/toy.gguf"), str(stocked / ".cache/llama.cpp/toy.gguf"), "unchecked", UNKNOWN],
        [*[str(stocked / ".lmstudio/models/me/toy/toy.gguf")] * 2, "unchecked", UNKNOWN],
        ["ollama:toy:1b", str(stocked / f"ollama/blobs/sha256-{sha256}"), "ok", f"sha256 {sha256}"],
    ]


def test_a_flipped_bit_is_code_5_after_the_rows(cli: Cli, stocked: Path) -> None:
    path = stocked / ".cache/huggingface/hub/models--me--toy-GGUF/snapshots" / COMMIT / "toy-Q4_K_M.gguf"
    flip(path)
    done = cli("verify", "--json", REPO, "tiny", "ollama:toy:1b")
    assert done.returncode == 5
    rows = json.loads(done.stdout)
    assert [list(row) for row in rows] == [["model", "file", "state", "detail"]] * 3
    assert [(row["model"], row["state"]) for row in rows] == [
        (REPO, "damaged"),
        ("tiny", "unchecked"),
        ("ollama:toy:1b", "ok"),
    ]
    got = hashlib.sha256(path.read_bytes()).hexdigest()
    assert rows[0]["detail"] == f"sha256 is {got}, not {path.resolve().name}"
    name = f"{REPO}/toy-Q4_K_M.gguf"
    assert done.stderr.decode().splitlines() == [
        f"error: {REPO} is damaged",
        f"hint: llamacli rm {name} && llamacli pull {name}",
    ]


def test_every_single_bit_counts(home: Path, plain: Path) -> None:
    link = hub_file(home, "toy.gguf", plain.read_bytes())
    for place in (0, 1 << 16, -1):
        flip(link, place)
        assert states(REPO)[REPO][0] == "damaged"
        flip(link, place)
    assert states(REPO)[REPO][0] == "ok"


def test_short_files(home: Path, plain: Path) -> None:
    data = plain.read_bytes()
    for path in (hub_file(home, "toy.gguf", data), ollama_model(home, data)):
        os.truncate(path, len(data) - 10_000)
    other = home / ".cache/llama.cpp/toy.gguf"
    other.parent.mkdir(parents=True)
    other.write_bytes(data[:-10_000])
    del (found := states())["tiny"]
    assert len(found) == 3
    numbers = f"needs {len(data):,} bytes, the file has {len(data) - 10_000:,}"
    for state, detail in found.values():
        assert (state, detail.partition(";")[0]) == ("damaged", f"cut short: the model {numbers}")
    assert sum("; sha256 is " in detail for _, detail in found.values()) == 2


def test_files_without_a_checksum(home: Path, plain: Path) -> None:
    """A copy in a snapshot, a link out of the cache, a blob whose name is no digest."""
    data = plain.read_bytes()
    link = hub_file(home, "blob.gguf", data, "an-etag")
    link.with_name("copy.gguf").write_bytes(data)
    link.with_name("out.gguf").symlink_to(plain)
    found = states(*(f"{REPO}/{name}.gguf" for name in ("blob", "copy", "out")))
    assert [*found.values()] == [("unchecked", UNKNOWN)] * 3
    assert size(targets([])) == 0


def test_what_would_make_llama_cpp_crash_is_damage(home: Path) -> None:
    from make_gguf import write_llama

    folder = home / ".cache/llama.cpp"
    folder.mkdir(parents=True)
    write_llama(folder / "a.gguf", metadata_overrides={"llama.block_count": 0})
    write_llama(folder / "mmproj.gguf", metadata_overrides={"general.type": "mmproj", "general.architecture": "clip"})
    (folder / "page.gguf").write_text("<!doctype html>")
    (folder / "folder.gguf").mkdir()
    os.mkfifo(folder / "pipe.gguf")
    found = {Path(name).name: row for name, row in states().items()}
    assert found["a.gguf"] == ("damaged", "block_count is 0; between 1 and 512 layers are possible")
    assert found["mmproj.gguf"] == ("unchecked", UNKNOWN)
    assert found["page.gguf"] == ("damaged", "a web page (15 bytes), not a GGUF file")
    assert found["pipe.gguf"] == ("damaged", "it is not a regular file")
    assert len(found) == 5


def test_missing_parts_and_broken_links(home: Path, plain: Path) -> None:
    data = plain.read_bytes()
    hub_file(home, "big-00001-of-00003.gguf", data)
    hub_file(home, "big-00002-of-00003.gguf", data[::-1]).resolve().unlink()
    name = f"{REPO}/big-00001-of-00003.gguf"
    rows = verify(targets([name]))
    assert [(row.state, row.detail) for row in rows[1:]] == [("missing", "a broken link"), ("missing", "")]
    assert rows[0].state == "ok"
    assert [row.file for row in verify(targets([]))[1:]] == [row.file for row in rows]
    from llamacli.errors import ChecksumMismatch

    with pytest.raises(ChecksumMismatch, match="is not whole") as raised:
        refuse_damaged(rows)
    assert raised.value.hint == f"llamacli rm {name} && llamacli pull {name}"


def test_parts_without_a_checksum(home: Path) -> None:
    from gguf import GGUFValueType
    from make_gguf import write_llama

    folder = home / ".cache/llama.cpp"
    folder.mkdir(parents=True)
    names = [f"big-{number:05}-of-00002.gguf" for number in (1, 2)]
    for number, name in enumerate(names):
        split = {"split.count": (2, GGUFValueType.UINT16), "split.no": (number, GGUFValueType.UINT16)}
        write_llama(folder / name, metadata_overrides=split)
    sound = ("unchecked", UNKNOWN)
    assert states(str(folder / names[0])) == {names[0]: sound, names[1]: sound}
    (folder / names[1]).unlink()
    assert states(str(folder / names[0])) == {names[0]: sound, names[1]: ("missing", "")}


def test_one_blob_with_many_names_is_hashed_once(home: Path, plain: Path) -> None:
    data = plain.read_bytes()
    link = hub_file(home, "a.gguf", data)
    link.with_name("b.gguf").symlink_to(os.readlink(link))
    seen: list[int] = []
    rows = verify(targets([f"{REPO}/a.gguf", f"{REPO}/b.gguf"]), seen.append)
    assert [row.state for row in rows] == ["ok", "ok"]
    assert sum(seen) == len(data) == size(targets([]))


def test_models_of_ollama_without_a_file(home: Path) -> None:
    folder = home / "ollama/manifests/registry.ollama.ai/library/cloud"
    folder.mkdir(parents=True)
    (folder / "a").write_text('{"layers": []}')
    (folder / "b").write_text("{")
    assert states("ollama:cloud:a", "ollama:cloud:b") == {
        "ollama:cloud:a": ("unchecked", "no GGUF file belongs to it"),
        "ollama:cloud:b": ("damaged", "cannot be read: it is no manifest of Ollama's"),
    }


@pytest.mark.parametrize(
    ("model", "file", "hint"),
    [
        ("ollama:toy:1b", "ollama/blobs/sha256-" + "a" * 64, "ollama rm toy:1b && ollama pull toy:1b"),
        ("x.gguf", "x.gguf", "download the file again"),
        ("a b", f".cache/huggingface/hub/models--a--b/snapshots/{COMMIT}/c d.gguf", None),
    ],
)
def test_the_hint_brings_it_anew(home: Path, model: str, file: str, hint: str | None) -> None:
    from llamacli.errors import ChecksumMismatch

    with pytest.raises(ChecksumMismatch) as raised:
        refuse_damaged([Checked(model, home / file, "damaged", "")])
    assert raised.value.hint == (hint or "llamacli rm 'a/b/c d.gguf' && llamacli pull 'a/b/c d.gguf'")


def test_what_is_not_here_is_code_3_before_anything_is_read(cli: Cli, stocked: Path) -> None:
    done = cli("verify", REPO, "me/nothing")
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.decode().splitlines()[0] == "error: me/nothing is not on this machine"
    assert cli("verify", "nothing.gguf").returncode == 3


# ---- on a terminal -------------------------------------------------------------------------------------------------


def on_a_terminal(code: int, *arguments: str) -> str:
    pexpect: Any = pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")
    child = pexpect.spawn(sys.executable, ["-m", "llamacli", "verify", *arguments], timeout=60, dimensions=(50, 250))
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == code
    return re.sub(r"\x1b\[[\d;]*m", "", str(child.before.decode()).replace("\r\n", "\n"))


def test_a_terminal_gets_a_table(stocked: Path) -> None:
    link = stocked / ".cache/huggingface/hub/models--me--toy-GGUF/snapshots" / COMMIT / "toy-Q4_K_M.gguf"
    flip(link)
    got, wanted = hashlib.sha256(link.read_bytes()).hexdigest()[:12], link.resolve().name[:12]
    assert on_a_terminal(5) == (
        "state      model\n"
        "unchecked  tiny\n"
        f"           ({UNKNOWN})\n"
        "ok         me/toy-GGUF/small-Q8_0.gguf\n"
        "damaged    me/toy-GGUF/toy-Q4_K_M.gguf\n"
        f"           (sha256 is {got}…, not {wanted}…)\n"
        "unchecked  ~/.cache/llama.cpp/toy.gguf\n"
        f"           ({UNKNOWN})\n"
        "unchecked  ~/.lmstudio/models/me/toy/toy.gguf\n"
        f"           ({UNKNOWN})\n"
        "ok         ollama:toy:1b\n"
        "error: me/toy-GGUF/toy-Q4_K_M.gguf is damaged\n"
        "hint: llamacli rm me/toy-GGUF/toy-Q4_K_M.gguf && llamacli pull me/toy-GGUF/toy-Q4_K_M.gguf\n"
    )


def test_a_bar_and_ctrl_c(home: Path) -> None:
    """The file has no end in time: 1 TB of holes."""
    pexpect: Any = pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")
    link = hub_file(home, "toy-Q4_K_M.gguf", b"GGUF", "a" * 64)
    os.truncate(link, 1 << 40)
    child = pexpect.spawn(sys.executable, ["-m", "llamacli", "verify", REPO], timeout=60, dimensions=(50, 120))
    child.expect_exact("verifying me/toy-GGUF")
    child.expect("[0-9.]+ [MG]iB/s")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.signalstatus == signal.SIGINT
    assert child.before.endswith(b"\x1b[?25h\r\n")
