"""Ten plots over one cast, as templates, with their summaries and questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llamacli.builtin import words
from llamacli.builtin.grammar import Step, maybe, step


@dataclass(frozen=True)
class Plot:
    """The steps between opening and ending, the summary, and questions with their answers."""

    steps: tuple[Step, ...]
    summary: str
    questions: tuple[tuple[str, str], ...]


#: What may fill each hole that nothing else decides.
HOLES: Mapping[str, tuple[str, ...]] = {
    "hero": words.NAMES,
    "friend": words.NAMES,
    "kind": words.KINDS,
    "kind2": words.KINDS,
    "adj": words.GOOD_ADJECTIVES,
    "adj2": words.GOOD_ADJECTIVES,
    "place": words.PLACES,
    "home": words.PLACES,
    "color": words.COLORS,
    "thing": words.THINGS,
    "food": words.FOODS,
    "hobby": words.HOBBIES,
    "sad": words.SAD,
    "glad": words.GLAD,
    "time": words.TIMES,
    "spot": words.HIDING,
    "weather": words.WEATHER,
    "number": words.NUMBERS,
    "skill": words.HOBBIES,
}

OPENING = (
    step(
        "Once upon a time there was a {adj} {kind} named {hero}.",
        "Once upon a time, there was a {adj} {kind} named {hero}.",
        "Once upon a time a {adj} {kind} named {hero} lived near the {home}.",
        "Once there was a {adj} {kind} named {hero}.",
        "There was a {adj} {kind} named {hero}.",
        "Long ago there lived a {adj} {kind} named {hero}.",
        "In a house near the {home} lived a {adj} {kind} named {hero}.",
    ),
    maybe(
        "{hero} liked to {hobby}.",
        "Every day {he} liked to {hobby}.",
        "{He} was very good to everyone.",
        "{He} loved {food} more than anything.",
    ),
)

MEETING = step(
    "Then {hero} met a {adj2} {kind2} named {friend}.",
    "A {adj2} {kind2} named {friend} saw {him}.",
    "Soon a {adj2} {kind2} named {friend} came by.",
)

ENDING = (
    step(
        "{hero} and {friend} became best friends.",
        "From that day on {hero} and {friend} were best friends.",
        "They went home together and were very {glad}.",
        '{hero} hugged {friend} and said, "Thank you!"',
        "They laughed and played until the sun went down.",
    ),
    maybe("The end.", "And they were happy ever after."),
)

LOST = Plot(
    steps=(
        step(
            "One {time} {hero} took {his} {color} {thing} to the {place}.",
            "One {time} {he} went to the {place} with {his} {color} {thing}.",
        ),
        step(
            "On the way home {he} saw that the {thing} was gone.",
            "{He} played for a long time and lost the {thing}.",
            "Suddenly the {thing} was gone.",
        ),
        step("{hero} was very {sad}.", "{He} sat down and cried.", "{He} looked for it but could not find it."),
        MEETING,
        maybe('"Why are you crying?" asked {friend}.', '"What is wrong?" asked {friend}.'),
        step('"I lost my {color} {thing}," said {hero}.', '"My {thing} is gone," said {hero}.'),
        step('"I will help you," said {friend}.', '"Do not worry, we will find it," said {friend}.'),
        step(
            "They looked and looked, and {friend} found the {thing} under the {spot}.",
            "At last they found the {thing} behind the {spot}.",
            "Then {friend} saw the {color} {thing} near the {spot}.",
        ),
    ),
    summary="{hero} lost a {color} {thing} at the {place}, and {friend} helped to find it.",
    questions=(
        ("What did {hero} lose?", "{hero} lost a {color} {thing}."),
        ("Who helped {hero}?", "{friend} helped {hero}."),
        ("What color was the {thing}?", "The {thing} was {color}."),
        ("Where did {hero} go?", "{hero} went to the {place}."),
    ),
)

FOUND = Plot(
    steps=(
        step(
            "One {time} {hero} walked to the {place}.",
            "One {time} {he} was alone at the {place}.",
        ),
        step(
            "There {he} found a {color} {thing} under a {spot}.",
            "{He} saw something {color} behind a {spot}, and it was a {thing}.",
        ),
        maybe('"What a beautiful {thing}!" said {hero}.', '"Whose {thing} is this?" {he} asked.'),
        MEETING,
        step('"I cannot find my {thing}," said {friend}.', '"Have you seen my {color} {thing}?" asked {friend}.'),
        step(
            "{hero} wanted to keep it, but {he} gave it back.",
            '"Here it is," said {hero} and gave it back.',
        ),
        step("{friend} was very {glad}.", "{friend} smiled and gave {him} some {food}."),
    ),
    summary="{hero} found a {color} {thing} at the {place} and gave it back to {friend}.",
    questions=(
        ("What did {hero} find?", "{hero} found a {color} {thing}."),
        ("Who got the {thing} back?", "{friend} got the {thing} back."),
        ("What color was the {thing}?", "The {thing} was {color}."),
        ("Where was {hero}?", "{hero} was at the {place}."),
    ),
)

HUNGRY = Plot(
    steps=(
        step("One {time} {hero} had some {food} in a bag.", "One {time} {he} took some {food} to the {place}."),
        step("{He} sat down at the {place} to eat.", "{He} found a quiet spot at the {place}."),
        MEETING,
        step(
            '"I am so hungry," said {friend}.',
            "{friend} had nothing to eat.",
            '"Can I have some {food}?" asked {friend}.',
        ),
        maybe("{hero} thought about it.", "At first {hero} did not want to share."),
        step(
            '"You can have half," said {hero}.',
            "So {hero} shared the {food} with {friend}.",
            '"Let us eat together," said {hero}.',
        ),
        step("They ate all the {food}.", "The {food} tasted very good."),
    ),
    summary="{hero} shared some {food} with {friend} at the {place}.",
    questions=(
        ("What did {hero} share?", "{hero} shared some {food}."),
        ("Who was hungry?", "{friend} was hungry."),
        ("Where did {hero} sit?", "{hero} sat at the {place}."),
    ),
)

BROKEN = Plot(
    steps=(
        step("{hero} had a {color} {thing}.", "{He} got a {color} {thing} for {his} birthday."),
        step("One {time} the {thing} fell down and broke.", "One {time} {he} dropped the {thing} at the {place}."),
        step("{hero} was very {sad}.", '"Oh no, it is broken!" cried {hero}.'),
        MEETING,
        step('"I can fix it," said {friend}.', '"Give it to me, I know what to do," said {friend}.'),
        step(
            "{friend} worked on the {thing} all day.",
            "{friend} took a little glue and some paper.",
        ),
        step("Soon the {thing} was like new.", "When it was done, the {color} {thing} looked better than before."),
        step("{hero} was very {glad}.", "{hero} gave {friend} some {food}."),
    ),
    summary="{hero} broke a {color} {thing}, and {friend} fixed it.",
    questions=(
        ("What was broken?", "The {color} {thing} was broken."),
        ("Who fixed the {thing}?", "{friend} fixed the {thing}."),
        ("What color was the {thing}?", "The {thing} was {color}."),
    ),
)

STORM = Plot(
    steps=(
        step("One {time} {hero} walked to the {place}.", "One {time} {he} played at the {place}."),
        step("Suddenly there was a lot of {weather}.", "Then the {weather} came, and it was dark and cold."),
        step("{hero} was afraid.", '"I want to go home," said {hero}.', "{He} ran and hid behind a {spot}."),
        MEETING,
        step('"Come into my house," said {friend}.', '"You can stay with me," said {friend}.'),
        step(
            "They drank warm tea and ate {food}.",
            "Inside it was warm, and they ate {food}.",
        ),
        step("When the {weather} was over, {hero} went home.", "They waited until the {weather} was over."),
    ),
    summary="{hero} was afraid of the {weather}, and {friend} gave {him} a warm place to stay.",
    questions=(
        ("What was {hero} afraid of?", "{hero} was afraid of the {weather}."),
        ("What did they eat?", "They ate {food}."),
        ("Where was {hero} when the {weather} came?", "{hero} was at the {place}."),
    ),
)

LEARNED = Plot(
    steps=(
        step("{hero} wanted to learn to {skill}.", "More than anything {he} wanted to {skill}."),
        step("But {he} did not know how.", "{He} tried it every {time}, but it was too hard."),
        step("One day {he} went to the {place}.", "So {he} went to the {place} to try again."),
        MEETING,
        step('"I can show you how to {skill}," said {friend}.', "{friend} could {skill} very well."),
        step(
            "They practiced for {number} days.",
            "{hero} practiced every day and did not give up.",
        ),
        step("At last {hero} could {skill} too.", "After {number} days {hero} could {skill}."),
        maybe("Everyone was very {glad}.", '"Look at me!" said {hero}.'),
    ),
    summary="{hero} wanted to {skill}, and {friend} showed {him} how.",
    questions=(
        ("What did {hero} want to learn?", "{hero} wanted to learn to {skill}."),
        ("Who showed {hero} how to {skill}?", "{friend} showed {hero} how to {skill}."),
        ("Where did {hero} go?", "{hero} went to the {place}."),
    ),
)

RACE = Plot(
    steps=(
        step("One {time} there was a big race at the {place}.", "Every year there was a race at the {place}."),
        step("{hero} wanted to win a {color} {thing}.", "The prize was a {color} {thing}."),
        step("A fast {kind2} named {friend} was there too.", "{He} had to run against a {kind2} named {friend}."),
        step("They ran and ran.", "One, two, three, and they ran."),
        step("{friend} fell over a {spot} and hurt {fhis} leg.", "Then {friend} fell down and could not get up."),
        step("{hero} stopped and helped {friend}.", '"Take my hand," said {hero}, and they walked on together.'),
        step("So they both came last.", "They did not win the race."),
        step("But everyone liked what {hero} had done.", "But {hero} got the {thing}, because {he} was so kind."),
    ),
    summary="{hero} stopped in a race at the {place} to help {friend}.",
    questions=(
        ("Who fell down in the race?", "{friend} fell down in the race."),
        ("Where was the race?", "The race was at the {place}."),
        ("What was the prize?", "The prize was a {color} {thing}."),
    ),
)

STUCK = Plot(
    steps=(
        step("One {time} {hero} heard a cry near the {place}.", "One {time} {he} was on the way to the {place}."),
        step(
            "A {adj2} {kind2} named {friend} sat high up in a tree.", "There was a {kind2} named {friend} up in a tree."
        ),
        step('"Help me, I cannot get down!" cried {friend}.', "{friend} was afraid and could not get down."),
        maybe('"Do not be afraid," said {hero}.', '"Wait, I have an idea," said {hero}.'),
        step("{hero} ran home and got a long rope.", "{hero} climbed up the tree, step by step."),
        step("{He} took {friend} by the hand.", "{He} helped {friend} to come down."),
        step('"You are so brave," said {friend}.', "{friend} was very {glad}."),
    ),
    summary="{hero} helped {friend} to get down from a tree near the {place}.",
    questions=(
        ("Who was up in the tree?", "{friend} was up in the tree."),
        ("Who helped {friend}?", "{hero} helped {friend}."),
        ("Where was the tree?", "The tree was near the {place}."),
    ),
)

BIRTHDAY = Plot(
    steps=(
        step(
            "It was {his} birthday, and {he} was {number} years old.",
            "{hero} had {his} birthday and was {number} years old.",
        ),
        step("{He} wanted a {color} {thing}.", "{He} wished for a {color} {thing}."),
        step("But nobody came to the {place}.", "{He} waited at the {place}, but nobody came."),
        step("{hero} was very {sad}.", '"Did everyone forget me?" {he} thought.'),
        MEETING,
        step("{friend} had a big box.", '"This is for you," said {friend}.'),
        step("In the box was a {color} {thing}.", "It was a {color} {thing}!"),
        step("Then they ate {food} and sang songs.", "{hero} was so {glad} that {he} danced."),
    ),
    summary="{hero} was alone on {his} birthday until {friend} brought a {color} {thing}.",
    questions=(
        ("How old was {hero}?", "{hero} was {number} years old."),
        ("What did {hero} get?", "{hero} got a {color} {thing}."),
        ("Who brought the {thing}?", "{friend} brought the {thing}."),
    ),
)

GROWN = Plot(
    steps=(
        step("One {time} {hero} found a seed at the {place}.", "One {time} {he} got a small seed at the {place}."),
        step("{He} put it into the ground near a {spot}.", '"I will plant it," said {hero}.'),
        step("{He} gave it water every day.", "{He} waited for {number} days, but nothing came."),
        MEETING,
        step('"You must wait a little more," said {friend}.', '"Let us wait together," said {friend}.'),
        step("After {number} days there was a {color} flower.", "Then a {color} flower came up."),
        step("It was the most beautiful flower at the {place}.", '"It is beautiful!" said {hero}.'),
    ),
    summary="{hero} planted a seed, waited with {friend}, and got a {color} flower.",
    questions=(
        ("What did {hero} plant?", "{hero} planted a seed."),
        ("What color was the flower?", "The flower was {color}."),
        ("Where did the seed come from?", "The seed came from the {place}."),
    ),
)

PLOTS = (LOST, FOUND, HUNGRY, BROKEN, STORM, LEARNED, RACE, STUCK, BIRTHDAY, GROWN)

#: Questions that every story answers.
COMMON_QUESTIONS = (
    ("What is the name of the {kind}?", "The name of the {kind} is {hero}."),
    ("Who is {hero}?", "{hero} is a {adj} {kind}."),
    ("Who is the friend of {hero}?", "{friend} is the friend of {hero}."),
)
