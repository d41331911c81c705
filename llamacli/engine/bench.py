"""What llama-bench times (`tools/llama-bench/llama-bench.cpp`): a prompt, then a generation, of random tokens."""

from __future__ import annotations

import ctypes
import time
from typing import Any

import numpy as np

from llamacli.engine.context import Context
from llamacli.engine.native import C

_SEED = 1


class Runner:
    """Runs prompts and generations on a context's sequence 0."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._random = np.random.default_rng(_SEED)
        self._adds_bos = bool(C.llama_vocab_get_add_bos(context.model.vocab))
        self._one = (ctypes.c_int32 * 1)()
        self._batch_of_one = C.llama_batch_get_one(self._one, 1)

    def clear(self) -> None:
        """Forget all tokens; the memory that held them stays as it is."""
        C.llama_memory_clear(C.llama_get_memory(self._context.handle), False)

    def timed(self, n_prompt: int, n_gen: int) -> float | None:
        """Seconds for n_prompt tokens, in batches of n_batch, and then n_gen one by one. None after a signal.

        Logits are computed of each batch's last token; each token of the generation is finished before the next.
        """
        prompt, generation = self._tokens(n_prompt), self._tokens(n_gen).tolist()
        began = time.perf_counter()
        if not (self._prompt(prompt) and self._generate(generation)):
            return None
        return time.perf_counter() - began

    def _tokens(self, n: int) -> np.ndarray:
        tokens = self._random.integers(self._context.model.n_vocab, size=n, dtype=np.int32)
        if self._adds_bos:
            tokens[:1] = self._context.model.bos
        return tokens

    def _prompt(self, tokens: np.ndarray) -> bool:
        for start in range(0, len(tokens), self._context.n_batch):
            part = tokens[start : start + self._context.n_batch]
            if not self._context.decode(C.llama_batch_get_one(_pointer(part), len(part))):
                return False
        C.llama_synchronize(self._context.handle)
        return True

    def _generate(self, tokens: list[int]) -> bool:
        decode, synchronize, one, batch = self._context.decode, C.llama_synchronize, self._one, self._batch_of_one
        handle = self._context.handle
        for token in tokens:
            one[0] = token
            if not decode(batch):
                return False
            synchronize(handle)
        return True


def _pointer(array: np.ndarray) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
