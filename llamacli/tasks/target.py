"""A type for each tensor, so that the file is at most so large and the model is as good as it can be.

What each type of each tensor costs is measured or foretold as KL divergence (`damage`); costs add up, and which types
to take is a knapsack (`knapsack`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from llamacli import signals
from llamacli.engine import native, quant_error
from llamacli.engine.threads import logical_cores
from llamacli.engine.types import ContextOptions, ModelOptions
from llamacli.errors import OutOfMemory, UsageError
from llamacli.models.ggml_types import GGML_TYPES, type_name
from llamacli.tasks import calibration, quantize
from llamacli.tasks import quantize_checks as checks
from llamacli.tasks.damage import ROUNDS, SECONDS, Damages
from llamacli.tasks.knapsack import Option, solve
from llamacli.tasks.quantize_plan import Plan, headers
from llamacli.tasks.quantize_request import QuantizeOptions
from llamacli.tasks.quantize_sizes import padded
from llamacli.tasks.quantize_types import TENSOR_TYPES, QuantType, quant_type
from llamacli.tasks.source_weights import SourceTensor, matrices
from llamacli.tasks.trials import Trials
from llamacli.units import size as size_text

#: Types that a tensor can be given. Those for models that were trained in them (ternary ones, 4-bit floats) are not
#: among them: on other models' weights they lose more than what they save.
_NAMES = """
    IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S Q2_K IQ3_XXS IQ3_S Q3_K IQ4_XS IQ4_NL Q4_0 Q4_K Q4_1 Q5_0 Q5_K Q5_1 Q6_K Q8_0 BF16
    F16
