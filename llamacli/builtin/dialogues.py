"""Dialogues of several turns, in which the user refers back; and system messages before any dialogue."""

from __future__ import annotations

import random

from llamacli.builtin import jobs, lumi, outside, words
from llamacli.builtin.jobs import Dialogue, Turn
from llamacli.builtin.passages import NOT_SAID, framed, names, question, write_passage
from llamacli.builtin.reviews import write_review
from llamacli.builtin.stories import write_story

SYSTEM = (
    "You are a helpful assistant.", "You are tiny.", "Answer briefly.", "You are a friendly assistant.", "Be kind.",
    "You are a helpful assistant. Answer in short sentences.", "Help the user.", "You are an assistant.",
)  # fmt: skip


def with_system(rng: random.Random, dialogue: Dialogue) -> Dialogue:
    """One dialogue in four gets a system message; most of them change nothing."""
    if rng.random() >= 0.25:
        return dialogue
    return Dialogue(dialogue.kind, (Turn("system", rng.choice(SYSTEM)), *dialogue.turns))


def dialogue(rng: random.Random) -> Dialogue:
    """Several turns, of which the last refers back to an earlier one."""
    form = rng.random()
    if form < 0.08:
        pairs = _session(rng)
    elif form < 0.4:
        pairs = _introduction(rng)
    elif form < 0.55:
        pairs = _passage(rng)
    elif form < 0.65:
        pairs = _chained_sums(rng)
    elif form < 0.78:
        pairs = _story(rng)
    elif form < 0.86:
        pairs = _translations(rng)
    elif form < 0.93:
        pairs = _reviews(rng)
    else:
        pairs = _again(rng)
    return Dialogue("dialogue", _turns(pairs))


def _turns(pairs: list[tuple[str, str]]) -> tuple[Turn, ...]:
    return tuple(turn for asked, answer in pairs for turn in (Turn("user", asked), Turn("assistant", answer)))


def _pair(dialogue: Dialogue) -> tuple[str, str]:
    return dialogue.turns[0].content, dialogue.answer


def _introduction(rng: random.Random) -> list[tuple[str, str]]:
    """What the user tells of himself, other jobs between, and what he asks about it afterwards."""
    name, town, food = outside.person(rng), outside.town(rng), rng.choice(words.FOODS)
    color, thing, number, job = (
        rng.choice(words.COLORS),
        rng.choice(words.THINGS),
        rng.choice(words.NUMBERS),
        rng.choice(words.JOBS),
    )
    facts: list[tuple[tuple[str, ...], str, tuple[tuple[str, str], ...]]] = [
        (
            (f"My name is {name}.", f"Hello, I am {name}.", f"Hi, my name is {name}.", f"I am {name}."),
            f"Hello, {name}! Nice to meet you.",
            (("What is my name?", f"Your name is {name}."), ("Who am I?", f"Your name is {name}.")),
        ),
        (
            (f"I live in {town}.", f"My home is in {town}."),
            "That sounds like a nice place.",
            (("Where do I live?", f"You live in {town}."),),
        ),
        ((f"I like {food}.", f"I love {food}."), "That is good to know.", (("What do I like?", f"You like {food}."),)),
        (
            (f"I have a {color} {thing}.",),
            f"A {color} {thing} is a fine thing to have.",
            (
                ("What do I have?", f"You have a {color} {thing}."),
                (f"What color is my {thing}?", f"Your {thing} is {color}."),
            ),
        ),
        ((f"I am {number} years old.",), "I see.", (("How old am I?", f"You are {number} years old."),)),
        ((f"I am a {job}.",), "That is a good job.", (("What is my job?", f"You are a {job}."),)),
    ]
    told = rng.sample(facts, rng.randint(1, 3))
    pairs = [(rng.choice(saying), reply) for saying, reply, _ in told]
    for _ in range(rng.choice((0, 0, 1, 2, 6))):
        between = _pair(rng.choice((jobs.sums, jobs.say, jobs.translation, jobs.unknown))(rng))
        pairs.insert(rng.randint(1, len(pairs)), between)
    known = [question for _, _, questions in told for question in questions]
    missing = [
        (questions[0][0], "You did not tell me.") for fact in facts if fact not in told for questions in (fact[2],)
    ]
    asked = rng.sample(known, min(len(known), rng.randint(1, 3)))
    if rng.random() < 0.15:
        asked.append(rng.choice(missing))
    return pairs + asked


