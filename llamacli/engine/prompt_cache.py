"""What need not be evaluated again: the longest common prefix of a prompt and of what the context holds."""

from __future__ import annotations

from collections.abc import Sequence

from llamacli.engine.context import Context


def reuse(context: Context, tokens: Sequence[int]) -> int:
    """How many of `tokens` the context holds already; what it holds beyond them is forgotten.

    At least one token is left to evaluate, for its logits.
    """
    return context.keep(min(common_prefix(context.tokens, tokens), len(tokens) - 1))


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The length of the longest beginning of both."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
