"""The models on this machine as a table."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from llamacli.tasks.ls import Entry
from llamacli.ui.output import Output, colours
from llamacli.ui.sanitize import for_terminal
from llamacli.ui.show import size

_HEADER = ("name", "size", "quant", "architecture", "source", "modified", "remark")
_ON_ONE_LINE = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})


def show(entries: Sequence[Entry], output: Output) -> None:
    if output.mode == "json":
        output.document([{**dataclasses.asdict(entry), "modified": exact(entry.modified)} for entry in entries])
    elif output.mode == "plain":
        rows = [(e.name, e.size, e.quant, e.architecture, e.source, exact(e.modified), e.remark) for e in entries]
        output.tsv(_HEADER, rows)
    else:
        text = "\n".join(_lines(entries)) + "\n"
        output.data(text.encode(sys.stdout.encoding or "utf-8", "backslashreplace"))


def _lines(entries: Sequence[Entry]) -> list[str]:
    """A table for a terminal. The name comes last, so that a long one stays whole: it is there to be copied."""
    rows = [("size", "quant", "architecture", "source", "modified", "name")]
    for e in entries:
        amount = "" if e.size is None else size(e.size)
        rows.append((amount, e.quant, e.architecture, e.source, day(e.modified) or "", short(e.name)))
    shown = [[for_terminal(cell.translate(_ON_ONE_LINE)) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in shown) for column in range(len(rows[0]) - 1)]
    lines = []
    for row, remark in zip(shown, ["", *(entry.remark or "" for entry in entries)], strict=True):
        first, *rest = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        lines.append("  ".join([first.strip().rjust(widths[0]), *rest, row[-1]]))
        if remark:
            lines.append(" " * (sum(widths) + 2 * len(widths)) + for_terminal(f"({remark})".translate(_ON_ONE_LINE)))
    if colours(sys.stdout):
        lines[0] = f"\x1b[1m{lines[0]}\x1b[0m"
    return lines


def short(name: str) -> str:
    """A name for a terminal, on one line; a path below the home folder by ~, which -m understands."""
    home = os.path.expanduser("~") + os.sep
    shown = f"~{os.sep}{name.removeprefix(home)}" if name.startswith(home) and len(home) > 2 else name
    return for_terminal(shown.translate(_ON_ONE_LINE))


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
