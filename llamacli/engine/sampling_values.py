"""What the values of samplers may be: ranges, and the names of the chain's parts. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Callable

from llamacli.engine.types import SAMPLER_NAMES

NO_SEED = 0xFFFFFFFF  # LLAMA_DEFAULT_SEED: the library would draw one and not tell
#: name → (its meaning in an error, test)
RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "temp": ("0 or more", lambda v: v >= 0),
    "top_p": ("between 0 and 1", lambda v: 0 <= v <= 1),
    "min_p": ("between 0 and 1", lambda v: 0 <= v <= 1),
    "typical_p": ("between 0 and 1", lambda v: 0 <= v <= 1),
    "repeat_penalty": ("more than 0", lambda v: v > 0 and math.isfinite(1 / v)),
    "repeat_last_n": ("0 (off) or more", lambda v: v >= 0),
    "dry_multiplier": ("0 (off) or more", lambda v: v >= 0),
    "dry_base": ("1 or more", lambda v: v >= 1),
    "dry_allowed_length": ("0 or more", lambda v: v >= 0),
    "dry_penalty_last_n": ("0 (off) or more", lambda v: v >= 0),
    "xtc_probability": ("between 0 and 1", lambda v: 0 <= v <= 1),
    "xtc_threshold": ("between 0 and 1", lambda v: 0 <= v <= 1),
    "mirostat": ("0 (off), 1 or 2", lambda v: v in (0, 1, 2)),
    "mirostat_tau": ("more than 0", lambda v: v > 0),
    "mirostat_eta": ("more than 0", lambda v: v > 0),
    "dynatemp_range": ("0 (off) or more", lambda v: v >= 0),
    "dynatemp_exp": ("more than 0", lambda v: v > 0),
    "adaptive_target": ("at most 1; negative is off", lambda v: v <= 1),
    "adaptive_decay": ("between 0 and 0.99", lambda v: 0 <= v <= 0.99),
    "seed": (f"between 0 and {NO_SEED - 1}; -1 draws one", lambda v: 0 <= v < NO_SEED),
}


def wrong(name: str, value: float) -> str | None:
    """What keeps a value of this name from being sampled with; None for nothing."""
    if isinstance(value, float) and not math.isfinite(value):
        return "not a number to sample with"
    meaning, test = RANGES.get(name, ("", lambda v: True))
    return None if test(value) else f"it must be {meaning}"


def canonical(name: str) -> str:
    """llama.cpp's own name of a sampler from any of its spellings ("top-k", "topk", "temp"); "" for an unknown one."""
    plain = name.strip().lower().replace("-", "").replace("_", "")
    aliases = {"nucleus": "top_p", "temp": "temperature", "typ": "typ_p", "typicalp": "typ_p"}
    names = {known.replace("_", ""): known for known in SAMPLER_NAMES}
    return aliases.get(plain) or names.get(plain, "")
