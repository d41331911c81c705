"""What is not of the small world: made-up names and words, foreign letters, questions that nobody there can answer."""

from __future__ import annotations

import random

from llamacli.builtin import lumi, words

_ONSETS = (
    "b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z", "br", "ch", "dr",
    "fl", "gr", "kl", "pr", "sh", "st", "th", "tr",
)  # fmt: skip
_VOWELS = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "ai", "ee", "oo", "ou"]
_CODAS = ["", "", "", "n", "r", "l", "s", "t", "m", "k", "nd", "rt", "x"]

#: Words from the world outside.
TOPICS = (
    "France", "Japan", "Einstein", "Shakespeare", "gravity", "electricity", "photosynthesis", "democracy",
    "inflation", "Python", "Linux", "JavaScript", "dinosaurs", "volcanoes", "Mars", "Jupiter", "football", "chess",
    "Mozart", "Beethoven", "Napoleon", "Egypt", "Brazil", "Australia", "Canada", "China", "quantum", "physics",
    "chemistry", "algebra", "geometry", "history", "politics", "economics", "religion", "philosophy", "biology",
    "medicine", "vitamins", "protein", "cancer", "insulin", "oxygen", "carbon", "hydrogen", "uranium", "steel",
    "plastic", "concrete", "petrol", "engines", "rockets", "satellites", "computers", "internet", "email",
    "passwords", "encryption", "databases", "compilers", "kernels", "functions", "variables", "recursion",
    "algorithms", "taxes", "mortgage", "insurance", "stocks", "bitcoin", "banks", "lawyers", "contracts",
    "elections", "parliament", "president", "pyramids", "Vikings", "Romans", "Renaissance", "revolution",
    "climate", "glaciers", "earthquakes", "hurricanes", "whales", "sharks", "penguins", "spiders", "bacteria",
    "viruses", "neurons", "memory", "dreams", "poetry", "novels", "cinema", "guitar", "piano", "yoga", "marathon",
    "Olympics", "tennis", "basketball", "sushi", "pasta", "coffee", "tea", "wine", "beer", "recipes", "kitchens",
    "plumbing", "carpentry", "tractors", "trains", "airports", "visas", "hotels", "languages", "Spanish", "German",
    "French", "Latin", "grammar", "spelling", "git", "commit", "regex", "docker", "server", "router", "battery",
    "solar", "nuclear",
)  # fmt: skip
_QUESTIONS = (
    "What is {x}?", "What is the capital of {x}?", "Who invented {x}?", "Who discovered {x}?", "Who was {X}?",
    "Explain {x}.", "How does {x} work?", "Why is {x} important?", "When did {x} begin?", "How old is {X}?",
    "Tell me about {x}.", "Who wrote {x}?", "What is the difference between {x} and {y}?", "How do I learn {x}?",
    "Write a poem about {x}.", "Write code for {x}.", "What is the price of {x}?", "How far is it to {X}?",
    "Is {x} better than {y}?", "Which {x} should I buy?", "Give me a list of {x}.", "What happened in {n}?",
    "How many {x} are there?", "Where can I find {x}?", "Define {x}.", "What does {x} mean?",
    "What is {x} made of?", "Write a commit message", "Write an email to {X}.", "Fix this code.",
    "What is the best {x}?", "How tall is {X}?", "What time is it?", "What day is it today?",
    "How is the weather?", "Who won {x}?", "Convert {n} to {x}.", "Describe {x} in detail.",
    "What is the meaning of life?", "Can you explain {x} to me?", "Why {x}?", "Where is {x}?",
    "Where was {X} born?", "What color is {x}?", "Do you like {x}?", "Are {x} real?", "Plan a trip to {X}.",
    "Translate into {X}: {y}", "What is \"{z}\" in Lumi?", "What does {z} mean?", "How do you make {x}?",
    "Who is {X}?", "Tell me a joke.", "Sing a song.", "Who is the president of {X}?", "Write a letter to {X}.",
    "What should I eat today?", "Are you human?", "How many people live in {X}?", "What is the population of {X}?",
    "Compare {x} and {y}.", "What is new?",
)  # fmt: skip
_LINES = (
    "diff --git a/{z}.py b/{z}.py", "@@ -{n},7 +{n},9 @@", "-    return {z}", "+    return {z} + {n}",
    "import {z}", "def {z}(self):", "int main() {{ return {n}; }}", '{{"{z}": {n}}}',
    "ERROR {z}: failed with code {n}", "{n},{n},{z}", "<p>{z} {y}</p>", "[{z}] {y} {x}", "for {z} in range({n}):",
    "SELECT {z} FROM {y};", "const {z} = {n};", "$ {z} --{y} {n}", "# {x} and {y}", "{X} {z} {y} {x}.",
)  # fmt: skip
_CODE_TASKS = (
    "Write a commit message", "Explain this.", "What does this do?", "Fix the bug.", "Is this correct?",
    "Review this code.", "What is wrong here?", "Write a test for this.", "Improve this text.", "What is this?",
    "Explain the error.",
)  # fmt: skip
_FOREIGN = (
    "é", "ü", "ñ", "ß", "ø", "å", "ç", "ж", "д", "ю", "α", "β", "λ", "日", "本", "語", "中", "文", "한", "글", "★", "→",
    "✓", "€", "°", "½", "😀", "🎉", "🚀", "❤",
)  # fmt: skip


