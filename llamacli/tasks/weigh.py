"""How probable each of several choices is as the answer to a prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llamacli.engine.branches import MOST_SEQUENCES, Branch, Branches
from llamacli.engine.context import Context
from llamacli.engine.model import Model
from llamacli.engine.types import ContextOptions
from llamacli.errors import ContextFull


@dataclass(frozen=True)
class Weight:
    """`logprob`: of this choice as the answer. `probability`: among the choices; these sum to 1."""

    choice: str
    logprob: float
    probability: float


class Choices:
    """Choices for one model. Each is spelt by the tokens that the model's own tokenizer makes of it.

    Its probability is that the answer begins with these tokens. Where it begins another choice too, the end of the
    answer belongs to it: any of the tokens that end a generation.
    """

    def __init__(self, model: Model, labels: Sequence[str]) -> None:
        """Raises UsageError where the vocabulary cannot spell one."""
        self._model, self._labels = model, labels
        spelt = [model.tokenize_more(label) for label in labels]
        ends = model.end_tokens if any(map(self._is_begun, labels)) else ()
        #: Of each choice: the ways to go on from the prompt that it is made of.
        self._ways = [
            [[*tokens, end] for end in ends] if self._is_begun(label) else [tokens]
            for label, tokens in zip(labels, spelt, strict=True)
        ]
        self.n_sequences = min(sum(map(len, self._ways)), MOST_SEQUENCES)
        #: Room that the evaluation takes beside the prompt, tokens.
        self.n_tokens = sum(len(way) for ways in self._ways for way in ways)

    def _is_begun(self, label: str) -> bool:
        return any(other != label and other.startswith(label) for other in self._labels)

    def weigh(self, context: Context, options: ContextOptions, prompt: Sequence[int]) -> tuple[Weight, ...] | None:
        """The choices' weights after `prompt`; None if a signal came in between. Closes `context`.

        `context` was made with `options` and at least `n_sequences` sequences. Raises ContextFull, EngineError.
        """
        longest = len(prompt) + max(len(way) for ways in self._ways for way in ways)
        if longest > (self._model.n_ctx_train or longest):
            raise ContextFull(f"prompt and choice have {longest} tokens; the model has {self._model.n_ctx_train}")
        sums: list[float] = []
        ways = [way for ways in self._ways for way in ways]
        with Branches(self._model, options, self.n_sequences) as branches:
            branches.adopt(context)
            for start in range(0, len(ways), self.n_sequences):
                tree = [
                    Branch(np.array([*prompt, *way], np.int32), len(prompt), len(prompt) + len(way))
                    for way in ways[start : start + self.n_sequences]
                ]
                found = branches.evaluate([tree])
                if found is None:
                    return None
                sums += [math.fsum(logprobs) for logprobs in found[0]]
        each = iter(sums)
        logprobs = np.array([np.logaddexp.reduce([next(each) for _ in ways]) for ways in self._ways])
        shares = np.exp(logprobs - np.logaddexp.reduce(logprobs))
        return tuple(map(Weight, self._labels, logprobs.tolist(), shares.tolist()))
