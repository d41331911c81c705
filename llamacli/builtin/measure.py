"""Measure `tiny` on documents that its training text does not draw: python -m llamacli.builtin.measure [MODEL.gguf]

Prints the table of this folder's README: the share of right answers to each kind of job at temperature 0, the share of
sampled stories that the grammar accepts, and the perplexity on training and held-out text.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from llamacli.builtin import TINY, jobs
from llamacli.builtin.corpus import JOBS, documents
from llamacli.builtin.dialogues import with_system
from llamacli.builtin.jobs import Dialogue
from llamacli.builtin.stories import parse_story
from llamacli.engine.context import Context
from llamacli.engine.generate import Limits, generate
from llamacli.engine.model import Model
from llamacli.engine.types import Chunk, ContextOptions, Message, ModelOptions, Sampling
from llamacli.tasks.rendering import render

TRAINING_SEED, HELD_OUT_SEED = 1, 2
N_CTX = 1024


class Measured:
    """The model, asked again and again in one context."""

    def __init__(self, path: Path) -> None:
        self.model = Model(ModelOptions(path))
        self.context = Context(self.model, ContextOptions(n_ctx=N_CTX, n_threads=1))  # more threads gain nothing here

    def close(self) -> None:
        """Free the memory."""
        self.context.close()
        self.model.close()

    def prompt(self, turns: Iterable[jobs.Turn]) -> list[int]:
        """The tokens of a dialogue, up to where the assistant speaks."""
        return self.model.tokenize_prompt(render(self.model, [Message(turn.role, turn.content) for turn in turns]))

    def answer(self, tokens: list[int], temp: float, seed: int) -> str:
        """What the model writes after `tokens`."""
        self.context.remove_sequence(0)
        items = generate(self.context, tokens, Sampling(temp=temp, seed=seed), Limits(400, N_CTX, ()))
        return b"".join(item.data for item in items if isinstance(item, Chunk)).decode(errors="replace")

    def surprise(self, given: list[int], tokens: list[int]) -> float:
        """Minus the logarithm of the probability of `tokens` after `given`, in nats."""
        self.context.remove_sequence(0)
        logits = self.context.logits([*given, *tokens][:-1])[len(given) - 1 :].astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return -float(log_probabilities[np.arange(len(tokens)), tokens].sum())


def right(dialogue: Dialogue, answer: str) -> bool:
    """Whether an answer is the one wanted; a story only has to be one, and about whom it was asked for."""
    if dialogue.kind != "story":
        return answer == dialogue.answer
    asked = dialogue.turns[-2].content
    if any(asked.startswith(task) for task in ("Tell", "Write", "Can")):
        story = parse_story(answer)
        wanted = asked.rstrip(".").rpartition(" about ")[2]
        return story is not None and (
            " about " not in asked or wanted in (story.cast["hero"], f"a {story.cast['kind']}")
        )
    return parse_story(f"{asked} {answer}") is not None


def rightness(measured: Measured, kind: str, count: int, show: int) -> float:
    """The share of right answers to one kind of job; prints the first `show` wrong ones."""
    n_right = 0
    for number in range(count):
        rng = random.Random(f"{HELD_OUT_SEED} {kind} {number}")
        dialogue = with_system(rng, JOBS[kind][0](rng))
        answer = measured.answer(measured.prompt(dialogue.turns[:-1]), 0, 1)
        if right(dialogue, answer):
            n_right += 1
        elif show:
            show -= 1
            print(f"wrong: {dialogue.turns[-2].content!r}\n  said:   {answer!r}\n  wanted: {dialogue.answer!r}")
    return n_right / count


def accepted_stories(measured: Measured, count: int) -> float:
    """The share of plain stories, sampled at 0.7 from nothing but BOS and a first word, that the grammar accepts."""
    openings = ("Once upon a time", "There was", "One day", "Once")
    n_accepted = 0
    for seed in range(count):
        begun = openings[0] if seed % 2 else openings[1 if seed % 4 else 3]
        n_accepted += parse_story(begun + measured.answer(measured.model.tokenize(begun), 0.7, seed)) is not None
    return n_accepted / count


def perplexities(measured: Measured, seed: int, count: int) -> tuple[float, float]:
    """Perplexity of plain stories, and of the answers in dialogues, in the first documents of a seed."""
    eos = measured.model.eos
    (turn_end,) = measured.model.tokenize("<|im_end|>", add_special=False, parse_special=True)
    sums = {"text": [0.0, 0], "turns": [0.0, 0]}

    def add(kind: str, given: list[int], tokens: list[int]) -> None:
        if len(given) + len(tokens) <= N_CTX:
            sums[kind][0] += measured.surprise(given, tokens)
            sums[kind][1] += len(tokens)

    for document in itertools.islice(documents(seed), count):
        _add_document(measured, document, eos, turn_end, add)
    return math.exp(sums["text"][0] / sums["text"][1]), math.exp(sums["turns"][0] / sums["turns"][1])


def _add_document(measured: Measured, document: dict[str, Any], eos: int, turn_end: int, add: Any) -> None:
    if "text" in document:
        bos, *tokens = measured.model.tokenize(document["text"])
        add("text", [bos], [*tokens, eos])
    elif "turns" in document:
        turns = [jobs.Turn(*turn) for turn in document["turns"]]
        for index, turn in enumerate(turns):
            if turn.role == "assistant":
                answer = measured.model.tokenize(turn.content, add_special=False)
                add("turns", measured.prompt(turns[:index]), [*answer, turn_end])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", default=TINY)
    parser.add_argument("--count", type=int, default=400, help="jobs of each kind")
    parser.add_argument("--show", type=int, default=0, help="wrong answers to print for each kind")
    arguments = parser.parse_args()
    measured = Measured(arguments.model)
    print("| measured | figure |\n| --- | --- |")
    for kind in JOBS:
        share = rightness(measured, kind, arguments.count, arguments.show)
        print(f"| {kind}: right at `--temp 0`, {arguments.count} held-out | {share:.1%} |", flush=True)
    print(f"| 100 stories sampled at `--temp 0.7`: accepted by the grammar | {accepted_stories(measured, 100):.0%} |")
    seen, held_out = (perplexities(measured, seed, 2000) for seed in (TRAINING_SEED, HELD_OUT_SEED))
    for name, first, second in zip(("stories", "answers"), seen, held_out, strict=True):
        figures = f"{first:.4f}, {second:.4f}, {second / first:.3f}"
        print(f"| perplexity of {name}: training text, held-out text, ratio | {figures} |")


if __name__ == "__main__":
    main()
