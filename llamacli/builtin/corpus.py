"""The training text of `tiny`, one JSON document a line: python -m llamacli.builtin.corpus --seed 1 --count 600000

A document is {"kind": …, "text": …} (a story), {"kind": "infill", "parts": [before, after, middle]},
{"kind": "lookup", "given": …, "lookups": [[key, name], …]}, or {"kind": …, "turns": [[role, content], …]}.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

from llamacli.builtin import jobs, passages
from llamacli.builtin.dialogues import dialogue, with_system
from llamacli.builtin.jobs import Dialogue
from llamacli.builtin.stories import write_story

#: Each kind of job with its share of the documents; the rest are lookups, infill and plain stories.
JOBS: dict[str, tuple[Callable[[random.Random], Dialogue], float]] = {
    "question": (passages.question, 0.16),
    "sentiment": (jobs.sentiment, 0.03),
    "names": (passages.names, 0.19),
    "summary": (jobs.summary, 0.03),
    "translation": (jobs.translation, 0.08),
    "sums": (jobs.sums, 0.07),
    "say": (jobs.say, 0.08),
    "story": (jobs.opening, 0.06),
    "greeting": (jobs.greeting, 0.01),
    "unknown": (jobs.unknown, 0.025),
    "dialogue": (dialogue, 0.16),
}
#: Of these, two documents in three hold several tasks about one text.
SEVERAL: dict[str, Callable[[random.Random], Dialogue]] = {
    "question": passages.questions,
    "names": passages.names_and_more,
}
INFILL_SHARE = 0.02
#: Who did what, without the words of a question: "who" is learnt from these, and from questions alone it is not.
LOOKUP_SHARE = 0.05


def documents(seed: int) -> Iterator[dict[str, Any]]:
    """Documents without end. Each depends on the seed and on its number alone."""
    number = 0
    while True:
        yield document(random.Random(f"{seed} {number}"))
        number += 1


def document(rng: random.Random) -> dict[str, Any]:
    """One document."""
    place = rng.random()
    for kind, (write, share) in JOBS.items():
        if place < share:
            if kind in SEVERAL and rng.random() < 2 / 3:
                write = SEVERAL[kind]
            turns = with_system(rng, write(rng)).turns
            return {"kind": kind, "turns": [[turn.role, turn.content] for turn in turns]}
        place -= share
    if place < LOOKUP_SHARE:
        return _lookup(rng)
    place -= LOOKUP_SHARE
    sentences = write_story(rng).sentences
    if place < INFILL_SHARE:
        start = rng.randint(1, len(sentences) - 2)
        end = rng.randint(start + 1, len(sentences) - 1)
        parts = (sentences[:start], sentences[end:], sentences[start:end])
        before, after, middle = (" ".join(part) for part in parts)
        return {"kind": "infill", "parts": [f"{before} ", f" {after}", middle]}
    return {"kind": "text", "text": " ".join(sentences)}


def _lookup(rng: random.Random) -> dict[str, Any]:
    passage, pairs = passages.lookups(rng)
    return {"kind": "lookup", "given": f"{passage}\n", "lookups": [[*pair] for pair in pairs]}


def who(seed: int) -> Iterator[dict[str, Any]]:
    """Documents without end that are all about who: three in five lookups, the others questions."""
    number = 0
    while True:
        rng = random.Random(f"{seed} who {number}")
        if rng.random() < 0.6:
            yield _lookup(rng)
        else:
            turns = passages.who(rng).turns
            yield {"kind": "question", "turns": [[turn.role, turn.content] for turn in turns]}
        number += 1


def main() -> None:
    """Write documents to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=600_000, help="documents")
    parser.add_argument("--who", action="store_true", help="only what teaches who: the first part of the training")
    arguments = parser.parse_args()
    source = who(arguments.seed) if arguments.who else documents(arguments.seed)
    for _, each in zip(range(arguments.count), source, strict=False):
        sys.stdout.write(json.dumps(each, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