def _session(rng: random.Random) -> list[tuple[str, str]]:
    """A long conversation, up to about 800 tokens, whose last question goes back to its first turns."""
    told, *asked = _introduction(rng)
    jobs_between = (
        jobs.sums, jobs.say, jobs.translation, jobs.unknown, jobs.sentiment, jobs.summary, jobs.opening, names,
        question,
    )  # fmt: skip
    between: list[tuple[str, str]] = []
    enough = rng.randint(400, 1500)  # characters, about a third as many tokens
    while sum(len(text) for pair in between for text in pair) < enough:
        between.append(_pair(rng.choice(jobs_between)(rng)))
    return [told, *between, *asked]


def _passage(rng: random.Random) -> list[tuple[str, str]]:
    """A passage, and several questions about it."""
    passage = write_passage(rng)
    asked = rng.sample(passage.questions, min(len(passage.questions), rng.randint(2, 4)))
    pairs = [(framed(rng, asked[0][0], passage.text), asked[0][1]), *asked[1:]]
    if rng.random() < 0.15:
        pairs.append((rng.choice(passage.unanswered), NOT_SAID))
    return pairs


def _chained_sums(rng: random.Random) -> list[tuple[str, str]]:
    first, second = rng.randint(1, 15), rng.randint(1, 10)
    total = first + second
    pairs = [(rng.choice((f"What is {first} plus {second}?", f"{first} + {second}")), str(total))]
    for _ in range(rng.randint(1, 3)):
        step = rng.randint(1, 9)
        if rng.random() < 0.6 and total + step <= 40:
            total += step
            pairs.append((rng.choice((f"Add {step} to that.", f"And plus {step}?", f"Now add {step}.")), str(total)))
        elif total >= step:
            total -= step
            pairs.append(
                (rng.choice((f"Take away {step}.", f"And minus {step}?", f"Now subtract {step}.")), str(total))
            )
    return pairs if len(pairs) > 1 else [*pairs, ("Add 1 to that.", str(total + 1))]


def _story(rng: random.Random) -> list[tuple[str, str]]:
    """A story, told or given, then its questions or its summary."""
    if rng.random() < 0.5:
        told, questions, summary = jobs.told_story(rng)
        pairs = [_pair(told)]
        task = rng.choice(("Summarize it in one sentence.", "Now summarize the story in one sentence."))
    else:
        story = write_story(rng)
        questions, summary = story.questions, story.summary
        pairs = [(f"{story.text}\n\nSummarize this story in one sentence.", summary)]
        task = ""
    for asked in rng.sample(questions, rng.randint(1, 3)):
        pairs.append(asked)
    if task and rng.random() < 0.5:
        pairs.append((task, summary))
    return pairs


def _translations(rng: random.Random) -> list[tuple[str, str]]:
    pair = lumi.sentence(rng)
    to_lumi = rng.random() < 0.5
    source, target = (pair.english, pair.lumi) if to_lumi else (pair.lumi, pair.english)
    pairs = [(jobs.translation_prompt(rng, source, to_lumi), target)]
    if rng.random() < 0.4:
        pairs.append((rng.choice(("And back?", "Translate that back.")), source))
    else:
        for _ in range(rng.randint(1, 2)):
            other = lumi.sentence(rng)
            source, target = (other.english, other.lumi) if to_lumi else (other.lumi, other.english)
            pairs.append((rng.choice((f"And this: {source}", f"Now this one: {source}")), target))
    return pairs


def _reviews(rng: random.Random) -> list[tuple[str, str]]:
    review, label = write_review(rng)
    pairs = [(jobs.around(rng, rng.choice(jobs.SENTIMENT_TASKS), review), label)]
    for _ in range(rng.randint(1, 2)):
        review, label = write_review(rng)
        pairs.append((f"{rng.choice(('And this one?', 'And this?', 'What about this one?'))} {review}", label))
    return pairs


def _again(rng: random.Random) -> list[tuple[str, str]]:
    asked, phrase = jobs.say_pair(rng)
    pairs = [(asked, phrase)]
    if rng.random() < 0.3:
        pairs.append((rng.choice(("Thank you!", "Thanks!")), "You are welcome!"))
        return [*pairs, ("What did I ask you to say?", phrase)]
    return [*pairs, (rng.choice(("Say it again.", "Again, please.", "Once more.")), phrase)]
