"""The multiple-choice knapsack: one option of each group, so that they fit and their damages add up to the least."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

#: The capacity is counted in at most so many units.
_UNITS = 1 << 16


class Option(NamedTuple):
    """What an option takes, and what it costs."""

    size: int
    damage: float


def solve(groups: Sequence[Sequence[Option]], capacity: int) -> list[int] | None:
    """The number of an option of each group, or None where the smallest ones do not fit.

    By dynamic programming over the capacity (Kellerer, Pferschy, Pisinger, "Knapsack Problems", 2004, section 11.5).
    Where the sizes have no large common divisor they are rounded up to 1/65536 of what is to be shared out, and what
    that leaves over is given, option by option, to what gains most by it: else the result is exact.
    """
    smallest = [min(option.size for option in group) for group in groups]
    room = capacity - sum(smallest)
    if room < 0:
        return None
    extra = [[option.size - least for option in group] for group, least in zip(groups, smallest, strict=True)]
    divisor = math.gcd(*(size for sizes in extra for size in sizes)) or 1
    unit = divisor * max(1, -(-room // (divisor * _UNITS)))
    units = room // unit
    best = np.zeros(units + 1)  # the least damage of the groups so far, in at most so many units
    taken = []
    for group, sizes in zip(groups, extra, strict=True):
        least, which = np.full(units + 1, np.inf), np.zeros(units + 1, np.int16)
        for i, (option, size) in enumerate(zip(group, sizes, strict=True)):
            needed = -(-size // unit)
            if needed <= units:
                damage = best[: units + 1 - needed] + option.damage
                better = damage < least[needed:]
                least[needed:][better] = damage[better]
                which[needed:][better] = i
        best = least
        taken.append(which)
    chosen = []
    at = units
    for which, sizes in zip(reversed(taken), reversed(extra), strict=True):
        chosen.append(int(which[at]))
        at -= -(-sizes[chosen[-1]] // unit)
    chosen.reverse()
    return _filled(groups, chosen, capacity)


def _filled(groups: Sequence[Sequence[Option]], chosen: list[int], capacity: int) -> list[int]:
    """Exchange single options for better ones as long as one fits, the greatest gain first."""
    room = capacity - sum(group[i].size for group, i in zip(groups, chosen, strict=True))
    while True:
        gains = [
            (group[now].damage - option.damage, group[now].size - option.size, g, i)
            for g, (group, now) in enumerate(zip(groups, chosen, strict=True))
            for i, option in enumerate(group)
            if option.damage < group[now].damage and option.size - group[now].size <= room
        ]
        if not gains:
            return chosen
        _, freed, g, i = max(gains)
        room += freed
        chosen[g] = i
