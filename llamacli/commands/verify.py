"""llamacli verify: files against their checksums."""

from __future__ import annotations

from typing import Annotated

import typer

from llamacli.commands import words


def verify(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL…]", help="As for -m. (all models on this machine)", autocompletion=words.local_models
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document: a list.")] = False,
) -> None:
    """Check models' files against their checksums.

    The Hub cache and Ollama keep one of each file, and llamacli one of what came from an address. Of other files the
    header is checked, and that no tensor is missing.

    Examples:

      llamacli verify

      llamacli verify qwen3.5:0.8b && echo sound
    """
    from llamacli.tasks import verify as task
    from llamacli.ui import verify as ui
    from llamacli.ui.output import Output

    targets, output = task.targets(models or []), Output(as_json=as_json)
    with ui.Progress(targets, task.size(targets)) as progress:
        rows = task.verify(targets, progress.more)
    ui.show(rows, output)
    task.refuse_damaged(rows)
