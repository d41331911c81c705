"""What every verb that answers takes."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from llamacli.commands.options import Flags, among, between, setting
from llamacli.errors import UsageError

RawFlag = Annotated[bool, typer.Option("--raw", help="Continue the text itself, without the chat template.")]
LogprobsFlag = Annotated[
    int | None,
    typer.Option(
        "--logprobs",
        metavar="[K]",
        help="In JSON: each token's log-probability, and the K best in its place.",
        callback=between(0, 1000),
    ),
]
VerboseFlag = Annotated[bool, typer.Option("-v", "--verbose", help="Statistics on stderr.")]


@dataclasses.dataclass(frozen=True)
class AnswerFlags(Flags):
    """What every verb that answers takes."""

    system: Annotated[
        str | None, setting("-s", "--system", "-sys", metavar="TEXT", help="A system message (chat models).")
    ] = None
    think: Annotated[
        str | None,
        setting(
            "--think",
            metavar="[=low|medium|high]",
            help="Let the model reason, as hard as said.",
            **among("on", "low", "medium", "high", "off"),
        ),
    ] = None
    no_think: Annotated[bool, typer.Option("--no-think", help="Ask the model not to reason.")] = False
    hidethinking: Annotated[bool, setting("--hidethinking/--no-hidethinking", help="Do not show the reasoning.")] = (
        False
    )
    max_tokens: Annotated[
        int | None,
        setting(
            "-n",
            "--max-tokens",
            "--n-predict",
            metavar="N",
            help="At most N tokens. (until the model ends or the context is full)",
            callback=between(-1),
        ),
    ] = None
    stop: Annotated[list[str] | None, setting("--stop", metavar="TEXT", help="End before this text; repeatable.")] = (
        None
    )

    def thinking(self) -> str | None:
        """ "off", "on", an effort, or None where nothing was said. Raises UsageError."""
        if self.typed("think") and self.no_think:
            raise UsageError("--think and --no-think exclude each other")
        return "off" if self.no_think else self.think

    def refuse_for_raw(self) -> None:
        """Raises UsageError for what is said to a chat template, which --raw does without."""
        if self.asked("system"):
            raise UsageError("--raw has no system message", hint="put the text into the prompt, or leave out --raw")
        if self.asked("think") or self.no_think:
            raise UsageError("--think and --no-think speak to the chat template, which --raw does not use")

    @property
    def unasked(self) -> frozenset[str]:
        """Of system and think what only a setting says: it gives way where the model has no chat template."""
        asked = {"system": self.asked("system"), "think": self.asked("think") or self.no_think}
        return frozenset(name for name, is_asked in asked.items() if not is_asked)

    @property
    def limit(self) -> int | None:
        """Tokens of an answer, None for no limit."""
        return None if self.max_tokens == -1 else self.max_tokens
