"""What a context holds already is not evaluated again, and nothing else changes: after going back, after growing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from make_gguf import write_mamba

from llamacli.builtin import TINY
from llamacli.engine.context import Context
from llamacli.engine.generate import Limits, generate
from llamacli.engine.model import Model
from llamacli.engine.native import C
from llamacli.engine.prompt_cache import common_prefix, reuse
from llamacli.engine.types import ContextOptions, Finish, ModelOptions, Sampling
from llamacli.errors import OutOfMemory

GREEDY = Sampling(temp=0, seed=1)
TEXT = "Once upon a time, there was a little bird named Lily. She liked honey. One day Lily went to the forest."


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model(ModelOptions(TINY)) as opened:
        yield opened


def context(model: Model, n_ctx: int = 256) -> Context:
    return Context(model, ContextOptions(n_ctx=n_ctx, n_threads=1))


def logits(made: Context) -> np.ndarray:
    """Of the last token."""
    return np.ctypeslib.as_array(C.llama_get_logits_ith(made.handle, -1), (made.model.n_vocab,)).copy()


def from_nothing(model: Model, tokens: Sequence[int]) -> np.ndarray:
    with context(model) as made:
        made.evaluate(tokens)
        return logits(made)


def test_the_common_prefix() -> None:
    assert common_prefix([1, 2, 3], [1, 2, 4]) == 2
    assert common_prefix([1, 2, 3], [1, 2]) == 2
    assert common_prefix([], [1]) == 0
    assert common_prefix([1, 2], [1, 2]) == 2


def test_only_what_is_new_is_evaluated(model: Model) -> None:
    tokens = model.tokenize(TEXT)
    with context(model) as made:
        made.evaluate(tokens[:20])
        assert reuse(made, tokens) == 20
        made.evaluate(tokens[20:])
        assert made.tokens == tokens
        assert np.abs(logits(made) - from_nothing(model, tokens)).max() < 0.05


def test_what_differs_is_forgotten(model: Model) -> None:
    tokens = model.tokenize(TEXT)
    other = [*tokens[:12], *model.tokenize(" big dog", add_special=False)]
    with context(model) as made:
        made.evaluate(tokens)
        assert reuse(made, other) == 12
        made.evaluate(other[12:])
        assert np.abs(logits(made) - from_nothing(model, other)).max() < 0.05


def test_one_token_is_left_for_its_logits(model: Model) -> None:
    tokens = model.tokenize(TEXT)
    with context(model) as made:
        made.evaluate(tokens)
        assert reuse(made, tokens) == len(tokens) - 1
        assert reuse(made, tokens[:7]) == 6


def test_a_context_that_grows_holds_the_same(model: Model) -> None:
    tokens = model.tokenize(TEXT)
    with context(model) as made:
        made.evaluate(tokens[:-1])
        made.resize(768)
        assert (made.n_ctx, made.tokens) == (768, tokens[:-1])
        made.evaluate(tokens[-1:])
        assert np.abs(logits(made) - from_nothing(model, tokens)).max() < 0.05


def test_a_context_that_cannot_grow_stays(model: Model) -> None:
    tokens = model.tokenize(TEXT)
    with context(model) as made:
        made.evaluate(tokens[:-1])
        with pytest.raises(OutOfMemory):
            made.resize(1 << 30)
        assert (made.n_ctx, made.tokens) == (256, tokens[:-1])
        made.evaluate(tokens[-1:])
        assert np.abs(logits(made) - from_nothing(model, tokens)).max() < 0.05


def test_a_recurrent_model_begins_again(tmp_path: Path) -> None:
    with Model(ModelOptions(write_mamba(tmp_path / "mamba.gguf"))) as model, context(model) as made:
        tokens = model.tokenize("the cat sat on the mat and looked at the dog")
        made.evaluate(tokens[:5])
        assert reuse(made, tokens) == 5  # it goes on from where it is
        made.evaluate(tokens[5:])
        assert np.abs(logits(made) - from_nothing(model, tokens)).max() < 1e-3
        other = [*tokens[:7], *tokens[2:4]]
        assert reuse(made, other) == 0  # it cannot go back
        made.evaluate(other)
        assert np.abs(logits(made) - from_nothing(model, other)).max() < 1e-3


def answer(made: Context, tokens: Sequence[int], limits: Limits, **options: object) -> tuple[list[int], Finish]:
    *_, end = generate(made, tokens, GREEDY, limits, **options)  # type: ignore[arg-type]
    assert isinstance(end, Finish)
    return [*end.tokens], end


def test_an_answer_goes_on_where_room_is_made(model: Model) -> None:
    prompt = model.tokenize("Once upon a time")
    with context(model, 512) as made:
        wanted, _ = answer(made, prompt, Limits(None, 512))
    assert len(wanted) > 60
    with context(model, 256) as made:
        asked: list[int] = []

        def more(answered: Sequence[int]) -> tuple[list[int], Limits]:
            asked.append(len(answered))
            made.resize(512)
            return prompt, Limits(None, 512)

        tokens, end = answer(made, prompt, Limits(None, len(prompt) + 30), make_room=more)
    assert tokens == wanted
    assert asked == [30]
    assert (end.reason, end.stats.completion_tokens) == ("stop", len(wanted))


def test_an_answer_ends_where_no_room_is_made(model: Model) -> None:
    prompt = model.tokenize("Once upon a time")
    with context(model) as made:
        tokens, end = answer(made, prompt, Limits(None, len(prompt) + 30), make_room=lambda _: None)
    assert (len(tokens), end.reason) == (30, "context")
