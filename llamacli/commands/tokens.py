"""llamacli tokens: how a text is split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamacli.commands.model_options import ModelFlag
from llamacli.commands.options import OfflineFlag, PullFlag
from llamacli.errors import UsageError


def tokens(
    text: Annotated[
        str | None, typer.Argument(metavar="[TEXT]", help="What to split; - is standard input alone.")
    ] = None,
    model: ModelFlag = None,
    pull: PullFlag = False,
    offline: OfflineFlag = False,
    files: Annotated[
        list[Path] | None, typer.Option("-f", "--file", metavar="FILE", help="Put this file before TEXT; repeatable.")
    ] = None,
    no_stdin: Annotated[bool, typer.Option("--no-stdin", help="Do not read standard input.")] = False,
    replace_invalid: Annotated[
        bool, typer.Option("--replace-invalid", help="Read input that is no UTF-8, with U+FFFD in its place.")
    ] = False,
    special: Annotated[bool, typer.Option("--special", help="Control tokens in the text count as such.")] = False,
    no_bos: Annotated[
        bool, typer.Option("--no-bos", help="Leave out the BOS and EOS that the vocabulary adds.")
    ] = False,
    count: Annotated[bool, typer.Option("--count", help="Print the number of tokens only.")] = False,
    ids: Annotated[bool, typer.Option("--ids", help="Print the ids only, on one line.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Show how a text is split into tokens: ids and pieces.

    As for complete, one final newline of each file and of standard input is dropped.

    Example:

      llamacli tokens -m model.gguf --count < book.txt
    """
    from llamacli.commands.locate import model_file
    from llamacli.engine.types import ModelOptions
    from llamacli.tasks import tokens as task
    from llamacli.tasks.prompt import gather
    from llamacli.ui import stdin
    from llamacli.ui.output import Output
    from llamacli.ui.tokens import show

    if count + ids + as_json > 1:
        raise UsageError("--count, --ids and --json exclude each other")
    path = model_file(model, pull=pull)
    piped = stdin.read(wanted=text == "-", unwanted=no_stdin)
    whole = gather(None if text == "-" else text, files or [], piped, raw=True, replace_invalid=replace_invalid)
    options = ModelOptions(path=path, vocab_only=True)
    result = task.tokens(options, whole, add_special=not no_bos, parse_special=special)
    show(result, Output(as_json=as_json), count=count, ids=ids)
