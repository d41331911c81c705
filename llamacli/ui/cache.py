"""Stored prompts as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from llamacli.tasks.cache import Stored
from llamacli.ui import columns
from llamacli.ui.ls import exact, short
from llamacli.ui.output import Output
from llamacli.units import age, size


def show(stored: Sequence[Stored], output: Output, *, gone: bool = False) -> None:
    """`gone`: they were removed."""
    if output.mode == "json":
        output.document([{**dataclasses.asdict(each), "used": exact(each.used)} for each in stored])
    elif output.mode == "plain":
        rows = [(each.model, each.tokens, each.size, round(each.age), each.path) for each in stored]
        output.tsv(("model", "tokens", "size", "age", "path"), rows)
    else:
        shown = [
            (str(each.tokens), size(each.size), age(each.age), short(each.model) or "(damaged)") for each in stored
        ]
        total = size(sum(each.size for each in stored))
        columns.show(("tokens", "size", "unused for", "model"), shown, output, right=("tokens", "size", "unused for"))
        prompts = f"{len(stored)} prompt{'' if len(stored) == 1 else 's'}, {total}"
        output.text(f"{prompts}{' removed' if gone else ''}\n".encode())
