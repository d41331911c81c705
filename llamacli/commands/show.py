"""llamacli show: what is in a model."""

from __future__ import annotations

from typing import Annotated

import typer

from llamacli.commands import words
from llamacli.commands.model_options import MemoryContext, ModelFlag, kv_types
from llamacli.commands.options import OfflineFlag, PullFlag, among, setting, sources
from llamacli.errors import UsageError


def show(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="The model, as for -m.", autocompletion=words.models)
    ] = None,
    model: ModelFlag = None,
    pull: PullFlag = False,
    offline: OfflineFlag = False,
    ctx_size: MemoryContext = None,
    cache_type_k: Annotated[
        str,
        setting("-ctk", "--cache-type-k", metavar="TYPE", help="K cache, as for complete.", **among(later=kv_types)),
    ] = "f16",
    cache_type_v: Annotated[
        str,
        setting("-ctv", "--cache-type-v", metavar="TYPE", help="V cache, as for complete.", **among(later=kv_types)),
    ] = "f16",
    metadata: Annotated[bool, typer.Option("--metadata", help="All keys and values; long arrays shortened.")] = False,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="All tensors: shape, type, bytes, offset in the file.")
    ] = False,
    template: Annotated[bool, typer.Option("--template", help="The chat template's text only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Show what is in a model: parameters and types by part, context, vocabulary, template, memory needed.

    Example:

      llamacli show tiny -c 1024
    """
    from llamacli.commands.locate import model_file
    from llamacli.tasks import show as task
    from llamacli.ui import show as ui
    from llamacli.ui.output import Output

    if metadata + tensors + template > 1:
        raise UsageError("--metadata, --tensors and --template exclude each other")
    if name is not None and sources(ctx)["model"] == "option":
        raise UsageError("the model is named twice: as MODEL and by -m")
    path, output = model_file(model if name is None else name, pull=pull), Output(as_json=as_json)
    if metadata:
        ui.show_metadata(task.metadata(path), output)
    elif tensors:
        ui.show_tensors(task.tensors(path), output)
    elif template:
        ui.show_template(task.template(path), output)
    else:
        ui.show(task.show(path, n_ctx=ctx_size, type_k=cache_type_k, type_v=cache_type_v), output)
