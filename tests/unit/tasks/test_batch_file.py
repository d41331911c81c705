"""The file of a batch's answers: what it knows, what counts as done."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from llamacli.errors import UsageError
from llamacli.tasks.batch_file import AnswersFile


def answer(line: int, print_: str = "run-a", **more: Any) -> dict[str, Any]:
    return {"id": line, "line": line, **({} if "error" in more else {"text": "x"}), **more, "fingerprint": print_}


def failed(line: int, code: int) -> dict[str, Any]:
    return answer(line, error={"code": code, "message": "m"})


def test_what_is_known(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with AnswersFile(path, "run") as file:
        for record in (answer(1), failed(2, 2), failed(3, 11)):
            file.add(record)
    with AnswersFile(path, "run") as file:
        found = file.find(1, "run-a")
        assert found is not None
        assert (found.id, found.code) == (1, 0)
        with pytest.raises(UsageError, match="another line 1: the input was changed"):
            file.find(1, "run-b")
        assert file.find(2, "run-a") is not None
        assert file.find(2, "run-b") is None  # it was mended
        assert file.find(3, "run-a") is None  # memory was short: it is tried again
        assert file.find(4, "run-a") is None
        file.add(answer(3))
        file.finish(in_order=True)
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [(record["line"], "error" in record) for record in records] == [(1, False), (2, True), (3, False)]


def test_a_file_that_was_replaced_before_it_was_locked_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has just put its own, in order, in this one's place: what is written here would be lost."""
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "out"
    path.write_bytes(b"")
    lock = fcntl.flock

    def late(fd: int, how: int) -> None:
        (tmp_path / "new").write_bytes(b"")
        os.replace(tmp_path / "new", path)
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(UsageError, match="another process is writing it"):
        AnswersFile(path, "run")


@pytest.mark.parametrize("record", [1, [], "x", {}, {"error": "x"}, {"error": {"code": "2"}}, {"id": None}])
def test_other_json_is_no_answer(tmp_path: Path, record: Any) -> None:
    path = tmp_path / "out"
    record = {**answer(1), **record} if isinstance(record, dict) and record else record
    path.write_text(json.dumps(record) + "\n")
    with pytest.raises(UsageError, match="line 1 of it is no answer of batch"):
        AnswersFile(path, "run")
