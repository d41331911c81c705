"""llamacli presets: prompts with their options, kept under a name. A verb with verbs of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from llamacli.commands import words

Name = Annotated[str, typer.Argument(metavar="NAME", help="The preset.", autocompletion=words.presets)]
JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON document.")]

#: What an editor shows of a preset that is not there yet.
BEGINNING = """\
# A preset of llamacli: `llamacli complete --preset {name}`.
# $input is what is typed, piped or read by --file.
prompt = \"\"\"
$input
\"\"\"
# system = "You review $language code."
# model = "qwen3.5:0.8b"
# temp = 0.2
# schema = "verdict, problems [str]"
#
# [defaults]
# language = "Python"
"""


def ls(as_json: JsonFlag = False) -> None:
    """Show the presets."""
    from llamacli.commands.setting_table import preset_table
    from llamacli.tasks import presets as task
    from llamacli.ui import presets as ui
    from llamacli.ui.output import Output

    ui.listing(task.rows(preset_table), Output(as_json=as_json))


def show(name: Name, as_json: JsonFlag = False) -> None:
    """Print a preset, as its file has it."""
    from llamacli.commands.setting_table import preset_table
    from llamacli.tasks import presets as task
    from llamacli.ui.output import Output

    output = Output(as_json=as_json)
    if as_json:
        preset = task.read(name, preset_table)
        values = {key: value.value for key, value in preset.values.items()}
        own = {"name": name, "path": preset.path, "prompt": preset.prompt, "schema": preset.schema}
        output.document({**own, "defaults": preset.defaults, "options": values})
    else:
        output.text(task.source(name).text.encode())


def edit(name: Name) -> None:
    """Open a preset in $VISUAL or $EDITOR, then check it. One that is not there begins with an example."""
    from llamacli.commands.setting_table import preset_table
    from llamacli.tasks import config
    from llamacli.tasks import presets as task
    from llamacli.ui import editor
    from llamacli.ui.output import note

    path = task.path(name)
    with config.begun(path, BEGINNING.replace("{name}", name)):
        editor.open_file(path)
    if path.exists():
        task.read(name, preset_table)
    else:
        note(f"note: nothing was written, so there is no preset {name}", style="hint")


def rm(
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="Presets.", autocompletion=words.presets)],
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
) -> None:
    """Remove presets."""
    from llamacli.errors import UsageError
    from llamacli.tasks import presets as task
    from llamacli.ui import ask
    from llamacli.ui.output import note

    for name in names:
        task.found(name)
    if not yes and not ask.possible():
        raise UsageError("nobody is here to ask whether they may go", hint="--yes removes without asking")
    if yes or ask.yes(f"Remove {', '.join(names)}?", enter=False):
        for path in task.remove(names):
            note(f"removed {path}", style="dim")


#: name → function: `llamacli presets NAME`
presets = {"ls": ls, "show": show, "edit": edit, "rm": rm}
