"""llamacli outdated: which models have a newer file on the Hub."""

from __future__ import annotations

from typing import Annotated

import typer

from llamacli.commands import words
from llamacli.commands.options import OfflineFlag, TokenFlag


def outdated(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL…]", help="As for -m. (all of the Hub cache)", autocompletion=words.models),
    ] = None,
    token: TokenFlag = None,
    offline: OfflineFlag = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document: a list.")] = False,
) -> None:
    """Show which models of the Hub cache have a newer file on the Hub. Nothing is fetched; pull does that.

    The branch or tag that a model was pulled from counts. A commit that changes other files makes no model outdated.

    The exit code is 0 also where models are outdated, and 12 where something could not be found out.

    Examples:

      llamacli outdated

      llamacli outdated qwen3.5:0.8b --json
    """
    from llamacli.tasks import outdated as task
    from llamacli.ui import outdated as ui
    from llamacli.ui.output import Output

    output = Output(as_json=as_json)
    with ui.Progress() as progress:
        rows = task.outdated(models or (), token=token or None, progress=progress.asked)
    ui.show(rows, output)
    task.refuse_unknown(rows)
