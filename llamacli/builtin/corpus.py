"""The training text of `tiny`, one JSON document a line: python -m llamacli.builtin.corpus --seed 1 --count 600000

A document is {"kind": …, "text": …} (a story), {"kind": "infill", "parts": [before, after, middle]}, or
{"kind": …, "turns": [[role, content], …]}.
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

#: Each kind of job with its share of the documents; the rest are plain stories.
JOBS: dict[str, tuple[Callable[[random.Random], Dialogue], float]] = {
    "question": (passages.question, 0.3),
    "sentiment": (jobs.sentiment, 0.03),
    "names": (passages.names, 0.16),
    "summary": (jobs.summary, 0.03),
    "translation": (jobs.translation, 0.08),
    "sums": (jobs.sums, 0.06),
    "say": (jobs.say, 0.08),
    "story": (jobs.opening, 0.05),
    "greeting": (jobs.greeting, 0.01),
    "unknown": (jobs.unknown, 0.025),
    "dialogue": (dialogue, 0.12),
}
#: Of these, two documents in three hold several tasks about one text.
SEVERAL: dict[str, Callable[[random.Random], Dialogue]] = {
    "question": passages.questions,
    "names": passages.names_and_more,
}
INFILL_SHARE = 0.02


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
    sentences = write_story(rng).sentences
    if place < INFILL_SHARE:
        start = rng.randint(1, len(sentences) - 2)
        end = rng.randint(start + 1, len(sentences) - 1)
        parts = (sentences[:start], sentences[end:], sentences[start:end])
        before, after, middle = (" ".join(part) for part in parts)
        return {"kind": "infill", "parts": [f"{before} ", f" {after}", middle]}
    return {"kind": "text", "text": " ".join(sentences)}


def main() -> None:
    """Write documents to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=600_000, help="documents")
    arguments = parser.parse_args()
    for _, each in zip(range(arguments.count), documents(arguments.seed), strict=False):
        sys.stdout.write(json.dumps(each, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
