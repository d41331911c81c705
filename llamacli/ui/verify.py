"""A verification: a bar while files are hashed, then a row for each file."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from llamacli.tasks.verify import Checked, Target
from llamacli.ui.ls import short
from llamacli.ui.output import Output, colours
from llamacli.ui.progress import Bar
from llamacli.ui.sanitize import for_terminal

_COLOURS = {"ok": 32, "damaged": 31, "missing": 31, "unchecked": 33}


class Progress(Bar):
    """The bar over all files."""

    def __init__(self, targets: Sequence[Target], n_bytes: int) -> None:
        what = short(targets[0].model) if len(targets) == 1 else f"{len(targets)} models"
        super().__init__(f"verifying {what}", n_bytes, transfer=True)
        self._hashed = 0

    def more(self, n_bytes: int) -> None:
        """So many bytes more are hashed."""
        self._hashed += n_bytes
        self.update(self._hashed)


def show(rows: Sequence[Checked], output: Output) -> None:
    """A table on a terminal, TSV in a pipe, --json a list."""
    if output.mode == "json":
        output.document(list(rows))
    elif output.mode == "plain":
        output.tsv(("model", "file", "state", "detail"), [(r.model, r.file, r.state, r.detail) for r in rows])
    else:
        text = "\n".join(_lines(rows)) + "\n"
        output.data(text.encode(sys.stdout.encoding or "utf-8", "backslashreplace"))


def _lines(rows: Sequence[Checked]) -> list[str]:
    """The name comes last, as in `ls`; below it what is not as it should be."""
    coloured = colours(sys.stdout)
    lines = [f"{'state':<9}  model"]
    lines[0] = f"\x1b[1m{lines[0]}\x1b[0m" if coloured else lines[0]
    for row in rows:
        state = f"\x1b[{_COLOURS[row.state]}m{row.state:<9}\x1b[0m" if coloured else f"{row.state:<9}"
        parts = sum(other.model == row.model for other in rows)
        file = f"  {for_terminal(short(row.file.name))}" if parts > 1 else ""
        lines.append(f"{state}  {short(row.model)}{file}")
        if row.state != "ok" and row.detail:
            detail = re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28,}", r"\1…", row.detail)
            lines.append(f"{'':<9}  ({for_terminal(detail)})")
    return lines
