"""The models on this machine as a table."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from datetime import UTC, datetime

from llamacli.tasks.ls import Entry
from llamacli.ui import columns
from llamacli.ui.output import Output
from llamacli.ui.sanitize import for_terminal
from llamacli.units import size

_HEADER = ("name", "size", "quant", "architecture", "source", "modified", "remark")


def show(entries: Sequence[Entry], output: Output) -> None:
    if output.mode == "json":
        output.document([{**dataclasses.asdict(entry), "modified": exact(entry.modified)} for entry in entries])
    elif output.mode == "plain":
        rows = [(e.name, e.size, e.quant, e.architecture, e.source, exact(e.modified), e.remark) for e in entries]
        output.tsv(_HEADER, rows)
    else:
        columns.show(
            ("size", "quant", "architecture", "source", "modified", "name"),
            [_row(entry) for entry in entries],
            output,
            right=("size",),
            below=[entry.remark or "" for entry in entries],
        )


def _row(e: Entry) -> tuple[str, ...]:
    """The name comes last, so that a long one stays whole."""
    amount = "" if e.size is None else size(e.size)
    return (amount, e.quant, e.architecture, e.source, day(e.modified) or "", short(e.name))


def short(name: str) -> str:
    """A name for a terminal, on one line; a path below the home folder by ~, which -m understands."""
    home = os.path.expanduser("~") + os.sep
    shown = f"~{os.sep}{name.removeprefix(home)}" if name.startswith(home) and len(home) > 2 else name
    return for_terminal(shown.translate(columns.ON_ONE_LINE))


def exact(modified: float | None) -> str | None:
    """UTC, to the second: 2026-11-22T23:05:49Z"""
    return _time(modified, "%Y-%m-%dT%H:%M:%SZ")


def day(modified: float | None) -> str | None:
    """UTC: 2026-11-22"""
    return _time(modified, "%Y-%m-%d")


def _time(seconds: float | None, pattern: str) -> str | None:
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime(pattern)
    except (OverflowError, OSError, ValueError):  # a file system's nonsense
        return None
