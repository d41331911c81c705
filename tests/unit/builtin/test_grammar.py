"""The grammar of the stories: what it writes it accepts, and nothing that was changed."""

from __future__ import annotations

import random

import pytest

from llamacli.builtin import words
from llamacli.builtin.grammar import maybe, parse, step
from llamacli.builtin.stories import PLOTS, Story, parse_story, write_story


def stories(count: int) -> list[Story]:
    return [write_story(random.Random(f"test {number}")) for number in range(count)]


def test_every_written_story_is_accepted_with_its_own_cast() -> None:
    plots = set()
    for story in stories(300):
        parsed = parse_story(story.text)
        assert parsed is not None, story.text
        assert (parsed.summary, parsed.cast["hero"]) == (story.summary, story.cast["hero"])
        plots.add(PLOTS.index(parsed.plot))
    assert plots == set(range(len(PLOTS)))


def test_a_story_with_one_sentence_less_twice_or_moved_is_refused() -> None:
    refused = 0
    for story in stories(100):
        rng = random.Random(story.text)
        place = rng.randrange(len(story.sentences) - 1)
        less = [*story.sentences[:place], *story.sentences[place + 1 :]]
        twice = [*story.sentences[: place + 1], *story.sentences[place:]]
        moved = [*less, story.sentences[place]]
        assert parse_story(" ".join(twice)) is None
        assert parse_story(" ".join(moved)) is None
        refused += parse_story(" ".join(less)) is None
    assert refused > 60  # an optional sentence may go


def test_a_name_that_changes_in_mid_story_is_refused() -> None:
    for story in stories(100):
        before, _, after = story.text.rpartition(story.cast["hero"])
        other = next(n for n in words.NAMES if n not in (story.cast["hero"], story.cast["friend"]))
        assert parse_story(before + other + after) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Once upon a time",
        "Once upon a time there was a brave boy named Lily.",
        "Once upon a time there was a brave boy named Tom. The end.",
    ],
)
def test_what_is_no_story(text: str) -> None:
    assert parse_story(text) is None


def test_a_wrong_pronoun_is_refused() -> None:
    text = (
        "Once there was a shy girl named Mia. Mia wanted to learn to swim. But she did not know how. "
        "So she went to the lake to try again. Then Mia met a kind fox named Ben. Ben could swim very well. "
        "They practiced for two days. At last Mia could swim too. They laughed and played until the sun went down."
    )
    assert parse_story(text) is not None
    assert parse_story(text.replace("So she", "So he")) is None


def test_optional_steps_and_repeated_holes() -> None:
    steps = (step("{x} and {x}."), maybe("Well."), step("The {y}."))
    holes = {"x": ("cat", "catfish"), "y": ("end",)}

    def free(cast: dict[str, str]) -> dict[str, str]:
        return {}

    assert parse("catfish and catfish. The end.", steps, holes, free) == {"x": "catfish", "y": "end"}
    assert parse("cat and cat. Well. The end.", steps, holes, free) == {"x": "cat", "y": "end"}
    assert parse("cat and catfish. The end.", steps, holes, free) is None
    assert parse("cat and cat.The end.", steps, holes, free) is None
    assert parse("cat and cat. The end. ", steps, holes, free) is None
