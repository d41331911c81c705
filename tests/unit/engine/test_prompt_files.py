"""Stored prompts: found by their longest beginning, never damaged, bounded, private."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llamacli.engine import prompt_files
from llamacli.engine.prompt_files import entries, find, key, load, remove, shrink, store

ROOM = 1 << 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "prompts" / "a"


def put(folder: Path, tokens: list[int], size: int = 100, limit: int = ROOM) -> bool:
    return store(folder, tokens, bytes([tokens[-1] % 256]) * size, model="m.gguf", limit=limit)


def place(folder: Path, first: int) -> Path:
    found = find(folder, [first, 1], 2)
    assert found is not None
    return found.path


def test_what_is_stored_is_loaded(folder: Path) -> None:
    assert put(folder, [1, 2, 70_000, 4])
    found = find(folder, [1, 2, 70_000, 5], 1)
    assert found is not None
    assert (found.n_shared, found.n_tokens, found.n_state) == (3, 4, 100)
    assert load(found.path) == ([1, 2, 70_000, 4], bytearray(b"\x04" * 100))


def test_the_longest_beginning_wins_and_of_equals_the_smallest(folder: Path) -> None:
    for tokens, size in (([1, 2, 3, 9], 50), ([1, 2, 3, 8], 10), ([1, 2, 4], 1), ([2, 1, 3, 4, 5], 1)):
        put(folder, tokens, size)
    found = find(folder, [1, 2, 3, 4, 5], 1)
    assert found is not None
    assert (found.n_shared, found.n_state) == (3, 10)
    assert find(folder, [1, 2, 3, 4, 5], 4) is None
    assert find(folder, [7, 7], 1) is None
    assert find(folder.with_name("none"), [1], 1) is None


def test_a_longer_prompt_takes_the_place_of_its_beginnings(folder: Path) -> None:
    put(folder, [1, 2])
    put(folder, [1, 2, 9])
    put(folder, [1, 2, 3, 4])
    assert sorted(load(path)[0] for path in folder.iterdir()) == [[1, 2, 3, 4], [1, 2, 9]]  # type: ignore[index]


def test_only_the_user_may_read(folder: Path) -> None:
    before = os.umask(0)
    try:
        put(folder, [1, 2])
    finally:
        os.umask(before)
    (file,) = folder.iterdir()
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder.parent, folder, file)]
    assert modes == [0o700, 0o700, 0o600]


def test_any_damage_is_a_miss(folder: Path) -> None:
    put(folder, [*range(1, 40)], 400)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    rng = random.Random(0)
    for i in range(len(whole)):
        damaged = bytearray(whole)
        damaged[i] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged)
        assert load(file) is None
        assert not file.exists()  # it would be in the way of a good one
    for n in range(0, len(whole), 7):
        file.write_bytes(whole[:n])
        assert load(file) is None
    file.write_bytes(whole + b"more")
    assert load(file) is None
    file.write_bytes(whole)
    assert load(file) is not None
    file.unlink()
    assert load(file) is None


@pytest.mark.parametrize("left", [b"", b"junk", b"llamacli prompt 1\n" + b"\xff" * 40])
def test_one_without_a_head_does_not_stand_in_the_way(folder: Path, left: bytes) -> None:
    """As a machine leaves it that loses its power: the name is there, the bytes are not."""
    put(folder, [1, 2, 3])
    (file,) = folder.iterdir()
    file.write_bytes(left)
    assert find(folder, [1, 2, 3], 1) is None
    assert not file.exists()
    file.write_bytes(left)
    assert put(folder, [1, 2, 3])
    assert load(file) is not None


def test_what_a_killed_process_left_is_not_in_the_way(folder: Path) -> None:
    put(folder, [1, 2, 3])
    (file,) = folder.iterdir()
    file.rename(file.with_name(f"{file.stem}.{os.getpid()}.part"))  # in a container the next one has the same number
    assert put(folder, [1, 2, 3])
    assert load(file) is not None


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_leaves_nothing(folder: Path, signum: int) -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from llamacli import signals\n"
        "from llamacli.engine import prompt_files\n"
        "signals.install()\n"
        f"prompt_files.os.replace = lambda a, b: (print(a.exists(), flush=True), os.kill(os.getpid(), {signum:d}))\n"
        "prompt_files.store(Path(sys.argv[1]), [1, 2], b'x' * 100, model='m', limit=1 << 30)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (-signum, b"True\n")
    assert list(folder.iterdir()) == []


def test_a_folder_that_goes_meanwhile_is_no_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by `cache clear` of another process."""
    put(folder, [1, 2])
    before = prompt_files._free
    monkeypatch.setattr(prompt_files, "_free", lambda path: (remove(folder.parent, entries(folder.parent)), 1 << 40)[1])
    assert not put(folder, [1, 3])
    monkeypatch.setattr(prompt_files, "_free", before)
    assert put(folder, [1, 3])


