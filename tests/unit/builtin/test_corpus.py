"""The training text: the same for the same seed, and right by rules of its own."""

from __future__ import annotations

import itertools
import json
import random
import re
import subprocess
import sys
from collections import Counter

import pytest

from llamacli.builtin import lumi, outside, words
from llamacli.builtin.corpus import JOBS, LOOKUP_SHARE, documents
from llamacli.builtin.jobs import Dialogue
from llamacli.builtin.stories import parse_story


def jobs(kind: str, count: int = 300) -> list[tuple[str, str]]:
    """(the user's last words, the answer)"""
    written: list[Dialogue] = [JOBS[kind][0](random.Random(f"test {number}")) for number in range(count)]
    return [(dialogue.turns[-2].content, dialogue.answer) for dialogue in written]


def test_the_script_writes_what_the_seed_says() -> None:
    command = [sys.executable, "-m", "llamacli.builtin.corpus", "--seed", "7", "--count", "50"]
    written = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert [json.loads(line) for line in written.splitlines()] == list(itertools.islice(documents(7), 50))
    assert list(itertools.islice(documents(8), 50)) != list(itertools.islice(documents(7), 50))


def test_every_kind_has_its_share() -> None:
    kinds = Counter(document["kind"] for document in itertools.islice(documents(3), 4000))
    for kind, (_, share) in JOBS.items():
        assert abs(kinds[kind] / 4000 - share) < 0.025
    assert abs(kinds["lookup"] / 4000 - LOOKUP_SHARE) < 0.025
    assert kinds["text"] > kinds["infill"] > 0


@pytest.mark.parametrize("kind", [kind for kind in JOBS if kind not in ("story", "dialogue")])
def test_a_prompt_decides_its_answer(kind: str) -> None:
    answers: dict[str, str] = {}
    for prompt, answer in jobs(kind, 3000):
        assert answers.setdefault(prompt, answer) == answer


def test_sums_are_right() -> None:
    for prompt, answer in jobs("sums"):
        first, second, *_ = map(int, re.findall(r"\d+", prompt))
        sign = next(s for s in ("plus", "+", "gets", "minus", "-", "gives", "times", "*", "x") if s in prompt)
        wanted = {"p": first + second, "+": first + second, "ge": first + second, "t": first * second}
        wanted |= {"*": first * second, "x": first * second, "m": first - second, "-": first - second}
        key = sign[:2] if sign == "gets" else "m" if sign == "gives" else sign[0]
        assert int(re.findall(r"\d+", answer)[0]) == wanted[key], prompt


def test_names_stand_in_the_text_in_their_order() -> None:
    for prompt, answer in jobs("names"):
        found = [n for n in re.findall(r"\w+", answer) if n in words.NAMES + words.TOWNS]
        for group in (words.NAMES, words.TOWNS):
            places = [re.search(rf"\b{name}\b", prompt) for name in found if name in group]
            assert None not in places
            starts = [place.start() for place in places if place]
            assert starts == sorted(starts)


def test_answers_about_a_passage_stand_in_it() -> None:
    for prompt, answer in jobs("question"):
        if answer != "The text does not say.":
            capitals = set(re.findall(r"\b[A-Z]\w+", answer)) - {"The", "They"}
            assert all(name in prompt for name in capitals), (prompt, answer)


def test_summaries_name_hero_and_friend() -> None:
    for prompt, answer in jobs("summary"):
        for name in set(re.findall(r"\w+", answer)) & set(words.NAMES):
            assert name in prompt


def test_openings_continue_to_a_story_of_the_grammar() -> None:
    for prompt, answer in jobs("story"):
        asked = prompt.startswith(("Tell", "Write", "Can"))
        assert parse_story(answer if asked else f"{prompt} {answer}") is not None


def test_what_is_said_stands_in_the_request() -> None:
    assert all(answer in prompt for prompt, answer in jobs("say"))


def test_lumi_is_a_language_that_can_be_read_back() -> None:
    """No two English sentences share their Lumi, and no two words theirs; verbs stand at the end."""
    meanings: dict[str, set[str]] = {}
    for number in range(5000):
        pair = lumi.sentence(random.Random(f"lumi {number}"))
        meanings.setdefault(pair.lumi, set()).add(pair.english)
    assert all(len(english) == 1 for english in meanings.values())
    vocabulary = [*lumi.NOUNS.values(), *lumi.ADJECTIVES.values()]
    assert len(set(vocabulary)) == len(vocabulary)


def test_made_up_words_are_letters() -> None:
    rng = random.Random(1)
    assert all(outside.made_up(rng).isalpha() for _ in range(200))
