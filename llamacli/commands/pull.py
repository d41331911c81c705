"""llamacli pull: a model from the Hub into the cache."""

from __future__ import annotations

from typing import Annotated

import typer


def pull(
    models: Annotated[list[str], typer.Argument(metavar="MODEL…", help="An alias, or user/repo[:QUANT].")],
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="NAME", help="A branch, tag or commit. (main)")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option("--token", metavar="TOKEN", help="For private and gated models. (HF_TOKEN)", show_envvar=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a model.")] = False,
) -> None:
    """Bring a model from the Hugging Face Hub into its standard cache, where other tools find it too.

    An interrupted pull goes on where it was, and what came is verified. user/repo alone means Q4_K_M.

    Examples:

      llamacli pull qwen3.5:0.8b

      llamacli pull bartowski/Llama-3.2-1B-Instruct-GGUF:Q8_0
    """
    from llamacli.tasks import pull as task
    from llamacli.ui import pull as ui
    from llamacli.ui.output import Output

    output = Output(as_json=as_json)
    for model in models:
        plan = task.plan(model, revision=revision, token=token)
        with ui.Bars(model, plan.variant.size, plan.missing) as bars:
            result = task.bring(plan, bars.watch)
        ui.show(result, output)
