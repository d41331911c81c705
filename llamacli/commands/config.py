"""llamacli config: settings, read and written. A verb with verbs of its own."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from llamacli.commands import words

JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON document.")]
Key = Annotated[
    str,
    typer.Argument(
        metavar="KEY", help="The setting: an option's long name, with _ for -.", autocompletion=words.settings
    ),
]

#: What an editor shows where there is no file yet.
BEGINNING = """\
# Settings of llamacli: what an option is where none is typed.
# llamacli config ls shows all of them. An option that is typed wins,
# and so does a variable such as LLAMACLI_MODEL.
#
# model = "qwen3.5:0.8b"
# temp = 0.7
# stop = ["\\n\\n"]
# markdown = false
"""


def ls(as_json: JsonFlag = False) -> None:
    """Show all settings: the value that holds, and where it is from.

    An option that is typed wins, then a preset's value, the variable LLAMACLI_KEY, config.toml, the default.
    """
    from llamacli import settings
    from llamacli.commands.setting_table import table
    from llamacli.tasks import config as task
    from llamacli.ui import config as ui
    from llamacli.ui.output import Output

    output = Output(as_json=as_json)
    ui.listing(task.rows(table()), settings.unknown_variables(table()), output)


def get(
    key: Key,
    origin: Annotated[bool, typer.Option("--origin", help="Also where it is from.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Print the value of a setting that holds; an empty line where nothing is set."""
    from llamacli.commands.setting_table import table
    from llamacli.tasks import config as task
    from llamacli.ui import config as ui
    from llamacli.ui.output import Output

    ui.one(task.row(table(), key), Output(as_json=as_json), origin=origin)


def put(
    key: Key,
    value: Annotated[
        list[str], typer.Argument(metavar="VALUE…", help="Several are a list.", autocompletion=words.values)
    ],
) -> None:
    """Write a setting into config.toml; its comments and its order stay.

    Examples:

      llamacli config set model qwen3.5:0.8b

      llamacli config set temp 0.2
    """
    from llamacli.commands.setting_table import table
    from llamacli.tasks import config as task
    from llamacli.ui.output import note

    row = task.put(table(), key, value)
    variable = table()[row.key].variable
    if os.environ.get(variable):
        note(f"warning: {variable} is set, and wins over {row.place}", style="hint")


vars(put)["context"] = {"ignore_unknown_options": True}  # `set seed -1`, and `set --temp 0.2`


def unset(key: Key) -> None:
    """Take a setting out of config.toml."""
    from llamacli.commands.setting_table import table
    from llamacli.tasks import config as task
    from llamacli.ui.output import note

    if not task.drop(table(), key):
        note(f"note: {key} is not in config.toml", style="hint")


def edit() -> None:
    """Open config.toml in $VISUAL or $EDITOR, then check it. A text with mistakes stays as it is."""
    from llamacli import settings
    from llamacli.commands.setting_table import table
    from llamacli.tasks import config as task
    from llamacli.ui import editor

    with task.begun(settings.path(), BEGINNING):
        editor.open_file(settings.path())
    settings.of_file(table(), table)


def path() -> None:
    """Print where config.toml is, or would be."""
    from llamacli import settings
    from llamacli.ui.output import Output

    Output().text(f"{settings.path()}\n".encode("utf-8", "surrogateescape"))


#: name → function; "" is `llamacli config` alone.
config = {"": ls, "ls": ls, "get": get, "set": put, "unset": unset, "edit": edit, "path": path}
