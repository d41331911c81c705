"""llamacli complete: options in, a stream of text out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamacli.commands.options import ModelFlags, between, grouped, one_of
from llamacli.commands.sampling_options import SamplingFlags
from llamacli.errors import UsageError

if TYPE_CHECKING:
    from llamacli.ui.output import Output


@grouped
def complete(
    prompt: Annotated[
        str | None, typer.Argument(metavar="[PROMPT]", help="What to answer or continue; - is standard input alone.")
    ] = None,
    prompt_option: Annotated[
        str | None, typer.Option("-p", "--prompt", metavar="TEXT", help="PROMPT as an option.")
    ] = None,
    files: Annotated[
        list[Path] | None,
        typer.Option("-f", "--file", metavar="FILE", help="Put this file before the prompt; repeatable."),
    ] = None,
    no_stdin: Annotated[bool, typer.Option("--no-stdin", help="Do not read standard input.")] = False,
    replace_invalid: Annotated[
        bool, typer.Option("--replace-invalid", help="Read input that is no UTF-8, with U+FFFD in its place.")
    ] = False,
    system: Annotated[
        str | None, typer.Option("-s", "--system", "-sys", metavar="TEXT", help="A system message (chat models).")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text itself, without the chat template.")] = False,
    chat: Annotated[bool, typer.Option("--chat", help="Insist on the chat template.")] = False,
    special: Annotated[
        bool, typer.Option("--special", help="With --raw: control tokens in the prompt count as such.")
    ] = False,
    think: Annotated[
        str | None,
        typer.Option("--think", metavar="[=low|medium|high]", help="Let the model reason, as hard as said."),
    ] = None,
    no_think: Annotated[bool, typer.Option("--no-think", help="Ask the model not to reason.")] = False,
    hidethinking: Annotated[bool, typer.Option("--hidethinking", help="Do not show the reasoning.")] = False,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--max-tokens",
            "--n-predict",
            metavar="N",
            help="At most N tokens. (until the model ends or the context is full)",
            callback=between(-1),
        ),
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", metavar="TEXT", help="End before this text; repeatable.")
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            "--samples",
            metavar="K",
            help="K independent answers, side by side.",
            callback=between(1, 256),
            show_default=False,
        ),
    ] = 1,
    null: Annotated[bool, typer.Option("-0", "--null", help="With --samples: end each answer with a NUL.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")] = False,
    echo: Annotated[bool, typer.Option("--echo", help="Print the prompt first.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Statistics on stderr.")] = False,
    *,
    sampling: SamplingFlags,
    model: ModelFlags,
) -> None:
    """Write text: answer a prompt, or continue it.

    A model with a chat template answers as an assistant; --raw, or a model without one, continues the text itself.
    The prompt is each --file, standard input when it is no terminal, then PROMPT.

    Examples:

      llamacli complete "Once upon a time"

      git diff | llamacli complete -m model.gguf "Write a commit message"
    """
    from llamacli.tasks import complete as task
    from llamacli.tasks import completion
    from llamacli.tasks.prompt import gather
    from llamacli.ui import answer, stdin
    from llamacli.ui.output import Output

    if prompt is not None and prompt_option is not None:
        raise UsageError("two prompts: one as the argument, one as --prompt", hint="give one of them")
    prompt = prompt if prompt is not None else prompt_option
    output = Output(as_json=as_json)
    _refuse_contradictions(output, raw, chat, special, system, think or no_think, samples, null, echo)
    loaded, context, values = model.options(), model.context(), sampling.given()
    piped = stdin.read(wanted=prompt == "-", unwanted=no_stdin)
    request = task.Request(
        model=loaded,
        prompt=gather(None if prompt == "-" else prompt, files or [], piped, raw=raw, replace_invalid=replace_invalid),
        system=system,
        raw=raw,
        chat=chat,
        special=special,
        think=_think(think, no_think),
        sampling=values,
        max_tokens=None if max_tokens == -1 else max_tokens,
        stops=tuple(stop or ()),
        samples=samples,
        n_ctx=model.ctx_size,
        context=context,
    )
    with answer.Bars() as bars:
        events = answer.with_warnings(task.complete(request, bars.progress))
        if output.mode == "json":
            result = completion.fold(events)
            output.document(result)
            endings = result.endings()
            if verbose:
                answer.statistics(result)
        else:
            endings = answer.show(events, output, echo=echo, verbose=verbose, thoughts=not hidethinking, null=null)
    completion.verdict(endings)


def _refuse_contradictions(
    output: Output,
    raw: bool,
    chat: bool,
    special: bool,
    system: str | None,
    think: str | bool | None,
    samples: int,
    null: bool,
    echo: bool,
) -> None:
    if raw and system is not None:
        raise UsageError("--raw has no system message", hint="put the text into the prompt, or leave out --raw")
    if raw and chat:
        raise UsageError("--raw and --chat exclude each other")
    if raw and think:
        raise UsageError("--think and --no-think speak to the chat template, which --raw does not use")
    if special and not raw:
        raise UsageError("--special needs --raw: the chat template writes the control tokens itself")
    if echo and (output.mode == "json" or samples > 1):
        raise UsageError("--echo prints the prompt before one text; it excludes --json and --samples")
    if null and output.mode == "json":
        raise UsageError("-0 and --json exclude each other")
    if samples > 1 and output.mode == "plain" and not null:
        raise UsageError(
            "several samples in a pipe cannot be told apart", hint="add --json, or -0 to end each with a NUL"
        )


def _think(think: str | None, no_think: bool) -> str | None:
    if think is not None and no_think:
        raise UsageError("--think and --no-think exclude each other")
    if think is not None:
        return one_of("--think", think, ("on", "low", "medium", "high"))
    return "off" if no_think else None
