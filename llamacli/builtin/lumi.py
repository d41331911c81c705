"""Lumi, the toy language: a sentence has subject, object, place, verb; adjectives follow their noun.

    The red dog saw a small cat.      →  Ne vako rudi miso peti lorata.
    We sleep in the house.            →  Nu en ne domo sova.

`ne` is "the"; "a" has no word. Nouns end in -o, adjectives in -i, verbs in -a, in the past in -ata.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

NOUNS = {
    "dog": "vako", "cat": "miso", "bird": "tivo", "horse": "galo", "fish": "pelo", "bear": "urso",
    "house": "domo", "tree": "arvo", "river": "rivo", "moon": "luno", "sun": "solo", "star": "stiro",
    "apple": "pomo", "bread": "pano", "book": "bukso", "ball": "bolo", "boat": "naro", "hat": "kapo",
    "boy": "kido", "girl": "nelo", "mother": "mamo", "father": "pavo", "friend": "amiko", "king": "rego",
    "garden": "jardo", "school": "skolo", "flower": "floro", "stone": "petro", "door": "porto", "cup": "taso",
}  # fmt: skip
ADJECTIVES = {
    "red": "rudi", "blue": "belui", "green": "veri", "white": "albi", "black": "nogri", "small": "peti",
    "big": "grandi", "old": "veki", "new": "novi", "good": "boni", "happy": "feli", "cold": "fredi",
    "warm": "varmi", "brave": "bravi", "quiet": "sili", "beautiful": "beli",
}  # fmt: skip
#: present with I/you/we, present with he/she/it, past, Lumi's stem
SEEING = {
    "see": ("see", "sees", "saw", "lor"), "love": ("love", "loves", "loved", "am"),
    "find": ("find", "finds", "found", "trov"), "want": ("want", "wants", "wanted", "vul"),
    "have": ("have", "has", "had", "hav"), "take": ("take", "takes", "took", "pren"),
    "bring": ("bring", "brings", "brought", "port"), "eat": ("eat", "eats", "ate", "manj"),
    "buy": ("buy", "buys", "bought", "kupr"), "make": ("make", "makes", "made", "far"),
}  # fmt: skip
STAYING = {
    "sleep": ("sleep", "sleeps", "slept", "sov"), "sit": ("sit", "sits", "sat", "sed"),
    "play": ("play", "plays", "played", "lud"), "sing": ("sing", "sings", "sang", "kant"),
    "wait": ("wait", "waits", "waited", "atend"), "live": ("live", "lives", "lived", "viv"),
}  # fmt: skip
PRONOUNS = {"I": "mi", "you": "tu", "he": "lu", "she": "lia", "we": "nu", "they": "ili"}
PREPOSITIONS = {"in": "en", "near": "apu", "behind": "post", "under": "sub"}
PHRASES = {
    "Hello!": "Salo!",
    "Good morning!": "Boni matino!",
    "Good night!": "Boni noko!",
    "Thank you!": "Mirisa!",
    "Yes.": "Ya.",
    "No.": "Nai.",
    "How are you?": "Kiel tu?",
    "I love you.": "Mi tu ama.",
}
_PLURAL = ("I", "you", "we", "they")


@dataclass(frozen=True)
class Pair:
    """One thing said in both languages."""

    english: str
    lumi: str


def sentence(rng: random.Random) -> Pair:
    """A sentence of the grammar above."""
    form = rng.random()
    if form < 0.06:
        return Pair(*rng.choice(list(PHRASES.items())))
    subject, plain = _subject(rng)
    if form < 0.3:
        adjective, past = rng.choice(list(ADJECTIVES)), rng.random() < 0.4
        be = _be(subject.english, past)
        return _sentence(
            f"{subject.english} {be} {adjective}",
            f"{subject.lumi} {ADJECTIVES[adjective]} {'estata' if past else 'esta'}",
        )
    if form < 0.75:
        verb, lumi_verb = _verb(rng, SEEING, plain)
        seen = _noun_phrase(rng)
        return _sentence(f"{subject.english} {verb} {seen.english}", f"{subject.lumi} {seen.lumi} {lumi_verb}")
    verb, lumi_verb = _verb(rng, STAYING, plain)
    preposition, where = rng.choice(list(PREPOSITIONS)), _noun_phrase(rng)
    return _sentence(
        f"{subject.english} {verb} {preposition} {where.english}",
        f"{subject.lumi} {PREPOSITIONS[preposition]} {where.lumi} {lumi_verb}",
    )


def text(rng: random.Random) -> Pair:
    """One sentence, now and then two."""
    first = sentence(rng)
    if rng.random() >= 0.12:
        return first
    second = sentence(rng)
    return Pair(f"{first.english} {second.english}", f"{first.lumi} {second.lumi}")


def word(rng: random.Random) -> Pair:
    """A single noun or adjective."""
    return Pair(*rng.choice(list((NOUNS if rng.random() < 0.7 else ADJECTIVES).items())))


def _sentence(english: str, lumi: str) -> Pair:
    return Pair(english[0].upper() + english[1:] + ".", lumi[0].upper() + lumi[1:] + ".")


def _subject(rng: random.Random) -> tuple[Pair, bool]:
    """A subject, and whether its verb takes the plain form ("we see")."""
    if rng.random() < 0.35:
        pronoun = rng.choice(list(PRONOUNS))
        return Pair(pronoun, PRONOUNS[pronoun]), pronoun in _PLURAL
    return _noun_phrase(rng), False


def _noun_phrase(rng: random.Random) -> Pair:
    noun = rng.choice(list(NOUNS))
    adjective = rng.choice(list(ADJECTIVES)) if rng.random() < 0.5 else None
    named = f"{adjective} {noun}" if adjective else noun
    lumi = f"{NOUNS[noun]} {ADJECTIVES[adjective]}" if adjective else NOUNS[noun]
    if rng.random() < 0.6:
        return Pair(f"the {named}", f"ne {lumi}")
    return Pair(f"{'an' if named[0] in 'aeiou' else 'a'} {named}", lumi)


def _verb(rng: random.Random, verbs: dict[str, tuple[str, str, str, str]], plain: bool) -> tuple[str, str]:
    present, third, past, stem = rng.choice(list(verbs.values()))
    if rng.random() < 0.5:
        return past, stem + "ata"
    return present if plain else third, stem + "a"


def _be(subject: str, past: bool) -> str:
    if past:
        return "were" if subject in ("you", "we", "they") else "was"
    return {"I": "am", "you": "are", "we": "are", "they": "are"}.get(subject, "is")
