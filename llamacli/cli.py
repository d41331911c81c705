"""The Typer app: the table of commands and the one error boundary."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, NoReturn, cast

import typer
import typer.core
import typer.main

from llamacli import __version__, signals
from llamacli.commands.setting_table import claim, fix
from llamacli.errors import OF_THE_DISK, LlamacliError, OutOfMemory, StorageError

#: verb → what it does. The verb's module in `commands/` is imported when it is used.
COMMANDS = {
    "chat": "Talk with a model.",
    "run": "Talk with a model, or answer one prompt, as ollama has it.",
    "complete": "Write text: answer a prompt, or continue it.",
    "batch": "Answer many prompts, one a line, side by side.",
    "history": "Show, search, export and remove past conversations.",
    "perplexity": "Measure how well a model predicts a text.",
    "score": "Show how surprising each token of a text is.",
    "eval": "Measure accuracy on a set of questions.",
    "quantize": "Make a model smaller.",
    "imatrix": "Find which weights matter on a text, for quantizing.",
    "bench": "Measure how fast models read and write.",
    "pull": "Bring a model from the Hugging Face Hub.",
    "ls": "Show the models on this machine.",
    "show": "Show what is in a model.",
    "rm": "Remove models from this machine.",
    "verify": "Check models' files against their checksums.",
    "search": "Find models on the Hugging Face Hub.",
    "outdated": "Show which models have a newer revision.",
    "cache": "Show and clear the cache of evaluated prompts.",
    "tokens": "Show how a text is split into tokens.",
    "devices": "Show what this build can compute on.",
    "config": "Show and change settings.",
    "presets": "Show, edit and remove presets: prompts with their options.",
    "completion": "Print what makes a shell complete with Tab.",
}

_CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Command(typer.core.TyperCommand):
    """A verb. Slips that the parser would swallow are refused; an option may be given with or without a value."""

    #: Options whose value may be left out → what that means.
    optional_values: ClassVar = {"--think": "on", "--logprobs": "0"}
    #: Values of these may be file names, whose bytes need not be UTF-8; the prompt is decoded later.
    _any_bytes = frozenset(
        (
            *("model", "models", "against", "files", "file", "lora", "prompt_option", "out", "imatrix", "add"),
            *("tensor_type_file", "calibrate", "report", "plot", "grammar_file", "infill"),
        )
    )

    def make_context(self, info_name: Any, args: list[str], parent: Any = None, **extra: Any) -> Any:
        with _closed_pipe_is_a_signal():
            return super().make_context(info_name, args, parent, **extra)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        mistake: LlamacliError | None = None
        try:
            fix(ctx, self.params)
        except LlamacliError as error:
            mistake = error  # --help, which ends the parsing, is there whatever the settings say
        rest = super().parse_args(ctx, self._checked(args))
        if mistake is not None:
            raise mistake
        return rest

    def _checked(self, args: list[str]) -> list[str]:
        options = {name: param for param in self.params for name in (*param.opts, *param.secondary_opts)}
        checked: list[str] = []
        rest = [*args]
        while rest:
            argument = rest.pop(0)
            if argument == "--":
                return [*checked, argument, *rest]
            if re.match(r"-[a-zA-Z]=", argument) and takes_value(options.get(argument[:2])):
                rest.insert(0, argument[3:])  # -n=60; the parser would take "=60"
                argument = argument[:2]
            name, equals, value = argument.partition("=")
            if argument == "--logprobs" and argument in options and rest and rest[0].isdecimal():
                argument = f"{argument}={rest.pop(0)}"
            elif argument in self.optional_values and argument in options:
                if rest and rest[0] in ("low", "medium", "high"):
                    raise typer.BadParameter(f"{argument} {rest[0]}: did you mean {argument}={rest[0]}?")
                argument = f"{argument}={self.optional_values[argument]}"
            elif takes_value(options.get(name)):
                if not equals and rest:
                    checked.append(argument)
                    argument = value = rest.pop(0)
                self._check_value(name, value, options[name])
            elif name not in options:
                _refuse_attached(argument, options)
            checked.append(argument)
        return checked

    def _check_value(self, name: str, value: str, option: Any) -> None:
        if name == "-s" and re.fullmatch(r"-?\d+", value):
            raise typer.BadParameter(
                f"-s {value} would be a system message; did you mean --seed {value}? (--system {value} insists)"
            )
        if option.name not in self._any_bytes:
            try:
                value.encode()
            except UnicodeEncodeError:
                raise typer.BadParameter(f"the value of {name} is no UTF-8") from None


def takes_value(option: Any) -> bool:
    return option is not None and not getattr(option, "is_flag", False)


def _refuse_attached(argument: str, options: dict[str, Any]) -> None:
    """`-seed 42` would be `-s` with the text "eed". -n60 can mean only one thing."""
    short = argument[:2]
    if not re.match(r"-[a-zA-Z].", argument) or not takes_value(options.get(short)):
        return
    if options[short].type.name.startswith(("int", "float")) and re.match(r"-[a-zA-Z]-?[\d.]", argument):
        return
    for name in options:  # -ngl0
        if len(name) > 2 and argument.startswith(name) and argument[len(name) :].isdecimal():
            raise typer.BadParameter(f"no such option: {argument}; did you mean {name} {argument[len(name) :]}?")
    import difflib

    meant = difflib.get_close_matches("-" + argument.split("=", 1)[0], [o for o in options if o.startswith("--")])
    suggestion = f"did you mean {meant[0]}? " if meant else ""
    if " " in argument:
        raise typer.BadParameter(f"no such option: {argument!r}; did you mean a prompt? Put -- before it")
    raise typer.BadParameter(f"no such option: {argument}; {suggestion}(the value of {short} goes after a space)")


@contextlib.contextmanager
def _closed_pipe_is_a_signal() -> Iterator[None]:
    """Wherever a command writes: Typer and rich would make an ordinary exit of it."""
    try:
        yield
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        raise signals.Ended(getattr(signal, "SIGPIPE", 13)) from None


class Group(typer.core.TyperGroup):
    """The commands of the table, each imported when it is called, and the one place where errors end."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, help in COMMANDS.items():
            self.add_command(typer.core.TyperCommand(name, help=help, rich_markup_mode=None))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name else command, rest

    def make_context(self, info_name: Any, args: list[str], parent: Any = None, **extra: Any) -> Any:
        with _closed_pipe_is_a_signal():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _closed_pipe_is_a_signal():
            return super().invoke(ctx)

    def main(self, args: Sequence[str] | None = None, *_: Any, **settings: Any) -> NoReturn:
        from llamacli.ui.output import report

        settings["standalone_mode"] = False
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, ValueError):  # closed, or no stream of the usual kind
                cast(io.TextIOWrapper, stream).reconfigure(errors="backslashreplace")
        try:
            result = super().main(args, **settings)
            code = result if isinstance(result, int) else 0
            with _closed_pipe_is_a_signal():
                if sys.stdout is not None:
                    sys.stdout.flush()
            signals.check()
        except LlamacliError as error:
            code = report(error.message, error.hint, error.exit_code)
        except typer.TyperException as error:
            code = report(*_usage_message(error, list(args if args is not None else sys.argv[1:])), error.exit_code)
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
    """The command of this name, from its module: a function, or a table of functions by name; "" is the verb alone."""
    found = getattr(importlib.import_module(f"llamacli.commands.{name}"), name)
    made = typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings=_CONTEXT)
    verbs = found if isinstance(found, dict) else {name: found}
    for verb, function in verbs.items():
        if not verb:
            continue
        context = {**_CONTEXT, **vars(function).get("context", {})}
        made.command(verb, cls=Command, help=function.__doc__, context_settings=context)(function)
    if not isinstance(found, dict):
        command = typer.main.get_command(made)
        claim(command.params)
        return command

    @made.callback(invoke_without_command=True, help=COMMANDS[name])
    def alone(ctx: typer.Context) -> None:
        if ctx.invoked_subcommand is None and "" in verbs:
            verbs[""]()
        elif ctx.invoked_subcommand is None:
            typer.echo(ctx.get_help())

    group: Any = typer.main.get_command(made)
    group.name = name
    for command in group.commands.values():
        claim(command.params)
    return group


