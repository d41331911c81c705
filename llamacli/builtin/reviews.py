"""Reviews: clear ones, ones that say "not", and mixed ones, in which what comes after "but" counts."""

from __future__ import annotations

import random

ITEMS = {
    "film": "watched", "book": "read", "hotel": "tried", "restaurant": "tried", "soup": "ate", "cake": "ate",
    "game": "played", "phone": "bought", "bike": "bought", "song": "heard", "bed": "bought", "show": "watched",
    "coffee": "tried", "toy": "bought", "lamp": "bought", "jacket": "bought", "pizza": "ate", "movie": "watched",
    "story": "read", "camera": "bought", "room": "tried", "service": "tried", "food": "tried", "product": "bought",
    "place": "tried", "shop": "tried", "garden": "tried", "chair": "bought",
}  # fmt: skip
GOOD = (
    "good", "great", "wonderful", "excellent", "fantastic", "beautiful", "perfect", "lovely", "amazing", "nice",
    "delicious", "brilliant", "fun", "charming", "superb", "awesome", "pleasant", "comfortable", "outstanding", "tasty",
)  # fmt: skip
BAD = (
    "bad", "terrible", "awful", "boring", "horrible", "poor", "disappointing", "ugly", "broken", "useless",
    "dirty", "slow", "rude", "disgusting", "stupid", "cold", "noisy", "dreadful", "cheap", "annoying",
)  # fmt: skip
VERY = ("", "", "very ", "really ", "so ", "truly ", "absolutely ")

GOOD_CLAUSES = (
    "I love it", "I loved it", "I would buy it again", "I recommend it to everyone", "we had a great time",
    "it works very well", "it made me smile", "I liked every minute of it", "we will come back soon",
    "it is worth the money", "my family loves it", "I am very happy with it", "it was a pleasure",
    "the people were friendly", "I enjoyed it a lot", "it is the best one I know", "everyone was kind to us",
    "I could not stop smiling", "we enjoyed it", "five stars", "I want more of it",
)  # fmt: skip
BAD_CLAUSES = (
    "I hate it", "I hated it", "I would never buy it again", "I cannot recommend it", "we had a terrible time",
    "it does not work", "it broke after one day", "I fell asleep", "we will never come back",
    "it was a waste of money", "I want my money back", "I am very unhappy with it", "it made me angry",
    "the people were rude", "I did not enjoy it", "it is the worst one I know", "nobody helped us",
    "I could not wait to leave", "we left early", "one star", "it smelled bad", "do not buy it",
    "I did not like it",
)  # fmt: skip
NEUTRAL = (
    "I bought it last week.", "It came in a box.", "My friend gave it to me.", "We went there on Monday.",
    "I saw it in a shop.", "It is for my sister.", "This was my first time.", "I used it every day.",
    "It was in the evening.", "The color is blue.", "There were four of us.", "It arrived on time.",
)  # fmt: skip


def write_review(rng: random.Random) -> tuple[str, str]:
    """A review and its label, "positive" or "negative"."""
    positive = rng.random() < 0.5
    item = rng.choice(list(ITEMS))
    sentences = [_sentence(rng, item, positive) for _ in range(rng.choice((1, 1, 2, 2, 3)))]
    if rng.random() < 0.3:
        sentences.insert(rng.randint(0, 1), rng.choice(NEUTRAL))
    if rng.random() < 0.2:
        sentences.insert(0, f"I {ITEMS[item]} this {item}.")
    return " ".join(sentences), "positive" if positive else "negative"


def _sentence(rng: random.Random, item: str, positive: bool) -> str:
    form = rng.random()
    if form < 0.35:
        text = _judgement(rng, item, positive)
    elif form < 0.65:
        text = rng.choice(GOOD_CLAUSES if positive else BAD_CLAUSES)
    elif form < 0.75:
        text = f"{_judgement(rng, item, positive)} and {rng.choice(GOOD_CLAUSES if positive else BAD_CLAUSES)}"
    elif form < 0.9:  # mixed: the second half counts
        text = f"{_judgement(rng, item, not positive)}, but {rng.choice(GOOD_CLAUSES if positive else BAD_CLAUSES)}"
    else:
        adjective = rng.choice(GOOD if positive else BAD)
        text = rng.choice((f"what {_a(adjective)} {item}", f"{adjective} {item}", f"{_a(adjective)} {item}"))
    return text[0].upper() + text[1:] + rng.choice((".", ".", ".", "!"))


def _judgement(rng: random.Random, item: str, positive: bool) -> str:
    subject = rng.choice((f"the {item}", f"this {item}", f"the {item}", "it"))
    if rng.random() < 0.2:
        adjective = rng.choice(BAD if positive else GOOD)
        return f"{subject} {rng.choice(('is', 'was'))} not {adjective}" + (" at all" if rng.random() < 0.5 else "")
    return f"{subject} {rng.choice(('is', 'was'))} {rng.choice(VERY)}{rng.choice(GOOD if positive else BAD)}"


def _a(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"
