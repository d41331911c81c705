"""Sentences with holes: fill the holes, or find out what fills them.

A template is a sentence with {holes}; a step is the templates that may stand at one place of a story. The same
templates write stories and parse them, so a story is accepted exactly where the generator could have written it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

#: What fills the holes of one text.
Cast = dict[str, str]

_HOLE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Step:
    """One place of a text: exactly one of the templates stands there, or, where it is optional, none."""

    templates: tuple[str, ...]
    optional: bool = False


def step(*templates: str) -> Step:
    """A place that is always filled."""
    return Step(templates)


def maybe(*templates: str) -> Step:
    """A place that may stay empty."""
    return Step(templates, optional=True)


def fill(template: str, cast: Mapping[str, str]) -> str:
    """The sentence. Raises KeyError for a hole that the cast does not fill."""
    return _HOLE.sub(lambda hole: cast[hole.group(1)], template)


def write(steps: Sequence[Step], cast: Mapping[str, str], rng: random.Random) -> list[str]:
    """One sentence for each step that is taken."""
    return [fill(rng.choice(each.templates), cast) for each in steps if not each.optional or rng.random() < 0.5]


def parse(
    text: str,
    steps: Sequence[Step],
    words: Mapping[str, Iterable[str]],
    derive: Callable[[Cast], Mapping[str, str] | None],
) -> Cast | None:
    """The cast that makes these steps write exactly `text`, None where there is none.

    `words` lists what may fill each hole; `derive` gives the holes that follow from others (pronouns), or None where a
    cast contradicts itself.
    """

    def walk(index: int, place: int, cast: Cast) -> Cast | None:
        if index == len(steps):
            return cast if place == len(text) else None
        at = place + 1 if place and text.startswith(" ", place) else place
        if at == place and place:
            at = -1  # sentences are separated by a space
        for template in steps[index].templates if at >= 0 else ():
            known = derive(cast)
            if known is None:
                return None
            match = re.compile(_pattern(template, {**cast, **known}, words)).match(text, at)
            if match:
                found = walk(index + 1, match.end(), {**cast, **match.groupdict()})
                if found is not None and derive(found) is not None:
                    return found
        return walk(index + 1, place, cast) if steps[index].optional else None

    return walk(0, 0, {})


def _pattern(template: str, cast: Mapping[str, str], words: Mapping[str, Iterable[str]]) -> str:
    """The template as a regular expression: what is known stands as it is, the rest is a group for each hole."""
    parts, seen = [], set()
    for index, part in enumerate(_HOLE.split(template)):
        if index % 2 == 0:
            parts.append(re.escape(part))
        elif part in cast:
            parts.append(re.escape(cast[part]))
        elif part in seen:
            parts.append(f"(?P={part})")
        elif part in words:
            seen.add(part)
            choices = sorted(words[part], key=len, reverse=True)
            parts.append(f"(?P<{part}>{'|'.join(map(re.escape, choices))})")
        else:  # it follows from what is not yet known
            return "(?!)"
    return "".join(parts)
