"""Settings: what holds, and where it is from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from typing import Any

from llamacli.tasks.config import Row
from llamacli.ui import columns
from llamacli.ui.output import Output, note

_HEADER = ("key", "value", "origin", "place")


def listing(rows: Sequence[Row], unknown: Sequence[str], output: Output) -> None:
    """All settings: a table on a terminal, TSV in a pipe, --json a list. `unknown`: variables that mean nothing."""
    if output.mode == "json":
        output.document(list(rows))
    elif output.mode == "plain":
        output.tsv(_HEADER, [(row.key, text(row.value), row.origin, row.place) for row in rows], errors="replace")
    else:
        front = [(row.key, text(row.value), row.place or row.origin) for row in rows]
        used = sum(max(map(len, column)) + 2 for column in zip(*front, strict=True))
        left = max(shutil.get_terminal_size().columns - used, 10)
        shown = [(*cells, _cut(row.help, left)) for cells, row in zip(front, rows, strict=True)]
        columns.show(("key", "value", "from", "what it is"), shown, output)
    for name in unknown:
        note(f"warning: the variable {name} is no setting's", style="hint")


def one(row: Row, output: Output, *, origin: bool) -> None:
    """The value alone, a list's parts on lines of their own; with `origin` also where it is from."""
    if output.mode == "json":
        output.document(row)
    elif origin:
        output.text("\t".join((text(row.value), row.origin, row.place)).rstrip("\t").encode() + b"\n")
    else:
        lines = row.value if isinstance(row.value, list) else [text(row.value)]
        output.text("".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))


def text(value: Any) -> str:
    """As `config set` takes it; what is not set is ""."""
    if value is None or isinstance(value, str):
        return value or ""
    return repr(value).removesuffix(".0") if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else f"{line[: width - 1].rstrip()}…"
