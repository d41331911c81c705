"""The table of settings, made of the options that can be fixed, and how a command's options get these values.

An option's own type, check, help and default are its setting's, so nothing stands twice. Which options are settings is
said where they are declared (`options.setting`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any

import typer
import typer.core

from llamacli import settings
from llamacli.settings import Kind, Setting, Value

_PREFIX = "LLAMACLI_"
_KINDS: dict[str, Kind] = {"int": "whole", "float": "number", "boolean": "switch"}


#: setting → what llama.cpp and ollama call it: somebody may look for it under that name.
_ELSEWHERE = {"ctx_size": ("n_ctx", "num_ctx"), "threads": ("n_threads",), "max_tokens": ("num_predict", "n")}
#: Options that are no settings, and that a preset may hold: what an answer looks like.
OF_PRESETS = (
    "raw", "schema", "schema_multi", "choices", "regex", "grammar", "grammar_file", "partial",
    "extract", "extract_last",
)  # fmt: skip


def claim(params: Iterable[Any]) -> None:
    """Take the variables of a command's settings from Typer, which would put them above a preset."""
    for param in params:
        if isinstance(param.envvar, str) and param.envvar.startswith(_PREFIX):
            param.setting, param.envvar = param.envvar.removeprefix(_PREFIX).lower(), None


def own(params: Iterable[Any]) -> dict[str, Setting]:
    """The settings among a command's parameters, by name."""
    return {param.setting: _setting(param) for param in params if hasattr(param, "setting")}


def of_preset(params: Iterable[Any]) -> dict[str, Setting]:
    """What a preset may say to a command: its settings, and a few options more."""
    also = {param.name: _setting(param) for param in params if param.name in OF_PRESETS}
    return {**own(params), **also}


def fix(ctx: typer.Context, params: list[Any], values: dict[str, Value] | None = None) -> None:
    """Let settings, or the `values` of a preset, be the defaults of a command's options."""
    if values is None:
        wanted = own(params)
        values = settings.read(wanted, table) if wanted else {}
    ctx.default_map = {**(ctx.default_map or {})}
    origins = ctx.meta.setdefault(settings.ORIGINS, {})
    for param in params:
        value = values.get(getattr(param, "setting", param.name))
        if value is not None:
            several = param.multiple and not isinstance(value.value, list)
            ctx.default_map[param.name] = [value.value] if several else value.value
            origins[param.name] = value.origin


@functools.cache
def table() -> dict[str, Setting]:
    """All settings, in the order of `complete --help`. About 15 ms: it makes all options."""
    return own(params())


@functools.cache
def params() -> list[Any]:
    """The options that all settings are."""
    import typer.main

    from llamacli.commands.every_setting import every_setting

    made = typer.Typer(add_completion=False)
    made.command()(every_setting)
    found = typer.main.get_command(made).params
    claim(found)
    return found


@functools.cache
def preset_table() -> dict[str, Setting]:
    """All that a preset may say to any command."""
    import typer.main

    from llamacli.commands.complete import complete

    made = typer.Typer(add_completion=False)
    made.command()(complete)
    params = typer.main.get_command(made).params
    claim(params)
    return {**table(), **of_preset(params)}


def _setting(param: Any) -> Setting:
    names = [name for name in (*param.opts, *param.secondary_opts) if name.startswith("--")]
    plain = [name[2:].replace("-", "_") for name in names]
    name = getattr(param, "setting", param.name)
    several = param.multiple and name == param.name
    kind: Kind = "texts" if several else _KINDS.get(param.type.name, "text")
    return Setting(
        name=name,
        kind=kind,
        help=param.help or "",
        default=_plain(param.default),
        check=functools.partial(_checked, param),
        also=(*(other for other in plain if other != name), *_ELSEWHERE.get(name, ())),
        numeric=kind == "text" and "N" in (param.metavar or "").split("|"),
        names_file=_names_file(param),
        switchable={"on", "off"} <= {*getattr(param.callback, "words", ())},
    )


def _names_file(param: Any) -> Callable[[str], bool] | None:
    metavar = param.metavar or ""
    if "MODEL" in metavar:
        return _names_model
    if param.type.name == "path" or "FILE" in metavar:
        return lambda text: bool(re.search(r"[./\\]", text))  # and is no word such as chatml
    return None


def _names_model(text: str) -> bool:
    from llamacli.models.reference import names_file

    return names_file(text)


def _plain(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default


def _checked(param: Any, value: Any) -> Any:
    """A value after the option's own check, which raises."""
    if param.callback is None or isinstance(value, bool):  # a switch's callback acts, and checks nothing
        return value
    ctx = typer.Context(_NOTHING, resilient_parsing=False)
    try:
        return param.callback(ctx, param, [value] if param.multiple and not isinstance(value, list) else value)
    except typer.BadParameter as error:
        raise ValueError(error.message) from error


_NOTHING: Any = typer.core.TyperCommand("nothing")
