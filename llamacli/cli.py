"""The Typer app: the table of commands and the one error boundary."""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, NoReturn

import typer
import typer.core
import typer.main

from llamacli import __version__, signals
from llamacli.errors import LlamacliError, OutOfMemory, StorageError

#: verb → what it does. The verb's module in `commands/` is imported when it is used.
COMMANDS = {
    "complete": "Write text: answer a prompt, or continue it.",
    "tokens": "Show how a text is split into tokens.",
    "devices": "Show what this build can compute on.",
}

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Command(typer.core.TyperCommand):
    """A verb. Slips that the parser would swallow are refused; an option may be given with or without a value."""

    #: Options whose value may be left out → what that means.
    optional_values: ClassVar = {"--think": "on"}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._checked(args))

    def _checked(self, args: list[str]) -> list[str]:
        options = {name: param for param in self.params for name in (*param.opts, *param.secondary_opts)}
        takes_value = {name: not getattr(param, "is_flag", False) for name, param in options.items()}
        checked: list[str] = []
        rest = iter(args)
        for argument in rest:
            if argument == "--":
                return [*checked, argument, *rest]
            name = argument.split("=", 1)[0]
            if argument in self.optional_values and argument in options:
                argument = f"{argument}={self.optional_values[argument]}"
            elif name in options:
                if takes_value[name] and "=" not in argument:
                    checked.append(argument)
                    argument = next(rest, "")
                    if argument == "" and len(args) == len(checked):
                        return checked  # the parser says that a value is missing
                    self._refuse_seed(name, argument)
            else:
                self._refuse_attached(argument, options, takes_value)
            checked.append(argument)
        return checked

    def _refuse_attached(self, argument: str, options: dict[str, Any], takes_value: dict[str, bool]) -> None:
        """`-seed 42` would be `-s` with the text "eed"."""
        short = argument[:2]
        if not re.match(r"-[a-zA-Z].", argument) or not takes_value.get(short):
            return
        if options[short].type.name.startswith(("int", "float")) and re.match(r"-[a-zA-Z]=?-?[\d.]", argument):
            return  # -n60 can mean only one thing
        meant = difflib.get_close_matches("-" + argument.split("=", 1)[0], [o for o in options if o.startswith("--")])
        suggestion = f"did you mean {meant[0]}? " if meant else ""
        raise typer.BadParameter(f"no such option: {argument}; {suggestion}(the value of {short} goes after a space)")

    def _refuse_seed(self, name: str, value: str) -> None:
        """`-s` is the seed in llama.cpp and the system message here, as in llm."""
        if name == "-s" and re.fullmatch(r"-?\d+", value):
            raise typer.BadParameter(
                f"-s {value} would be a system message; did you mean --seed {value}? (--system {value} insists)"
            )


class Group(typer.core.TyperGroup):
    """The commands of the table, each imported when it is called, and the one place where errors end."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, help in COMMANDS.items():
            self.add_command(typer.core.TyperCommand(name, help=help, rich_markup_mode=None))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name else command, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()
            signals.check()
            return result
        except BrokenPipeError:
            raise signals.Ended(getattr(signal, "SIGPIPE", 13)) from None

    def main(self, args: Sequence[str] | None = None, *_: Any, **settings: Any) -> NoReturn:
        settings["standalone_mode"] = False
        try:
            result = super().main(args, **settings)
            code = result if isinstance(result, int) else 0
        except LlamacliError as error:
            code = report(error.message, error.hint, error.exit_code)
        except typer.TyperException as error:
            code = report(*_usage_message(error), error.exit_code)
        except typer.Abort:
            code = report("aborted", None, 1)
        except MemoryError:
            code = report("out of memory", None, OutOfMemory.exit_code)
        except OSError as error:
            code = report(*_storage_message(error))
        except Exception as error:
            code = report(f"a bug of llamacli's: {type(error).__name__}: {error}", "LLAMACLI_DEBUG=1 shows where", 1)
        sys.exit(code)


def load(name: str) -> Any:
    """The command of this name, from its module."""
    function = getattr(importlib.import_module(f"llamacli.commands.{name}"), name)
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    single.command(name, cls=Command, help=function.__doc__, context_settings=_CONTEXT)(function)
    return typer.main.get_command(single)


def report(message: str, hint: str | None, code: int) -> int:
    """Print the one line, and the hint. With LLAMACLI_DEBUG=1 the traceback comes first."""
    from llamacli.ui.output import note

    if os.environ.get("LLAMACLI_DEBUG") and sys.exc_info()[0] is not None:
        import traceback

        note(traceback.format_exc())
    note("error: " + " ".join(message.split()), style="error")
    if hint:
        note("hint: " + " ".join(hint.split()), style="hint")
    return code


def _usage_message(error: typer.TyperException) -> tuple[str, str | None]:
    message = error.format_message().strip().rstrip(".")
    message = re.sub(r"^Invalid value: ", "", message)
    message = re.sub(r"is not a valid int\w*( range)?", "is no whole number", message)
    message = re.sub(r"is not a valid float( range)?", "is no number", message)
    message = message[:1].lower() + message[1:]
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "llamacli"
    if "did you mean" in message.lower():
        return message, None
    return message, f"{path} --help shows the options"


def _storage_message(error: OSError) -> tuple[str, str | None, int]:
    where = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.EIO):
        return f"{where}{reason}", None, StorageError.exit_code
    return f"a bug of llamacli's: {where}{reason}", "LLAMACLI_DEBUG=1 shows where", 1


app = typer.Typer(
    cls=Group,
    name="llamacli",
    help="Local, quantized language models on the command line.",
    context_settings=_CONTEXT,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"llamacli {__version__}")
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
