"""How far a model's predictions are from another's: the statistics of llama-perplexity's --kl-divergence.

Its sums and its names; Q is the model, base the other one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llamacli.engine.logits import BLOCK, in_parallel

#: Values of one chunk's tokens.
Values = np.ndarray


@dataclass(frozen=True)
class Statistic:
    """A value and its standard error, where it has one."""

    value: float
    error: float | None = None


@dataclass(frozen=True)
class Running:
    """The estimates so far, each with its standard error. Fractions, not per cent."""

    ln_ratio: Statistic  # ln(PPL(Q)/PPL(base))
    kld: Statistic
    dp_rms: Statistic
    same_top: Statistic


class Base(Protocol):
    """The base's predictions of one chunk. `nll`: of the tokens that came, float64 (n,)."""

    nll: Values

    def compare(
        self, i: int, j: int, logits: np.ndarray, log_sum_exp: Values, log_p: np.ndarray, difference: np.ndarray
    ) -> np.ndarray:
        """Rows i … j: ln p into `log_p`, ln p - ln q into `difference`; the base's likeliest token of each."""
        ...

    def drop_rare(self, log_p: np.ndarray) -> np.ndarray | None:
        """Which tokens count, or None for all."""
        ...


class Exact:
    """The base as another model's logits. A model compared with itself differs by exactly 0."""

    def __init__(self, logits: np.ndarray, log_sum_exp: Values, nll: Values) -> None:
        self.nll = nll
        self._logits, self._log_sum_exp = logits, log_sum_exp

    def compare(
        self, i: int, j: int, logits: np.ndarray, log_sum_exp: Values, log_p: np.ndarray, difference: np.ndarray
    ) -> np.ndarray:
        base = self._logits[i:j]
        np.subtract(base, logits[i:j], out=difference)
        difference += (log_sum_exp[i:j] - self._log_sum_exp[i:j]).astype(np.float32)[:, None]
        np.subtract(base, self._log_sum_exp[i:j].astype(np.float32)[:, None], out=log_p)
        return np.asarray(base.argmax(1))

    def drop_rare(self, log_p: np.ndarray) -> np.ndarray | None:
        return None


class Stored:
    """The base as a file's 16-bit numbers (`logits_file`)."""

    def __init__(self, q: np.ndarray, scale: np.ndarray, least: np.ndarray, targets: np.ndarray) -> None:
        chosen = q[np.arange(len(targets)), targets]
        self.nll = -(scale * chosen + least).astype(np.float64)
        self._q, self._scale, self._least = q, scale, least

    def compare(
        self, i: int, j: int, logits: np.ndarray, log_sum_exp: Values, log_p: np.ndarray, difference: np.ndarray
    ) -> np.ndarray:
        np.multiply(self._q[i:j], self._scale[i:j, None], out=log_p)
        log_p += self._least[i:j, None]
        np.subtract(log_p, logits[i:j], out=difference)
        difference += log_sum_exp[i:j].astype(np.float32)[:, None]
        return np.asarray(log_p.argmax(1))

    def drop_rare(self, log_p: np.ndarray) -> np.ndarray | None:
        return log_p > -16  # below it the file holds no more than "less"


