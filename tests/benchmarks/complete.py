"""`llamacli complete` beside llama.cpp's llama-completion: speed, whole processes, memory, help, the loop's own cost.

    LLAMA_CPP_BIN=…/bin complete.py                                everything, 9 pairs
    LLAMA_CPP_BIN=…/bin complete.py -n 3 --only process            one section, 3 pairs
    complete.py --only help --only loop --json                     what needs no tool of llama.cpp's

generation  tokens per second after the prompt. Ours is the whole loop (decode, sample, text); llama-completion's "eval"
            is its native decodes alone, "loop" adds what it says of sampling and the rest.
process     wall time and peak resident memory of whole processes that write 32 tokens.
help        wall time of --help.
loop        what one token costs beside its native decode, early and late in a text, through the command itself.

Both sides get the same model, prompt, seed, samplers, -t and -c, and may not end a text early. A ratio is the first
column ÷ the second, for each pair. See `side_by_side.py` for the models and the tools.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import side_by_side as bench
from side_by_side import MB, Row, Section

PROMPT = "Once upon a time there was a machine that told stories"
N_CTX = 512
#: name, model, tokens to write
GENERATED = [("1.1B Q4_K_M", "b1b", 64), ("19.5M Q4_K_M", "b19m", 256)]
SAMPLINGS = {"temp 0": ["--temp", "0"], "default samplers": []}


@dataclass(frozen=True)
class Job:
    """What both programs are asked for."""

    model: Path
    n_tokens: int
    threads: int
    sampling: tuple[str, ...] = ()
    n_ctx: int = N_CTX
    tool_args: tuple[str, ...] = ()

    def common(self) -> list[str]:
        size = ["-n", str(self.n_tokens), "-c", str(self.n_ctx)]
        return ["-m", str(self.model), "-p", PROMPT, *size, "-t", str(self.threads), "--seed", "1", *self.sampling]

    def ours(self, end_tokens: list[int]) -> list[str]:
        never = [argument for token in end_tokens for argument in ("--logit-bias", f"{token}-inf")]
        return ["complete", "--raw", *self.common(), *never]

    def theirs(self, tool: str) -> list[str]:
        return [tool, "-no-cnv", "--ignore-eos", *self.common(), *self.tool_args]

    def warm_up(self) -> None:
        """The file into the page cache, our modules into Python's: the first run counted is like the others."""
        bench.read_once(self.model)
        bench.run([*bench.llamacli(), *replace(self, n_tokens=1).ours([])])


# --- generation -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Speed:
    """Tokens: of the prompt, decoded after it; and per second by the decodes alone (theirs) and by the whole loop."""

    n_prompt: int
    n_decoded: int
    decode: float
    loop: float


def generation(options: argparse.Namespace, section: Section) -> None:
    section.notes += bench.no_comparison()
    for (name, stem, n_tokens), (sampling, arguments) in itertools.product(GENERATED, SAMPLINGS.items()):
        with section.part():
            path = bench.model(options.models, stem, "q4km")
            job = Job(path, n_tokens, options.threads, tuple(arguments), tool_args=tuple(options.tool_args))
            section.rows += _speeds(f"{name}, {sampling}", job, options.pairs)


def _speeds(label: str, job: Job, pairs: int) -> list[Row]:
    tool, ends = bench.tool("llama-completion"), bench.end_tokens(job.model)
    job.warm_up()
    ours, theirs = bench.in_turns(
        label, pairs, partial(_our_speed, job, ends), partial(_their_speed, job, tool) if tool else None
    )
    _same_work(job, ours, theirs)
    whole = [speed.loop for speed in ours]
    rows = [Row(f"{label}, eval", "tokens/s", whole, [speed.decode for speed in theirs])]
    if theirs:
        rows.append(Row(f"{label}, loop", "tokens/s", whole, [speed.loop for speed in theirs]))
    return rows


def _our_speed(job: Job, ends: list[int]) -> Speed:
    document = json.loads(bench.run([*bench.llamacli(), *job.ours(ends), "--json"]).stdout)
    speed = document["timings"]["generation_per_second"]
    return Speed(document["prompt_tokens"], document["completion_tokens"] - 1, speed, speed)


def _their_speed(job: Job, tool: str) -> Speed:
    for _ in range(5):  # its log is written by a thread of its own, and now and then loses its last lines
        done = bench.run(job.theirs(tool))
        times = bench.perf(done.stderr + done.stdout)
        if {"eval", "prompt eval", "total"} <= times.keys():
            break
    else:
        raise bench.FailedError("llama-completion did not print its times in 5 runs")
    decode, prompt = times["eval"], times["prompt eval"]
    loop = times["total"].seconds - prompt.seconds
    return Speed(prompt.count, decode.count, decode.per_second, decode.count / loop)


def _same_work(job: Job, ours: list[Speed], theirs: list[Speed]) -> None:
    """The figures of runs that did different work may not be compared."""
    counts = {(speed.n_prompt, speed.n_decoded) for speed in (*ours, *theirs)}
    if len(counts) != 1 or counts.pop()[1] != job.n_tokens - 1:
        raise bench.FailedError(f"the runs on {job.model.name} evaluated different numbers of tokens")


# --- whole processes ------------------------------------------------------------------------------------------------


def process(options: argparse.Namespace, section: Section) -> None:
    section.notes += bench.no_comparison()
    floor = bench.run(["true"]).peak
    section.notes.append(f"a process that does nothing is measured with {floor / MB:.1f} MB")
    with section.part():
        section.rows += _wall_and_peak("1.1B Q4_K_M", bench.model(options.models, "b1b", "q4km"), options)
    with section.part():
        section.rows += _wall_and_peak("stories260K", bench.stories(), options)


