"""How surprising each token of a text is to a model, given all before it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from llamacli import signals
from llamacli.engine.context import Context
from llamacli.engine.logits import Batch, log_sum_exp, most_probable, rows
from llamacli.engine.model import Model
from llamacli.engine.types import ContextOptions, ModelOptions
from llamacli.errors import BadModelFile, ContextFull, UsageError
from llamacli.models.reference import name

#: Logits of one batch, at most: 128 MB.
_MOST_LOGITS = 1 << 25


@dataclass(frozen=True)
class Request:
    """What to score. `n_ctx` None fits the context to the text, up to the trained size; 0 is the trained size.

    `top`: how many of the most probable tokens to name at each place.
    """

    model: ModelOptions
    text: str
    top: int = 0
    n_ctx: int | None = None
    context: ContextOptions = field(default_factory=lambda: ContextOptions(n_ctx=0))


@dataclass(frozen=True)
class Alternative:
    """One of the most probable tokens; `piece` are its bytes."""

    id: int
    piece: bytes
    p: float


@dataclass(frozen=True)
class ScoredToken:
    """`bits` is -log2 of the probability `p`; `rank` 1 is the most probable token.

    All are None for the first token: nothing comes before it.
    """

    position: int
    id: int
    piece: bytes
    bits: float | None
    p: float | None
    rank: int | None
    top: tuple[Alternative, ...] = ()


@dataclass(frozen=True)
class Score:
    """`tokens_scored`, `bits` and `bytes` are of what has something before it: all but a first token that is no BOS.

    `bits_per_byte` and `perplexity` (2 to the bits per token) are None where nothing is scored.
    """

    model: str
    text: str
    begins_with_bos: bool
    n_ctx_train: int
    tokens_scored: int
    bytes: int
    bits: float
    bits_per_byte: float | None
    perplexity: float | None
    tokens: tuple[ScoredToken, ...]


@dataclass(frozen=True)
class Progress:
    """Loading (a fraction of 1) or reading the text (tokens done, of how many)."""

    loading: Callable[[float], None] | None = None
    text: Callable[[int, int], None] | None = None


def score(request: Request, progress: Progress = Progress()) -> Score:
    """Raises ContextFull for a text that is longer than the context: in windows, tokens would have lost their past.

    UsageError for a model that writes no text, and what models and contexts raise.
    """
    with Model(
        request.model, context=replace(request.context, n_ctx=request.n_ctx or 4096), progress=progress.loading
    ) as model:
        signals.check()
        if not model.writes_text:
            raise UsageError(f"{request.model.path}: this model reads text but does not write it, so it predicts none")
        model.show_all_tokens()
        tokens = _tokens(request, model)
        options = replace(request.context, n_ctx=max(len(tokens), 1))
        with Context(model, options) as context:
            found = _score(context, tokens, request, progress.text)
        return _result(request, model, found)


def _tokens(request: Request, model: Model) -> list[int]:
    limit = request.n_ctx or model.n_ctx_train or 1 << 20
    n_bytes = len(request.text.encode("utf-8", "replace"))
    # Tokenising a text of 100 MB takes minutes, and no context holds it.
    n = model.at_least_tokens(n_bytes) if n_bytes > 1 << 20 else 0
    tokens = [] if n > limit else model.tokenize(request.text)
    if model.adds_eos and tokens[-1:] == [model.eos]:
        tokens.pop()  # it is no part of the text
    if max(n, len(tokens)) > limit:
        count = f"at least {n}" if n > limit else str(len(tokens))
        raise ContextFull(
            f"the text has {count} tokens, and the context holds {limit}",
            hint="a part of the text, or a larger -c; llamacli perplexity measures long texts in chunks",
        )
    return tokens


def _score(
    context: Context, tokens: list[int], request: Request, progress: Callable[[int, int], None] | None
) -> list[ScoredToken]:
    model = context.model
    step = max(min(context.n_batch, request.context.n_ubatch, _MOST_LOGITS // model.n_vocab), 1)
    batch = Batch(step)
    batch.wanted[:] = 1
    found = [ScoredToken(0, token, model.piece(token), None, None, None) for token in tokens[:1]]
    for start in range(0, len(tokens) - 1, step):  # the last token predicts nothing
        n = min(step, len(tokens) - 1 - start)
        batch.token[:n] = tokens[start : start + n]
        batch.pos[:n] = np.arange(start, start + n)
        with signals.deferred():
            batch.decode(context, n)
        signals.check()
        found += _read_rows(rows(context, 0, n), tokens[start + 1 : start + 1 + n], start + 1, model, request)
        if progress is not None:
            progress(start + n, len(tokens) - 1)
    return found


def _read_rows(logits: np.ndarray, targets: list[int], first: int, model: Model, request: Request) -> list[ScoredToken]:
    """What each row says of the token after it; `first` is the position of the first one."""
    own = logits[np.arange(len(targets)), targets]
    sums = log_sum_exp(logits)
    logprobs = own - sums
    if np.isnan(logprobs).any():
        raise BadModelFile(f"{name(request.model.path)}: its weights give no numbers (NaN); the file is damaged")
    ranks = (logits > own[:, None]).sum(1) + 1
    found = []
    for i, (token, logprob, rank) in enumerate(zip(targets, logprobs.tolist(), ranks.tolist(), strict=True)):
        top = _top(logits[i], float(sums[i]), model, request.top) if request.top else ()
        bits = max(-logprob / math.log(2), 0.0)
        found.append(ScoredToken(first + i, token, model.piece(token), bits, math.exp(min(logprob, 0)), rank, top))
    return found


def _top(row: np.ndarray, log_sum: float, model: Model, k: int) -> tuple[Alternative, ...]:
    """The k most probable tokens, the lower id first where two are equal."""
    return tuple(
        Alternative(int(i), model.piece(int(i)), math.exp(float(row[i]) - log_sum)) for i in most_probable(row, k)
    )


def _result(request: Request, model: Model, tokens: list[ScoredToken]) -> Score:
    scored = [token.bits for token in tokens if token.bits is not None]
    bits = math.fsum(scored)
    n_bytes = len(request.text.encode("utf-8", "replace"))
    begins_with_bos = bool(tokens) and tokens[0].id == model.bos
    if tokens and not begins_with_bos:
        own = tokens[0].piece  # SentencePiece may have put a space before the text
        n_bytes -= len(own if request.text.startswith(" ") else own.removeprefix(b" "))
    return Score(
        model=name(request.model.path),
        text=request.text,
        begins_with_bos=begins_with_bos,
        n_ctx_train=model.n_ctx_train,
        tokens_scored=len(scored),
        bytes=max(n_bytes, 0),
        bits=bits,
        bits_per_byte=bits / n_bytes if n_bytes > 0 and scored else None,
        perplexity=2 ** min(bits / len(scored), 1023) if scored else None,
        tokens=tuple(tokens),
    )
