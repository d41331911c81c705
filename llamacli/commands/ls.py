"""llamacli ls: the models on this machine."""

from __future__ import annotations

from typing import Annotated

import typer


def ls(
    all_files: Annotated[
        bool, typer.Option("-a", "--all", help="Also the parts that see images or hear (mmproj).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document: a list.")] = False,
) -> None:
    """Show the models on this machine: built in, in the Hub cache, of Ollama, LM Studio and llama.cpp.

    They are used where they lie; the first column is what -m takes.
    """
    from llamacli.tasks import ls as task
    from llamacli.ui.ls import show
    from llamacli.ui.output import Output

    show(task.models(projectors=all_files), Output(as_json=as_json))
