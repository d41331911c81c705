"""A table for a terminal whose last column is never cut or broken: it is there to be copied."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection, Sequence

from llamacli.ui.output import Output, colours
from llamacli.ui.sanitize import for_terminal

ON_ONE_LINE = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})


def show(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    output: Output,
    *,
    right: Collection[str] = (),
    below: Sequence[str] = (),
) -> None:
    """Foreign text is made harmless. `right`: the columns of numbers; `below`: a remark on each row, or ""."""
    shown = [[for_terminal(cell.translate(ON_ONE_LINE)) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(header) - 1)]
    lines = []
    for row, remark in zip(shown, ["", *(below or [""] * len(rows))], strict=True):
        cells = [
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(header, row[:-1], widths, strict=False)
        ]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
        if remark:
            lines.append(" " * (sum(widths) + 2 * len(widths)) + for_terminal(f"({remark})".translate(ON_ONE_LINE)))
    if colours(sys.stdout):
        lines[0] = f"\x1b[1m{lines[0]}\x1b[0m"
    output.data(("\n".join(lines) + "\n").encode(sys.stdout.encoding or "utf-8", "backslashreplace"))


def folded(
    header: Sequence[str], rows: Sequence[Sequence[str]], output: Output, *, key: int, right: Collection[str] = ()
) -> None:
    """As `show`, in as many tables one below the other as the terminal's width asks for.

    `key`: the column that stands in each of them: 0, the first in all, or -1, the last.
    """
    widths = [max(len(for_terminal(row[column])) for row in (header, *rows)) for column in range(len(header))]
    names = widths.pop(key)
    parts: list[list[int]] = []
    left = 0
    for column, width in enumerate(widths, 1 if key == 0 else 0):
        if not parts or width + 2 > left:
            parts.append([])
            left = shutil.get_terminal_size().columns - names
        parts[-1].append(column)
        left -= width + 2
    for i, part in enumerate(parts):
        if i:
            output.text(b"\n")
        chosen = [key, *part] if key == 0 else [*part, key]
        show([header[c] for c in chosen], [[row[c] for c in chosen] for row in rows], output, right=right)
