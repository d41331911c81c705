"""Past conversations as tables, as text and as trees."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from llamacli.errors import UsageError
from llamacli.tasks.history import Conversation, Entry, Match
from llamacli.ui import ask, columns
from llamacli.ui.ls import day, exact
from llamacli.ui.output import Output, dim, note
from llamacli.ui.sanitize import for_terminal

_HEADER = ("id", "name", "messages", "model", "updated", "title")


def listing(conversations: Sequence[Conversation], output: Output) -> None:
    """A table on a terminal, TSV in a pipe, --json a list."""
    if output.mode == "json":
        output.document(
            [{**dataclasses.asdict(c), "created": exact(c.created), "updated": exact(c.updated)} for c in conversations]
        )
    elif output.mode == "plain":
        rows = [(c.id, c.name, c.n_messages, c.model, exact(c.updated), c.title) for c in conversations]
        output.tsv(_HEADER, rows, errors="replace")
    elif conversations:
        front = [(str(c.id), c.name or "", str(c.n_messages), c.model, day(c.updated) or "") for c in conversations]
        used = sum(max(map(len, column)) + 2 for column in zip(_HEADER[:-1], *front, strict=True))
        left = shutil.get_terminal_size().columns - used
        shown = [(*row, _cut(c.title, left - _wider(row))) for row, c in zip(front, conversations, strict=True)]
        columns.show(_HEADER, shown, output, right=("id", "messages"))
    else:
        note("note: there is no conversation yet; llamacli chat begins one")


def matches(found: Sequence[Match], output: Output) -> None:
    """Messages in which something was found."""
    header = ("id", "name", "role", "text")
    if output.mode == "json":
        output.document([{**dataclasses.asdict(match), "created": exact(match.created)} for match in found])
    elif output.mode == "plain":
        output.tsv(header, [(m.id, m.name, m.role, m.snippet) for m in found], errors="replace")
    elif found:
        columns.show(header, [(str(m.id), m.name or "", m.role, m.snippet) for m in found], output, right=("id",))
    if not found:
        note("note: nothing matches")


def show(conversation: Conversation, entries: Sequence[Entry], output: Output) -> None:
    """Messages as text: the role, on a terminal with the time, then what was said."""
    human = output.mode == "human"
    shown = for_terminal if human else str
    lines = []
    if conversation.system:
        lines += [_dim("system", output), _dim(conversation.system, output), ""]
    for entry in entries:
        time = f"  {_local(entry.created)}" if human else ""
        thought = [_dim(entry.reasoning, output)] if entry.reasoning else []
        lines += [_dim(f"{_role(entry)}{time}", output), *thought, shown(entry.content), ""]
    _print(lines, output)


def tree(conversation: Conversation, entries: Sequence[Entry], output: Output, beginning: Callable[[str], str]) -> None:
    """All branches, a line for each message with the `beginning` of its text; * stands at where the talk goes on."""
    lines = [_dim(f"system: {beginning(conversation.system)}", output)] if conversation.system else []
    for prefix, entry in _drawn(entries):
        mark = " *" if entry.id == conversation.leaf else ""
        head = _dim(f"{prefix}{entry.id} {_role(entry)}{mark}:", output)
        text = beginning(entry.content)
        lines.append(f"{head} {for_terminal(text) if output.mode == 'human' else text}")
    _print([*lines, ""] if lines else [], output)


def _drawn(entries: Sequence[Entry]) -> Iterator[tuple[str, Entry]]:
    """Each message with what is drawn before it. A line goes straight on; only a fork indents."""
    known = {entry.id for entry in entries}
    children: dict[int | None, list[Entry]] = {}
    for entry in entries:
        children.setdefault(entry.parent if entry.parent in known else None, []).append(entry)

    def after(parent: int | None, prefix: str) -> list[tuple[str, str, Entry]]:
        """The answers to a message: what is drawn before each, before what follows it, and itself; the last first."""
        found = children.get(parent, [])
        if len(found) == 1:
            return [(prefix, prefix, found[0])]
        last = len(found) - 1
        return [
            (prefix + ("└─ " if n == last else "├─ "), prefix + ("   " if n == last else "│  "), entry)
            for n, entry in enumerate(found)
        ][::-1]

    waiting = after(None, "")
    while waiting:
        own, below, entry = waiting.pop()
        yield own, entry
        waiting += after(entry.id, below)


def agreed(found: Sequence[Conversation]) -> bool:
    """Show what would go, and ask. Raises UsageError where nobody is there to ask."""
    them = "it" if len(found) == 1 else f"these {len(found)}"
    if not ask.possible():
        raise UsageError(
            f"nobody is here to ask whether {them} may go", hint="--yes removes without asking, --dry-run shows them"
        )
    for each in found[:20]:
        note(f"{each.id}  {each.name or ''}  {each.title}")
    if len(found) > 20:
        note(f"and {len(found) - 20} more")
    if ask.yes(f"Remove {them}?", enter=False):
        return True
    note("nothing was removed", style="dim")
    return False


def removed(gone: Sequence[Conversation], output: Output) -> None:
    """What has gone: a sentence on a terminal, else the rows of `listing`."""
    if output.mode == "human" and gone:
        what = gone[0].name or gone[0].title or f"conversation {gone[0].id}"
        output.text(f"removed {what if len(gone) == 1 else f'{len(gone)} conversations'}\n".encode("utf-8", "replace"))
    else:
        listing(gone, output)


def _print(lines: Sequence[str], output: Output) -> None:
    encoding = sys.stdout.encoding or "utf-8" if output.mode == "human" else "utf-8"
    output.data("\n".join(lines).encode(encoding, "backslashreplace"))


def _dim(text: str, output: Output) -> str:
    return dim(for_terminal(text), sys.stdout) if output.mode == "human" else text


def _role(entry: Entry) -> str:
    finished = entry.role != "assistant" or entry.finish_reason == "stop"
    return entry.role if finished else f"{entry.role} ({entry.finish_reason or 'never finished'})"


def _wider(cells: Sequence[str]) -> int:
    """How many cells of a terminal these take beyond one for each character."""
    from rich.cells import cell_len

    return sum(cell_len(cell) - len(cell) for cell in cells)


def _cut(text: str, width: int) -> str:
    """Text in so many cells, with … for what is left out; a little of it always."""
    from rich.cells import cell_len, set_cell_size

    text, width = for_terminal(text), max(width, 10)
    return text if cell_len(text) <= width else f"{set_cell_size(text, width - 1).rstrip()}…"


def _local(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, OSError, ValueError):  # a clock's nonsense
        return ""
