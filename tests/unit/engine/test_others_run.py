"""Whether other processes want the processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llamacli.engine import threads


@pytest.mark.skipif(not Path("/proc/loadavg").exists(), reason="only Linux tells")
def test_busy_processes_are_seen() -> None:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        assert any(threads.others_run() for _ in range(1000))
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@pytest.mark.parametrize(("text", "others"), [("0.1 0.1 0.1 1/99 7", False), ("0.1 0.1 0.1 3/99 7", True), ("", False)])
def test_what_the_system_says(monkeypatch: pytest.MonkeyPatch, text: str, others: bool) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: text)
    assert threads.others_run() == others
