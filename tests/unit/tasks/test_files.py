"""New files: all of them or nothing, and what a killed process left goes with the next one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llamacli.errors import UsageError
from llamacli.tasks.files import new_file, refuse, write

WRITER = """
import sys
from pathlib import Path
from llamacli.tasks.files import new_file
with new_file(Path(sys.argv[1]), force=True) as file:
    file.write(b"half")
    file.flush()
    print("begun", flush=True)
    sys.stdin.read()
"""


def writer(path: Path) -> subprocess.Popen[bytes]:
    """A process in the middle of writing `path`; it ends when its standard input does."""
    running = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ
    )
    assert running.stdout is not None
    assert running.stdout.readline() == b"begun\n"
    return running


def test_what_a_kill_left_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with writer(path) as killed, writer(path) as living:
        killed.kill()
        killed.wait()
        assert len(list(tmp_path.iterdir())) == 3
        write(path, b"new", force=True)
        assert path.read_bytes() == b"new"
        assert len(list(tmp_path.iterdir())) == 2
        living.communicate()
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"half", [path])


def test_other_hidden_files_stay(tmp_path: Path) -> None:
    mine = [tmp_path / name for name in (".a", ".a.swp", ".a.1234567g", ".b.12345678")]
    for path in mine:
        path.write_bytes(b"mine")
    write(tmp_path / "a", b"new", force=False)
    assert sorted(tmp_path.iterdir()) == sorted([*mine, tmp_path / "a"])


def test_the_longest_name(tmp_path: Path) -> None:
    """255 bytes, as file systems allow, in characters of three."""
    path = tmp_path / ("字" * 85)
    write(path, b"x", force=False)
    assert path.read_bytes() == b"x"


def test_an_exception_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), new_file(path, force=True) as file:
        file.write(b"%d" % (1 // 0))
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"old", [path])


def test_what_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"")
    for path, words in (
        (tmp_path, "is a folder"),
        (tmp_path / "there", "is there already"),
        (tmp_path / "none" / "a", "there is no folder"),
    ):
        with pytest.raises(UsageError, match=words):
            refuse(path, force=False)
    refuse(tmp_path / "there", force=True)
