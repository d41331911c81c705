"""Speed and memory of models, as llama-bench measures them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llamacli import signals
from llamacli.engine import native
from llamacli.engine.bench import Runner
from llamacli.engine.context import Context
from llamacli.engine.model import Model
from llamacli.engine.threads import others_run, physical_cores
from llamacli.engine.types import ContextOptions, ModelOptions
from llamacli.errors import LlamacliError, UsageError
from llamacli.models.reference import name
from llamacli.tasks.resident import forget_peak, peak


@dataclass(frozen=True)
class Request:
    """Every combination is measured: models × contexts × depths × sizes.

    `sizes`: (n_prompt, n_gen) of each test, a prompt and the generation after it; `depths`: tokens that are in the
    context before. The contexts' own size is not used. `delay`: seconds of rest before each test.
    """

    models: Sequence[ModelOptions]
    contexts: Sequence[ContextOptions]
    sizes: Sequence[tuple[int, int]]
    depths: Sequence[int] = (0,)
    repetitions: int = 5
    warmup: bool = True
    delay: float = 0


@dataclass(frozen=True)
class Warned:
    """What a person should know."""

    message: str


@dataclass(frozen=True)
class Step:
    """What is measured now: `step` of `n_step` repetitions in all are done."""

    model: str
    test: str
    step: int
    n_step: int


@dataclass(frozen=True)
class Failed:
    """A model, or one of its tests, that could not be run."""

    model: str
    test: str | None
    error: LlamacliError


@dataclass(frozen=True)
class Measured:
    """A test's result.

    `size`: bytes of the weights. `tokens_per_second` is the mean of the repetitions', `deviation` their standard
    deviation, `seconds` how long each took. `peak`: bytes of RAM that were resident at most, the mapped file among
    them; `device_memory`: bytes that came to be used on the GPUs, None without any.
    """

    model: str
    type: str
    size: int
    n_params: int
    backend: str
    n_gpu_layers: int
    n_threads: int
    n_batch: int
    n_ubatch: int
    type_k: str
    type_v: str
    flash_attn: str
    n_prompt: int
    n_gen: int
    n_depth: int
    test: str
    tokens_per_second: float
    deviation: float
    seconds: tuple[float, ...]
    peak: int | None
    device_memory: int | None


Event = Warned | Step | Failed | Measured


def bench(request: Request, loading: Callable[[float], None] | None = None) -> Iterator[Event]:
    """Measure: a Step before each repetition, a Measured, or a Failed, for each test.

    A signal, where it is deferred, ends it: tests that are finished stay. Raises UsageError where there is nothing to
    measure.
    """
    tests = [
        _Test(replace(context, n_ctx=n_depth + sum(size), swa_full=False), n_depth, *size)
        for context in request.contexts
        for n_depth in request.depths
        for size in request.sizes
        if any(size)
    ]
    if not tests:
        raise UsageError("nothing to measure", hint="-p 512 reads a prompt, -n 128 writes, -pg 512,128 does both")
    if others_run():
        yield Warned("other processes use the processor: the figures will be lower than this machine's")
    for i, options in enumerate(request.models):
        before = _device_memory()
        try:
            model = Model(options, context=max((test.context for test in tests), key=_n_ctx), progress=loading)
        except LlamacliError as error:
            yield Failed(name(options.path), None, error)
            continue
        with model:
            course = _Course(request, name(options.path), model, before)
            for j, test in enumerate(tests, i * len(tests)):
                yield from course.measure(test, j, len(request.models) * len(tests))
                if signals.flag[0]:
                    return


@dataclass(frozen=True)
class _Test:
    context: ContextOptions
    n_depth: int
    n_prompt: int
    n_gen: int

    @property
    def label(self) -> str:
        """As llama-bench names it: pp512, tg128, pp512+tg128, tg128 @ d4096."""
        parts = [f"{kind}{n}" for kind, n in (("pp", self.n_prompt), ("tg", self.n_gen)) if n]
        return "+".join(parts) + (f" @ d{self.n_depth}" if self.n_depth else "")


def _n_ctx(context: ContextOptions) -> int:
    return context.n_ctx


class _Interrupted(Exception):
    """A signal came."""


class _Course:
    """A model's tests, one after the other."""

    def __init__(self, request: Request, shown: str, model: Model, device_memory: int) -> None:
        """`device_memory`: bytes that were in use before it was loaded."""
        self._request, self._name, self._model, self._before = request, shown, model, device_memory
        self._state: tuple[int, Any] = (0, None)  # the KV cache at the last depth

    def measure(self, test: _Test, i: int, n: int) -> Iterator[Event]:
        """`i` of `n` tests in all are done."""
        repetitions, samples = self._request.repetitions, list[float]()
        try:
            forget_peak()
            with Context(self._model, test.context) as context:
                runner = Runner(context)
                time.sleep(self._request.delay)
                for j in range(repetitions):
                    yield Step(self._name, test.label, i * repetitions + j, n * repetitions)
                    if j == 0 and self._request.warmup:
                        self._warm_up(runner, test)
                    runner.clear()
                    self._fill(context, runner, test.n_depth)
                    samples.append(_finished(runner.timed(test.n_prompt, test.n_gen)))
                yield self._result(test, samples)
        except _Interrupted:
            return
        except LlamacliError as error:
            yield Failed(self._name, test.label, error)

    def _warm_up(self, runner: Runner, test: _Test) -> None:
        """The whole prompt, and one token: memory is touched for the first time."""
        runner.clear()
        _finished(runner.timed(test.n_prompt, min(test.n_gen, 1)))

    def _fill(self, context: Context, runner: Runner, n_depth: int) -> None:
        """So many tokens into the context: computed once, then restored where that can be done."""
        if n_depth == 0 or (self._state[0] == n_depth and context.restore(self._state[1])):
            return
        runner.clear()
        _finished(runner.timed(n_depth, 0))
        self._state = n_depth, context.state()

    def _result(self, test: _Test, samples: list[float]) -> Measured:
        options, speeds = test.context, [(test.n_prompt + test.n_gen) / seconds for seconds in samples]
        backends = dict.fromkeys(device.backend for device in native.devices() if device.backend != "CPU")
        gpus = [device for device in native.devices() if device.kind in ("gpu", "igpu")]
        return Measured(
            model=self._name,
            type=self._model.description,
            size=self._model.n_bytes,
            n_params=self._model.n_params,
            backend=",".join(backends) or "CPU",
            n_gpu_layers=self._model.n_gpu_layers,
            n_threads=options.n_threads or physical_cores(),
            n_batch=options.n_batch,
            n_ubatch=options.n_ubatch,
            type_k=options.type_k,
            type_v=options.type_v,
            flash_attn=options.flash_attn,
            n_prompt=test.n_prompt,
            n_gen=test.n_gen,
            n_depth=test.n_depth,
            test=test.label,
            tokens_per_second=statistics.fmean(speeds),
            deviation=statistics.stdev(speeds) if len(speeds) > 1 else 0.0,
            seconds=tuple(samples),
            peak=peak(),
            device_memory=_device_memory() - self._before if gpus else None,
        )


def _finished(seconds: float | None) -> float:
    if seconds is None:
        raise _Interrupted
    return seconds


def _device_memory() -> int:
    """Bytes in use on all GPUs, other programs' among them."""
    gpus = [device for device in native.devices() if device.kind in ("gpu", "igpu")]
    return sum(device.memory_total - device.memory_free for device in gpus)