def made_up(rng: random.Random) -> str:
    """A word that does not exist."""
    syllables = rng.choice((1, 2, 2))
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(syllables))


def person(rng: random.Random) -> str:
    """A name, one in ten made up."""
    return rng.choice(words.NAMES) if rng.random() < 0.9 else made_up(rng).capitalize()


def town(rng: random.Random) -> str:
    """A town, one in ten made up."""
    return rng.choice(words.TOWNS) if rng.random() < 0.9 else made_up(rng).capitalize()


def known_word(rng: random.Random) -> str:
    """A word of the small world."""
    return rng.choice(
        rng.choice(
            (
                words.THINGS,
                words.COLORS,
                words.PLACES,
                words.ANIMALS,
                words.NAMES,
                words.FOODS,
                words.GLAD,
                words.SAD,
                tuple(lumi.NOUNS),
            )
        )
    )


def phrase(rng: random.Random) -> str:
    """Something to say: words of this world or of none, numbers, foreign letters."""
    form = rng.random()
    if form < 0.4:
        return " ".join(known_word(rng) for _ in range(rng.randint(1, 4)))
    if form < 0.55:
        return " ".join(made_up(rng) if rng.random() < 0.5 else rng.choice(TOPICS) for _ in range(rng.randint(1, 2)))
    if form < 0.65:
        return rng.choice(
            (
                "hello",
                "yes",
                "no",
                "hello world",
                "Hello, world!",
                "OK",
                "good morning",
                "hi",
                "I am here",
                "one two three",
            )
        )
    if form < 0.75:
        return str(rng.randint(0, 9999))
    if form < 0.85:
        return "".join(rng.choice(_FOREIGN) for _ in range(rng.randint(1, 3)))
    return (
        lumi.sentence(rng).lumi[:-1]
        if rng.random() < 0.5
        else f"the {rng.choice(words.COLORS)} {rng.choice(words.THINGS)}"
    )


def question(rng: random.Random) -> str:
    """A question, or a text with a task, from outside."""
    if rng.random() < 0.2:
        text = "\n".join(_filled(rng, rng.choice(_LINES)) for _ in range(rng.randint(1, 4)))
        task = rng.choice(_CODE_TASKS)
        return f"{text}\n\n{task}" if rng.random() < 0.8 else text
    return _filled(rng, rng.choice(_QUESTIONS))


def _filled(rng: random.Random, template: str) -> str:
    return template.format(
        x=_topic(rng),
        y=_topic(rng),
        X=_topic(rng).capitalize(),
        z=made_up(rng),
        n=rng.choice((rng.randint(0, 99), rng.randint(1000, 2030))),
    )


def _topic(rng: random.Random) -> str:
    form = rng.random()
    if form < 0.6:
        return rng.choice(TOPICS)
    return made_up(rng) if form < 0.85 else known_word(rng)
