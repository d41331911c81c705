"""llamacli complete: options in, a stream of text out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamacli.commands.answer_options import AnswerFlags, LogprobsFlag, RawFlag, VerboseFlag
from llamacli.commands.model_options import CacheFlags, ModelFlags
from llamacli.commands.options import between, grouped
from llamacli.commands.preset_options import PresetFlags, SaveFlag, save
from llamacli.commands.sampling_options import SamplingFlags
from llamacli.commands.shape_options import ShapeFlags
from llamacli.commands.talk import HistoryFlags, LogFlag, begin, named_model, open_history
from llamacli.commands.template_options import TemplateFlags
from llamacli.errors import UsageError

if TYPE_CHECKING:
    from llamacli.ui.output import Output


@grouped
def complete(
    ctx: typer.Context,
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
    raw: RawFlag = False,
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
    logprobs: LogprobsFlag = None,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="On a terminal: colours for how probable the text was.")
    ] = False,
    extract: Annotated[
        bool, typer.Option("-x", "--extract", help="Print only the first fenced code block of the answer.")
    ] = False,
    extract_last: Annotated[bool, typer.Option("--extract-last", help="Print only the last one.")] = False,
    suffix: Annotated[
        str | None, typer.Option("--suffix", metavar="TEXT", help="Fill the gap between the prompt and this text.")
    ] = None,
    infill: Annotated[
        str | None,
        typer.Option("--infill", metavar="FILE:LINE[:COL]", help="Fill a gap in this file; at the line's end."),
    ] = None,
    echo: Annotated[bool, typer.Option("--echo", help="Print the prompt first.")] = False,
    verbose: VerboseFlag = False,
    log: LogFlag = False,
    keep: SaveFlag = None,
    *,
    presets: PresetFlags,
    answers: AnswerFlags,
    history: HistoryFlags,
    shaping: ShapeFlags,
    sampling: SamplingFlags,
    template: TemplateFlags,
    model: ModelFlags,
    caching: CacheFlags,
) -> None:
    """Write text: answer a prompt, or continue it.

    A model with a chat template answers as an assistant; --raw, or a model without one, continues the text itself.
    The prompt is each --file, standard input when it is no terminal, then PROMPT.

    Examples:

      llamacli complete "Once upon a time"

      git diff | llamacli complete -m model.gguf "Write a commit message"

      llamacli complete -m model.gguf --schema "name, age int" -f letter.txt "Who wrote this?"
    """
    import functools

    from llamacli.tasks import complete as task
    from llamacli.tasks import completion
    from llamacli.tasks import extract as blocks
    from llamacli.tasks import infill as gap
    from llamacli.tasks.conversation import messages
    from llamacli.tasks.kept import kept
    from llamacli.tasks.prompt import gather
    from llamacli.ui import answer, stdin
    from llamacli.ui.output import Output

    if prompt is not None and prompt_option is not None:
        raise UsageError("two prompts: one as the argument, one as --prompt", hint="give one of them")
    prompt = prompt if prompt is not None else prompt_option
    if keep is not None:
        save(ctx, keep, prompt, presets)
        return
    output = Output(as_json=as_json)
    raw = raw and not presets.gives_way("raw", "chat")
    extract = extract and not presets.gives_way("extract", "extract_last", "as_json", "echo", "confidence")
    extract_last = extract_last and not presets.gives_way("extract_last", "extract", "as_json", "echo", "confidence")
    _refuse_contradictions(output, raw, chat, special, answers, samples, null, echo)
    _refuse_views(output, logprobs, confidence, extract, extract_last, echo)
    _refuse_no_infill(suffix, infill, prompt, files, chat, special, answers, history, template)
    shape, stops, cut = shaping.given(), shaping.stops(answers), extract or extract_last
    if raw and (history.wanted or template.wanted):
        raise UsageError("--raw knows neither a conversation nor a chat template")
    think, (source, arguments) = answers.thinking(), template.given()
    store = open_history(history, unasked=log)
    conversation = begin(store, history, origin="complete")
    name, loaded = named_model(model.named or conversation.model or model.model, model)
    context, values = model.context(), sampling.given()
    piped = stdin.read(wanted=prompt == "-", unwanted=no_stdin or infill is not None)
    gap_prefix: str | None = None
    if infill is not None:
        gap_prefix, suffix = gap.split(infill, replace_invalid=replace_invalid)
    plain = raw or suffix is not None

    def text() -> str:
        if gap_prefix is not None:
            return gap_prefix
        return gather(None if prompt == "-" else prompt, files or [], piped, raw=plain, replace_invalid=replace_invalid)

    anything = bool(prompt or files or piped or infill)
    filled = presets.filled(answers, conversation.system, text, anything=anything, join="" if plain else "\n\n")
    request = task.Request(
        model=loaded,
        prompt=filled.prompt or "",
        suffix=suffix,
        system=None if plain else filled.system,
        earlier=tuple(messages(None, conversation.path())),
        template=source,
        template_args=arguments,
        raw=raw,
        chat=chat,
        special=special,
        think=think,
        unasked=answers.unasked,
        sampling=values,
        max_tokens=answers.limit,
        stops=stops,
        shape=shape,
        weigh=output.mode == "json",
        logprobs=0 if confidence and logprobs is None else logprobs,
        samples=samples,
        n_ctx=model.ctx_size,
        context=context,
        cache=caching.opened(loaded),
    )
    with answer.Bars() as bars:
        events = answer.with_warnings(task.complete(request, bars.progress))
        if store is not None:
            events = kept(events, conversation, name, request.system)
        if output.mode == "json":
            result = completion.fold(events, logprobs=logprobs is not None, partial=shape is None or shaping.partial)
            output.document(result)
            endings = result.endings()
            if verbose:
                answer.statistics(result)
        else:
            style = answer.Style(
                echo=echo,
                verbose=verbose,
                thoughts=not answers.hidethinking,
                null=null,
                partial=shape is None or shaping.partial,
                extract=functools.partial(blocks.code, last=extract_last) if cut else None,
                confidence=confidence,
            )
            endings = answer.show(events, output, style)
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
    if raw:
        answers.refuse_for_raw()
    if raw and chat:
        raise UsageError("--raw and --chat exclude each other")
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


def _refuse_views(
    output: Output, logprobs: int | None, confidence: bool, extract: bool, extract_last: bool, echo: bool
) -> None:
    as_json = output.mode == "json"
    if logprobs is not None and not as_json:
        raise UsageError("--logprobs needs --json", hint="--confidence shows probabilities on a terminal")
    if confidence and as_json:
        raise UsageError("--confidence colours a text; --json has --logprobs")
    if extract and extract_last:
        raise UsageError("--extract is the first code block, --extract-last the last: give one of them")
    if (extract or extract_last) and (as_json or echo or confidence):
        raise UsageError("--extract prints a code block alone; it excludes --json, --echo and --confidence")


def _refuse_no_infill(
    suffix: str | None,
    infill: str | None,
    prompt: str | None,
    files: list[Path] | None,
    chat: bool,
    special: bool,
    answers: AnswerFlags,
    history: HistoryFlags,
    template: TemplateFlags,
) -> None:
    if suffix is None and infill is None:
        return
    option = "--suffix" if infill is None else "--infill"
    if suffix is not None and infill is not None:
        raise UsageError("--infill takes what follows from its file, so it excludes --suffix")
    if infill is not None and (prompt is not None or files):
        raise UsageError("--infill takes all of its text from its file, so it excludes a prompt")
    if chat or special or answers.asked("system") or answers.asked("think") or answers.no_think or history.wanted:
        raise UsageError(f"{option} fills a gap in a text: it knows neither a conversation nor control tokens")
    if template.wanted:
        raise UsageError(f"{option} uses the model's own infill tokens, and no chat template")
