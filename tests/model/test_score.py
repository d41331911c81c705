"""Surprisal of each token: against an obvious implementation, and where it is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from make_gguf import CONTEXT, DIM, spm_tokens, write_llama

from llamacli.builtin import TINY
from llamacli.engine.context import Context
from llamacli.engine.model import Model
from llamacli.engine.types import ContextOptions, ModelOptions
from llamacli.errors import BadModelFile, ContextFull
from llamacli.tasks.score import Request, score

TEXT = "Once upon a time, there was a little dog named Tom. He saw a big tree, and it was é."


def test_each_token_against_a_plain_softmax() -> None:
    """In one batch and in small ones: bits, p, rank, and what is most probable."""
    with Model(ModelOptions(TINY)) as model:
        model.show_all_tokens()
        tokens = model.tokenize(TEXT)
        with Context(model, ContextOptions(n_ctx=256, n_threads=1)) as context:
            logits = context.logits(tokens).astype(np.float64)
        pieces = [model.piece(token) for token in tokens]
    for n_ubatch in (512, 7):
        options = ContextOptions(n_ctx=0, n_threads=1, n_ubatch=n_ubatch)
        result = score(Request(ModelOptions(TINY), TEXT, top=3, context=options))
        assert [token.id for token in result.tokens] == tokens
        assert [token.piece for token in result.tokens] == pieces
        assert [token.position for token in result.tokens] == list(range(len(tokens)))
        first, *others = result.tokens
        assert (first.bits, first.p, first.rank, first.top) == (None, None, None, ())
        total = 0.0
        for row, token in zip(logits, others, strict=False):
            p = np.exp(row - row.max())
            p /= p.sum()
            assert token.p == pytest.approx(p[token.id], rel=0.05, abs=1e-9)
            assert token.bits == pytest.approx(-math.log2(p[token.id]), abs=0.1)
            assert token.bits == pytest.approx(-math.log2(token.p or 0), abs=1e-6)
            order = np.argsort(-row)
            assert abs((token.rank or 0) - 1 - order.tolist().index(token.id)) <= max(3, 0.05 * (token.rank or 0))
            assert [other.p for other in token.top] == pytest.approx(p[order[:3]], rel=0.05)
            assert [other.p for other in token.top] == sorted((other.p for other in token.top), reverse=True)
            assert (token.rank == 1) == (token.top[0].id == token.id)
            total += token.bits or 0
        assert result.bits == pytest.approx(total)
        assert result.tokens_scored == len(tokens) - 1
        assert result.bytes == len(TEXT.encode())
        assert result.bits_per_byte == pytest.approx(total / len(TEXT.encode()))
        assert result.perplexity == pytest.approx(2 ** (total / (len(tokens) - 1)))


@pytest.fixture(scope="module")
def uniform(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every token is as probable as any other. The vocabulary adds no BOS."""
    return write_llama(
        tmp_path_factory.mktemp("uniform") / "uniform.gguf",
        tensor_overrides={"output.weight": np.zeros((len(spm_tokens()), DIM), np.float32)},
        metadata_overrides={"tokenizer.ggml.add_bos_token": False},
    )


def test_uniform_probabilities(uniform: Path) -> None:
    n_vocab = len(spm_tokens())
    result = score(Request(ModelOptions(uniform), "the then in", top=2))
    assert result.perplexity == pytest.approx(n_vocab)
    assert not result.begins_with_bos
    first, *others = result.tokens
    assert first.bits is None
    assert result.bytes == len(b" then in")  # SentencePiece puts a space in front of the first
    for token in others:
        assert token.bits == pytest.approx(math.log2(n_vocab))
        assert token.rank == 1
        assert [other.id for other in token.top] == [0, 1]


def test_one_token_alone_has_no_score(uniform: Path) -> None:
    result = score(Request(ModelOptions(uniform), "the"))
    assert (result.tokens_scored, result.bits, result.perplexity, result.bits_per_byte) == (0, 0, None, None)
    assert score(Request(ModelOptions(uniform), "")).tokens == ()


def test_more_alternatives_than_tokens(uniform: Path) -> None:
    result = score(Request(ModelOptions(uniform), "the then", top=1000))
    assert [other.id for other in result.tokens[-1].top] == list(range(len(spm_tokens())))


def test_a_text_longer_than_the_context(uniform: Path) -> None:
    with pytest.raises(ContextFull, match=rf"has 600 tokens.* holds {CONTEXT}"):
        score(Request(ModelOptions(uniform), "the " * 599 + "the"))
    with pytest.raises(ContextFull, match=r"has 4 tokens.* holds 3"):
        score(Request(ModelOptions(uniform), "the the the the", n_ctx=3))
    assert score(Request(ModelOptions(uniform), "the " * 599 + "the", n_ctx=600)).tokens_scored == 599
    with pytest.raises(ContextFull, match=r"at least \d{6} tokens"):
        score(Request(ModelOptions(TINY), "the " * 500_000))


def test_eos_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "eos.gguf", metadata_overrides={"tokenizer.ggml.add_eos_token": True})
    assert score(Request(ModelOptions(path), "the then")).tokens[-1].id != 2


def test_damaged_weights(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "nan.gguf", tensor_overrides={"output_norm.weight": np.full(DIM, np.nan, np.float32)})
    with pytest.raises(BadModelFile, match="NaN"):
        score(Request(ModelOptions(path), "the then"))
