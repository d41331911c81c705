"""What the history gives: frozen dataclasses of plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Usage:
    """What an answer cost: tokens and seconds; None where nobody knows."""

    prompt_tokens: int | None = None
    evaluated_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_seconds: float | None = None
    generation_seconds: float | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Entry:
    """One message. `parent` is the message before it on its branch; times are seconds since 1970.

    `finish_reason` is None for an answer that was never finished: the process was killed.
    """

    id: int
    parent: int | None
    role: str
    content: str
    reasoning: str | None = None
    model: str | None = None
    created: float = 0.0
    finish_reason: str | None = None
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True)
class Conversation:
    """`leaf` is the message that the talk goes on from, `title` the beginning of the first user message, one line."""

    id: int
    name: str | None
    model: str
    system: str | None
    settings: Mapping[str, Any]
    origin: str  # "chat" or "complete"
    created: float
    updated: float
    leaf: int | None
    n_messages: int
    title: str
