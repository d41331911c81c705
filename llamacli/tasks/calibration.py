"""Short texts to measure a model on: its own, or pieces of a person's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llamacli import signals
from llamacli.engine.context import Context
from llamacli.engine.logits import rows
from llamacli.engine.model import Model
from llamacli.engine.types import ContextOptions

#: So many sequences of so many tokens; fewer where a vocabulary's logits would fill the memory.
N_SEQUENCES, LENGTH = 8, 128
#: Logits that are kept at once.
_MOST_LOGITS = 1 << 26


def n_sequences(n_vocab: int) -> int:
    """How many sequences of LENGTH tokens to measure on."""
    return min(N_SEQUENCES, max(1, _MOST_LOGITS // (LENGTH * n_vocab)))


def cut(model: Model, text: str) -> list[np.ndarray]:
    """Pieces of a text, evenly spread over it, each with BOS in front where the vocabulary adds it: int32."""
    bos = model.tokenize("")[:1]
    tokens = np.array(model.tokenize(text, add_special=False), np.int32)
    size = LENGTH - len(bos)
    count = min(n_sequences(model.n_vocab), max(1, len(tokens) // size))
    starts = np.linspace(0, max(len(tokens) - size, 0), count).astype(int)
    return [np.concatenate([np.array(bos, np.int32), tokens[start : start + size]]) for start in starts]


def written(model: Model, options: ContextOptions, *, seed: int = 1) -> list[np.ndarray]:
    """What the model writes when it is given nothing, each text from its beginning: int32.

    Tokens are drawn by their own probabilities (temperature 1, nothing cut off), so that the texts are what the model
    takes for text: for a measure of what changes its predictions no data is needed. After Liu et al., "LLM-QAT:
    Data-Free Quantization Aware Training" (2023).
    """
    n, rng = n_sequences(model.n_vocab), np.random.default_rng(seed)
    start = next((token for token in (model.bos, model.eos) if token >= 0), 0)
    texts: list[list[int]] = [[start] for _ in range(n)]
    done: list[list[int]] = []
    wanted = ContextOptions(n_ctx=n * LENGTH, n_batch=max(n, 32), n_sequences=n, n_threads=options.n_threads)
    with signals.deferred(), Context(model, wanted) as context:
        for _ in range(LENGTH - 1):
            if not context.step_many([(i, text[-1], len(text) - 1) for i, text in enumerate(texts)]):
                break
            for i, token in enumerate(_draw(rows(context, 0, n), rng)):
                texts[i].append(token)
                if token == model.eos:
                    done.append(texts[i])
                    texts[i] = [start]
                    context.remove_sequence(i)
    signals.check()
    return [np.array(text, np.int32) for text in (*done, *texts) if len(text) > 1]


def _draw(logits: np.ndarray, rng: np.random.Generator) -> Sequence[int]:
    """A token by each row's probabilities, by Gumbel's trick: the largest of the logits with noise."""
    noise = rng.gumbel(size=logits.shape)
    return [int(token) for token in (logits + noise).argmax(1)]