class Divergence:
    """Sums over the chunks so far."""

    def __init__(self) -> None:
        self.count = 0
        self._q = self._q2 = self._base = self._base2 = self._q_base = 0.0  # of the nll
        self._kld = self._kld2 = 0.0
        self._dp = self._dp2 = self._dp4 = 0.0
        self._same = 0
        self._klds: list[np.ndarray] = []
        self._dps: list[np.ndarray] = []

    def add(self, logits: np.ndarray, log_sum_exp: Values, nll: Values, base: Base) -> None:
        """A chunk: Q's rows (n, n_vocab), log Σ exp of them, and the nll of the tokens that came."""
        n, n_vocab = logits.shape
        kld, same = np.empty(n), np.empty(n, bool)

        def part(start: int, stop: int) -> None:
            step = max(BLOCK // n_vocab, 1)
            p, d = (np.empty((min(step, stop - start), n_vocab), np.float32) for _ in range(2))
            for i in range(start, stop, step):
                j = min(i + step, stop)
                probability, difference = p[: j - i], d[: j - i]
                likeliest = base.compare(i, j, logits, log_sum_exp, probability, difference)
                same[i:j] = logits[i:j].argmax(1) == likeliest
                counted = base.drop_rare(probability)
                np.exp(probability, out=probability)
                if counted is not None:
                    probability *= counted
                difference *= probability
                kld[i:j] = difference.sum(1, dtype=np.float64)

        in_parallel(part, n, 4 * n_vocab)
        dp = np.exp(-nll) - np.exp(-base.nll)
        self.count += n
        self._q += float(nll.sum())
        self._q2 += float((nll * nll).sum())
        self._base += float(base.nll.sum())
        self._base2 += float((base.nll * base.nll).sum())
        self._q_base += float((nll * base.nll).sum())
        self._kld += float(kld.sum())
        self._kld2 += float((kld * kld).sum())
        self._dp += float(dp.sum())
        self._dp2 += float((dp**2).sum())
        self._dp4 += float((dp**4).sum())
        self._same += int(same.sum())
        self._klds.append(kld.astype(np.float32))
        self._dps.append(dp.astype(np.float32))

    def running(self) -> Running:
        q, base = self._mean(self._q, self._q2), self._mean(self._base, self._base2)
        return Running(
            Statistic(q.value - base.value, self._ratio_error(q, base)),
            self._mean(self._kld, self._kld2),
            self._dp_rms(),
            self._same_top(),
        )

    def statistics(self) -> dict[str, Statistic]:
        """By llama-perplexity's names, in its order and units: what it prints with % is in per cent."""
        q, base = self._mean(self._q, self._q2), self._mean(self._base, self._base2)
        ppl, ppl_base = math.exp(q.value), math.exp(base.value)
        ppl_error, base_error = ppl * (q.error or 0), ppl_base * (base.error or 0)
        covariance = self._covariance()
        ratio_error = self._ratio_error(q, base)
        ratio = math.exp(q.value - base.value)
        errors = (q.error or 0) * (base.error or 0)
        difference_error = ppl_error**2 + base_error**2 - 2 * ppl * ppl_base * covariance
        found = {
            "Mean PPL(Q)": Statistic(ppl, ppl_error),
            "Mean PPL(base)": Statistic(ppl_base, base_error),
            "Cor(ln(PPL(Q)), ln(PPL(base)))": Statistic(100 * covariance / errors if errors else math.nan),
            "Mean ln(PPL(Q)/PPL(base))": Statistic(q.value - base.value, ratio_error),
            "Mean PPL(Q)/PPL(base)": Statistic(ratio, ratio * ratio_error),
            "Mean PPL(Q)-PPL(base)": Statistic(ppl - ppl_base, math.sqrt(max(difference_error, 0))),
            "Mean KLD": self._mean(self._kld, self._kld2),
        }
        shares = [99.9, 99, 95, 90, 50, 10, 5, 1, 0.1]
        found |= _distribution("KLD", np.sort(np.concatenate(self._klds)), shares, 1)
        found["Mean Δp"] = _per_cent(self._mean(self._dp, self._dp2))
        shares = [99.9, 99, 95, 90, 75, 50, 25, 10, 5, 1, 0.1]
        found |= _distribution("Δp", np.sort(np.concatenate(self._dps)), shares, 100)
        return {**found, "RMS Δp": _per_cent(self._dp_rms()), "Same top p": _per_cent(self._same_top())}

    def _mean(self, total: float, total2: float) -> Statistic:
        mean = total / self.count
        variance = total2 / self.count - mean * mean
        return Statistic(mean, math.sqrt(variance / (self.count - 1)) if variance > 0 and self.count > 10 else 0.0)

    def _covariance(self) -> float:
        """Of the two means."""
        if self.count < 10:
            return 0.0
        n = self.count
        return (self._q_base / n - (self._q / n) * (self._base / n)) / (n - 1)

    def _ratio_error(self, q: Statistic, base: Statistic) -> float:
        """Both models read the same tokens, so their errors are largely the same and cancel."""
        square = (q.error or 0) ** 2 + (base.error or 0) ** 2 - 2 * self._covariance()
        return math.sqrt(max(square, 0))

    def _dp_rms(self) -> Statistic:
        square = self._mean(self._dp2, self._dp4)
        rms = math.sqrt(square.value)
        return Statistic(rms, 0.5 / rms * (square.error or 0) if rms else 0.0)

    def _same_top(self) -> Statistic:
        share = self._same / self.count
        return Statistic(share, math.sqrt(share * (1 - share) / (self.count - 1)) if self.count > 1 else 0.0)


def _per_cent(statistic: Statistic) -> Statistic:
    return Statistic(100 * statistic.value, None if statistic.error is None else 100 * statistic.error)


def _distribution(what: str, values: np.ndarray, shares: Sequence[float], unit: float) -> dict[str, Statistic]:
    """`values`: sorted, float32."""
    found = {f"Maximum {what}": Statistic(unit * float(values[-1]))}
    for share in shares:
        name = f"Median {what}" if share == 50 else f"{share:.1f}% {what}"
        found[name] = Statistic(unit * (_median(values) if share == 50 else _percentile(values, share / 100)))
    found[f"Minimum {what}"] = Statistic(unit * float(values[0]))
    return found


def _median(values: np.ndarray) -> float:
    middle = len(values) // 2
    return float(values[middle]) if len(values) % 2 else float(0.5 * (values[middle] + values[middle - 1]))


def _percentile(values: np.ndarray, share: float) -> float:
    """Between two values by the distance to each; the place is a float32, as there."""
    place = np.float32(share) * np.float32(len(values) - 1)
    i = int(place)
    part = place - np.float32(i)
    return float((1 - part) * values[i] + part * values[min(i + 1, len(values) - 1)])
