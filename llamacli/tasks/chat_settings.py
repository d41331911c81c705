"""The values that /set changes: names and texts → what Sampling takes. Kept with the conversation."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from llamacli.engine.sampling import resolve
from llamacli.engine.types import Sampling
from llamacli.errors import UsageError
from llamacli.tasks.loaded import Loaded

#: Not of the sampler: the most tokens of an answer.
LIMIT = "n"
_ALIASES = {"temperature": "temp", "max_tokens": LIMIT, "num_predict": LIMIT, "typical": "typical_p"}
_KINDS = {field.name: type(getattr(Sampling(), field.name)) for field in fields(Sampling)} | {"seed": int, LIMIT: int}
_NAMES = [name for name, kind in _KINDS.items() if kind in (int, float)]


def split(settings: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
    """(values of Sampling, the most tokens of an answer); what other versions may have kept is left out."""
    values = {name: value for name, value in settings.items() if name in _NAMES and name != LIMIT}
    return values, settings.get(LIMIT)


def changed(settings: Mapping[str, Any], name: str, text: str, loaded: Loaded) -> dict[str, Any]:
    """The settings with one value set, or taken back ("default"). Raises UsageError."""
    known = _known(name)
    rest = {key: value for key, value in settings.items() if key != known}
    if text in ("default", "reset"):
        return rest
    kind = _KINDS[known]
    try:
        value = kind(text)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{known} {text}: a {'whole ' if kind is int else ''}number is wanted") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{known} {text}: not a number to sample with")
    if known == LIMIT and not -1 <= value < 1 << 31:
        raise UsageError(f"n {text}: the tokens of an answer; -1 is no limit")
    if (known == LIMIT or known == "seed") and value == -1:
        return rest
    new = {**rest, known: value}
    resolve(split(new)[0], loaded.model)  # raises UsageError where it is out of range
    return new


def shown(
    settings: Mapping[str, Any], options: Mapping[str, Any], limit: int | None, loaded: Loaded
) -> list[tuple[str, str]]:
    """(name, value) of what answers are made with; the seed only where it is set."""
    values, own_limit = split(settings)
    sampling = resolve({**options, **values}, loaded.model)
    given = {**options, **values}
    rows = {name: str(getattr(sampling, name)) for name in _NAMES if name != LIMIT}
    rows["seed"] = str(given["seed"]) if given.get("seed") is not None else "drawn for each answer"
    limit = limit if own_limit is None else own_limit
    rows[LIMIT] = "no limit" if limit is None else f"{limit} tokens at most"
    return [*rows.items()]


def _known(name: str) -> str:
    plain = name.lower().lstrip("-").replace("-", "_")
    plain = _ALIASES.get(plain, plain)
    if plain not in _NAMES:
        near = difflib.get_close_matches(plain, _NAMES, 1, 0.5)
        raise UsageError(
            f"/set {name}: no such value" + (f"; did you mean {near[0]}?" if near else ""), hint="/set shows them all"
        )
    return plain
