"""llamacli pull: a model from the Hub, or from an address, onto this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llamacli.commands import words
from llamacli.commands.model_options import MemoryContext
from llamacli.commands.options import OfflineFlag, TokenFlag
from llamacli.errors import LlamacliError, SomeItemsFailed, UsageError

if TYPE_CHECKING:
    from llamacli.tasks.pull import Asked, Plan, Pulled


def pull(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL…", help="An alias, user/repo[:QUANT], or an address.", autocompletion=words.models
        ),
    ],
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="NAME", help="A branch, tag or commit. (main)")
    ] = None,
    token: TokenFlag = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show only what would come, and whether it fits on disk and in memory.")
    ] = False,
    pick: Annotated[bool, typer.Option("--pick", help="Choose among the quants of the repository.")] = False,
    ctx_size: MemoryContext = None,
    offline: OfflineFlag = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document for each model.")] = False,
) -> None:
    """Bring a model from the Hugging Face Hub into its standard cache, where other tools find it too.

    An interrupted pull goes on where it was, and what came is verified. user/repo alone means Q4_K_M; where there is
    none, you choose at the terminal.

    Examples:

      llamacli pull qwen3.5:0.8b

      llamacli pull bartowski/Llama-3.2-1B-Instruct-GGUF:Q8_0

      llamacli pull --dry-run bartowski/Llama-3.2-1B-Instruct-GGUF
    """
    from llamacli.models import hub
    from llamacli.tasks import pull as task
    from llamacli.ui import pull as ui
    from llamacli.ui.output import Output, report

    output = Output(as_json=as_json)
    if dry_run:
        from llamacli.tasks.dry_run import dry_run as look
        from llamacli.ui.plan import show

        asked = [_pickable(task.ask(model, revision=revision, token=token), pick) for model in models]
        show([look(each, n_ctx=ctx_size, pick=pick) for each in asked], output)
        return
    failed = 0
    for model in models:
        try:
            here = task.present(model, revision) if hub.offline() and not pick else None
            result = here or _brought(task.ask(model, revision=revision, token=token), pick, ctx_size)
        except LlamacliError as error:
            if len(models) == 1:
                raise
            failed += 1
            name = ui.label(model)
            report(error.message if name in error.message else f"{name}: {error.message}", error.hint, error.exit_code)
            continue
        if result is not None:
            ui.show(result, output)
    if failed:
        raise SomeItemsFailed(f"{failed} of {len(models)} models did not come")


def _brought(asked: Asked, pick: bool, n_ctx: int | None) -> Pulled | None:
    """The model that was pulled; None where a person was asked which, and named none."""
    from llamacli.tasks import pull as task
    from llamacli.ui import pull as ui

    _pickable(asked, pick)
    plan = _picked(asked, n_ctx) if pick or _unclear(asked) else asked.plan()
    if plan is None:
        return None
    with ui.Transfer(asked.reference.text, plan) as bar:
        return task.bring(plan, bar.watch)


def _pickable(asked: Asked, pick: bool) -> Asked:
    if pick and asked.named:
        raise UsageError(f"--pick: {asked.reference.text} names what is to come already", hint="leave out one of them")
    return asked


def _unclear(asked: Asked) -> bool:
    """Whether a person can be asked which of several models is meant."""
    from llamacli.models import pull
    from llamacli.ui import ask

    return not asked.named and asked.find() is None and bool(pull.variants(asked.repository)) and ask.possible()


def _picked(asked: Asked, n_ctx: int | None) -> Plan | None:
    """What the person at the terminal chooses; None for nothing. Raises UsageError where nobody is there."""
    from llamacli.models import pull
    from llamacli.tasks import dry_run
    from llamacli.ui import ask
    from llamacli.ui.plan import pick

    if not ask.possible():
        raise UsageError(
            "--pick asks, and there is no terminal",
            hint=f"name one, {asked.repository.id}:QUANT; {pull.offer(pull.variants(asked.repository))}",
        )
    chosen = pick(dry_run.dry_run(asked, n_ctx=n_ctx, pick=True))
    return dry_run.plan(asked, chosen) if chosen else None
