"""Stories after plots.py: written with a cast at random, and the parser that accepts them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from llamacli.builtin import words
from llamacli.builtin.grammar import Cast, fill, parse, write
from llamacli.builtin.plots import COMMON_QUESTIONS, ENDING, HOLES, OPENING, PLOTS, Plot


@dataclass(frozen=True)
class Story:
    """A written story, sentence by sentence, and what is known about it."""

    sentences: tuple[str, ...]
    cast: Mapping[str, str]
    plot: Plot

    @property
    def text(self) -> str:
        return " ".join(self.sentences)

    @property
    def summary(self) -> str:
        return fill(self.plot.summary, self.cast)

    @property
    def questions(self) -> list[tuple[str, str]]:
        pairs = self.plot.questions + COMMON_QUESTIONS
        return [(fill(question, self.cast), fill(answer, self.cast)) for question, answer in pairs]


def derive(cast: Cast) -> Mapping[str, str] | None:
    """The pronouns of a cast; None where it contradicts itself (a boy named Lily, one's own friend)."""
    hero, friend = cast.get("hero"), cast.get("friend")
    for name, kind in ((hero, cast.get("kind")), (friend, cast.get("kind2"))):
        if name and kind and kind not in (words.BOY_KINDS if words.is_boy(name) else words.GIRL_KINDS):
            return None
    if (hero and hero == friend) or ("skill" in cast and cast["skill"] == cast.get("hobby")):
        return None
    known: Cast = {}
    if hero:
        boy = words.is_boy(hero)
        known.update(he="he" if boy else "she", his="his" if boy else "her", him="him" if boy else "her")
        known["He"] = known["he"].capitalize()
    if friend:
        known["fhis"] = "his" if words.is_boy(friend) else "her"
    return known


def draw_cast(rng: random.Random, **given: str) -> Cast:
    """A cast at random; `given` fixes some of it (a name or a kind of hero, say)."""
    cast = {hole: rng.choice(choices) for hole, choices in HOLES.items()}
    cast["hero"] = _name(rng, reversed(_NAMES))
    cast.update(given)
    if "kind" in given and "hero" not in given:
        cast["hero"] = _name(rng, (name for name in reversed(_NAMES) if cast["kind"] in kinds_of(name)))
    cast["friend"] = _name(rng, (name for name in _NAMES if name != cast["hero"]))
    for name, kind in (("hero", "kind"), ("friend", "kind2")):
        if cast[kind] not in kinds_of(cast[name]):
            cast[kind] = rng.choice(kinds_of(cast[name]))
    cast["skill"] = rng.choice([hobby for hobby in words.HOBBIES if hobby != cast["hobby"]])
    return {**cast, **(derive(cast) or {})}


#: Names of boys and girls in turns. The first are frequent among friends, the last among heroes: so the likeliest name
#: of a friend is seldom the hero's again.
_NAMES = tuple(name for pair in zip(words.BOYS, words.GIRLS, strict=True) for name in pair)


def _name(rng: random.Random, names: Iterable[str]) -> str:
    """One of these, the first ones more often than the last."""
    choices = tuple(names)
    return rng.choices(choices, [1 / (rank + 3) for rank in range(len(choices))])[0]


def kinds_of(name: str) -> tuple[str, ...]:
    """What a hero of this name may be."""
    return words.BOY_KINDS if words.is_boy(name) else words.GIRL_KINDS


def write_story(rng: random.Random, **given: str) -> Story:
    """A story with a cast at random, as far as it is not given."""
    plot, cast = rng.choice(PLOTS), draw_cast(rng, **given)
    sentences = write((*OPENING, *plot.steps, *ENDING), cast, rng)
    return Story(tuple(sentences), cast, plot)


def parse_story(text: str) -> Story | None:
    """The story that this text is, None where the grammar does not accept it."""
    for plot in PLOTS:
        cast = parse(text, (*OPENING, *plot.steps, *ENDING), HOLES, derive)
        if cast is not None:
            return Story((text,), {**cast, **(derive(cast) or {})}, plot)
    return None
