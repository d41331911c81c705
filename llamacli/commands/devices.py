"""llamacli devices: what this build can compute on."""

from __future__ import annotations

from typing import Annotated

import typer


def devices(as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False) -> None:
    """Show the build, its backends, the devices with their free memory, and GPUs that it cannot use."""
    from llamacli.tasks import devices as task
    from llamacli.ui.devices import show
    from llamacli.ui.output import Output

    show(task.devices(), Output(as_json=as_json))
