"""What a removal would take and what it frees, the question, and what has gone."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from llamacli.errors import UsageError
from llamacli.tasks.rm import Removed
from llamacli.ui import ask
from llamacli.ui.ls import short
from llamacli.ui.output import Output, note
from llamacli.units import size

_HEADER = ("model", "source", "file", "freed", "removed")


def agreed(results: Sequence[Removed]) -> bool:
    """Show what would go, and ask. Raises UsageError where nobody is there to ask."""
    if not ask.possible():
        total = sum(result.freed for result in results)
        raise UsageError(
            f"nobody is here to ask whether {_number(results)} may go, which would free {total:,} bytes",
            hint="--yes removes without asking, --dry-run shows what would go",
        )
    for line in _lines(results):
        note(line)
    if ask.yes(f"Remove {'it' if len(results) == 1 else 'them'}?", enter=False):
        return True
    note("nothing was removed", style="dim")
    return False


def show(results: Sequence[Removed], output: Output) -> None:
    """A terminal gets sentences, a pipe a row for each file, --json a list of models."""
    if output.mode == "json":
        output.document(list(results))
    elif output.mode == "plain":
        rows = [(r.model, r.source, f.path, f.freed, str(r.removed).lower()) for r in results for f in r.files]
        output.tsv(_HEADER, rows)
    else:
        text = "\n".join(_done(results) if all(result.removed for result in results) else _lines(results)) + "\n"
        output.data(text.encode(sys.stdout.encoding or "utf-8", "backslashreplace"))


def _number(results: Sequence[Removed]) -> str:
    return short(results[0].model) if len(results) == 1 else f"{len(results)} models"


def _lines(results: Sequence[Removed]) -> list[str]:
    """What would go, in full."""
    lines = []
    for result in results:
        what = "an unfinished pull" if result.unfinished else result.source
        lines.append(f"{short(result.model)} ({what}) would free {size(result.freed)}:")
        for file in result.files:
            lines.append(f"  {short(str(file.path))}" + (f"  {size(file.freed)}" if file.freed else ""))
        lines += [f"  stays, for something else uses it: {short(str(path))}" for path in result.kept]
    if len(results) > 1:
        lines.append(f"together {size(sum(result.freed for result in results))}")
    return lines


def _done(results: Sequence[Removed]) -> list[str]:
    lines = []
    for result in results:
        what = f"an unfinished pull of {short(result.model)}" if result.unfinished else short(result.model)
        shared = ", for something else uses its data" if result.kept and not result.freed else ""
        lines.append(f"removed {what}: {size(result.freed)} freed{shared}")
    return lines
