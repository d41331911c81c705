"""llamacli complete: options in, a stream of text out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamacli.commands.options import AnswerFlags, CacheFlags, ModelFlags, between, grouped
from llamacli.commands.sampling_options import SamplingFlags
from llamacli.commands.talk import HistoryFlags, begin, named_model, open_history
from llamacli.commands.template_options import TemplateFlags
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
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text itself, without the chat template.")] = False,
    chat: Annotated[bool, typer.Option("--chat", help="Insist on the chat template.")] = False,
    special: Annotated[
        bool, typer.Option("--special", help="With --raw: control tokens in the prompt count as such.")
    ] = False,
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
    log: Annotated[
        bool | None, typer.Option("--log/--no-log", help="Keep prompt and answer in the history.", show_default=False)
    ] = None,
    *,
    answers: AnswerFlags,
    history: HistoryFlags,
    sampling: SamplingFlags,
    template: TemplateFlags,
    model: ModelFlags,
    cache: CacheFlags,
) -> None:
    """Write text: answer a prompt, or continue it.

    A model with a chat template answers as an assistant; --raw, or a model without one, continues the text itself.
    The prompt is each --file, standard input when it is no terminal, then PROMPT.

    Examples:

      llamacli complete "Once upon a time"

      git diff | llamacli complete -m model.gguf "Write a commit message"
    """
    from llamacli import settings
    from llamacli.tasks import complete as task
    from llamacli.tasks import completion
    from llamacli.tasks.conversation import messages
    from llamacli.tasks.kept import kept
    from llamacli.tasks.prompt import gather
    from llamacli.ui import answer, stdin
    from llamacli.ui.output import Output

    if prompt is not None and prompt_option is not None:
        raise UsageError("two prompts: one as the argument, one as --prompt", hint="give one of them")
    prompt = prompt if prompt is not None else prompt_option
    output = Output(as_json=as_json)
    _refuse_contradictions(output, raw, chat, special, answers, samples, null, echo)
    if raw and (history.wanted or template.chat_template or template.template_arg):
        raise UsageError("--raw knows neither a conversation nor a chat template")
    think, (source, arguments) = answers.thinking(), template.given()
    store = open_history(history, unasked=settings.read().log if log is None else log)
    conversation = begin(store, history, origin="complete")
    name, loaded = named_model(model.named or conversation.model or model.model, model)
    context, values = model.context(), sampling.given()
    piped = stdin.read(wanted=prompt == "-", unwanted=no_stdin)
    request = task.Request(
        model=loaded,
        prompt=gather(None if prompt == "-" else prompt, files or [], piped, raw=raw, replace_invalid=replace_invalid),
        system=answers.system if answers.system is not None else conversation.system,
        earlier=tuple(messages(None, conversation.path())),
        template=source,
        template_args=arguments,
        raw=raw,
        chat=chat,
        special=special,
        think=think,
        sampling=values,
        max_tokens=answers.limit,
        stops=tuple(answers.stop or ()),
        samples=samples,
        n_ctx=model.ctx_size,
        context=context,
        cache=cache.opened(loaded),
    )
    with answer.Bars() as bars:
        events = answer.with_warnings(task.complete(request, bars.progress))
        if store is not None:
            events = kept(events, conversation, name, request.system)
        if output.mode == "json":
            result = completion.fold(events)
            output.document(result)
            endings = result.endings()
            if verbose:
                answer.statistics(result)
        else:
            endings = answer.show(
                events, output, echo=echo, verbose=verbose, thoughts=not answers.hidethinking, null=null
            )
    completion.verdict(endings)


def _refuse_contradictions(
    output: Output,
    raw: bool,
    chat: bool,
    special: bool,
    answers: AnswerFlags,
    samples: int,
    null: bool,
    echo: bool,
) -> None:
    if raw and answers.system is not None:
        raise UsageError("--raw has no system message", hint="put the text into the prompt, or leave out --raw")
    if raw and chat:
        raise UsageError("--raw and --chat exclude each other")
    if raw and (answers.think or answers.no_think):
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
