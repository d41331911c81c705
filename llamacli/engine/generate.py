"""Prompt → stream of chunks: the token loop.

One stream ends with a Finish. Signals are deferred while it runs: the loop stops at the next token, the text so far
stays, and whoever folds the stream ends the process afterwards (`signals.check`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from llamacli import signals
from llamacli.engine.context import Context
from llamacli.engine.sampling import Sampler
from llamacli.engine.text import Reasoning, StopStrings, WholeCharacters
from llamacli.engine.types import Chunk, Finish, FinishReason, Sampling, Stats
from llamacli.errors import ContextFull


@dataclass(frozen=True)
class Limits:
    """When to end: n tokens (None: never), a stop string, n_ctx positions."""

    max_tokens: int | None
    n_ctx: int
    stops: tuple[str, ...] = ()


class _Answer:
    """One answer's bytes on their way to chunks."""

    def __init__(self, limits: Limits, reasoning: Reasoning | None) -> None:
        self._characters = WholeCharacters()
        self._reasoning = reasoning
        self._stops = StopStrings(limits.stops)
        self._plain = reasoning is None and not limits.stops
        self.n_tokens = 0

    @property
    def stop(self) -> str | None:
        return self._stops.found

    def feed(self, piece: bytes) -> Iterator[Chunk]:
        self.n_tokens += 1
        data = self._characters.feed(piece)
        if self._plain:
            if data:
                yield Chunk(data)
            return
        yield from self._split(data)

    def flush(self) -> Iterator[Chunk]:
        yield from self._split(self._characters.flush())
        if self._reasoning is not None:
            yield from self._emit(self._reasoning.flush())
        rest = self._stops.flush()
        if rest:
            yield Chunk(rest)

    def _split(self, data: bytes) -> Iterator[Chunk]:
        yield from self._emit(self._reasoning.feed(data) if self._reasoning is not None else [(False, data)])

    def _emit(self, parts: list[tuple[bool, bytes]]) -> Iterator[Chunk]:
        for is_reasoning, data in parts:
            if not is_reasoning:
                data = self._stops.feed(data)
            if data:
                yield Chunk(data, reasoning=is_reasoning)


def evaluate_prompt(
    context: Context, tokens: Sequence[int], limits: Limits, progress: Callable[[int, int], None] | None = None
) -> bool:
    """Evaluate the prompt in batches; False if a signal came. Raises ContextFull with both numbers."""
    if not tokens:
        raise ContextFull("an empty prompt: there is nothing to continue", hint="give a prompt")
    if len(tokens) >= limits.n_ctx:
        raise ContextFull(
            f"the prompt has {len(tokens)} tokens, and the context holds {limits.n_ctx}",
            hint="a larger -c, up to the size the model was trained with, or a shorter prompt",
        )
    return context.evaluate(tokens, progress)


def generate(
    context: Context,
    tokens: Sequence[int],
    sampling: Sampling,
    limits: Limits,
    *,
    reasoning: Reasoning | None = None,
    load_seconds: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Chunk | Finish]:
    """Evaluate `tokens` and sample until one of the limits: chunks, then a Finish. `sampling.seed` must be set.

    `reasoning`, where given, splits the answer. Raises ContextFull, EngineError.
    """
    assert sampling.seed is not None
    model, began = context.model, time.perf_counter()
    answer = _Answer(limits, reasoning)
    reason: FinishReason = "interrupted"
    with Sampler(model, sampling, sampling.seed) as sampler:
        with signals.deferred(hurry=True):
            evaluated = evaluate_prompt(context, tokens, limits, progress)
        started = time.perf_counter()
        with signals.deferred():
            if evaluated:
                sampler.accept_prompt(tokens)
                room = limits.n_ctx - len(tokens)
                sample, piece, ends, step = sampler.sample, model.piece, model.ends_generation, context.step
                most = room if limits.max_tokens is None else min(limits.max_tokens, room)
                reason = "length" if limits.max_tokens is not None and limits.max_tokens <= room else "context"
                while answer.n_tokens < most:
                    token = sample(context)
                    if ends(token):
                        reason = "stop"
                        break
                    yield from answer.feed(piece(token))
                    if answer.stop is not None:
                        reason = "stop"
                        break
                    if answer.n_tokens < most and (signals.flag[0] or not step(token)):
                        reason = "interrupted"
                        break
            ended = time.perf_counter()
            yield from answer.flush()
            stats = Stats(load_seconds, started - began, ended - started, len(tokens), answer.n_tokens)
            yield Finish(reason, sampling.seed, stats, limits.n_ctx, answer.stop)


