"""llamacli batch: many prompts in, as many answers out."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from llamacli.commands.answer_options import AnswerFlags, LogprobsFlag, RawFlag, VerboseFlag
from llamacli.commands.model_options import ModelFlags
from llamacli.commands.options import between, grouped
from llamacli.commands.preset_options import PresetFlags
from llamacli.commands.sampling_options import SamplingFlags
from llamacli.commands.shape_options import ShapeFlags
from llamacli.commands.template_options import TemplateFlags
from llamacli.errors import UsageError


@grouped
def batch(
    file: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="The prompts, one a line; - is standard input.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="OUT.jsonl", help="Write the answers here; go on where it ends. (standard output)"
        ),
    ] = None,
    parallel: Annotated[
        int,
        typer.Option(
            "-np", "--parallel", metavar="N", help="Prompts that are answered side by side.", callback=between(1, 256)
        ),
    ] = 16,
    as_completed: Annotated[
        bool, typer.Option("--as-completed", help="Answers as they are complete, not in the order of the input.")
    ] = False,
    raw: RawFlag = False,
    logprobs: LogprobsFlag = None,
    verbose: VerboseFlag = False,
    *,
    presets: PresetFlags,
    answers: AnswerFlags,
    shaping: ShapeFlags,
    sampling: SamplingFlags,
    template: TemplateFlags,
    model: ModelFlags,
) -> None:
    """Answer many prompts, one a line, side by side.

    A line is a JSON text, or an object with a "prompt" or "messages".
    It may have an "id", and options of its own: "system", "max_tokens", "stop",
    "temperature" …, "schema", "choices", "regex", "grammar", "logprobs".

    Each gives one line: id, line, text, finish_reason, seed, usage;
    or id, line, error, and then the exit code is 12.

    With -o the same command goes on where it was stopped, whatever stopped it.
    The seed of line k is --seed + k - 1: no text depends on other lines.

    Examples:

      llamacli batch prompts.jsonl -m model.gguf -n 200 -o answers.jsonl

      jq '{prompt: .question, id}' questions.jsonl | llamacli batch - -m model.gguf -s "Be brief."
    """
    from llamacli import signals
    from llamacli.commands.talk import named_model
    from llamacli.errors import SomeItemsFailed
    from llamacli.tasks import batch as task
    from llamacli.tasks.complete import Request
    from llamacli.ui import batch as ui
    from llamacli.ui.output import Output, is_terminal

    think, (source, arguments) = answers.thinking(), template.given()
    values = sampling.given()
    seed = values.pop("seed", None if sampling.seed == -1 else 1)
    if raw:
        answers.refuse_for_raw()
        if template.wanted:
            raise UsageError("--raw does without a chat template")
    output = None if output == Path("-") else output
    shape, stops = shaping.shape(), shaping.stops(answers)
    lines, n_lines = _lines(file, output)
    _, loaded = named_model(model.model, model)
    request = task.Request(
        usual=Request(
            model=loaded,
            prompt="",
            system=None if raw else answers.system,
            raw=raw,
            think=think,
            unasked=answers.unasked,
            template=source,
            template_args=arguments,
            sampling=values,
            max_tokens=answers.limit,
            stops=stops,
            shape=shape,
            logprobs=logprobs,
            n_ctx=model.ctx_size,
            context=model.context(),
        ),
        lines=lines,
        n_lines=n_lines,
        parallel=parallel,
        seed=seed,
        output=output,
        as_completed=as_completed,
        thoughts=not answers.hidethinking,
        partial=shaping.partial,
        preset=presets.each(answers),
    )
    sink = Output()
    with signals.deferred(signals.FINISHING_SECONDS):
        with ui.Bars(typed=file == Path("-") and is_terminal(sys.stdin)) as bars:
            summary = ui.followed(task.batch(request, bars.loading), sink, bars)
        if summary is not None:
            ui.show(summary, verbose=verbose)
    signals.check()
    if summary is not None and summary.failed:
        where = f"; {output} says why" if output is not None else ""
        raise SomeItemsFailed(f"{summary.failed} of {summary.lines} lines failed{where}")


def _lines(file: Path, output: Path | None) -> tuple[Iterable[bytes], int | None]:
    """The input's lines, and how many of them there are, where that can be known."""
    from llamacli.tasks.batch_lines import lines_of
    from llamacli.ui import stdin

    if file == Path("-"):
        return stdin.raw_lines(), None
    return lines_of(file, unlike=output)
