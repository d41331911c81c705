"""--preset, its variables, and --save, for every verb that answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from llamacli.commands import words
from llamacli.commands.answer_options import AnswerFlags
from llamacli.commands.options import Flags, sources
from llamacli.errors import UsageError, printable

if TYPE_CHECKING:
    from llamacli.tasks.presets import Filled, Preset


def _load(ctx: typer.Context, name: str | None) -> Any:
    """The preset of this name; what it holds becomes the default of the command's options. It is parsed before them."""
    if name is None or ctx.resilient_parsing:
        return None
    from llamacli.commands.setting_table import fix, of_preset, preset_table
    from llamacli.settings import Value
    from llamacli.tasks import presets

    preset = presets.read(name, preset_table)
    values = dict(preset.values)
    if preset.schema is not None:
        values["schema"] = Value(preset.schema, "preset", str(preset.path))
    taken = of_preset(ctx.command.params)
    for key in values:
        if key not in taken:
            raise UsageError(f"the preset {name} has {key}, and {ctx.info_name} has no --{key.replace('_', '-')}")
    fix(ctx, ctx.command.params, values)
    return preset


@dataclasses.dataclass(frozen=True)
class PresetFlags(Flags):
    """Which preset, and its variables. `preset` is one that was read."""

    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="A prompt with its options that was kept; options that are typed win.",
            is_eager=True,
            callback=_load,
            autocompletion=words.presets,
        ),
    ] = None
    var: Annotated[
        list[str] | None,
        typer.Option("--var", metavar="NAME=TEXT", help="A variable of the preset; repeatable."),
    ] = None

    def system(self, answers: AnswerFlags, kept: str | None) -> str | None:
        """The system message of a conversation, where a preset has no prompt. `kept`: what it has already.

        Raises UsageError for a preset with a prompt, and as `tasks.presets.fill`.
        """
        preset = self._read
        if preset is not None and preset.prompt is not None:
            raise UsageError(
                f"the preset {preset.name} has a prompt, so it is for complete", hint="a chat takes one with a system"
            )
        return self.filled(answers, kept, lambda: "", anything=False, join="").system

    def each(self, answers: AnswerFlags) -> Callable[[str], Filled] | None:
        """What is asked for one of many texts, and the system message; None without a preset."""
        if self._read is None and not self.var:
            return None
        return lambda text: self.filled(answers, None, lambda: text, anything=True, join="\n\n")

    def filled(
        self, answers: AnswerFlags, kept: str | None, text: Callable[[], str], *, anything: bool, join: str
    ) -> Filled:
        """What is asked, and the system message: a preset's, or without one what `text` returns and the options say.

        `text` gives the input, and raises where there is none; `anything`: whether some was given. Raises UsageError.
        """
        from llamacli.tasks import presets

        given = dict(_variable(each) for each in self.var or ())
        own = answers.system if answers.asked("system") or kept is None else kept
        preset = self._read
        if preset is None:
            if given:
                raise UsageError("--var is for a preset", hint="--preset NAME names it")
            return presets.Filled(text(), own)
        theirs = answers.sources.get("system") == "preset"
        spoken = text() if anything or (preset.prompt is None and join) else None
        filled = presets.fill(preset, answers.system if theirs else None, given, spoken, join=join)
        return filled if theirs else dataclasses.replace(filled, system=own)

    def gives_way(self, name: str, *others: str) -> bool:
        """Whether an option is the preset's, and one was typed that excludes it."""
        return self.sources.get(name) == "preset" and any(map(self.typed, others))

    @property
    def _read(self) -> Preset | None:
        return cast("Preset | None", self.preset)


SaveFlag = Annotated[
    str | None,
    typer.Option("--save", metavar="NAME", help="Keep prompt and options as a preset, and do nothing else."),
]


def save(ctx: typer.Context, name: str, prompt: str | None, presets: PresetFlags) -> None:
    """Keep what was typed as a new preset, on top of the one that was named. Raises UsageError, StorageError."""
    from llamacli.commands.setting_table import of_preset
    from llamacli.tasks import presets as task
    from llamacli.ui.output import note

    known, origins = of_preset(ctx.command.params), sources(ctx)
    base = cast("Preset | None", presets.preset)
    values = {key: value.value for key, value in base.values.items()} if base else {}
    if base is not None and base.schema is not None:
        values["schema"] = base.schema
    for param in ctx.command.params:
        key = getattr(param, "setting", param.name)
        if origins.get(str(param.name)) != "option" or param.name in _MEANT:
            continue
        if param.name == "no_think":
            values["think"] = "off"
        elif key in known:
            values[key] = known[key].kept(ctx.params[str(param.name)])
        else:
            raise UsageError(f"{max(param.opts, key=len)} is of one call, so a preset does not keep it")
    defaults = {**(base.defaults if base else {}), **dict(_variable(each) for each in presets.var or ())}
    text = prompt if prompt is not None else base.prompt if base else None
    if not values and text is None:
        raise UsageError("there is nothing to keep: neither a prompt nor an option")
    used = task.variables(text, values.get("system"))
    if unused := next((each for each in defaults if each not in used), None):
        raise UsageError(f"--var {unused}: neither prompt nor system holds ${unused}")
    note(f"kept in {task.save(name, values, text, defaults)}", style="dim")


#: What --save itself looks after.
_MEANT = ("prompt", "prompt_option", "preset", "var", "keep", "no_stdin")


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"--var {printable(text, 60)}: NAME=TEXT is wanted, such as language=French")
    return name, value
