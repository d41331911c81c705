"""What each type of each tensor would cost a model: measured where it matters, foretold elsewhere.

A tensor is tried in one type, which tells how sensitive the model is to it; what another type costs is foretold from
that type's error. Such a forecast is right within a factor of about 1.5, but for single tensors it can be off by 4, and
whoever picks the cheapest forecasts picks the wrong ones. So what has been picked is measured, and picked anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from llamacli.tasks.source_weights import SourceTensor
from llamacli.tasks.trials import FEWEST_TOKENS, Trials

#: The type that all tensors are tried in first, Q4_0: it fits all rows that any quantised type fits, and is fast.
FIRST = 2
#: What all trials may take, in seconds of two cores of 2024 that multiply 50 thousand million weights and quantise 10
#: million of them a second. It is counted and not clocked: the choice does not depend on what else runs. Half of it is
#: for the first trials; what would take longer reads fewer tokens, or tries neighbouring layers at once.
SECONDS = 240.0
_MULTIPLIED, _QUANTISED = 5e10, 1e7
#: So often is picked anew. It was never needed more than five times.
ROUNDS = 8

#: Done, of how many, and the tensor whose turn it is.
Progress = Callable[[int, int, str], None]


class Damages:
    """KL divergence, in nats a token, by tensor and type."""

    def __init__(self, trials: Trials, errors: Mapping[tuple[str, int], float], seconds: float = SECONDS) -> None:
        """`errors`: relative squared error of each tensor in each type that it can have."""
        self._trials, self._errors = trials, errors
        self._seconds = self._left = seconds
        self._n_weights = sum(tensor.weights for tensor in trials.tensors)
        self._measured: dict[tuple[str, int], float] = {}
        self._ratios: dict[str, list[float]] = {}
        self.one_by_one = True

    def try_all(self, on_progress: Progress | None = None) -> None:
        """Every tensor once."""
        groups = self._groups()
        for i, group in enumerate(groups):
            if on_progress is not None:
                on_progress(i, len(groups), group[0].name)
            kl, error = self._try(dict.fromkeys(group, FIRST))
            for tensor in group:
                self._ratios[tensor.name] = [kl / error] if error else []
                if len(group) == 1:
                    self._measured[tensor.name, FIRST] = kl

    def _groups(self) -> list[list[SourceTensor]]:
        """What is tried at once, so that it takes half of the time at most."""
        trials, n_layers = self._trials, 1
        allowed = int(0.5 * self._seconds * _MULTIPLIED / (self._n_weights * len(trials.tensors)))
        if allowed < trials.n_tokens:
            n_layers = max(1, math.ceil(FEWEST_TOKENS / max(allowed, 1)))
            trials.shorten(max(allowed * n_layers, FEWEST_TOKENS))
        self.one_by_one = n_layers == 1
        return list(_neighbours(trials.tensors, n_layers))

    def _try(self, types: Mapping[SourceTensor, int]) -> tuple[float, float]:
        self._left -= self._cost(types)
        return self._trials.divergence(types)

    def _cost(self, types: Mapping[SourceTensor, int]) -> float:
        quantised = sum(tensor.weights for tensor, kind in types.items() if kind != FIRST)
        return self._trials.n_tokens * self._n_weights / _MULTIPLIED + quantised / _QUANTISED

    def of(self, tensor: SourceTensor, kind: int) -> float:
        """Measured, or foretold."""
        if kind == tensor.type:
            return 0.0
        known = self._measured.get((tensor.name, kind))
        return known if known is not None else self.sensitivity(tensor.name) * self._errors[tensor.name, kind]

    def sensitivity(self, name: str) -> float:
        """Nats a token by relative squared error. Of what no graph uses it is the median."""
        ratios = [ratio for ratio in self._ratios.get(name, []) if ratio > 0]
        if ratios:
            return math.exp(sum(map(math.log, ratios)) / len(ratios))
        every = sorted(self.sensitivity(other) for other, found in self._ratios.items() if any(found))
        return every[len(every) // 2] if every else 1.0

    def measure(self, types: Mapping[SourceTensor, int], on_progress: Progress | None = None) -> bool:
        """Measure what is only foretold, as far as it can be afforded, the worst first. Whether anything was."""
        unknown = [
            (tensor, kind)
            for tensor, kind in types.items()
            if kind != tensor.type and (tensor.name, kind) not in self._measured and tensor in self._trials.tensors
        ]
        unknown.sort(key=lambda pair: -self.of(*pair))
        n = 0
        for i, (tensor, kind) in enumerate(unknown):
            if not self._affords({tensor: kind}):
                continue
            if on_progress is not None:
                on_progress(i, len(unknown), tensor.name)
            kl, error = self._try({tensor: kind})
            self._measured[tensor.name, kind] = kl
            if error:
                self._ratios[tensor.name].append(kl / error)
            n += 1
        return n > 0

    def together(self, types: Mapping[SourceTensor, int]) -> float | None:
        """Measured with all tensors in their types at once; None where that cannot be afforded."""
        changed = {tensor: kind for tensor, kind in types.items() if kind != tensor.type}
        changed = {tensor: kind for tensor, kind in changed.items() if tensor in self._trials.tensors}
        return self._try(changed)[0] if self._affords(changed) else None

    def _affords(self, types: Mapping[SourceTensor, int]) -> bool:
        return self.one_by_one and self._cost(types) <= self._left


def _neighbours(tensors: Sequence[SourceTensor], n_layers: int) -> Iterator[list[SourceTensor]]:
    """Tensors of one kind from so many layers that follow each other."""
    kinds: dict[str, list[SourceTensor]] = {}
    for tensor in sorted(tensors, key=lambda tensor: tensor.layer or 0):
        kinds.setdefault(tensor.kind, []).append(tensor)
    for alike in kinds.values():
        for start in range(0, len(alike), n_layers):
            yield alike[start : start + n_layers]
