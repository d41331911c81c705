"""`llamacli tokens`: human, pipe and JSON."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., subprocess.CompletedProcess[bytes]]


def test_a_pipe_gets_tsv(cli: Cli, bare: Path) -> None:
    done = cli("tokens", "-m", bare, "Once upon")
    assert (done.returncode, done.stderr) == (0, b"")
    assert re.fullmatch(rb"id\tpiece\n1\t'<s>'\n\d+\t'Once'\n\d+\t' upon'\n", done.stdout)


def test_json(cli: Cli, bare: Path) -> None:
    result = json.loads(cli("tokens", "-m", bare, "--json", "é", "--no-bos").stdout)
    assert result["count"] == len(result["tokens"])
    assert bytes.fromhex("".join(token["bytes"] for token in result["tokens"])).decode() == "é"
    assert set(result["tokens"][0]) == {"id", "piece", "bytes", "text"}


def test_count_and_ids(cli: Cli, bare: Path) -> None:
    assert cli("tokens", "-m", bare, "--count", stdin=b"Once upon a time\n").stdout == b"5\n"
    ids = cli("tokens", "-m", bare, "--ids", "Once upon").stdout
    assert re.fullmatch(rb"1 \d+ \d+\n", ids)
    assert cli("tokens", "-m", bare, "--ids", "--no-bos", "Once upon").stdout == ids.removeprefix(b"1 ")


def test_special_tokens_count_only_when_asked(cli: Cli) -> None:
    plain = int(cli("tokens", "-m", "tiny", "--count", "<|im_end|>").stdout)
    special = int(cli("tokens", "-m", "tiny", "--count", "--special", "<|im_end|>").stdout)
    assert special < plain


def test_a_vocabulary_without_weights_is_enough(cli: Cli, shared: Path) -> None:
    done = cli("tokens", "-m", shared / "data/vocab/ggml-vocab-qwen2.gguf", "--ids", "Hello world")
    assert done.stdout == b"9707 1879\n"
    refused = cli("complete", "-m", shared / "data/vocab/ggml-vocab-qwen2.gguf", "Hello")
    assert refused.returncode == 6
    assert b"vocabulary" in refused.stderr


def test_a_terminal_gets_a_table(bare: Path) -> None:
    pexpect: Any = pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")
    import sys

    child = pexpect.spawn(sys.executable, ["-m", "llamacli", "tokens", "-m", str(bare), "Once upon"], timeout=60)
    child.expect(pexpect.EOF)
    assert b"3 tokens" in child.before
    assert b"' upon'" in child.before


def test_nothing_to_split(cli: Cli, bare: Path) -> None:
    assert cli("tokens", "-m", bare).returncode == 2
