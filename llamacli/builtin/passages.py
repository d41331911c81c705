"""Short passages of facts, with questions about them, and the names that occur in them."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

from llamacli.builtin import outside, words
from llamacli.builtin.jobs import Dialogue, Turn, around, ask
from llamacli.builtin.stories import write_story

NOT_SAID = "The text does not say."


@dataclass(frozen=True)
class Fact:
    """A sentence, the questions it answers, and a question of the same form about somebody else."""

    sentence: str
    questions: tuple[tuple[str, str], ...]
    foreign: str


@dataclass(frozen=True)
class Passage:
    """Facts about several people."""

    text: str
    questions: tuple[tuple[str, str], ...]
    unanswered: tuple[str, ...]

    @property
    def about_who(self) -> list[tuple[str, str]]:
        """The questions that ask who."""
        return [pair for pair in self.questions if pair[0].startswith("Who ")]


def _fact(rng: random.Random, form: int, name: str, other: str, stranger: str) -> Fact:
    """A fact about `name`; a passage has at most one of each form for each person."""
    place, room = rng.choice(words.PLACES), rng.choice(words.ROOMS)
    color, thing, food = rng.choice(words.COLORS), rng.choice(words.THINGS), rng.choice(words.FOODS)
    if form == 0:
        return Fact(
            f"{name} is in the {room}.", ((f"Where is {name}?", f"{name} is in the {room}."),), f"Where is {stranger}?"
        )
    if form == 1:
        return Fact(
            f"{name} has a {color} {thing}.",
            (
                (f"What does {name} have?", f"{name} has a {color} {thing}."),
                (f"What color is the {thing} of {name}?", f"The {thing} of {name} is {color}."),
            ),
            f"What does {stranger} have?",
        )
    if form == 2:
        return Fact(
            f"{name} likes {food}.",
            ((f"What does {name} like?", f"{name} likes {food}."),),
            f"What does {stranger} like?",
        )
    if form == 3:
        time = rng.choice(("morning", "afternoon", "evening"))
        return Fact(
            f"{name} went to the {place} in the {time}.",
            (
                (f"Where did {name} go?", f"{name} went to the {place}."),
                (f"When did {name} go to the {place}?", f"{name} went to the {place} in the {time}."),
            ),
            f"Where did {stranger} go?",
        )
    if form == 4:
        return Fact(
            f"{name} gave a {thing} to {other}.",
            ((f"What did {name} give to {other}?", f"{name} gave a {thing} to {other}."),),
            f"What did {stranger} give away?",
        )
    if form == 5:
        number = rng.choice(words.NUMBERS)
        return Fact(
            f"{name} is {number} years old.",
            ((f"How old is {name}?", f"{name} is {number} years old."),),
            f"How old is {stranger}?",
        )
    if form == 6:
        job = rng.choice(words.JOBS)
        return Fact(
            f"{name} is a {job}.",
            ((f"What is the job of {name}?", f"{name} is a {job}."),),
            f"What is the job of {stranger}?",
        )
    town = outside.town(rng)
    return Fact(
        f"{name} lives in {town}.",
        ((f"Where does {name} live?", f"{name} lives in {town}."),),
        f"Where does {stranger} live?",
    )


#: Questions that begin with "Who": the fact's own sentence is the answer, where only one person can be meant.
_WHO = (0, 1, 2, 3, 6, 7)


def write_passage(rng: random.Random, *, large: bool = False) -> Passage:
    """Two to four facts about two or three people, each question with one answer.

    `large`: five to eight about four to six, from which who is meant is learnt: with few people guessing does well.
    """
    n_people, n_facts = (rng.randint(4, 6), rng.randint(5, 8)) if large else (rng.choice((2, 2, 3)), rng.randint(2, 4))
    people: list[str] = []
    while len(people) <= n_people:
        name = outside.person(rng)
        if name not in people:
            people.append(name)
    stranger = people.pop()
    chosen = rng.sample([(form, name) for form in range(8) for name in people], n_facts)
    facts = [_fact(rng, form, name, rng.choice([p for p in people if p != name]), stranger) for form, name in chosen]
    questions = [pair for fact in facts for pair in fact.questions]
    told = [fact.sentence.removeprefix(f"{name} ") for fact, (_, name) in zip(facts, chosen, strict=True)]
    for (form, _), fact, rest in zip(chosen, facts, told, strict=True):
        if form in _WHO and told.count(rest) == 1:
            questions.append((f"Who {rest[:-1]}?", fact.sentence))
    return Passage(" ".join(fact.sentence for fact in facts), tuple(questions), tuple(fact.foreign for fact in facts))


def question(rng: random.Random) -> Dialogue:
    """A question about a passage or a story; one in ten has no answer there, and many of the others ask who."""
    form = rng.random()
    if form < 0.35:
        story = write_story(rng)
        asked, answer = rng.choice(story.questions)
        return ask("question", framed(rng, asked, story.text), answer)
    passage = write_passage(rng)
    asked, answer = rng.choice(passage.questions)
    who = passage.about_who
    if form < 0.45:
        asked, answer = rng.choice(passage.unanswered), NOT_SAID
    elif form < 0.7 and who:
        asked, answer = rng.choice(who)
    return ask("question", framed(rng, asked, passage.text), answer)


def questions(rng: random.Random) -> Dialogue:
    """Several questions about one passage or story: more to learn from each text.

    Half of those about a passage ask only who, which is learnt last: the answer stands before what was asked for.
    """
    form = rng.random()
    if form < 0.25:
        story = write_story(rng)
        text, asked = story.text, story.questions
    else:
        passage = write_passage(rng, large=rng.random() < 0.4)
        text, asked = passage.text, [*passage.questions]
        who = passage.about_who
        if form < 0.65 and len(who) > 1:
            asked = who
        elif rng.random() < 0.4:
            asked.append((rng.choice(passage.unanswered), NOT_SAID))
    return several(rng, "question", text, rng.sample(asked, min(len(asked), rng.randint(3, 6))))


def lookups(rng: random.Random) -> tuple[str, list[tuple[str, str]]]:
    """A passage, and in another order what is told of only one person, with the name: (" likes honey:", " Lily")."""
    passage, asked = _about_who(rng)
    pairs = []
    for question, answer in asked:
        told = question.removeprefix("Who ").removesuffix("?")
        pairs.append((f" {told}:", f" {answer.removesuffix(f' {told}.')}"))
    return passage, pairs


def who(rng: random.Random) -> Dialogue:
    """All questions about one passage that ask who."""
    passage, asked = _about_who(rng)
    return several(rng, "question", passage, asked)


def _about_who(rng: random.Random) -> tuple[str, list[tuple[str, str]]]:
    """A passage, and the questions about it that ask who, shuffled: at least one."""
    while True:
        passage = write_passage(rng, large=rng.random() < 0.6)
        if asked := passage.about_who:
            rng.shuffle(asked)
            return passage.text, asked


def several(rng: random.Random, kind: str, text: str, pairs: list[tuple[str, str]]) -> Dialogue:
    """Tasks about one text, which stands in the first turn alone."""
    turns = []
    for number, (task, answer) in enumerate(pairs):
        turns += [Turn("user", task if number else framed(rng, task, text)), Turn("assistant", answer)]
    return Dialogue(kind, tuple(turns))


def framed(rng: random.Random, asked: str, text: str) -> str:
    """Text and question, as people write them."""
    form = rng.random()
    if form < 0.7:
        return around(rng, asked, text)
    if form < 0.85:
        return f"{text} {asked}"
    return f"Text: {text}\n\nQuestion: {asked}"


_JOURNEYS = (
    "{a} lives in {x}.", "{a} went from {x} to {y}.", "{a} met {b} in {x}.", "{a} and {b} drove to {x}.",
    "In {x} {a} saw {b}.", "{a} wrote a letter to {b}.", "{a} was born in {x}.", "{a} likes {x} more than {y}.",
    "Yesterday {a} came back from {x}.", "{a} has a house near {x}.", "{a} works with {b}.",
    "{a} called {b} and {c}.", "The train from {x} to {y} was late.", "It rained in {x}.",
    "My friend {a} is a {job}.", "{a} bought a {thing} in {x}.", "{a} has a {color} {thing}.",
)  # fmt: skip
_BOTH = (
    "Find the names of people and places.", "Pick the names of people and places.",
    "Which people and places are named?", "List the people and places.", "Extract the names of people and places.",
    "Name the people and the places.",
)  # fmt: skip
_PEOPLE = (
    "Which people are named?",
    "List the people.",
    "Pick the names of people.",
    "Who is named in the text?",
    "Find the people.",
)
_PLACES = ("Which places are named?", "List the places.", "Pick the names of places.", "Find the places.")
_JSON = ("Give the people and places as JSON.", "Extract the people and places as JSON.", "People and places as JSON.")


def names(rng: random.Random) -> Dialogue:
    """The names of people and towns, in the order of their first appearance; "none" where there are none."""
    text, people, towns = _named(rng)
    task, answer = _listing(rng, rng.random(), people, towns)
    return ask("names", around(rng, task, text), answer)


def names_and_more(rng: random.Random) -> Dialogue:
    """Several lists of the names in one text."""
    text, people, towns = _named(rng)
    forms = rng.sample((0.0, 0.5, 0.7, 0.9), rng.randint(2, 4))
    return several(rng, "names", text, [_listing(rng, form, people, towns) for form in forms])


def _named(rng: random.Random) -> tuple[str, list[str], list[str]]:
    """A text, and the people and the towns named in it."""
    people: list[str] = []
    towns: list[str] = []
    sentences: list[str] = []
    cast = {"a": outside.person, "b": outside.person, "c": outside.person, "x": outside.town, "y": outside.town}
    for _ in range(rng.choice((1, 2, 2))):
        template = rng.choice(_JOURNEYS)
        drawn: dict[str, str] = {}
        for hole, draw in cast.items():
            drawn[hole] = draw(rng)
            while drawn[hole] in list(drawn.values())[:-1]:
                drawn[hole] = draw(rng)
        for hole in sorted(
            (hole for hole in cast if "{" + hole + "}" in template), key=lambda hole: template.index("{" + hole)
        ):
            found = towns if hole in "xy" else people
            if drawn[hole] not in found:
                found.append(drawn[hole])
        others = {"job": rng.choice(words.JOBS), "thing": rng.choice(words.THINGS), "color": rng.choice(words.COLORS)}
        sentences.append(template.format(**drawn, **others))
    return " ".join(sentences), people, towns


def _listing(rng: random.Random, form: float, people: list[str], towns: list[str]) -> tuple[str, str]:
    """A way to ask for the names, and the answer."""
    listed_people, listed_towns = ", ".join(people) or "none", ", ".join(towns) or "none"
    if form < 0.45:
        return rng.choice(_BOTH), f"People: {listed_people}\nPlaces: {listed_towns}"
    if form < 0.65:
        return rng.choice(_PEOPLE), listed_people
    if form < 0.85:
        return rng.choice(_PLACES), listed_towns
    return rng.choice(_JSON), json.dumps({"people": people, "places": towns})
