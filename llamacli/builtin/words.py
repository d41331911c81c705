"""The words of the small world that `tiny` knows."""

from __future__ import annotations

BOYS = (
    "Tom", "Ben", "Max", "Sam", "Leo", "Tim", "Jack", "Finn", "Paul", "Oscar",
    "Noah", "Peter", "Hugo", "David", "Felix", "Adam", "Jonas", "Mark", "Bob", "Henry",
)  # fmt: skip
GIRLS = (
    "Lily", "Anna", "Mia", "Sara", "Emma", "Lucy", "Rosa", "Nina", "Clara", "Ella",
    "Zoe", "Maria", "Julia", "Sue", "Kate", "Alice", "Ruth", "Grace", "Tina", "Jane",
)  # fmt: skip
NAMES = BOYS + GIRLS

TOWNS = (
    "Elmwood", "Rivertown", "Oakdale", "Sunhill", "Marlow", "Pinefield", "Lakeside", "Greenport",
    "Stonebridge", "Redfield", "London", "Paris", "Berlin", "Rome",
)  # fmt: skip

ANIMALS = ("cat", "dog", "bear", "rabbit", "mouse", "fox", "bird", "frog", "horse", "duck", "pig", "sheep")
BOY_KINDS = ("boy", "prince", *ANIMALS)
GIRL_KINDS = ("girl", "princess", *ANIMALS)
KINDS = ("boy", "girl", "prince", "princess", *ANIMALS)

PLACES = (
    "park", "forest", "river", "beach", "market", "school", "farm", "garden", "library", "hill",
    "lake", "zoo", "castle", "bakery", "bridge", "field",
)  # fmt: skip
ROOMS = ("kitchen", "garden", "bedroom", "library", "park", "school", "barn", "market", "bathroom", "cellar")
COLORS = ("red", "blue", "green", "yellow", "white", "black", "brown", "pink", "purple", "golden")
THINGS = (
    "ball", "kite", "hat", "book", "toy", "doll", "drum", "bag", "boat", "cup",
    "lamp", "key", "ring", "bike", "box", "scarf", "car", "chair",
)  # fmt: skip
FOODS = ("apples", "bread", "cheese", "cake", "soup", "honey", "cookies", "carrots", "berries", "nuts", "pears", "rice")
HOBBIES = (
    "sing", "dance", "paint", "read books", "run fast", "climb trees", "bake cakes",
    "plant flowers", "fly kites", "collect stones", "swim", "tell jokes",
)  # fmt: skip
GOOD_ADJECTIVES = (
    "little",
    "kind",
    "brave",
    "clever",
    "funny",
    "happy",
    "small",
    "young",
    "gentle",
    "shy",
    "wise",
    "big",
)
SAD = ("sad", "upset", "worried", "unhappy")
GLAD = ("happy", "glad", "proud", "thankful")
TIMES = ("morning", "afternoon", "evening", "day")
HIDING = ("tree", "rock", "bench", "bush", "table", "wall", "log", "gate")
WEATHER = ("rain", "snow", "wind", "storm")
JOBS = ("baker", "teacher", "doctor", "farmer", "painter", "singer", "driver", "cook", "nurse", "pilot")
NUMBERS = (
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip
FRUITS = (
    "apples",
    "pears",
    "nuts",
    "cookies",
    "berries",
    "carrots",
    "books",
    "stones",
    "cups",
    "balls",
    "kites",
    "hats",
)


def is_boy(name: str) -> bool:
    """Whether a name of this world is a boy's."""
    return name in BOYS


def a(word: str) -> str:
    """The word with its article."""
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"
