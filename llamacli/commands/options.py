"""How options are declared: each once, in groups that a command takes as one parameter.

    @grouped
    def complete(model: ModelFlags, sampling: SamplingFlags, …) -> None

A group is a dataclass whose fields are annotated options; `grouped` shows Typer the fields as the command's own
parameters and hands the command the filled dataclass. Names are those of llama.cpp, ollama and llm.

An option that is declared by `setting` can be fixed in config.toml and by a variable: name, type, check and help are
the option's (`commands/setting_table.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from llamacli import settings
from llamacli.errors import UsageError

if TYPE_CHECKING:
    pass

MODEL, SAMPLING, ADVANCED, GPU = "Model and context", "Sampling", "Advanced", "GPU"


#: What native code takes as an int; a larger number would wrap around.
INT_MAX = 2**31 - 1


def between(smallest: int, largest: int = INT_MAX) -> Callable[[Any], Any]:
    """A check for a number; Typer's own `min` and `max` would clutter the help."""

    def check(value: int | None) -> int | None:
        if value is not None and not smallest <= value <= largest:
            raise typer.BadParameter(f"{value} is not between {smallest} and {largest}")
        return value

    return check


class Unfit(typer.BadParameter):
    """A value that its option cannot have. The message goes on after the option's name: "q9: it must be …"."""

    def format_message(self) -> str:
        names = sorted(self.param.opts, key=len) if self.param is not None else [""]
        return f"{names[-1]} {self.message}"


def among(*words: str, later: Callable[[], Iterable[str]] = tuple) -> dict[str, Any]:
    """For an option whose value is one of a few words, in upper or lower case: its check, and what Tab offers.

    `later` gives more of them when there is a value, so that it may import.
    """

    def check(value: str | None) -> str | None:
        if value is None:
            return None
        allowed = (*words, *later())
        if value.lower() not in allowed:
            raise Unfit(f"{value}: it must be one of {', '.join(allowed)}")
        return value.lower()

    def offered(incomplete: str) -> list[str]:
        return [*words, *later()]

    vars(check)["words"] = words
    return {"callback": check, "autocompletion": offered}


def setting(*names: str, **details: Any) -> Any:
    """An option that config.toml and LLAMACLI_NAME can fix, by the name of its first long form: --top-k, top_k."""
    long = next(name for name in names if name.startswith("--")).partition("/")[0]
    variable = "LLAMACLI_" + long[2:].upper().replace("-", "_")
    return typer.Option(*names, envvar=variable, show_envvar=False, **details)


@dataclasses.dataclass(frozen=True)
class Flags:
    """A group of options. `sources`: where the value of each comes from.

    That is "option" (it was typed), "preset", "environment", "file" or "default".
    """

    sources: Mapping[str, str] = dataclasses.field(default_factory=dict, kw_only=True)

    def typed(self, name: str) -> bool:
        return self.sources.get(name) == "option"

    def asked(self, name: str) -> bool:
        """Whether it was typed, or is a preset's: what a setting says must give way where it does not apply."""
        return self.sources.get(name) in ("option", "preset")


def sources(ctx: typer.Context) -> dict[str, str]:
    """Where each parameter of a command has its value from, as in `Flags`."""
    fixed: Mapping[str, str] = ctx.meta.get(settings.ORIGINS, {})
    found = {}
    for name in ctx.params:
        source = getattr(ctx.get_parameter_source(name), "name", "DEFAULT")
        found[name] = {"COMMANDLINE": "option", "DEFAULT_MAP": fixed.get(name, "file")}.get(source, "default")
    return found


def grouped(function: Callable[..., None], without: Collection[str] = ()) -> Callable[..., None]:
    """Expand the parameters whose type is a dataclass into that dataclass's fields.

    Fields named in `without` are no options, and keep their defaults.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in groups:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))
            continue
        group = groups[parameter.name]
        field_hints = typing.get_type_hints(group, include_extras=True)
        for field in _options(group, without):
            parameters.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=field.default,
                    annotation=field_hints[field.name],
                )
            )

    context = next((p.name for p in parameters if p.annotation is typer.Context), None)
    if context is None:
        parameters.append(inspect.Parameter("ctx_of_groups", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))

    @functools.wraps(function)
    def command(**values: Any) -> None:
        known = sources(values[context] if context else values.pop("ctx_of_groups"))
        for name, group in groups.items():
            fields = {field.name: values.pop(field.name) for field in _options(group, without)}
            told = {"sources": known} if issubclass(cast(type, group), Flags) else {}
            values[name] = cast(type, group)(**fields, **told)
        function(**values)

    del command.__wrapped__  # or Typer would look through it
    flat = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    flat.sort(key=_place)
    vars(command)["__signature__"] = inspect.Signature(flat)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _options(group: Any, without: Collection[str] = ()) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(group) if field.name != "sources" and field.name not in without]


PullFlag = Annotated[
    bool, setting("--pull/--no-pull", help="Fetch the model from the Hub if it is not here.", rich_help_panel=MODEL)
]


def _forbid_network(wanted: bool) -> bool:
    """In the library's own way, so that nothing of it can ask: it reads the variable when it is imported."""
    if wanted:
        os.environ["HF_HUB_OFFLINE"] = "1"
    return wanted


OfflineFlag = Annotated[
    bool,
    setting(
        "--offline/--no-offline",
        help="Never use the network. (HF_HUB_OFFLINE)",
        callback=_forbid_network,
        rich_help_panel=MODEL,
    ),
]


TokenFlag = Annotated[
    str | None,
    typer.Option("--token", metavar="TOKEN", help="For private and gated models. (HF_TOKEN)", show_envvar=False),
]


def _place(parameter: inspect.Parameter) -> int:
    """The model first, what is rare last. Panels stand in the help in the order of their first options."""
    details = getattr(parameter.annotation, "__metadata__", ())
    rare = any(getattr(detail, "rich_help_panel", None) == ADVANCED for detail in details)
    return 0 if parameter.name in ("model", "models") else 2 if rare else 1


def fit(parse: Callable[[Any], object]) -> Callable[[Any], Any]:
    """A check that tries what the value is later used by; `parse` raises Unfit."""

    def check(value: Any) -> Any:
        for each in value if isinstance(value, (list, tuple)) else () if value is None else (value,):
            parse(each)
        return value

    return check


def one_of(option: str, value: str, allowed: tuple[str, ...]) -> str:
    """`value` in lower case. Raises UsageError with what is allowed."""
    if value.lower() not in allowed:
        raise UsageError(f"{option} {value}: it must be one of {', '.join(allowed)}")
    return value.lower()
