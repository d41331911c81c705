"""What a model's predictions suffer where some of its tensors are quantised: tried in the loaded model.

For small errors the KL divergence grows in proportion to a tensor's relative squared error, and the damages of several
tensors add up (Malinovskii et al., "Pushing the Limits of Large Language Model Quantization via the Linearity Theorem",
2024). So one tensor at a time is exchanged for what a type leaves of it.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from llamacli import signals
from llamacli.engine import quant_error
from llamacli.engine.context import Context
from llamacli.engine.logits import Batch, log_sum_exp, rows
from llamacli.engine.model import Model
from llamacli.engine.threads import logical_cores
from llamacli.engine.types import ContextOptions, ModelOptions
from llamacli.engine.weights import Weights
from llamacli.tasks import calibration
from llamacli.tasks.divergence import Divergence, Exact
from llamacli.tasks.source_weights import SourceTensor

#: With fewer tokens than these, what is measured is about them and not about the model.
FEWEST_TOKENS = 32
#: Weights that a thread quantises at a time.
_PIECE = 1 << 17


class Trials:
    """A loaded model whose tensors are exchanged, and its predictions on a few texts. Use it as a context manager."""

    def __init__(
        self, options: ModelOptions, context: ContextOptions, tensors: Sequence[SourceTensor], text: str | None
    ) -> None:
        """Measures on `text`, or on what the model itself writes. Raises what loading raises, EngineError, OutOfMemory;
        signals.Ended where a signal came.
        """
        self.passes = 0
        self._context_options = context
        self._pool = ThreadPoolExecutor(context.n_threads or logical_cores())
        with contextlib.ExitStack() as stack:
            stack.callback(self._pool.shutdown)
            self._model = stack.enter_context(Model(replace(options, mmap=False, repack=False)))
            self._texts = (
                calibration.cut(self._model, text) if text is not None else calibration.written(self._model, context)
            )
            self._weights = Weights(self._model, [tensor.name for tensor in tensors], context.n_threads)
            self._context = stack.enter_context(self._open())
            self._take_base()
            self._stack = stack.pop_all()
        #: Those that a graph of this model uses.
        self.tensors = [tensor for tensor in tensors if tensor.name in self._weights.found]

    def __enter__(self) -> Trials:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self) -> Context:
        total, n = self.n_tokens, len(self._texts)
        longest = max(len(text) for text in self._texts)
        return Context(
            self._model,
            replace(
                self._context_options,
                n_ctx=n * -(-longest // 256) * 256,
                n_batch=max(total, 32),
                n_sequences=n,
                kv_unified=False,
            ),
        )

    @property
    def n_tokens(self) -> int:
        """Of the texts."""
        return sum(len(text) for text in self._texts)

    def shorten(self, n_tokens: int) -> None:
        """Measure on fewer tokens from now on: the longest texts, or the beginning of the longest."""
        kept: list[np.ndarray] = []
        for text in sorted(self._texts, key=len, reverse=True):
            if n_tokens < min(FEWEST_TOKENS, len(text)):
                break
            kept.append(text[:n_tokens])
            n_tokens -= len(kept[-1])
        self._texts = kept
        self._take_base()

    def divergence(self, types: Mapping[SourceTensor, int]) -> tuple[float, float]:
        """Mean KL divergence, in nats a token, while these tensors are quantised to these types; and the sum of the
        tensors' relative squared errors. The tensors' own format rounds them once more.
        """
        errors = 0.0
        try:
            for tensor, kind in types.items():
                errors += self._exchange(tensor, kind)
            return self._divergence(), errors
        finally:
            for tensor in types:
                self._weights.set(tensor.name, tensor.data())

    def _exchange(self, tensor: SourceTensor, kind: int) -> float:
        """Put what a type leaves of a tensor in its place, piece by piece; its relative squared error."""

        def piece(rows: np.ndarray, importance: np.ndarray | None) -> tuple[np.ndarray, float, float]:
            exact = tensor.floats(rows)
            found = quant_error.round_trip(exact, kind, importance)
            changed = quant_error.quantised(found, tensor.type)
            found = quant_error.floats(changed, tensor.type, tensor.n_columns)
            return changed, *quant_error.sums(exact, found, importance)

        parts = deque(self._pool.submit(piece, *part) for part in tensor.pieces(_PIECE))
        error = energy = 0.0
        offset = 0
        while parts:
            changed, *sums = parts.popleft().result()
            self._weights.set(tensor.name, changed, offset)
            offset += changed.nbytes
            error, energy = error + sums[0], energy + sums[1]
        return error / energy if energy else 0.0

    def _divergence(self) -> float:
        logits, sums = self._read()
        found, nothing = Divergence(), np.zeros(len(logits))
        found.add(logits, sums, nothing, Exact(*self._base, nothing))
        return max(found.running().kld.value, 0.0)

    def _take_base(self) -> None:
        logits, sums = self._read()
        self._base = logits.copy(), sums

    def _read(self) -> tuple[np.ndarray, np.ndarray]:
        """Logits after each token of the texts (n_tokens, n_vocab), until the next call, and log Σ exp of each row."""
        self.passes += 1
        batch, lengths = Batch(self.n_tokens), [len(text) for text in self._texts]
        batch.token[:] = np.concatenate(self._texts)
        batch.pos[:] = np.concatenate([np.arange(n) for n in lengths])
        batch.seq[:, 0] = np.repeat(np.arange(len(lengths)), lengths)
        batch.wanted[:] = 1
        self._context.clear()
        with signals.deferred():
            batch.decode(self._context, self.n_tokens)
        signals.check()
        logits = rows(self._context, 0, self.n_tokens)
        return logits, log_sum_exp(logits)
