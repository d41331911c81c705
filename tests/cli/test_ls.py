"""`llamacli ls`: human, pipe and JSON, with every kind of damage in the stores."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamacli.builtin import TINY

Cli = Callable[..., subprocess.CompletedProcess[bytes]]
HEADER = ["name", "size", "quant", "architecture", "source", "modified", "remark"]


@pytest.fixture
def stocked(home: Path, plain: Path) -> Path:
    """A model in each store, one in the Hub cache with its projector."""
    blob = home / ".cache/huggingface/hub/models--me--toy-GGUF/blobs/abc"
    snapshot = blob.parents[1] / "snapshots" / ("1" * 40)
    studio, cached = home / ".lmstudio/models/me/toy/toy.gguf", home / ".cache/llama.cpp/me_toy.gguf"
    digest, manifest = "0" * 64, home / "ollama/manifests/registry.ollama.ai/library/toy/1b"
    ollama = home / f"ollama/blobs/sha256-{digest}"
    for path in (blob, snapshot / "x", studio, cached, ollama, manifest):
        path.parent.mkdir(parents=True, exist_ok=True)
    for path in (blob, studio, cached, ollama):
        path.write_bytes(plain.read_bytes())
        os.utime(path, (86400, 86400))
    (snapshot / "toy-Q4_K_M.gguf").symlink_to("../../blobs/abc")
    (snapshot / "mmproj-toy-F16.gguf").symlink_to("../../blobs/abc")
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": 1}
    manifest.write_text(json.dumps({"layers": [layer]}))
    return home


def rows(done: subprocess.CompletedProcess[bytes]) -> list[list[str]]:
    assert (done.returncode, done.stderr) == (0, b"")
    return [line.split("\t") for line in done.stdout.decode().splitlines()]


def test_a_pipe_gets_tsv(cli: Cli, stocked: Path, plain: Path) -> None:
    size, time = str(plain.stat().st_size), "1970-01-02T00:00:00Z"
    header, tiny, *others = rows(cli("ls"))
    assert header == HEADER
    assert (tiny[:2], tiny[3:5]) == (["tiny", str(TINY.stat().st_size)], ["llama", "builtin"])
    assert others == [
        ["me/toy-GGUF/toy-Q4_K_M.gguf", size, "Q4_K_M", "llama", "huggingface", time, ""],
        [str(stocked / ".cache/llama.cpp/me_toy.gguf"), size, "F32", "llama", "llama.cpp", time, ""],
        [str(stocked / ".lmstudio/models/me/toy/toy.gguf"), size, "F32", "llama", "lmstudio", time, ""],
        ["ollama:toy:1b", size, "F32", "llama", "ollama", time, ""],
    ]


def test_every_name_is_one_for_m(cli: Cli, stocked: Path) -> None:
    names = [name for name, *_ in rows(cli("ls"))[1:]]
    assert len(names) == 5
    for name in names:
        done = cli("tokens", "-m", name, "--count", "the")
        assert (done.returncode, done.stderr) == (0, b""), name


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a file's name is Unicode")
def test_a_name_that_is_no_utf8_keeps_its_bytes(cli: Cli, home: Path, plain: Path) -> None:
    path = os.fsencode(home) + b"/.cache/llama.cpp/\xff \xc3.gguf"
    os.makedirs(os.path.dirname(path))
    with open(path, "wb") as file:
        file.write(plain.read_bytes())
    name = cli("ls").stdout.splitlines()[2].split(b"\t")[0]
    assert name == path
    assert cli("show", name).returncode == cli("tokens", "-m", name, "a").returncode == 0
    assert json.loads(cli("ls", "--json").stdout)[1]["architecture"] == "llama"


def test_all_shows_projectors_too(cli: Cli, stocked: Path) -> None:
    names = {name for name, *_ in rows(cli("ls"))}
    more = {name for name, *_ in rows(cli("ls", "--all"))}
    assert more - names == {"me/toy-GGUF/mmproj-toy-F16.gguf"}
    assert rows(cli("ls", "-a")) == rows(cli("ls", "--all"))


def test_a_projector_is_known_by_what_it_says(cli: Cli, home: Path) -> None:
    from make_gguf import write_llama

    path = home / ".cache/llama.cpp/vision.gguf"
    path.parent.mkdir(parents=True)
    write_llama(path, metadata_overrides={"general.type": "mmproj", "general.architecture": "clip"})
    assert [name for name, *_ in rows(cli("ls"))] == ["name", "tiny"]
    assert rows(cli("ls", "--all"))[2][3] == "clip"


def test_json(cli: Cli, stocked: Path) -> None:
    result = json.loads(cli("ls", "--json").stdout)
    assert [model["source"] for model in result] == ["builtin", "huggingface", "llama.cpp", "lmstudio", "ollama"]
    assert all(
        list(model) == ["name", "size", "quant", "architecture", "source", "modified", "files", "remark"]
        for model in result
    )
    assert result[1]["files"][0].endswith("toy-Q4_K_M.gguf")
    assert result[1]["modified"] == "1970-01-02T00:00:00Z"
    assert result[1]["remark"] is None


def test_damaged_files_are_rows_with_a_remark(cli: Cli, home: Path, plain: Path) -> None:
    folder = home / ".cache/llama.cpp"
    folder.mkdir(parents=True)
    data = plain.read_bytes()
    (folder / "a-page.gguf").write_bytes(b"<!doctype html>sorry")
    (folder / "b-empty.gguf").write_bytes(b"")
    (folder / "c-short.gguf").write_bytes(data[: len(data) // 2])
    (folder / "d-header.gguf").write_bytes(data[:2000])
    (folder / "e-link.gguf").symlink_to("nowhere")
    (folder / "f-1-00001-of-00002.gguf").write_bytes(b"damaged, too")
    (folder / "g-folder.gguf").mkdir()
    os.mkfifo(folder / "h-pipe.gguf")
    (folder / "i\t\n\x1b[31m.gguf").write_bytes(data)
    (folder / "j-good.gguf").write_bytes(data)
    remarks = {os.path.basename(name): remark for name, *_, remark in rows(cli("ls"))[2:]}
    assert remarks == {
        "a-page.gguf": "a web page (20 bytes), not a GGUF file",
        "b-empty.gguf": "the file is empty",
        "c-short.gguf": remarks["c-short.gguf"],
        "d-header.gguf": remarks["d-header.gguf"],
        "e-link.gguf": "a broken link: the file is missing",
        "f-1-00001-of-00002.gguf": "part 2 of 2 is missing",
        "h-pipe.gguf": remarks["h-pipe.gguf"],
        "i\\t\\n\x1b[31m.gguf": "",
        "j-good.gguf": "",
    }
    assert remarks["c-short.gguf"].startswith("cut short: the model needs ")
    assert remarks["d-header.gguf"].startswith("cut short or damaged: ")
    assert remarks["h-pipe.gguf"].endswith("is not a regular file")


def on_a_terminal(*arguments: str) -> str:
    pexpect: Any = pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")
    child = pexpect.spawn(sys.executable, ["-m", "llamacli", "ls", *arguments], timeout=60, dimensions=(50, 100))
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    return re.sub(r"\x1b\[\d*m", "", str(child.before.decode()).replace("\r\n", "\n"))


def test_a_terminal_gets_a_table(stocked: Path) -> None:
    header, *lines = on_a_terminal().splitlines()
    assert header.split() == ["size", "quant", "architecture", "source", "modified", "name"]
    assert len(lines) == 5
    assert re.fullmatch(r" *\d+\.\d MiB  \S+ +llama +builtin +20\d\d-\d\d-\d\d  tiny", lines[0])
    name = "me/toy-GGUF/toy-Q4_K_M.gguf"
    assert re.fullmatch(rf"\d+\.\d KiB  Q4_K_M  llama +huggingface  1970-01-02  {name}", lines[1])
    assert lines[3].endswith(f"  ~{os.sep}.lmstudio/models/me/toy/toy.gguf")
    assert len({line.index("llama") for line in (header.replace("architecture", "llama"), *lines)}) == 1


def test_a_terminal_gets_long_names_whole_and_remarks_below(home: Path) -> None:
    folder = home / ".cache/llama.cpp"
    folder.mkdir(parents=True)
    name = "n" * 150 + ".gguf"
    (folder / name).write_text("")
    shown = on_a_terminal()
    assert f"~{os.sep}.cache/llama.cpp/{name}\n" in shown
    assert re.search(r"\n {20,}\(the file is empty\)\n$", shown)


def test_a_terminal_gets_no_escapes_of_files(home: Path) -> None:
    (home / ".cache/llama.cpp").mkdir(parents=True)
    (home / ".cache/llama.cpp/\x1b]0;owned\x07\n.gguf").write_text("\x1b]0;")
    for arguments in ([], ["--json"]):
        shown = on_a_terminal(*arguments)
        assert "owned" in shown
        assert not re.search("[\x00-\x08\x0b-\x1f]", shown)


def test_many_large_vocabularies_are_quick(cli: Cli, home: Path, shared: Path) -> None:
    """A bound far above the measured 25 ms each: it would catch a header that is read whole."""
    import time

    folder = home / ".cache/llama.cpp"
    folder.mkdir(parents=True)
    for number in range(10):
        (folder / f"{number}.gguf").symlink_to(shared / "data/vocab/ggml-vocab-llama-bpe.gguf")
    start = time.monotonic()
    assert len(rows(cli("ls"))) == 12
    assert time.monotonic() - start < 5
