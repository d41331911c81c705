"""The knapsack beside all combinations."""

from __future__ import annotations

import itertools
import random

import pytest

from llamacli.tasks.knapsack import Option, solve


def best(groups: list[list[Option]], capacity: int) -> float | None:
    """The least damage of all combinations that fit."""
    found = [
        sum(option.damage for option in options)
        for options in itertools.product(*groups)
        if sum(option.size for option in options) <= capacity
    ]
    return min(found, default=None)


def random_groups(rng: random.Random, unit: int) -> list[list[Option]]:
    return [
        [Option(unit * rng.randint(1, 60), rng.choice([0.0, rng.random(), rng.expovariate(20)])) for _ in range(n)]
        for n in [rng.randint(1, 5) for _ in range(5)]
    ]


@pytest.mark.parametrize("seed", range(60))
def test_it_is_the_best_of_all_combinations(seed: int) -> None:
    rng = random.Random(seed)
    groups = random_groups(rng, rng.choice([1, 32, 4096]))
    smallest, largest = (sum(pick(o.size for o in group) for group in groups) for pick in (min, max))
    capacity = rng.randint(int(0.9 * smallest), largest)
    chosen = solve(groups, capacity)
    expected = best(groups, capacity)
    if expected is None:
        assert chosen is None
        return
    assert chosen is not None
    options = [group[i] for group, i in zip(groups, chosen, strict=True)]
    assert sum(option.size for option in options) <= capacity
    assert sum(option.damage for option in options) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_sizes_that_are_rounded_still_fit_and_are_nearly_the_best(seed: int) -> None:
    """Of no common divisor, and a million times as large as there are units."""
    rng = random.Random(seed)
    groups = random_groups(rng, (1 << 33) + 7)
    capacity = sum(rng.choice(group).size for group in groups)
    expected = best(groups, capacity)
    chosen = solve(groups, capacity)
    assert chosen is not None
    assert expected is not None
    options = [group[i] for group, i in zip(groups, chosen, strict=True)]
    assert sum(option.size for option in options) <= capacity
    assert sum(option.damage for option in options) <= expected + 0.05


def test_what_is_left_over_is_used() -> None:
    """Rounding up would leave the second group no room by 1 part in 65536."""
    groups = [[Option(1, 1.0), Option(1_000_000_007, 0.0)], [Option(1, 1.0), Option(3, 0.0)]]
    assert solve(groups, 1_000_000_010) == [1, 1]


def test_nothing_fits() -> None:
    assert solve([[Option(5, 0.0)], [Option(6, 0.0)]], 10) is None