def _wall_and_peak(name: str, path: Path, options: argparse.Namespace) -> list[Row]:
    tool, ends = bench.tool("llama-completion"), bench.end_tokens(path)
    job = Job(path, 32, options.threads, ("--temp", "0"), tool_args=tuple(options.tool_args))
    job.warm_up()
    ours, theirs = bench.in_turns(
        f"{name}, whole process",
        options.pairs,
        partial(bench.run, [*bench.llamacli(), *job.ours(ends)]),
        partial(bench.run, job.theirs(tool)) if tool else None,
    )
    return [
        Row(f"{name}, 32 tokens, wall", "s", [r.seconds for r in ours], [r.seconds for r in theirs]),
        Row(f"{name}, 32 tokens, peak", "MB", [r.peak / MB for r in ours], [r.peak / MB for r in theirs]),
    ]


# --- help -----------------------------------------------------------------------------------------------------------


def help_pages(options: argparse.Namespace, section: Section) -> None:
    section.columns = ("llamacli", "python -c 0")
    for arguments in (["--help"], ["complete", "--help"]):
        label = " ".join(["llamacli", *arguments])
        bench.run([*bench.llamacli(), *arguments])  # warms up
        ours, bare = bench.in_turns(
            label,
            options.pairs,
            partial(bench.run, [*bench.llamacli(), *arguments]),
            partial(bench.run, [sys.executable, "-c", "0"]),
        )
        section.rows.append(Row(f"{label}, wall", "s", [r.seconds for r in ours], [r.seconds for r in bare]))


# --- the loop's own cost --------------------------------------------------------------------------------------------

EARLY, LATE = range(10, 60), range(3950, 4050)  # counted from the first token of the answer


@dataclass(frozen=True)
class Cost:
    """µs per token, medians over a window: our loop, the native sampler in it, its rest; the native decode."""

    loop: float
    sampler: float
    rest: float
    decode: float


def loop(options: argparse.Namespace, section: Section) -> None:
    section.columns = (f"tokens {LATE.start:,}–{LATE.stop:,}", f"tokens {EARLY.start}–{EARLY.stop}")
    section.notes += [
        "beside decode: as it is; the longer decode of a late token leaves colder caches to the loop",
        "alone: no decode after the prompt's, so warm caches: what the loop itself does",
    ]
    path = bench.model(options.models, "tiny8k")
    ends = bench.end_tokens(path)
    for (sampling, arguments), decoding in itertools.product(SAMPLINGS.items(), (True, False)):
        job = Job(path, LATE.stop + 1, options.threads, tuple(arguments), n_ctx=8192)
        label = f"{sampling}, {'beside decode' if decoding else 'alone'}"
        with section.part():
            measure = partial(bench.in_child, _costs, job.ours(ends), decoding)
            (runs,) = bench.in_turns(f"loop, {label}", options.pairs, measure)
            section.rows += _cost_rows(label, runs, decoding)


def _cost_rows(label: str, runs: list[tuple[Cost, Cost]], decoding: bool) -> list[Row]:
    parts: dict[str, Callable[[Cost], float]] = {
        "loop": lambda cost: cost.loop,
        "its native sampler": lambda cost: cost.sampler,
        "its rest": lambda cost: cost.rest,
    }
    if decoding:
        parts["native decode"] = lambda cost: cost.decode
    return [
        Row(f"{label}: {part}", "µs/token", [of(late) for _, late in runs], [of(early) for early, _ in runs])
        for part, of in parts.items()
    ]


def _costs(command: list[str], decoding: bool) -> tuple[Cost, Cost]:
    """Run a command of llamacli in this process, its output going nowhere; what its tokens cost, early and late.

    The time between two native decodes is the loop's. The clocks add about 0.3 µs to it; ctypes' own part of a call
    counts as native.
    """
    from llamacli.cli import app
    from llamacli.engine.native import C

    decodes = _timed(C, "llama_decode", instead=None if decoding else lambda *_: 0)
    samples = _timed(C, "llama_sampler_sample")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        app([*command, "-ngl", "0", "--no-stdin"], prog_name="llamacli")
    except SystemExit as end:
        if end.code:
            raise bench.FailedError(f"llamacli ended with {end.code}") from None
    return _cost(decodes, samples, EARLY), _cost(decodes, samples, LATE)


def _timed(library: Any, name: str, instead: Callable[..., int] | None = None) -> list[tuple[int, int]]:
    """Put a clock around a native function: (begin, end) of each call in nanoseconds. After the first call (a prompt's
    decode) `instead`, where given, takes its place.
    """
    native, clock = getattr(library, name), time.perf_counter_ns
    times: list[tuple[int, int]] = []

    def call(*arguments: Any) -> Any:
        function = instead if instead is not None and times else native
        began = clock()
        result = function(*arguments)
        times.append((began, clock()))
        return result

    setattr(library, name, call)
    return times


def _cost(decodes: list[tuple[int, int]], samples: list[tuple[int, int]], tokens: range) -> Cost:
    """decodes[0] is the prompt's; samples[i] and decodes[i + 1] belong to token i."""
    loops = [decodes[i + 1][0] - decodes[i][1] for i in tokens]
    samplers = [samples[i][1] - samples[i][0] for i in tokens]
    rests = [whole - sampler for whole, sampler in zip(loops, samplers, strict=True)]
    natives = [decodes[i + 1][1] - decodes[i + 1][0] for i in tokens]
    return Cost(*(statistics.median(times) / 1000 for times in (loops, samplers, rests, natives)))


SECTIONS = {"generation": generation, "process": process, "help": help_pages, "loop": loop}


def main() -> None:
    bench.report(bench.parser(__doc__, list(SECTIONS)).parse_args(), SECTIONS)


if __name__ == "__main__":
    main()
