"""The words of a command line → what Tab offers at its end. Nothing is parsed twice: Typer's own parameters are asked.

An option's or argument's values come from its `autocompletion` (`commands/words.py`, `options.among`); where a file can
stand, its metavar or its type says so, and the shell offers files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import typer


@dataclass(frozen=True)
class Offers:
    """`words`: (value, what it is), each the whole last word but for `prefix`, which it keeps (`--model=`)."""

    words: tuple[tuple[str, str], ...] = ()
    files: bool = False
    prefix: str = ""


def offers(root: Any, ctx: Any, words: list[str]) -> Offers:
    """For the last of these words, which follow the program's name; it may be empty. `root`: the app's group."""
    *before, current = words or [""]
    command = root
    while hasattr(command, "commands"):
        verbs = [word for word in before if not word.startswith("-")]
        if not verbs:
            return _begun(_options(command), current) if current.startswith("-") else _verbs(command, current)
        if verbs[0] not in command.commands:
            return Offers()
        before = before[before.index(verbs[0]) + 1 :]
        command = command.resolve_command(ctx, verbs[:1])[1]
    return _of_command(command, before, current)


def _of_command(command: Any, before: list[str], current: str) -> Offers:
    options = {name: param for param in command.params for name in (*param.opts, *param.secondary_opts)}
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    awaited, n_arguments, only_arguments = None, 0, False
    for word in before:
        if awaited is not None:
            awaited = None
        elif only_arguments or not word.startswith("-") or word == "-":
            n_arguments += 1
        elif word == "--":
            only_arguments = True
        else:
            param = options.get(word)
            awaited = param if param is not None and _takes_value(param) else None
    if awaited is not None:
        return _values(command, awaited, before, current)
    name, equals, value = current.partition("=")
    if equals and not only_arguments and name in options and not options[name].is_flag:
        found = _values(command, options[name], before, value)
        return Offers(found.words, found.files, name + equals)
    if current.startswith("-") and not only_arguments:
        return _begun(_options(command), current)
    if not arguments:
        return Offers()
    return _values(command, arguments[min(n_arguments, len(arguments) - 1)], before, current)


def _takes_value(param: Any) -> bool:
    # `--think` may stand alone (`cli.Command.optional_values`): its value follows a "=" only.
    return not getattr(param, "is_flag", False) and not (param.metavar or "").startswith("[")


def _values(command: Any, param: Any, before: list[str], current: str) -> Offers:
    ctx = typer.Context(command, info_name=command.name, resilient_parsing=True)
    ctx.args = before
    found = [(item.value, item.help or "") for item in param.shell_complete(ctx, current)]
    files = param.type.name == "path" or bool(re.search("FILE|MODEL|VALUE", param.metavar or ""))
    return Offers(tuple(found), files)


def _verbs(group: Any, current: str) -> Offers:
    rows = [(name, command.get_short_help_str(100)) for name, command in group.commands.items()]
    return _begun(rows, current)


def _options(command: Any) -> list[tuple[str, str]]:
    found = []
    for param in command.params:
        if param.param_type_name == "option" and not param.hidden:
            found += [(name, param.help or "") for name in (*param.opts, *param.secondary_opts)]
    return [*found, ("--help", "Show this message and exit.")]


def _begun(rows: list[tuple[str, str]], current: str) -> Offers:
    """Long forms where nothing more is typed than a dash or two: the short ones would only be in the way."""
    long = current in ("-", "--")
    return Offers(tuple(row for row in rows if row[0].startswith("--" if long else current)))
