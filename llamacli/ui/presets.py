"""Presets as a table, and one as its file has it."""

from __future__ import annotations

from collections.abc import Sequence

from llamacli.tasks.presets import Row
from llamacli.ui import columns
from llamacli.ui.output import Output, note

_HEADER = ("name", "model", "variables", "prompt", "remark")
#: Characters of a prompt in a table.
_MOST = 60


def listing(rows: Sequence[Row], output: Output) -> None:
    """A table on a terminal, TSV in a pipe, --json a list."""
    if output.mode == "json":
        output.document(list(rows))
    elif output.mode == "plain":
        shown = [(r.name, r.model, " ".join(r.variables), r.prompt or r.system, r.remark) for r in rows]
        output.tsv(_HEADER, shown, errors="replace")
    elif rows:
        cells = [(r.name, r.model or "", " ".join(r.variables), _beginning(r.prompt or r.system)) for r in rows]
        columns.show(_HEADER[:-1], cells, output, below=[row.remark or "" for row in rows])
    else:
        note('note: there is no preset yet; llamacli complete "…" --save NAME makes one')


def _beginning(text: str | None) -> str:
    line = " ".join((text or "").split())
    return line if len(line) <= _MOST else line[: _MOST - 1] + "…"
