"""llamacli score: a text in, how surprising each token is out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamacli.commands.model_options import ModelFlags
from llamacli.commands.options import between, grouped


@grouped
def score(
    text: Annotated[
        str | None, typer.Argument(metavar="[TEXT]", help="What to score; - is standard input alone.")
    ] = None,
    files: Annotated[
        list[Path] | None, typer.Option("-f", "--file", metavar="FILE", help="Put this file before TEXT; repeatable.")
    ] = None,
    no_stdin: Annotated[bool, typer.Option("--no-stdin", help="Do not read standard input.")] = False,
    replace_invalid: Annotated[
        bool, typer.Option("--replace-invalid", help="Read input that is no UTF-8, with U+FFFD in its place.")
    ] = False,
    top: Annotated[
        int,
        typer.Option(
            "--top",
            metavar="K",
            help="Name the K most probable tokens at each place.",
            callback=between(0, 1000),
            show_default=False,
        ),
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, with totals.")] = False,
    *,
    model: ModelFlags,
) -> None:
    """Show how surprising each token of a text is: -log2 of its probability, in bits.

    A terminal shows the text in colours, with --top a table; a pipe gets TSV. As for complete, one final newline of
    each file and of standard input is dropped. The text must fit the context: each token is predicted from all before.

    Examples:

      llamacli score -m model.gguf "The capital of France is Rome"

      llamacli score -m model.gguf --top 3 --json < poem.txt
    """
    from llamacli.tasks import score as task
    from llamacli.tasks.prompt import gather
    from llamacli.ui import score as ui
    from llamacli.ui import stdin
    from llamacli.ui.output import Output

    output = Output(as_json=as_json)
    piped = stdin.read(wanted=text == "-", unwanted=no_stdin)
    request = task.Request(
        model=model.options(),
        text=gather(None if text == "-" else text, files or [], piped, raw=True, replace_invalid=replace_invalid),
        top=top,
        n_ctx=model.ctx_size,
        context=model.context(),
    )
    with ui.Bars() as bars:
        result = task.score(request, bars.progress)
    ui.show(result, output, top=top)
