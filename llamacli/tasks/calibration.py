"""Short texts to measure a model on: its own, or pieces of a person's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llamacli import signals
from llamacli.engine.context import Context
from llamacli.engine.logits import rows
from llamacli.engine.model import Model
from llamacli.engine.types import ContextOptions

#: So many tokens in all, in sequences of so many; fewer where a vocabulary's logits would fill the memory.
N_TOKENS, N_CTX = 2048, 512
#: The model writes so many texts side by side, each until it ends it, and begins the next, so many tokens in all.
_WRITERS = 16
#: Logits that are kept at once.
_MOST_LOGITS = 1 << 26


def n_tokens(n_vocab: int) -> int:
    """How many tokens to measure on."""
    return max(32, min(N_TOKENS, _MOST_LOGITS // n_vocab))


def cut(model: Model, text: str) -> list[np.ndarray]:
    """Pieces of a text, evenly spread over it: int32."""
    tokens = np.array(model.tokenize(text), np.int32)
    total = min(n_tokens(model.n_vocab), len(tokens))
    size = min(N_CTX, total)
    starts = np.linspace(0, len(tokens) - size, total // size).astype(int)
    return _begun(model, [tokens[start : start + size] for start in starts])


def written(model: Model, options: ContextOptions, *, seed: int = 1) -> list[np.ndarray]:
    """What the model writes when it is given nothing, text after text: int32.

    Tokens are drawn by their own probabilities (temperature 1, nothing cut off), so that the texts are what the model
    takes for text: for a measure of what changes its predictions no data is needed. After Liu et al., "LLM-QAT:
    Data-Free Quantization Aware Training" (2023).
    """
    total = n_tokens(model.n_vocab)
    n, rng = min(_WRITERS, total // 32), np.random.default_rng(seed)
    start = next((token for token in (model.bos, model.eos) if token >= 0), 0)
    texts: list[list[int]] = [[start] for _ in range(n)]
    done: list[list[int]] = []
    wanted = ContextOptions(n_ctx=total, n_batch=max(n, 32), n_sequences=n, n_threads=options.n_threads)
    with signals.deferred(), Context(model, wanted) as context:
        for _ in range(total // n - 1):
            if not context.step_many([(i, text[-1], len(text) - 1) for i, text in enumerate(texts)]):
                break
            for i, token in enumerate(_draw(rows(context, 0, n), rng)):
                texts[i].append(token)
                if token == model.eos:
                    done.append(texts[i])
                    texts[i] = [start]
                    context.remove_sequence(i)
    signals.check()
    stream = np.concatenate([np.array(text, np.int32) for text in (*done, *texts)])
    return _begun(model, np.array_split(stream, range(N_CTX, len(stream), N_CTX)))


def _begun(model: Model, pieces: list[np.ndarray]) -> list[np.ndarray]:
    """With BOS in place of each first token, where the vocabulary adds it, as llama-perplexity has it."""
    first = model.tokenize("")[:1]
    return [np.concatenate([np.array(first, np.int32), piece[len(first) :]]) for piece in pieces]


def _draw(logits: np.ndarray, rng: np.random.Generator) -> Sequence[int]:
    """A token by each row's probabilities, by Gumbel's trick: the largest of the logits with noise."""
    noise = rng.gumbel(size=logits.shape)
    return [int(token) for token in (logits + noise).argmax(1)]
