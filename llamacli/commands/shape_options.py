"""The options that say what an answer has to look like, as one group."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamacli.commands.answer_options import AnswerFlags
from llamacli.commands.options import Flags
from llamacli.errors import UsageError

if TYPE_CHECKING:
    from llamacli.engine.types import Shape

SHAPE = "Shape"


@dataclasses.dataclass(frozen=True)
class ShapeFlags(Flags):
    """At most one of them, and what becomes of an answer that ends inside its shape.

    One that is typed takes the place of a preset's.
    """

    schema: Annotated[
        str | None,
        typer.Option(
            "-j",
            "--schema",
            "--json-schema",
            metavar="FILE|JSON|FIELDS",
            help='JSON that fits this schema; FIELDS such as "name, age int, tags [str]".',
            rich_help_panel=SHAPE,
        ),
    ] = None
    schema_multi: Annotated[
        str | None,
        typer.Option(
            "--schema-multi",
            metavar="FILE|JSON|FIELDS",
            help='As --schema, for a list of them: {"items": [...]}.',
            rich_help_panel=SHAPE,
        ),
    ] = None
    choices: Annotated[
        str | None,
        typer.Option(
            "--choices",
            metavar="A,B,...",
            help="One of these; with --json how probable each is.",
            rich_help_panel=SHAPE,
        ),
    ] = None
    regex: Annotated[
        str | None,
        typer.Option("--regex", metavar="REGEX", help="All of it matches this expression.", rich_help_panel=SHAPE),
    ] = None
    grammar: Annotated[
        str | None,
        typer.Option("--grammar", metavar="GBNF", help="A text of llama.cpp's grammar.", rich_help_panel=SHAPE),
    ] = None
    grammar_file: Annotated[
        Path | None,
        typer.Option("--grammar-file", metavar="FILE", help="The grammar in this file.", rich_help_panel=SHAPE),
    ] = None
    partial: Annotated[
        bool,
        typer.Option(
            "--partial",
            help="Print as it comes, even what ends inside its shape. (all or nothing)",
            rich_help_panel=SHAPE,
        ),
    ] = False

    def given(self) -> Shape | None:
        """As `shape`, and --partial needs one."""
        shape = self.shape()
        if shape is None and self.partial:
            raise UsageError("--partial needs a shape: --schema, --choices, --regex or --grammar")
        return shape

    def shape(self) -> Shape | None:
        """The shape that was asked for. Raises UsageError, StorageError."""
        from llamacli.tasks import shapes

        given = {name: f"--{name.replace('_', '-')}" for name in self._given}
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given.values())}: an answer has one shape", hint="give one of them")
        for name, option in given.items():
            shape = shapes.read(option, getattr(self, name))
            theirs = self.sources.get(name) == "preset"
            return dataclasses.replace(shape, name=f"{shape.name} of the preset") if theirs else shape
        return None

    def stops(self, answers: AnswerFlags) -> tuple[str, ...]:
        """The texts before which the answer ends; a shape knows by itself where.

        Raises UsageError where both were asked for; a preset's texts give way to a shape that is typed.
        """
        given = self._given
        if given and (answers.typed("stop") or (answers.asked("stop") and not any(map(self.typed, given)))):
            raise UsageError("--stop and a shape exclude each other: the shape says where the answer ends")
        return () if given else tuple(answers.stop or ())

    @property
    def _given(self) -> list[str]:
        given = [name for name in _SHAPES if getattr(self, name) is not None]
        return [name for name in given if self.typed(name)] or given


_SHAPES = ("schema", "schema_multi", "choices", "regex", "grammar", "grammar_file")
