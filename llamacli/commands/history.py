"""llamacli history: past conversations. A verb with verbs of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamacli.commands import words
from llamacli.commands.options import between
from llamacli.errors import UsageError

Which = Annotated[
    str | None,
    typer.Argument(metavar="[NAME]", help="Its name or number. (the last one)", autocompletion=words.conversations),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON document.")]


def ls(
    limit: Annotated[
        int | None, typer.Option("-n", "--limit", callback=between(1), metavar="N", help="The newest N. (all)")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the conversations, the newest first.

    The number or the name of one is what the other commands take.
    """
    from llamacli.tasks import history as task
    from llamacli.ui import history as ui
    from llamacli.ui.output import Output

    ui.listing(task.conversations(limit), Output(as_json=as_json))


def show(
    which: Which = None,
    all_branches: Annotated[
        bool, typer.Option("--all", help="All branches as a tree, a line for each message.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show a conversation: the branch that is talked on."""
    from llamacli.tasks import export
    from llamacli.tasks import history as task
    from llamacli.ui import history as ui
    from llamacli.ui.output import Output

    output = Output(as_json=as_json)
    conversation, entries = task.read(which)
    if as_json:
        output.document(export.document(conversation, entries))
    elif all_branches:
        ui.tree(conversation, entries, output, task.beginning)
    else:
        ui.show(conversation, export.branch(entries, conversation.leaf), output)


def search(
    wanted: Annotated[list[str], typer.Argument(metavar="WORDS…", help="All must be in a message.")],
    limit: Annotated[
        int, typer.Option("-n", "--limit", callback=between(1), metavar="N", help="Messages.", show_default=False)
    ] = 50,
    as_json: JsonFlag = False,
) -> None:
    """Find messages, the newest first; upper and lower case are the same."""
    from llamacli.tasks import history as task
    from llamacli.ui import history as ui
    from llamacli.ui.output import Output

    ui.matches(task.search(wanted, limit), Output(as_json=as_json))


def export(
    which: Which = None,
    file: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="FILE.md or FILE.json. (standard output)")
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", metavar="md|json", help="As the file's name says. (md)")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file.")] = False,
) -> None:
    """Write a conversation as Markdown (the branch that is talked on) or JSON (all of them)."""
    from llamacli.commands.options import one_of
    from llamacli.tasks import export as task
    from llamacli.tasks import history
    from llamacli.ui.output import Output

    form = None if form is None else one_of("--format", form, task.FORMATS)
    output = Output()
    conversation, entries = history.read(which)
    if file is not None:
        task.write(file, conversation, entries, force=force, form=form)
    elif form == "json":
        output.document(task.document(conversation, entries))
    else:
        output.text(task.text("md", conversation, entries).encode("utf-8", "replace"))


def rm(
    which: Annotated[
        list[str] | None, typer.Argument(metavar="NAME…", help="Names or numbers.", autocompletion=words.conversations)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All conversations.")] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("-n", "--dry-run", help="Only show what would go.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Remove conversations, with all their branches."""
    from llamacli.tasks import history as task
    from llamacli.ui import history as ui
    from llamacli.ui.output import Output

    if bool(which) == everything:
        raise UsageError("name the conversations to remove, or --all", hint="llamacli history ls shows them")
    output = Output(as_json=as_json)
    found = task.conversations() if everything else task.chosen(which or ())
    if dry_run or not found:
        ui.listing(found, output)
    elif yes or ui.agreed(found):
        task.remove(found)
        ui.removed(found, output)


#: name → function: `llamacli history NAME`
history = {"ls": ls, "show": show, "search": search, "export": export, "rm": rm}