def _usage_message(error: typer.TyperException, args: list[str]) -> tuple[str, str | None]:
    message = error.format_message().strip().rstrip(".")
    message = re.sub(r"^Invalid value: ", "", message)
    message = re.sub(r"is not a valid int\w*( range)?", "is no whole number", message)
    message = re.sub(r"is not a valid float( range)?", "is no number", message)
    message = message[:1].lower() + message[1:]
    name, command = _called(args)
    if unknown := re.match(r"no such option: (\S+?)(?: \(Possible.*)?$", message):
        meant = _meant(unknown[1], command)
        message = f"no such option: {unknown[1]}" + (f"; did you mean {meant}?" if meant else "")
    if "did you mean" in message.lower():
        return message, None
    if "unexpected extra argument" in message and name in ("complete", "tokens"):
        return message, "a prompt of several words stands in quotes; --file takes one file, and can be repeated"
    if name is None:
        return message, 'llamacli complete -m MODEL "…" writes text; llamacli --help shows all commands'
    return message, f"llamacli {name} --help shows the {'commands' if hasattr(command, 'commands') else 'options'}"


def _called(args: list[str]) -> tuple[str | None, Any]:
    """What was called, as far as it can be known: "rm", "history rm", or None; and its command."""
    if not args or args[0] not in COMMANDS:
        return None, None
    command = load(args[0])
    inner = getattr(command, "commands", {}).get(args[1]) if len(args) > 1 else None
    return (f"{args[0]} {args[1]}", inner) if inner is not None else (args[0], command)


def _meant(typed: str, command: Any) -> str | None:
    """The option that a wrong one most likely stands for: one that it begins, or the nearest."""
    if command is None:
        return None
    import difflib

    typed = typed.replace("_", "-")
    options = [name for param in command.params for name in param.opts if name.startswith("--")]
    begun = sorted((name for name in options if name.startswith(typed)), key=len)
    return next(iter(begun or difflib.get_close_matches(typed, options, 1, 0.75)), None)


def _storage_message(error: OSError) -> tuple[str, str | None, int]:
    where = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or str(error)
    if error.errno == errno.ENOMEM:
        return f"{where}{reason}", None, OutOfMemory.exit_code
    if error.errno in OF_THE_DISK:
        return f"{where}{reason}", None, StorageError.exit_code
    return f"a bug of llamacli's: {where}{reason}", "LLAMACLI_DEBUG=1 shows where", 1


app = typer.Typer(
    cls=Group,
    name="llamacli",
    add_completion=False,  # `llamacli completion` has scripts of our own, which need no rich and run no foreign text
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
