"""llamacli search: models of the catalogue and on the Hub."""

from __future__ import annotations

from typing import Annotated

import typer

from llamacli.commands.options import OfflineFlag, TokenFlag, between, one_of


def search(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[WORDS…]", help="All must match. (the most downloaded)")
    ] = None,
    sort: Annotated[
        str, typer.Option("--sort", metavar="ORDER", help="downloads, likes, or newest: the last updated.")
    ] = "downloads",
    limit: Annotated[
        int, typer.Option("-n", "--limit", callback=between(1, 1000), metavar="N", help="Repositories of the Hub.")
    ] = 20,
    token: TokenFlag = None,
    offline: OfflineFlag = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document: a list.")] = False,
) -> None:
    """Find models: in the catalogue, and among the repositories of the Hugging Face Hub with GGUF files.

    The catalogue's come first, with the short names that pull and -m take. Nothing found is no error.

    Examples:

      llamacli search qwen 0.8b

      llamacli search coder --sort likes -n 5
    """
    from llamacli.tasks import search as task
    from llamacli.ui import search as ui
    from llamacli.ui.output import Output

    order, output = one_of("--sort", sort, tuple(task.ORDERS)), Output(as_json=as_json)
    found = task.search(words or [], sort=order, limit=limit, token=token or None)
    ui.show(found, words or [], output)
    task.refuse_half(found)
