"""Which models are outdated: a bar while the Hub is asked, then a table, and what brings the newer files."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence

from llamacli.tasks.outdated import Row
from llamacli.ui import columns
from llamacli.ui.output import Output, note
from llamacli.ui.progress import Bar
from llamacli.units import size

#: Characters of a commit on a terminal, as git shows them.
_SHORT = 7
#: More models than these are not named in the hint.
_NAMED = 3


class Progress(Bar):
    """The bar over all repositories."""

    def __init__(self) -> None:
        super().__init__("asking the Hub")

    def asked(self, done: int, total: int) -> None:
        """So many of all are asked."""
        self.update(done / total)


def show(rows: Sequence[Row], output: Output) -> None:
    """A table on a terminal, TSV in a pipe, --json a list. No row is a line on stderr."""
    if output.mode == "json":
        output.document(list(rows))
    elif output.mode == "plain":
        names = [field.name for field in dataclasses.fields(Row)]
        output.tsv(names, [dataclasses.astuple(row) for row in rows])
    elif rows:
        header = ("state", "size", "revision", "here", "newest", "model")
        shown = [(r.state, _size(r), r.revision, r.here[:_SHORT], (r.newest or "")[:_SHORT], r.model) for r in rows]
        columns.show(header, shown, output, right=("size",), below=[row.remark or "" for row in rows])
        _hint([row for row in rows if row.state == "outdated"])
    if not rows:
        note("note: no model here was pulled from a branch or tag of the Hub")


def _size(row: Row) -> str:
    return "" if row.size is None else size(row.size)


def _hint(rows: Sequence[Row]) -> None:
    """The command that brings the newer files."""
    by_revision: dict[str, list[str]] = {}
    for row in rows:
        by_revision.setdefault(row.revision, []).append(shlex.quote(row.model))
    for revision, models in by_revision.items():
        option = "" if revision == "main" else f" --revision {shlex.quote(revision)}"
        more = " …" if len(models) > _NAMED else ""
        note(f"hint: llamacli pull{option} {' '.join(models[:_NAMED])}{more}", style="hint")