"""
CANDIDATES = tuple(TENSOR_TYPES[name] for name in _NAMES.split())
_FLOATS = tuple(TENSOR_TYPES[name] for name in ("F32", "F16", "BF16"))
#: Precise enough to be quantised again.
_PRECISE = (*_FLOATS, TENSOR_TYPES["Q8_0"])
#: Not without an importance matrix. llama.cpp refuses most of these then, or would make garbage of the tensor. With the
#: others it looks after the large weights only, which goes wrong on some texts: IQ4_XS cost `tiny` up to 12 times what
#: Q4_K cost, and on other texts the same.
_NEED_IMPORTANCE = tuple(kind for name, kind in TENSOR_TYPES.items() if name.startswith("IQ"))
#: A type with less than this share of the bits that there are for a weight is not tried, unless there is no other way.
_LOWEST_SHARE = 0.6
#: Weights of a tensor whose error is measured, in rows that are spread over it.
_SAMPLE = 1 << 18
#: What the file's metadata call it: the nearest of these by bits per weight.
_LABELS = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0")

#: What is measured ("errors" of types, "tensors", the "choice"), how far, of how much, and the tensor whose turn it is.
Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Target:
    """How large the file may be: bytes, or bits for each weight, metadata not counted."""

    size: int | None = None
    bits_per_weight: float | None = None


@dataclass(frozen=True)
class Chosen:
    """A tensor and its type. `error`: relative and squared; `damage`: KL divergence in nats a token."""

    name: str
    kind: str
    layer: int | None
    weights: int
    type_before: str
    type: str
    bytes: int
    error: float
    damage: float


@dataclass(frozen=True)
class Choice:
    """`size` of `target_size` bytes are used. `kind` is what the metadata call it; with `options` it makes the file.

    `damage`, in nats a token, is the sum of the tensors'; `measured` that of all at once, where it could be afforded.
    They hold for the `tokens` of `text` that were read, in so many `passes`; `text` None: what the model itself wrote.
    """

    kind: QuantType
    options: QuantizeOptions
    target_size: int
    size: int
    bits_per_weight: float
    damage: float
    measured: float | None
    tensors: tuple[Chosen, ...]
    text: str | None
    tokens: int
    passes: int
    seconds: float

    def file_text(self) -> str:
        """A --tensor-type-file, for llama-quantize too."""
        return "".join(f"{pattern(tensor.name)}={tensor.type.lower()}\n" for tensor in self.tensors)


def pattern(name: str) -> str:
    r"""A regular expression of ECMAScript that matches this name only.

    llama-quantize makes it lower case, ends it at the first "=" and a file's entry at white space: such characters are
    written as \xHH.
    """
    return "^" + "".join(_escaped(byte) for byte in name.encode("utf-8", "surrogateescape")) + "$"


def _escaped(byte: int) -> str:
    character = chr(byte)
    if character == ".":
        return r"\."
    plain = character.isascii() and (character.islower() or character.isdigit() or character in "_-/:")
    return character if plain else f"\\x{byte:02x}"


def choose(
    source: Path,
    target: Target,
    options: QuantizeOptions,
    *,
    model: ModelOptions | None = None,
    text: tuple[str, str] | None = None,
    seconds: float = SECONDS,
    on_progress: Progress | None = None,
) -> Choice:
    """The types of `options` stay: patterns, the output's, and so on. `model`: how it is loaded to be measured.

    `text`: a name and a text to measure on; without, what the model itself writes. `seconds`: what trials may take, see
    `damage`. Raises UsageError where the target
    cannot be met, OutOfMemory where the model cannot be measured, and as `quantize.plan`.
    """
    began = time.perf_counter()
    job = _Job(source, target, options)
    errors = job.errors(_stage("errors", on_progress))
    if job.n_bytes > (free := native.memory_available()) > 0:
        raise OutOfMemory(
            f"{source}: types are tried in memory: {size_text(job.n_bytes)} are needed, {size_text(free)} are free",
            hint="a smaller original (Q8_0, with --allow-requantize), or a stock type such as Q4_K_M",
        )
    context = ContextOptions(n_ctx=0, n_threads=options.n_threads)
    with Trials(model or ModelOptions(source), context, job.tensors, text[1] if text else None) as trials:
        damages = Damages(trials, errors, seconds)
        damages.try_all(_stage("tensors", on_progress))
        types = job.solved(damages)
        for _ in range(ROUNDS):
            if not damages.measure(types, _stage("choice", on_progress)):
                break
            types = job.solved(damages)
        together = damages.together(types)
        tokens, passes = trials.n_tokens, trials.passes
    chosen = job.chosen(types, errors, damages)
    patterns = tuple((pattern(tensor.name), TENSOR_TYPES[tensor.type]) for tensor in chosen)
    options = replace(options, tensor_types=(*options.tensor_types, *patterns))
    planned = quantize.plan(source, job.label, options)
    return Choice(
        kind=job.label,
        options=options,
        target_size=job.target_size,
        size=planned.size,
        bits_per_weight=planned.bits_per_weight,
        damage=sum(tensor.damage for tensor in chosen),
        measured=together,
        tensors=chosen,
        text=text[0] if text else None,
        tokens=tokens,
        passes=passes,
        seconds=time.perf_counter() - began,
    )


def _stage(what: str, on_progress: Progress | None) -> Callable[[int, int, str], None] | None:
    if on_progress is None:
        return None
    return lambda done, of, name: on_progress(what, done, of, name)


class _Job:
    """A model's tensors whose type is free, and the room that there is for them."""

    def __init__(self, source: Path, target: Target, options: QuantizeOptions) -> None:
        self.source, self.options = source, options
        if options.prune_layers:
            raise UsageError(
                "--prune-layers makes another model, whose tensors cannot be measured yet",
                hint="prune first (COPY --prune-layers), then choose types for the pruned file",
            )
        parts = headers(source)
        # The model, and three times predictions: the original's, those of a trial, and where llama.cpp computes them.
        n_vocab = next((tensor.n_rows for tensor in matrices(parts) if tensor.name == "token_embd.weight"), 0)
        self.n_bytes = sum(tensor.n_bytes for part in parts for tensor in part.tensors)
        self.n_bytes += 3 * 4 * n_vocab * (calibration.n_tokens(n_vocab) if n_vocab else 0)
        # What llama.cpp lets be quantised, and no option of the user's decides, follows a pattern behind all others.
        as_f32, as_f16 = (self._planned(((".", kind),)) for kind in _FLOATS[:2])
        free = {a.name for a, b in zip(as_f32.tensors, as_f16.tensors, strict=True) if a.type != b.type}
        every = [tensor for tensor in matrices(parts) if tensor.name in free]
        entries = options.imatrix.entries() if options.imatrix else {}
        self.tensors = [_with_importance(tensor, entries) for tensor in every if tensor.type in _PRECISE]
        if not self.tensors:
            raise UsageError(f"{source} has no tensors to choose types for", hint="start from an F16, BF16 or F32 file")
        self.kept = [tensor for tensor in every if tensor.type not in _PRECISE]
        mine = {tensor.name for tensor in self.tensors}
        again = checks.requantized(parts[0], [tensor for tensor in as_f16.tensors if tensor.name in mine], options)
        if (refused := as_f16.refused or again) is not None:
            raise refused
        self._weights = weights = sum(math.prod(tensor.shape) for tensor in as_f16.tensors)
        sizes = {tensor.name: tensor.bytes for tensor in as_f16.tensors}
        data = sum(sizes.values())
        self.label = _label(target, weights)
        # Everything in the file but the weights; then everything but the free tensors.
        self._overhead = sum(as_f16.sizes) - data
        self.fixed = sum(as_f16.sizes) - sum(padded(sizes[tensor.name]) for tensor in every)
        self.fixed += sum(padded(tensor.n_bytes) for tensor in self.kept)
        if target.bits_per_weight is not None:
            self.target_size = self._overhead + int(target.bits_per_weight * weights / 8)
        else:
            self.target_size = target.size or 0
        room = self.target_size - self.fixed
        self.bits = 8 * room / sum(tensor.weights for tensor in self.tensors)
        self.candidates = self._candidates()

    def _planned(self, types: tuple[tuple[str, int], ...]) -> Plan:
        options = replace(self.options, tensor_types=(*self.options.tensor_types, *types), allow_requantize=True)
        return Plan(self.source, quant_type("Q8_0"), options)

    def _amount(self, size: int) -> str:
        """A file's size as --target-size and as --target-bpw have it."""
        return f"{size:,} bytes ({8 * max(size - self._overhead, 0) / self._weights:.2f} bits per weight)"

    def _candidates(self) -> dict[str, list[int]]:
        """Types that each tensor can have. Raises UsageError where no choice is small enough, or none is needed."""
        every = {tensor.name: _possible(tensor) for tensor in self.tensors}
        least = self.fixed + sum(min(tensor_size(t, kind) for kind in every[t.name]) for t in self.tensors)
        most = self.fixed + sum(padded(tensor.n_bytes) for tensor in self.tensors)
        if least > self.target_size:
            raise UsageError(
                f"{self.source} can have {self._amount(least)} at the least, "
                f"and {self._amount(self.target_size)} are wanted",
                hint=None
                if self.options.imatrix
                else "with an importance matrix (--calibrate TEXT, or --imatrix FILE) there are smaller types",
            )
        if most <= self.target_size:
            raise UsageError(
                f"{self.source} has {self._amount(most)} as it is, and {self._amount(self.target_size)} are allowed: "
                "nothing to do"
            )
        enough = {
            name: [kind for kind in kinds if bits(kind) >= _LOWEST_SHARE * self.bits] or kinds
            for name, kinds in every.items()
        }
        fits = self.fixed + sum(min(tensor_size(t, k) for k in enough[t.name]) for t in self.tensors)
        return enough if fits <= self.target_size else every

    def errors(self, on_progress: Callable[[int, int, str], None] | None) -> dict[tuple[str, int], float]:
        """The relative squared error of each tensor in each of its types, on a sample of its rows."""
        for kind in sorted({kind for kinds in self.candidates.values() for kind in kinds}):
            quant_error.prepare(kind)
        found: dict[tuple[str, int], float] = {}
        with ThreadPoolExecutor(self.options.n_threads or logical_cores()) as pool:
            jobs = [(tensor, pool.submit(_errors, tensor, self.candidates[tensor.name])) for tensor in self.tensors]
            try:
                for i, (tensor, job) in enumerate(jobs):
                    if on_progress is not None:
                        on_progress(i, len(jobs), tensor.name)
                    for kind, error in job.result().items():
                        found[tensor.name, kind] = error
                    signals.check()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return found

    def solved(self, damages: Damages) -> dict[SourceTensor, int]:
        """The best types that fit."""
        groups = [
            [Option(tensor_size(tensor, kind), damages.of(tensor, kind)) for kind in self.candidates[tensor.name]]
            for tensor in self.tensors
        ]
        numbers = solve(groups, self.target_size - self.fixed)
        assert numbers is not None  # _candidates saw to it
        return {t: self.candidates[t.name][i] for t, i in zip(self.tensors, numbers, strict=True)}

    def chosen(
        self, types: Mapping[SourceTensor, int], errors: Mapping[tuple[str, int], float], damages: Damages
    ) -> tuple[Chosen, ...]:
        """All tensors that are named in the file of types, those that keep theirs too."""
        free = set(self.tensors)
        return tuple(
            Chosen(
                name=tensor.name,
                kind=tensor.kind,
                layer=tensor.layer,
                weights=tensor.weights,
                type_before=type_name(tensor.type),
                type=type_name(kind := types[tensor] if tensor in free else tensor.type),
                bytes=n_bytes(tensor, kind),
                error=errors.get((tensor.name, kind), 0.0),
                damage=damages.of(tensor, kind),
            )
            for tensor in (*self.tensors, *self.kept)
        )


