"""`llamacli devices`: human, pipe and JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

Cli = Callable[..., subprocess.CompletedProcess[bytes]]


def test_a_pipe_gets_tsv(cli: Cli) -> None:
    done = cli("devices")
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "device\tkind\tbackend\tdescription\tfree GiB\tGiB"
    assert any(line.split("\t")[1] == "cpu" for line in lines[1:])


def test_json(cli: Cli) -> None:
    result = json.loads(cli("devices", "--json").stdout)
    assert set(result) == {"bindings", "features", "backends", "threads", "devices", "missing"}
    assert result["bindings"].startswith("llama-cpp-python ")
    assert all(device["memory_total"] >= device["memory_free"] >= 0 for device in result["devices"])


def test_a_terminal_gets_a_table() -> None:
    pexpect: Any = pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")
    child = pexpect.spawn(sys.executable, ["-m", "llamacli", "devices"], timeout=60, dimensions=(24, 100))
    child.expect(pexpect.EOF)
    assert b"llama-cpp-python" in child.before
    assert b"CPU" in child.before
