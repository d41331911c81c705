"""llamacli cache: what evaluated prompts are on disk."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from llamacli.errors import UsageError

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def ls(as_json: Annotated[bool, typer.Option("--json", help="One JSON document: a list.")] = False) -> None:
    """Show the evaluated prompts that are on disk, the one used last first.

    They hold the texts of prompts, in the numbers of the model: only you may read them.
    """
    from llamacli.tasks import cache as task
    from llamacli.ui import cache as ui
    from llamacli.ui.output import Output

    ui.show(task.stored(), Output(as_json=as_json))


def clear(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Only this model's, as for -m. (all)", show_default=False)
    ] = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="TIME", help="Only what was not used for 12h, 7d, 2w.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document: a list of what has gone.")] = False,
) -> None:
    """Remove evaluated prompts from the disk. Nothing is lost but time.

    Examples:

      llamacli cache clear

      llamacli cache clear --older-than 7d qwen3.5:0.8b
    """
    from llamacli.commands.locate import model_file
    from llamacli.tasks import cache as task
    from llamacli.ui import cache as ui
    from llamacli.ui.output import Output

    age = None if older_than is None else seconds(older_than)
    path = None if model is None else task.model_called(model) or model_file(model, pull=False)
    ui.show(task.clear(model=path, older_than=age), Output(as_json=as_json), gone=True)


def seconds(text: str) -> float:
    """A time as people type it: 90, 90s, 15m, 12h, 7d, 2w. Raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", text.strip().lower())
    if not match:
        raise UsageError(f"--older-than {text}: a time is wanted, such as 12h, 7d or 2w")
    return float(match[1]) * _UNITS[match[2]]


cache = {"ls": ls, "clear": clear}
