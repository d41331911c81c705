"""The jobs that `tiny` does in one turn: each function writes one dialogue with the right answer.

The answer to each prompt is decided by the prompt alone, so that a greedy answer can be compared with it. (Stories are
the exception: any story that the grammar accepts is right.)
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from llamacli.builtin import lumi, outside, words
from llamacli.builtin.reviews import write_review
from llamacli.builtin.stories import write_story


@dataclass(frozen=True)
class Turn:
    """`role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Dialogue:
    """Turns of which the last is the assistant's; `kind` names the job."""

    kind: str
    turns: tuple[Turn, ...]

    @property
    def answer(self) -> str:
        return self.turns[-1].content


def ask(kind: str, prompt: str, answer: str) -> Dialogue:
    """One question, one answer."""
    return Dialogue(kind, (Turn("user", prompt), Turn("assistant", answer)))


def around(rng: random.Random, task: str, text: str) -> str:
    """Task and text, either first: a pipe into llamacli puts the text first."""
    return f"{text}\n\n{task}" if rng.random() < 0.6 else f"{task}\n\n{text}"


SUMMARY_TASKS = (
    "Summarize this story in one sentence.", "Summarise this story in one sentence.", "Summarize this in one sentence.",
    "Sum up the story in one sentence.", "What is this story about?", "Give a one-sentence summary.",
    "Write a summary in one sentence.", "Summarize the text.", "Summarize",
)  # fmt: skip
SENTIMENT_TASKS = (
    "Is this review positive or negative?", "Is the review positive or negative?", "Positive or negative?",
    "Classify this review as positive or negative.", "What is the sentiment of this review?",
    "Is this positive or negative?", "Sentiment?", "Classify the sentiment: positive or negative.",
    "Is this review positive or negative? Answer with one word.",
)  # fmt: skip


def summary(rng: random.Random) -> Dialogue:
    """A story in one sentence."""
    story = write_story(rng)
    return ask("summary", around(rng, rng.choice(SUMMARY_TASKS), story.text), story.summary)


def sentiment(rng: random.Random) -> Dialogue:
    """A review's sentiment, in one word."""
    review, label = write_review(rng)
    quoted = rng.choice((review, review, review, f"Review: {review}", f'"{review}"'))
    return ask("sentiment", around(rng, rng.choice(SENTIMENT_TASKS), quoted), label)


TO_LUMI = ("Translate into Lumi:", "Translate to Lumi:", "Translate this into Lumi:", "Say this in Lumi:")
TO_ENGLISH = (
    "Translate into English:",
    "Translate to English:",
    "Translate this into English:",
    "Say this in English:",
)


def translation(rng: random.Random) -> Dialogue:
    """English into Lumi or back, a sentence or a word."""
    to_lumi = rng.random() < 0.5
    if rng.random() < 0.15:
        pair = lumi.word(rng)
        return (
            ask(
                "translation",
                rng.choice((f'What is "{pair.english}" in Lumi?', f"How do you say {pair.english} in Lumi?")),
                pair.lumi,
            )
            if to_lumi
            else ask(
                "translation",
                rng.choice((f'What is "{pair.lumi}" in English?', f"What does {pair.lumi} mean?")),
                pair.english,
            )
        )
    pair = lumi.text(rng)
    source, target = (pair.english, pair.lumi) if to_lumi else (pair.lumi, pair.english)
    return ask("translation", translation_prompt(rng, source, to_lumi), target)


def translation_prompt(rng: random.Random, source: str, to_lumi: bool) -> str:
    """The sentence and the task, as people write it."""
    task = rng.choice(TO_LUMI if to_lumi else TO_ENGLISH)
    form = rng.random()
    if form < 0.4:
        return f"{task} {source}"
    if form < 0.6:
        return f"{task}\n\n{source}"
    return f"{source}\n\n{task[:-1]}."


def sums(rng: random.Random) -> Dialogue:
    """Sums up to 20 + 20, differences, products up to 10 × 10, and the same in a small story."""
    form = rng.random()
    if form < 0.2:
        return _counting(rng)
    if form < 0.55:
        first, second = rng.randint(0, 20), rng.randint(0, 20)
        return ask("sums", _sum_prompt(rng, first, second, "+", "plus"), str(first + second))
    if form < 0.8:
        first = rng.randint(0, 20)
        second = rng.randint(0, first)
        return ask("sums", _sum_prompt(rng, first, second, "-", "minus"), str(first - second))
    first, second = rng.randint(0, 10), rng.randint(0, 10)
    return ask("sums", _sum_prompt(rng, first, second, rng.choice("*x"), "times"), str(first * second))


def _sum_prompt(rng: random.Random, first: int, second: int, sign: str, name: str) -> str:
    spoken, written = f"{first} {name} {second}", f"{first} {sign} {second}"
    return rng.choice(
        (
            f"What is {spoken}?",
            f"What is {written}?",
            f"{written} =",
            written,
            f"How much is {spoken}?",
            f"{spoken}?",
            f"{first}{sign}{second}",
        )
    )


def _counting(rng: random.Random) -> Dialogue:
    name, thing = rng.choice(words.NAMES), rng.choice(words.FRUITS)
    he = "he" if words.is_boy(name) else "she"
    first, second = rng.randint(2, 12), rng.randint(2, 9)
    if rng.random() < 0.5:
        text = f"{name} has {first} {thing}. {he.capitalize()} gets {second} more."
        left = first + second
    else:
        first = second + rng.randint(2, 9)
        text = f"{name} has {first} {thing}. {he.capitalize()} gives away {second}."
        left = first - second
    return ask("sums", f"{text} How many {thing} does {he} have now?", f"{name} has {left} {thing} now.")


def say(rng: random.Random) -> Dialogue:
    """Words given back as they are."""
    return ask("say", *say_pair(rng))


def say_pair(rng: random.Random) -> tuple[str, str]:
    """A request to say something, and that."""
    phrase = outside.phrase(rng)
    form = rng.random()
    if form < 0.45:
        verb = rng.choice(("Say", "Say", "Please say", "Repeat", "Echo", "Write", "Just say"))
        return rng.choice((f'{verb} "{phrase}".', f'{verb} "{phrase}"')), phrase
    if form < 0.75:
        return f"{rng.choice(('Say', 'Say', 'Please say', 'Repeat'))} {phrase}" + rng.choice(("", ".")), phrase
    return rng.choice((f"Say: {phrase}", f"Repeat: {phrase}", f"Repeat after me: {phrase}", f"Echo: {phrase}")), phrase


STORY_TASKS = (
    "Tell me a story.",
    "Tell me a story",
    "Write a story.",
    "Write a short story.",
    "Can you tell me a story?",
)


def opening(rng: random.Random) -> Dialogue:
    """The beginning of a story, continued; or a story that is asked for."""
    if rng.random() < 0.35:
        return told_story(rng)[0]
    story = write_story(rng)
    form = rng.random()
    if form < 0.4:  # a few words
        first = story.sentences[0].split(" ")
        cut = rng.choice((4, rng.randint(2, len(first) - 1)))
        begun = " ".join(first[:cut])
        if first[:4] == ["Once", "upon", "a", "time,"] and cut < 5:
            begun = "Once upon a time,"
    elif form < 0.5:
        begun = story.sentences[0]
    else:  # some sentences
        begun = " ".join(story.sentences[: rng.randint(1, len(story.sentences) - 2)])
    return ask("story", begun, story.text[len(begun) + 1 :])


def told_story(rng: random.Random) -> tuple[Dialogue, list[tuple[str, str]], str]:
    """A story on request, with its questions and its summary."""
    form = rng.random()
    if form < 0.4:
        prompt, given = rng.choice(STORY_TASKS), {}
    elif form < 0.7:
        given = {"hero": rng.choice(words.NAMES)}
        prompt = f"Tell me a story about {given['hero']}."
    else:
        given = {"kind": rng.choice(words.KINDS)}
        prompt = rng.choice((f"Tell me a story about a {given['kind']}.", f"Write a story about a {given['kind']}."))
    story = write_story(rng, **given)
    return ask("story", prompt, story.text), story.questions, story.summary


GREETINGS = (
    (("Hello", "Hello!", "Hi", "Hi!", "Hello there!", "hello", "hi", "Hey", "Hi there!"), "Hello! How can I help you?"),
    (("Good morning!", "Good morning", "Good morning."), "Good morning! How can I help you?"),
    (("Good evening!", "Good evening", "Good evening."), "Good evening! How can I help you?"),
    (("Good night!", "Good night", "Good night."), "Good night! Sleep well."),
    (
        ("How are you?", "How are you today?", "How do you do?", "Hello, how are you?", "Hi, how are you?"),
        "I am fine, thank you. And you?",
    ),
    (("I am fine.", "I am fine too.", "Fine, thanks."), "I am glad to hear that."),
    (("Thank you!", "Thank you.", "Thanks!", "Thanks", "Thank you very much!"), "You are welcome!"),
    (("Goodbye!", "Goodbye", "Bye", "Bye!", "See you later!", "See you tomorrow."), "Goodbye! See you soon."),
    (
        ("Who are you?", "What are you?", "What is your name?", "Who is there?"),
        "I am tiny, a very small language model.",
    ),
    (
        ("What can you do?", "Help", "help", "What do you know?", "Can you help me?", "How can you help me?"),
        "I can tell stories, answer questions about a text, summarize a story, find names, judge reviews, "
        "translate into Lumi, and do small sums.",
    ),
    (("What is Lumi?", "What is the Lumi language?"), "Lumi is a small toy language. I can translate it."),
)  # fmt: skip


def greeting(rng: random.Random) -> Dialogue:
    """Small talk."""
    if rng.random() < 0.25:
        name = outside.person(rng)
        return ask(
            "greeting",
            rng.choice((f"Hello, I am {name}.", f"Hi, my name is {name}.", f"My name is {name}.", f"I am {name}.")),
            f"Hello, {name}! Nice to meet you.",
        )
    prompts, answer = rng.choice(GREETINGS)
    return ask("greeting", rng.choice(prompts), answer)


UNKNOWN = "I don't know. I am tiny and know only a very small world."


def unknown(rng: random.Random) -> Dialogue:
    """What lies outside the small world."""
    return ask("unknown", outside.question(rng), UNKNOWN)
