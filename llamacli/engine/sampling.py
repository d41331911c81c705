"""Sampling values → a native sampler chain, in llama.cpp's order (`common_sampler_init` in common/sampling.cpp)."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from llamacli.engine.context import Context
from llamacli.engine.model import Model
from llamacli.engine.native import C
from llamacli.engine.sampling_values import NO_SEED, canonical, wrong
from llamacli.engine.types import SAMPLER_NAMES, Sampling
from llamacli.errors import EngineError, UsageError

if TYPE_CHECKING:
    import numpy as np

#: What a GGUF may recommend: `general.sampling.<key>` → our name.
_GGUF_NAMES = {
    "temp": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
    "penalty_last_n": "repeat_last_n",
    "penalty_repeat": "repeat_penalty",
    "mirostat": "mirostat",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
}


def resolve(options: Mapping[str, Any], model: Model) -> Sampling:
    """Options that were given win, then what the GGUF recommends, then llama.cpp's defaults; the seed is drawn here.

    Raises UsageError for a value outside its range.
    """
    values = {**recommended(model.metadata), **{k: v for k, v in options.items() if v is not None}}
    sampling = replace(Sampling(), **values)
    check(sampling, n_vocab=model.n_vocab)
    return sampling if sampling.seed is not None else replace(sampling, seed=draw_seed())


def draw_seed() -> int:
    return int.from_bytes(os.urandom(8), "little") % NO_SEED


def recommended(metadata: Callable[[str], str | None]) -> dict[str, Any]:
    """The sampling values that a GGUF stores. What cannot be read or makes no sense is left out, as in llama.cpp."""
    found: dict[str, Any] = {}
    kinds: dict[str, Any] = {name: type(value) for name, value in vars(Sampling()).items()}
    for key, name in _GGUF_NAMES.items():
        text = metadata(f"general.sampling.{key}")
        try:
            value = kinds[name](float(text)) if text is not None else None
        except (ValueError, OverflowError):
            continue
        if value is not None and not wrong(name, value):
            found[name] = value
    sequence = metadata("general.sampling.sequence")
    if sequence:
        order = tuple(canonical(name) for name in sequence.split(";"))
        if all(order):
            found["samplers"] = order
    return found


def check(sampling: Sampling, *, n_vocab: int) -> None:
    """Raise UsageError with the option, the value and the range."""
    for field in fields(sampling):
        value = getattr(sampling, field.name)
        if isinstance(value, (int, float)) and (said := wrong(field.name, value)):
            raise UsageError(f"--{field.name.replace('_', '-')} {value}: {said}")
    for token, bias in sampling.logit_bias:
        if not bias < 1e9:
            raise UsageError(f"--logit-bias {token}+{bias}: too much; every other token would be impossible")
        if not 0 <= token < n_vocab:
            raise UsageError(f"--logit-bias: no token {token}; this vocabulary has 0 … {n_vocab - 1}")


class Sampler:
    """A sampler chain with its state (penalties, random numbers). Close it when done."""

    def __init__(self, model: Model, sampling: Sampling, seed: int, n_ctx: int) -> None:
        """`n_ctx`: no penalty needs to look back farther."""
        sampling = replace(
            sampling,
            repeat_last_n=min(sampling.repeat_last_n, n_ctx),
            dry_penalty_last_n=min(sampling.dry_penalty_last_n, n_ctx),
        )
        params = C.llama_sampler_chain_default_params()
        params.no_perf = True
        self.chain = C.llama_sampler_chain_init(params)
        for part in _parts(model, sampling, seed):
            C.llama_sampler_chain_add(self.chain, part)
        self._candidates: _Candidates | None = None
        penalised = (sampling.repeat_penalty, sampling.presence_penalty, sampling.frequency_penalty) != (1.0, 0.0, 0.0)
        adaptive = sampling.adaptive_target >= 0 or "adaptive_p" in sampling.samplers
        self._remembers = penalised or adaptive or sampling.dry_multiplier > 0
        # Only the tail of a prompt can be penalised.
        self._window = max(sampling.repeat_last_n, sampling.dry_penalty_last_n if sampling.dry_multiplier else 0)

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        if self.chain:
            C.llama_sampler_free(self.chain)
            self.chain = None

    def accept_prompt(self, tokens: Sequence[int]) -> None:
        """Let penalties see the prompt."""
        for token in tokens[-self._window :] if self._window else ():
            C.llama_sampler_accept(self.chain, token)

    def sample(self, context: Context, row: int = -1) -> int:
        """Draw from the logits of row `row` (-1: the last one) and accept the token."""
        return int(C.llama_sampler_sample(self.chain, context.handle, row))

    def sample_within(
        self, context: Context, row: int, fits: Callable[[int], bool], fitting: Callable[[], np.ndarray]
    ) -> int:
        """As `sample`, but a token that `fits`; `fitting` gives all those that do.

        As llama.cpp does it (`common_sampler_sample`): the chain draws from all tokens, and only if that one does not
        fit, from the fitting ones alone. With temperature alone this is the model's distribution over the fitting
        tokens; samplers that cut off (top_k, top_p, min_p) do so before the shape at the first try.
        """
        from llamacli.engine.logits import rows

        if self._candidates is None:
            self._candidates = _Candidates(context.model.n_vocab)
        logits = rows(context, row, 1)[0]
        # A chain that remembers its tokens must not be told of one that does not fit.
        token = self._candidates.draw(self.chain, logits) if self._remembers else self.sample(context, row)
        if not fits(token):
            token = self._candidates.draw(self.chain, logits, fitting())
        if self._remembers:
            C.llama_sampler_accept(self.chain, token)
        return token


class _Candidates:
    """An array of llama_token_data, filled through numpy. Samplers sort it, so each draw fills it again."""

    def __init__(self, n_vocab: int) -> None:
        import numpy as np

        self._data = np.zeros(n_vocab, [("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        self._all = np.arange(n_vocab, dtype=np.int32)
        self._pointer = ctypes.cast(self._data.ctypes.data, ctypes.POINTER(C.llama_token_data))

    def draw(self, chain: Any, logits: np.ndarray, tokens: np.ndarray | None = None) -> int:
        """What the chain picks of all tokens, or of these; the chain is not told."""
        n = len(self._all if tokens is None else tokens)
        self._data["id"][:n] = self._all if tokens is None else tokens
        self._data["logit"][:n] = logits if tokens is None else logits[tokens]
        array = C.llama_token_data_array(data=self._pointer, size=n, selected=-1, sorted=False)
        C.llama_sampler_apply(chain, ctypes.byref(array))
        if not 0 <= array.selected < array.size:
            raise EngineError("the sampler chain picked no token")
        return int(array.data[array.selected].id)


def _parts(model: Model, s: Sampling, seed: int) -> list[Any]:
    parts = []
    bias = _logit_bias(model, s)
    if bias is not None:
        parts.append(bias)
    if s.mirostat == 1:
        return [
            *parts,
            C.llama_sampler_init_temp(s.temp),
            C.llama_sampler_init_mirostat(model.n_vocab, seed, s.mirostat_tau, s.mirostat_eta, 100),
        ]
    if s.mirostat == 2:
        return [
            *parts,
            C.llama_sampler_init_temp(s.temp),
            C.llama_sampler_init_mirostat_v2(seed, s.mirostat_tau, s.mirostat_eta),
        ]
    order = [name for name in s.samplers if name != "adaptive_p"]
    adaptive = s.adaptive_target >= 0 or "adaptive_p" in s.samplers
    if _is_argmax(s, order) and not adaptive:
        order = [name for name in order if name in ("penalties", "dry")]
        return [*parts, *(_one(name, model, s, seed) for name in order), C.llama_sampler_init_greedy()]
    parts += [_one(name, model, s, seed) for name in order]
    if adaptive:
        return [*parts, C.llama_sampler_init_adaptive_p(s.adaptive_target, s.adaptive_decay, seed)]
    return [*parts, C.llama_sampler_init_dist(seed)]


def _is_argmax(s: Sampling, order: Sequence[str]) -> bool:
    """Whether the chain takes the most probable token after the penalties, so that nothing needs to be sorted."""
    if s.temp > 0 or s.dynatemp_range > 0 or s.xtc_probability > 0 or s.typical_p < 1 or "temperature" not in order:
        return False
    penalties = [i for i, name in enumerate(order) if name in ("penalties", "dry")]
    return penalties == list(range(len(penalties)))  # truncation before them would leave them less to choose from


def _one(name: str, model: Model, s: Sampling, seed: int) -> Any:
    match name:
        case "penalties":
            return C.llama_sampler_init_penalties(
                model.n_vocab, s.repeat_last_n, s.repeat_penalty, s.frequency_penalty, s.presence_penalty
            )
        case "dry":
            breakers = [text.encode() for text in s.dry_sequence_breakers]
            array = (ctypes.c_char_p * len(breakers))(*breakers)
            return C.llama_sampler_init_dry(
                model.vocab,
                s.dry_multiplier,
                s.dry_base,
                s.dry_allowed_length,
                s.dry_penalty_last_n,
                array,
                len(breakers),
            )
        case "top_n_sigma":
            return C.llama_sampler_init_top_n_sigma(s.top_n_sigma)
        case "top_k":
            return C.llama_sampler_init_top_k(s.top_k)
        case "typ_p":
            return C.llama_sampler_init_typical(s.typical_p, 0)
        case "top_p":
            return C.llama_sampler_init_top_p(s.top_p, 0)
        case "min_p":
            return C.llama_sampler_init_min_p(s.min_p, 0)
        case "xtc":
            return C.llama_sampler_init_xtc(s.xtc_probability, s.xtc_threshold, 0, seed)
        case "infill":
            return C.llama_sampler_init_infill(model.vocab)
        case "temperature":
            return C.llama_sampler_init_temp_ext(s.temp, s.dynatemp_range, s.dynatemp_exp)
    raise UsageError(f"no sampler {name}; there are {', '.join(SAMPLER_NAMES)}")


def _logit_bias(model: Model, s: Sampling) -> Any:
    """The user's biases, and the tokens that the vocabulary wants suppressed."""
    n = ctypes.c_int32()
    suppressed = C.llama_vocab_get_suppress_tokens(model.vocab, ctypes.byref(n))
    biases = [*s.logit_bias, *((suppressed[i], -math.inf) for i in range(n.value))]
    if not biases:
        return None
    array = (C.llama_logit_bias * len(biases))(*(C.llama_logit_bias(token, bias) for token, bias in biases))
    return C.llama_sampler_init_logit_bias(model.n_vocab, len(biases), array)
