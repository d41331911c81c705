"""llamacli eval: questions in, accuracy out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamacli.commands.model_options import ModelFlags
from llamacli.commands.options import between, grouped


@grouped
def eval(
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK",
            help="hellaswag, winogrande or choice.",
            autocompletion=lambda incomplete: ["hellaswag", "winogrande", "choice"],
        ),
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The questions; - is standard input.")],
    n: Annotated[
        int | None,
        typer.Option(
            "-n", "--number", metavar="N", help="Questions; 0: all. (all; hellaswag: 400)", callback=between(0)
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            metavar="N",
            help="Which questions, and which are shown by --shots; 1 draws as llama-perplexity does.",
            callback=between(0),
        ),
    ] = 1,
    shots: Annotated[
        int,
        typer.Option(
            "--shots",
            metavar="K",
            help="Put K other questions in front, with their answers.",
            callback=between(0, 1000),
            show_default=False,
        ),
    ] = 0,
    delimiter: Annotated[
        str | None,
        typer.Option("--delimiter", metavar="TEXT", help="Between query and choice, for choice. (a space)"),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Write each question's result, as JSON lines; go on where it ends."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    *,
    model: ModelFlags,
) -> None:
    """Measure accuracy on a set of questions: how often the right answer is the most likely one.

    hellaswag and winogrande read llama-perplexity's files and give its scores (acc_norm, by token). choice reads JSON
    lines with "query", "choices" and "gold", the number of the right one; acc_norm is by byte of the choice.

    Examples:

      llamacli eval hellaswag hellaswag_val_full.txt -m model.gguf

      llamacli eval choice arc_easy.jsonl -m model.gguf --shots 5 -o results.jsonl
    """
    from llamacli import signals
    from llamacli.commands.options import one_of
    from llamacli.errors import UsageError
    from llamacli.tasks import evaluate as work
    from llamacli.tasks.evaluate_sets import TASKS
    from llamacli.tasks.prompt import read_file
    from llamacli.ui import evaluate as ui
    from llamacli.ui import stdin
    from llamacli.ui.output import Output

    output = Output(as_json=as_json)
    chosen = TASKS[TASKS.index(one_of("TASK", task, TASKS))]
    if delimiter is not None and chosen != "choice":
        raise UsageError(f"--delimiter is for choice: {chosen} says what stands between")
    piped = file == Path("-")
    request = work.Request(
        task=chosen,
        file="standard input" if piped else str(file),
        data=(stdin.read(wanted=True) or b"") if piped else read_file(file, str(file)),
        model=model.options(),
        n=n,
        seed=seed,
        shots=shots,
        delimiter=delimiter,
        results=results,
        n_ctx=model.ctx_size,
        context=model.context(),
    )
    with signals.deferred(signals.FINISHING_SECONDS):
        with ui.Bars(chosen) as bars:
            result = ui.followed(work.evaluate(request, bars.loading), bars)
        if result is not None:
            ui.show(result, output)
