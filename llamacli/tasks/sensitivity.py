"""How much a model's predictions suffer where one of its tensors is inexact.

For small errors the KL divergence grows in proportion to a tensor's relative squared error, and the damages of several
tensors add up (Malinovskii et al., "Pushing the Limits of Large Language Model Quantization via the Linearity Theorem",
2024). So one tensor at a time is quantised in the loaded model, and what that does is measured: the quotient foretells
what any other type would do to it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llamacli import signals
from llamacli.engine import quant_error
from llamacli.engine.context import Context
from llamacli.engine.logits import Batch, log_sum_exp, rows
from llamacli.engine.model import Model
from llamacli.engine.types import ContextOptions, ModelOptions
from llamacli.engine.weights import Weights
from llamacli.tasks import calibration
from llamacli.tasks.divergence import Divergence, Exact
from llamacli.tasks.source_weights import SourceTensor

#: The type that tensors are tried in: it fits all rows that any type fits, and is made at once.
_TRIED = 2  # Q4_0
#: Seconds that all trials may take; what would take longer reads fewer tokens, or tries several layers at once.
SECONDS = 120.0
_FEWEST_TOKENS = 32
_LEAST = 1e-12

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Sensitivities:
    """`kl` of each tensor, in nats per unit of relative squared error; measured on `tokens` tokens."""

    kl: Mapping[str, float]
    tokens: int
    passes: int
    seconds: float


def measure(
    options: ModelOptions,
    context: ContextOptions,
    tensors: Sequence[SourceTensor],
    text: str | None,
    *,
    on_progress: Progress | None = None,
    seconds: float = SECONDS,
) -> Sensitivities:
    """Of all `tensors` that a graph of this model uses; on `text`, or on what the model itself writes.

    Raises what loading raises, EngineError, OutOfMemory; signals.Ended where a signal came.
    """
    began = time.perf_counter()
    with Model(replace(options, mmap=False, repack=False)) as model:
        texts = calibration.cut(model, text) if text is not None else calibration.written(model, context)
        weights = Weights(model, [tensor.name for tensor in tensors], context.n_threads)
        mine = [tensor for tensor in tensors if tensor.name in weights.found]
        measured: dict[str, float] = {}
        with _Measure(model, context, texts) as measure:
            groups = measure.fit(mine, seconds)
            for i, group in enumerate(groups):
                if on_progress is not None:
                    on_progress(i, len(groups), group[0].name)
                total = 0.0
                for tensor in group:
                    error, changed = _tried(tensor)
                    total += error
                    weights.set(tensor.name, changed)
                kl = measure.divergence()
                for tensor in group:
                    weights.set(tensor.name, tensor.data())
                    measured[tensor.name] = max(kl, 0.0) / total if total else 0.0
            tokens = measure.n_tokens
    return Sensitivities(measured, tokens, len(groups), time.perf_counter() - began)


def _tried(tensor: SourceTensor) -> tuple[float, np.ndarray]:
    """The relative squared error of a tensor in the type that is tried, and its bytes then, in its own type."""
    error = energy = 0.0
    changed = []
    for exact, importance in tensor.matrices():
        found = quant_error.round_trip(exact, _TRIED, importance)
        changed.append(quant_error.quantised(found, tensor.type))
        found = quant_error.floats(changed[-1], tensor.type, tensor.n_columns)
        each = quant_error.sums(exact, found, importance)
        error, energy = error + each[0], energy + each[1]
    return (error / energy if energy else 0.0), np.concatenate(changed)


class _Measure:
    """The predictions of a model on a few texts, and how far they are from those at first."""

    def __init__(self, model: Model, options: ContextOptions, texts: Sequence[np.ndarray]) -> None:
        self._model, self._texts = model, list(texts)
        total = sum(len(text) for text in texts)
        wanted = replace(
            options, n_ctx=max(total, 256), n_batch=max(total, 32), n_sequences=len(texts), kv_unified=len(texts) > 1
        )
        self._context = Context(model, wanted)
        self._base: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def __enter__(self) -> _Measure:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.close()

    @property
    def n_tokens(self) -> int:
        return sum(len(text) for text in self._texts)

    def fit(self, tensors: Sequence[SourceTensor], seconds: float) -> list[list[SourceTensor]]:
        """Take the unchanged model's predictions; what is tried at once, so that all takes so many seconds at most."""
        self._take_base()
        began = time.perf_counter()
        self._take_base()
        each = time.perf_counter() - began
        allowed = int(self.n_tokens * seconds / max(each * len(tensors), 1e-9))
        n_layers = 1
        if allowed < self.n_tokens:
            n_layers = max(1, math.ceil(_FEWEST_TOKENS / max(allowed, 1)))
            self._shorten(max(allowed * n_layers, _FEWEST_TOKENS))
            self._take_base()
        return list(_neighbours(tensors, n_layers))

    def _take_base(self) -> None:
        logits, sums, nll = self._read()
        self._base = logits.copy(), sums, nll

    def _shorten(self, n_tokens: int) -> None:
        """Keep the longest texts, or the beginning of the longest."""
        kept: list[np.ndarray] = []
        for text in sorted(self._texts, key=len, reverse=True):
            if n_tokens < min(_FEWEST_TOKENS, len(text)):
                break
            kept.append(text[:n_tokens])
            n_tokens -= len(kept[-1])
        self._texts = kept

    def divergence(self) -> float:
        """Mean KL divergence from the unchanged model, in nats a token."""
        assert self._base is not None
        logits, sums, nll = self._read()
        found = Divergence()
        found.add(logits, sums, nll, Exact(*self._base))
        return found.running().kld.value

    def _read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Logits (n, n_vocab) after each token, log Σ exp, and the nll of tokens that nobody asks for: all zero."""
        batch = Batch(self.n_tokens)
        batch.token[:] = np.concatenate(self._texts)
        batch.pos[:] = np.concatenate([np.arange(len(text)) for text in self._texts])
        batch.seq[:, 0] = np.repeat(np.arange(len(self._texts)), [len(text) for text in self._texts])
        batch.wanted[:] = 1
        self._context.clear()
        with signals.deferred():
            batch.decode(self._context, self.n_tokens)
        signals.check()
        logits = rows(self._context, 0, self.n_tokens)
        return logits, log_sum_exp(logits), np.zeros(len(logits))


def _neighbours(tensors: Sequence[SourceTensor], n_layers: int) -> Iterator[list[SourceTensor]]:
    """Tensors of one kind from so many layers that follow each other."""
    kinds: dict[str, list[SourceTensor]] = {}
    for tensor in tensors:
        kinds.setdefault(tensor.kind, []).append(tensor)
    for alike in kinds.values():
        for start in range(0, len(alike), n_layers):
            yield alike[start : start + n_layers]
