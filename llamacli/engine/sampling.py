"""Sampling values → a native sampler chain, in llama.cpp's order (`common_sampler_init` in common/sampling.cpp)."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from llamacli.engine.context import Context
from llamacli.engine.model import Model
from llamacli.engine.native import C
from llamacli.engine.types import SAMPLER_NAMES, Sampling
from llamacli.errors import UsageError

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
#: name → (its meaning in an error, test)
_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "temp": ("0 or more", lambda v: v >= 0),
    "top_p": ("between 0 and 1", lambda v: 0 <= v <= 1),
    "min_p": ("between 0 and 1", lambda v: 0 <= v <= 1),
    "typical_p": ("between 0 and 1", lambda v: 0 <= v <= 1),
    "repeat_penalty": ("more than 0", lambda v: v > 0 and math.isfinite(1 / v)),
    "repeat_last_n": ("0 (off) or more", lambda v: v >= 0),
    "dry_multiplier": ("0 (off) or more", lambda v: v >= 0),
    "dry_base": ("1 or more", lambda v: v >= 1),
    "dry_allowed_length": ("0 or more", lambda v: v >= 0),
    "dry_penalty_last_n": ("0 (off) or more", lambda v: v >= 0),
    "xtc_probability": ("between 0 and 1", lambda v: 0 <= v <= 1),
    "xtc_threshold": ("between 0 and 1", lambda v: 0 <= v <= 1),
    "mirostat": ("0 (off), 1 or 2", lambda v: v in (0, 1, 2)),
    "mirostat_tau": ("more than 0", lambda v: v > 0),
    "mirostat_eta": ("more than 0", lambda v: v > 0),
    "dynatemp_range": ("0 (off) or more", lambda v: v >= 0),
    "dynatemp_exp": ("more than 0", lambda v: v > 0),
    "adaptive_target": ("at most 1; negative is off", lambda v: v <= 1),
    "adaptive_decay": ("between 0 and 0.99", lambda v: 0 <= v <= 0.99),
}
NO_SEED = 0xFFFFFFFF  # LLAMA_DEFAULT_SEED: the library would draw one and not tell


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
        if value is not None and math.isfinite(value) and (name not in _RANGES or _RANGES[name][1](value)):
            found[name] = value
    sequence = metadata("general.sampling.sequence")
    if sequence:
        order = tuple(canonical(name) for name in sequence.split(";"))
        if all(order):
            found["samplers"] = order
    return found


def canonical(name: str) -> str:
    """llama.cpp's own name of a sampler from any of its spellings ("top-k", "topk", "temp"); "" for an unknown one."""
    plain = name.strip().lower().replace("-", "").replace("_", "")
    aliases = {"nucleus": "top_p", "temp": "temperature", "typ": "typ_p", "typicalp": "typ_p"}
    names = {known.replace("_", ""): known for known in SAMPLER_NAMES}
    return aliases.get(plain) or names.get(plain, "")


def check(sampling: Sampling, *, n_vocab: int) -> None:
    """Raise UsageError with the option, the value and the range."""
    for field in fields(sampling):
        value = getattr(sampling, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"--{field.name.replace('_', '-')} {value}: not a number to sample with")
        meaning, test = _RANGES.get(field.name, ("", lambda v: True))
        if isinstance(value, (int, float)) and not test(value):
            raise UsageError(f"--{field.name.replace('_', '-')} {value}: it must be {meaning}")
    if sampling.seed is not None and not 0 <= sampling.seed < NO_SEED:
        raise UsageError(f"--seed {sampling.seed}: it must be between 0 and {NO_SEED - 1}; -1 draws one")
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