@dataclass
class _Stream:
    """One of several answers that are decoded side by side."""

    index: int
    sampler: Sampler
    answer: _Answer
    position: int
    seed: int
    token: int = 0
    reason: FinishReason | None = None
    chunks: list[Chunk] = field(default_factory=list)


def generate_many(
    context: Context,
    tokens: Sequence[int],
    sampling: Sampling,
    limits: Limits,
    count: int,
    *,
    reasoning: Callable[[], Reasoning | None] = lambda: None,
    load_seconds: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, list[Chunk], Finish]]:
    """`count` independent answers to one prompt, which is evaluated once: (index, chunks, Finish), each when complete.

    Answer i has the seed `sampling.seed + i`. The context needs `count` sequences and room for all answers;
    `limits.n_ctx` is what one answer may use. Raises ContextFull, EngineError.
    """
    assert sampling.seed is not None
    began = time.perf_counter()
    with signals.deferred(hurry=True):
        evaluated = evaluate_prompt(context, tokens, limits, progress)
    started = time.perf_counter()
    seeds = [(sampling.seed + i) % 0xFFFFFFFF for i in range(count)]
    streams = [
        _Stream(i, Sampler(context.model, sampling, seed), _Answer(limits, reasoning()), len(tokens), seed)
        for i, seed in enumerate(seeds)
    ]
    room = limits.n_ctx - len(tokens)
    most = room if limits.max_tokens is None else min(limits.max_tokens, room)
    at_most: FinishReason = "length" if limits.max_tokens is not None and limits.max_tokens <= room else "context"
    with signals.deferred():
        try:
            for stream in streams:
                if evaluated:
                    stream.sampler.accept_prompt(tokens)
                if stream.index:
                    context.copy_sequence(0, stream.index)
            rows = {stream.index: -1 for stream in streams}
            running = list(streams)
            while running:
                for stream in running:
                    if not evaluated or signals.flag[0]:
                        stream.reason = "interrupted"
                    elif stream.answer.n_tokens >= most:
                        stream.reason = at_most
                    else:
                        _advance(stream, context, rows[stream.index])
                    if stream.reason is not None:
                        stream.chunks += stream.answer.flush()
                        done = time.perf_counter()
                        stats = Stats(
                            load_seconds, started - began, done - started, len(tokens), stream.answer.n_tokens
                        )
                        context.remove_sequence(stream.index)
                        finish = Finish(stream.reason, stream.seed, stats, limits.n_ctx, stream.answer.stop)
                        yield stream.index, stream.chunks, finish
                running = [stream for stream in running if stream.reason is None]
                if running:
                    evaluated = context.step_many([(s.index, s.token, s.position) for s in running])
                    rows = {stream.index: row for row, stream in enumerate(running)}
                    for stream in running:
                        stream.position += 1
        finally:
            for stream in streams:
                stream.sampler.close()


def _advance(stream: _Stream, context: Context, row: int) -> None:
    """Sample the next token of one answer."""
    stream.token = stream.sampler.sample(context, row)
    if context.model.ends_generation(stream.token):
        stream.reason = "stop"
        return
    stream.chunks += stream.answer.feed(context.model.piece(stream.token))
    if stream.answer.stop is not None:
        stream.reason = "stop"