def test_the_oldest_used_goes(folder: Path) -> None:
    size = 100_000
    for i in range(4):
        put(folder, [i, 1], size)
        os.utime(place(folder, i), (i, i))
    load(place(folder, 0))  # used now
    assert put(folder, [4, 1], size, limit=3 * size + 1000)
    assert {entry.n_tokens for entry in entries(folder.parent)} == {2}
    assert sorted(load(entry.path)[0][0] for entry in entries(folder.parent)) == [0, 3, 4]  # type: ignore[index]


def test_what_is_too_large_is_not_stored(folder: Path) -> None:
    assert not put(folder, [1, 2], 1000, limit=1500)
    assert entries(folder.parent) == []
    assert list(folder.iterdir()) == []


def test_what_nobody_finished_goes_in_the_end(folder: Path) -> None:
    put(folder, [1, 2])
    new, old = folder / "new.1.part", folder / "old.1.part"
    new.touch()
    old.touch()
    os.utime(old, (1, 1))
    shrink(folder.parent, ROOM)
    assert (new.exists(), old.exists()) == (True, False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert not put(tmp_path / "prompts" / "a", [1, 2])


def test_a_file_in_the_place_of_the_folder_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "prompts").write_text("mine")
    assert not put(tmp_path / "prompts" / "a", [1, 2])
    assert find(tmp_path / "prompts" / "a", [1, 2], 1) is None
    assert entries(tmp_path / "prompts") == []


def test_what_was_being_written_goes_with_the_last_one(folder: Path) -> None:
    put(folder, [1, 2])
    put(folder, [2, 2])
    (folder / "x.1.part").touch()
    first, second = entries(folder.parent)
    remove(folder.parent, [first])
    assert (folder / "x.1.part").exists()
    remove(folder.parent, [second])
    assert not folder.exists()


def test_listing_and_removing(folder: Path) -> None:
    put(folder, [1, 2], 10)
    put(folder.with_name("b"), [1, 2, 3], 20)
    (folder / "x.prompt").write_bytes(b"junk")
    found = {entry.n_tokens: entry for entry in entries(folder.parent)}
    assert (found[2].model, found[3].model, found[0].model) == ("m.gguf", "m.gguf", "")
    assert remove(folder.parent, [found[3], found[0]]) == [found[3], found[0]]
    assert not folder.with_name("b").exists()
    assert [entry.n_tokens for entry in entries(folder.parent)] == [2]


def test_a_key_depends_on_every_part() -> None:
    parts = {"model": [1, 2], "options": {"a": 1.0}}
    assert key(parts) == key({"options": {"a": 1.0}, "model": [1, 2]})
    assert len({key(parts), key({**parts, "model": [1, 3]}), key({**parts, "more": None})}) == 3


def test_the_usual_limit_is_no_large_part_of_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, [1, 2], 1000)
    monkeypatch.setattr(prompt_files, "_free", lambda _: 10_000)
    assert 1000 < prompt_files.usual_limit(folder.parent) < 1200
    monkeypatch.setattr(prompt_files, "_free", lambda _: 1 << 60)
    assert prompt_files.usual_limit(folder.parent) == 2 << 30
