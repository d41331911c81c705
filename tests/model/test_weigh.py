"""`--choices`: reviews of the held-out seed, and probabilities against those that are computed token by token."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamacli.builtin import TINY
from llamacli.builtin.corpus import JOBS
from llamacli.builtin.dialogues import with_system
from llamacli.builtin.jobs import Dialogue
from llamacli.engine.context import Context
from llamacli.engine.model import Model
from llamacli.engine.types import ContextOptions, ModelOptions, Shape
from llamacli.errors import UsageError
from llamacli.tasks.complete import Request, complete
from llamacli.tasks.completion import Completion, fold
from llamacli.tasks.shapes import labels

HELD_OUT_SEED = 2
OPTIONS = ContextOptions(n_ctx=0, n_threads=1)
#: A token by itself and one in a batch take other paths through kernels of 16 bits: up to 0.0024 was seen here.
NEAR = 5e-3


@pytest.fixture(scope="module")
def tiny() -> Iterator[tuple[Model, Context]]:
    model = Model(ModelOptions(TINY))
    with model, Context(model, replace(OPTIONS, n_ctx=1024)) as context:
        yield model, context


def reviews(n: int) -> list[Dialogue]:
    found = []
    for number in range(n):
        rng = random.Random(f"{HELD_OUT_SEED} sentiment {number}")
        found.append(with_system(rng, JOBS["sentiment"][0](rng)))
    return found


def ask(choices: list[str], prompt: str, system: str | None = None, path: Path = TINY, **more: object) -> Completion:
    request = Request(
        model=ModelOptions(path),
        prompt=prompt,
        system=system,
        sampling={"temp": 0.0, "seed": 1},
        shape=Shape("choices", json.dumps(choices), "--choices"),
        weigh=True,
        context=OPTIONS,
        **more,  # type: ignore[arg-type]
    )
    return fold(complete(request))


def logprob(model: Model, context: Context, given: list[int], tokens: list[int]) -> float:
    """By plain numpy, in a fresh context: log P(tokens | given)."""
    context.clear()
    logits = context.logits([*given, *tokens])[len(given) - 1 : -1].astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return float((logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[np.arange(len(tokens)), tokens].sum())


def rendered(model: Model, prompt: str, system: str | None) -> list[int]:
    text = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    text += f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    return model.tokenize(text, parse_special=True)


def check_reviews(tiny: tuple[Model, Context], n: int) -> float:
    model, context = tiny
    right = 0
    for dialogue in reviews(n):
        *system, question, _ = dialogue.turns
        told = system[0].content if system else None
        done = ask(["positive", "negative"], question.content, told)
        right += done.text == dialogue.answer
        assert done.probabilities is not None
        assert sum(weight.probability for weight in done.probabilities) == pytest.approx(1, abs=1e-12)
        given = rendered(model, question.content, told)
        for weight in done.probabilities:
            tokens = model.tokenize(weight.choice, add_special=False)
            assert weight.logprob == pytest.approx(logprob(model, context, given, tokens), abs=NEAR)
    return right / n


def test_some_reviews(tiny: tuple[Model, Context]) -> None:
    assert check_reviews(tiny, 20) >= 0.95


@pytest.mark.slow
def test_200_reviews(tiny: tuple[Model, Context]) -> None:
    share = check_reviews(tiny, 200)
    print(f"right: {share:.1%}")
    assert share >= 0.95


def test_the_end_counts_where_one_choice_begins_another(tiny: tuple[Model, Context]) -> None:
    model, context = tiny
    choices = ["Anna", "Anna went", "Anna went home", "Tom"]
    done = ask(choices, "Say Anna.")
    given = rendered(model, "Say Anna.", None)
    wanted = []
    for choice in choices:
        tokens = model.tokenize(choice, add_special=False)
        ways = [[*tokens, end] for end in model.end_tokens] if choice in ("Anna", "Anna went") else [tokens]
        wanted.append(np.logaddexp.reduce([logprob(model, context, given, way) for way in ways]))
    assert done.probabilities is not None
    assert [weight.logprob for weight in done.probabilities] == pytest.approx(wanted, abs=NEAR)
    shares = np.exp(np.array(wanted) - np.logaddexp.reduce(wanted))
    assert [weight.probability for weight in done.probabilities] == pytest.approx(shares, abs=NEAR)
    assert done.text == "Anna"
    assert done.probabilities[0].probability > 0.9


def test_the_prompt_is_not_evaluated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated: list[int] = []
    decode = Context.decode

    def counted(self: Context, batch: Any) -> bool:
        evaluated.append(batch.n_tokens)
        return decode(self, batch)

    monkeypatch.setattr(Context, "decode", counted)
    done = ask(["positive", "negative"], "The film was good. " * 30 + "Is this review positive or negative?")
    assert done.prompt_tokens > 100
    assert sum(evaluated) <= done.prompt_tokens + 8


def test_more_choices_than_sequences(tiny: tuple[Model, Context]) -> None:
    """The library knows 256 sequences at a time."""
    choices = [f"{a}{b:02}" for a in "ABCDEFGHIJKLMNOPQRST" for b in range(15)]
    done = ask(choices, "Say C07.")
    assert done.probabilities is not None
    assert [weight.choice for weight in done.probabilities] == choices
    assert sum(weight.probability for weight in done.probabilities) == pytest.approx(1)
    few = ask(choices[:3], "Say C07.")
    assert few.probabilities is not None
    assert [w.logprob for w in few.probabilities] == pytest.approx(
        [w.logprob for w in done.probabilities[:3]], abs=2 * NEAR
    )


def test_the_answer_is_the_same_without_probabilities(tiny: tuple[Model, Context]) -> None:
    for dialogue in reviews(5):
        done = ask(["positive", "negative"], dialogue.turns[-2].content)
        request = Request(
            ModelOptions(TINY),
            dialogue.turns[-2].content,
            sampling={"temp": 0.0, "seed": 1},
            shape=Shape("choices", '["positive", "negative"]', "--choices"),
            context=OPTIONS,
        )
        assert fold(complete(request)).text == done.text


@pytest.mark.parametrize("name", ["ggml-vocab-llama-spm.gguf", "ggml-vocab-qwen2.gguf", "ggml-vocab-gpt-2.gguf"])
def test_text_that_goes_on_has_no_space_put_in_front(shared: Path, name: str) -> None:
    with Model(ModelOptions(shared / "data/vocab" / name, vocab_only=True)) as model:
        for text in ("positive", " positive", "é日", "\n", "two words", "  x"):
            tokens = model.tokenize_more(text)
            assert b"".join(map(model.piece, tokens)) == text.encode()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("yes,no", ["yes", "no"]),
        (" yes , no ", ["yes", "no"]),
        ('"yes, sure",no', ["yes, sure", "no"]),
        ('" yes","say ""x"""', [" yes", 'say "x"']),
        ("one", ["one"]),
        ("a b,c", ["a b", "c"]),
    ],
)
def test_choices_by_comma(text: str, wanted: list[str]) -> None:
    assert labels(text) == wanted


@pytest.mark.parametrize("text", ["", "a,,b", "a,b,", "a,a", '"a', 'a"b,c', '"a"b,c'])
def test_choices_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match="--choices"):
        labels(text)
