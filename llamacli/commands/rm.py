"""llamacli rm: models off this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from llamacli.commands import words


def rm(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL…", help="As for -m; the names that ls shows.", autocompletion=words.local_models),
    ],
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("-n", "--dry-run", help="Only show what would go.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also a model of Ollama's, LM Studio's or llama.cpp's, or any GGUF file.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document: a list.")] = False,
) -> None:
    """Remove models from this machine: all files of each, in all its revisions.

    Data that something else still uses stays. Where only an interrupted pull of a model is here, what that left goes.

    Examples:

      llamacli rm qwen3.5:0.8b

      llamacli rm --dry-run bartowski/Llama-3.2-1B-Instruct-GGUF:Q8_0
    """
    from llamacli.tasks import rm as task
    from llamacli.ui import rm as ui
    from llamacli.ui.output import Output

    plans, output = task.plan(models, force=force), Output(as_json=as_json)
    if not dry_run and (yes or ui.agreed(task.preview(plans))):
        ui.show(task.remove(plans), output)
    elif dry_run or output.mode != "human":
        ui.show(task.preview(plans), output)