def _errors(tensor: SourceTensor, kinds: Sequence[int]) -> dict[int, float]:
    """Of one tensor in several types."""
    parts = list(tensor.sample(_SAMPLE))
    found = {}
    for kind in kinds:
        error = energy = 0.0
        if kind != tensor.type:
            for exact, importance in parts:
                each = quant_error.sums(exact, quant_error.round_trip(exact, kind, importance), importance)
                error, energy = error + each[0], energy + each[1]
        found[kind] = error / energy if energy else 0.0
    return found


def _with_importance(tensor: SourceTensor, entries: Mapping[str, np.ndarray]) -> SourceTensor:
    values = entries.get(tensor.name)
    if values is None or values.size != tensor.n_matrices * tensor.n_columns:
        return tensor
    return replace(tensor, importance=values.reshape(tensor.n_matrices, tensor.n_columns).astype(np.float32))


def _possible(tensor: SourceTensor) -> list[int]:
    """Its own type, and those that fit its rows and are no larger."""
    found = [
        kind
        for kind in CANDIDATES
        if tensor.n_columns % GGML_TYPES[kind].block_size == 0
        and n_bytes(tensor, kind) < tensor.n_bytes
        and (tensor.importance is not None or kind not in _NEED_IMPORTANCE)
    ]
    return [*found, tensor.type]


def bits(kind: int) -> float:
    """Bits of a weight in this type."""
    _, block_size, type_size = GGML_TYPES[kind]
    return 8 * type_size / block_size


def n_bytes(tensor: SourceTensor, kind: int) -> int:
    """Of the tensor in this type."""
    _, block_size, type_size = GGML_TYPES[kind]
    return tensor.weights // block_size * type_size


def tensor_size(tensor: SourceTensor, kind: int) -> int:
    """What the tensor takes in the file, with the padding behind it."""
    return padded(n_bytes(tensor, kind))


def _label(target: Target, weights: int) -> QuantType:
    wanted = target.bits_per_weight if target.bits_per_weight is not None else 8 * (target.size or 0) / weights
    return min((quant_type(name) for name in _LABELS), key=lambda kind: abs(kind.bits_per_weight - wanted))
