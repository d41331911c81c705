"""What each quantisation costs: files, perplexity and divergence from the original on a text, speed. One base run."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from llamacli import signals
from llamacli.engine.types import ContextOptions, ModelOptions
from llamacli.models.gguf import read_header
from llamacli.models.quant import quant_of_file
from llamacli.models.reference import name
from llamacli.tasks import bench, perplexity, quantize
from llamacli.tasks.bench import Measured
from llamacli.tasks.chunked import Estimate, Perplexity
from llamacli.tasks.divergence import Statistic
from llamacli.tasks.files import workspace
from llamacli.tasks.quantize_request import QuantizeOptions
from llamacli.tasks.quantize_types import QuantType

#: Tokens that are read and written to measure the speed, and how often.
N_PROMPT, N_GEN, REPETITIONS = 512, 128, 3
#: Seconds until a signal is noticed while a model is quantised.
_PATIENCE = 0.05


@dataclass(frozen=True)
class Request:
    """`source` is the original; each of `targets` is made of it. `n_ctx` and `most_chunks` as for perplexity."""

    source: Path
    targets: Sequence[tuple[QuantType, Path]]
    options: QuantizeOptions
    text: perplexity.Text
    n_ctx: int | None = None
    most_chunks: int | None = None


@dataclass(frozen=True)
class Step:
    """What is done now for a model, and how much of it: `done` of `total`, which are bytes where it is quantised.

    `detail` is what is known by now, or the tensor whose turn it is.
    """

    model: str
    what: Literal["quantizing", "perplexity", "speed"]
    done: float
    total: float
    detail: str = ""


@dataclass(frozen=True)
class Warned:
    """What a person should know."""

    message: str


@dataclass(frozen=True)
class Row:
    """One model. The original is compared with nothing: its `difference`, `kld`, `kld_99` and `same_top` are None.

    `difference` is that of the perplexities, with the paired error; `same_top` in per cent. Speeds in tokens per
    second, with their standard deviation. `statistics`: all that llama-perplexity's --kl-divergence knows.
    """

    type: str
    file: Path
    size: int
    bits_per_weight: float | None
    ppl: Statistic
    difference: Statistic | None
    kld: Statistic | None
    kld_99: float | None
    same_top: Statistic | None
    prompt_speed: Statistic
    generation_speed: Statistic
    chunks: int
    n_ctx: int
    statistics: Mapping[str, Statistic] | None


def report(request: Request) -> Iterator[Step | Warned | Row]:
    """Rows, the original's first. A signal, where it is deferred, ends it: the rows that are done stay, and the files.

    Raises UsageError where a file cannot be made, before any is; StorageError where there is no room for all of them;
    and as quantize, perplexity and bench.
    """
    planned = []
    for kind, path in request.targets:
        planned.append(quantize.check(request.source, path, kind, request.options))
        for warning in planned[-1].warnings:
            yield Warned(f"{kind.name}: {warning}")
    folder = request.targets[0][1].absolute().parent
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.suppress(signals.Ended))
        # The base's predictions of each token are kept in a file: models side by side need not fit into memory.
        n_bytes = sum(each.size for each in planned)
        logits = stack.enter_context(workspace(folder, f"{request.source} report", n_bytes)) / "logits"
        base_nll = yield from _row(request, request.source, logits)
        if base_nll is None:
            return
        for kind, path in request.targets:
            yield from _quantized(request, kind, path)
            if signals.flag[0]:
                return
            yield from _row(request, path, logits, base_nll)


def _quantized(request: Request, kind: QuantType, path: Path) -> Iterator[Step]:
    """On a thread of its own, since it cannot be stopped: after a signal it is left to the end of the process."""
    events: queue.SimpleQueue[Step | Exception | None] = queue.SimpleQueue()

    def watch(done: int, total: int, name: str) -> None:
        events.put(Step(kind.name, "quantizing", done, total, name))

    def work() -> None:
        try:
            quantize.quantize(request.source, path, kind, request.options, on_progress=watch)
            events.put(None)
        except Exception as error:
            events.put(error)

    if not signals.flag[0]:
        threading.Thread(target=work, daemon=True).start()
    while not signals.flag[0]:
        try:
            event = events.get(timeout=_PATIENCE)
        except queue.Empty:
            continue
        if event is None:
            return
        if isinstance(event, Exception):
            raise event
        yield event


def _row(
    request: Request, path: Path, logits: Path, base_nll: np.ndarray | None = None
) -> Generator[Step | Warned | Row, None, np.ndarray | None]:
    """Returns how unlikely each token was; None, and no row, where a signal came before the end.

    The original, which comes without `base_nll`, leaves its predictions in `logits` for the others.
    """
    is_base = base_nll is None
    label = _label(path)
    measured: Perplexity | None = None
    for event in perplexity.perplexity(
        perplexity.Request(
            models=[ModelOptions(path)],
            texts=[request.text],
            kl_base=None if is_base else logits,
            kl_base_nll=base_nll,
            save_logits=logits if is_base else None,
            n_ctx=request.n_ctx if is_base else None,
            most_chunks=request.most_chunks,
            context=ContextOptions(n_ctx=0, n_threads=request.options.n_threads),
        )
    ):
        if isinstance(event, Estimate):
            yield Step(label, "perplexity", event.chunk, event.n_chunk, f"{event.ppl:.4f}")
        elif isinstance(event, Perplexity):
            measured = event
    if measured is None or not measured.complete:
        return None
    speeds: list[Measured] = []
    for found in _speeds(request, path):
        if isinstance(found, bench.Step):
            yield Step(label, "speed", found.step, found.n_step)
        elif isinstance(found, bench.Warned) and is_base:  # once
            yield Warned(found.message)
        elif isinstance(found, bench.Failed):
            raise found.error
        elif isinstance(found, Measured):
            speeds.append(found)
    if len(speeds) < 2:
        return None
    yield _of(path, measured, speeds)
    return measured.token_nll


def _label(path: Path) -> str:
    """Its type, if it is known."""
    return quant_of_file(read_header(path)) or name(path)


def _speeds(request: Request, path: Path) -> Iterator[bench.Event]:
    context = ContextOptions(n_ctx=0, n_threads=request.options.n_threads)
    return bench.bench(
        bench.Request(
            models=[ModelOptions(path)],
            contexts=[context],
            sizes=[(N_PROMPT, 0), (0, N_GEN)],
            repetitions=REPETITIONS,
        )
    )


def _of(path: Path, measured: Perplexity, speeds: Sequence[Measured]) -> Row:
    statistics = measured.statistics or {}
    return Row(
        type=_label(path),
        file=path,
        size=measured.size,
        bits_per_weight=measured.bits_per_weight,
        ppl=Statistic(measured.ppl, measured.ppl_error),
        difference=statistics.get("Mean PPL(Q)-PPL(base)"),
        kld=statistics.get("Mean KLD"),
        kld_99=statistics["99.0% KLD"].value if statistics else None,
        same_top=statistics.get("Same top p"),
        prompt_speed=Statistic(speeds[0].tokens_per_second, speeds[0].deviation),
        generation_speed=Statistic(speeds[1].tokens_per_second, speeds[1].deviation),
        chunks=measured.chunks,
        n_ctx=measured.n_ctx,
        statistics=measured.statistics,
    )
