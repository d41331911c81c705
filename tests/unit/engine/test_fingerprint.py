"""Whether a file is the one that it was."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from llamacli.engine.fingerprint import fingerprint, identity


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.write_bytes(random.Random(0).randbytes(8 << 20))
    return path


def flip(path: Path, at: int) -> None:
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    while True:  # the file system's clock ticks every few milliseconds
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        if path.stat().st_ctime_ns != status.st_ctime_ns:
            return


def test_samples_see_both_ends_and_what_the_caller_asks_for(path: Path) -> None:
    size = path.stat().st_size
    before, with_head = fingerprint(path), fingerprint(path, head=100_000)
    flip(path, 90_000)  # between the first two samples
    assert fingerprint(path) == before
    assert fingerprint(path, head=100_000) != with_head
    for at in (0, size - 1):
        flip(path, at)
        assert fingerprint(path) != before
        flip(path, at)


def test_an_identity_sees_every_change(path: Path) -> None:
    before = identity([path])
    assert identity([path]) == before
    flip(path, 90_000)
    assert identity([path]) != before
    assert identity([path, path.with_name("none")]) is None
