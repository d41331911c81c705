"""Prompt → stream of chunks: the token loop.

A stream ends with a Finish. Signals are deferred while it runs: the loop stops at the next token, the text so far
stays, and whoever folds the stream ends the process afterwards (`signals.check`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from llamacli import signals
from llamacli.engine.context import Context
from llamacli.engine.prompt_cache import reuse
from llamacli.engine.sampling import Sampler
from llamacli.engine.text import Reasoning, StopStrings, WholeCharacters
from llamacli.engine.types import Chunk, Finish, FinishReason, Sampling, Stats
from llamacli.errors import BadModelFile, ContextFull, UsageError

Progress = Callable[[int, int], None]
#: Called when the context is full, with the answer's tokens so far: the whole prompt that they follow, from now on, and
#: the limits; None where no room can be made.
MakeRoom = Callable[[Sequence[int]], "tuple[Sequence[int], Limits] | None"]


@dataclass(frozen=True)
class Limits:
    """When to end: n tokens (None: never), a stop string, n_ctx positions."""

    max_tokens: int | None
    n_ctx: int
    stops: tuple[str, ...] = ()

    def room(self, n_prompt: int) -> tuple[int, FinishReason]:
        """How many tokens an answer may have at most, and how it has ended when it has them."""
        room = self.n_ctx - n_prompt
        if self.max_tokens is not None and self.max_tokens <= room:
            return self.max_tokens, "length"
        return room, "context"


class Answer:
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

    def feed(self, piece: bytes) -> list[Chunk]:
        self.n_tokens += 1
        data = self._characters.feed(piece)
        if self._plain:
            return [Chunk(data)] if data else []
        return self._split(data)

    def flush(self) -> list[Chunk]:
        chunks = self._split(self._characters.flush())
        if self._reasoning is not None:
            chunks += self._emit(self._reasoning.flush())
        rest = self._stops.flush()
        return [*chunks, Chunk(rest)] if rest else chunks

    def _split(self, data: bytes) -> list[Chunk]:
        return self._emit(self._reasoning.feed(data) if self._reasoning is not None else [(False, data)])

    def _emit(self, parts: list[tuple[bool, bytes]]) -> list[Chunk]:
        chunks = []
        for is_reasoning, data in parts:
            shown = data if is_reasoning else self._stops.feed(data)
            if shown:
                chunks.append(Chunk(shown, reasoning=is_reasoning))
        return chunks


def check_prompt(tokens: Sequence[int], limits: Limits) -> None:
    """Raise UsageError for no tokens, ContextFull, with both numbers, for too many."""
    if not tokens:
        raise UsageError("the prompt has no tokens: there is nothing to continue")
    if len(tokens) >= limits.n_ctx:
        raise ContextFull(
            f"the prompt has {len(tokens)} tokens, and the context holds {limits.n_ctx}",
            hint="a larger -c, up to the size the model was trained with, or a shorter prompt",
        )


def evaluate_prompt(
    context: Context, tokens: Sequence[int], limits: Limits, progress: Progress | None = None
) -> tuple[bool, int]:
    """Evaluate what of the prompt the context does not hold, in batches: (False if a signal came, number of tokens).

    Raises ContextFull with both numbers.
    """
    check_prompt(tokens, limits)
    new = tokens[reuse(context, tokens) :]
    with signals.deferred():
        evaluated = context.evaluate(new, progress)
    if evaluated:
        check_numbers(context)
    return evaluated, len(new)


def check_numbers(context: Context, row: int = -1) -> None:
    """Raise BadModelFile where the logits are no numbers."""
    if not context.has_numbers(row):
        raise BadModelFile(f"{context.model.header.path}: its weights give no numbers (NaN); the file is damaged")


def generate(
    context: Context,
    tokens: Sequence[int],
    sampling: Sampling,
    limits: Limits,
    *,
    reasoning: Reasoning | None = None,
    load_seconds: float = 0.0,
    progress: Progress | None = None,
    make_room: MakeRoom = lambda _: None,
) -> Iterator[Chunk | Finish]:
    """Evaluate `tokens` and sample until one of the limits: chunks, then a Finish. `sampling.seed` must be set.

    `reasoning`, where given, splits the answer. Raises UsageError, ContextFull, EngineError.
    """
    assert sampling.seed is not None
    clock, model = time.perf_counter, context.model
    answer = Answer(limits, reasoning)
    most, at_most = limits.room(len(tokens))
    with Sampler(model, sampling, sampling.seed, limits.n_ctx) as sampler:
        began = clock()
        evaluated, n_evaluated = evaluate_prompt(context, tokens, limits, progress)
        started = clock()
        waited = 0.0  # for whoever takes the chunks
        n_decoded = 0
        answered: list[int] = []
        reason: FinishReason = at_most if evaluated else "interrupted"
        with signals.deferred(signals.FINISHING_SECONDS):
            if evaluated:
                sampler.accept_prompt(tokens)
            while evaluated:
                if answer.n_tokens >= most:
                    more = make_room(answered) if at_most == "context" else None
                    if more is None:
                        break
                    prompt, limits = more
                    most, at_most = limits.room(len(prompt))
                    evaluated, _ = evaluate_prompt(context, [*prompt, *answered], limits, progress)
                    reason = at_most if evaluated else "interrupted"
                    continue
                token = sampler.sample(context)
                if model.ends_generation(token):
                    reason = "stop"
                    break
                answered.append(token)
                chunks = answer.feed(model.piece(token))
                if chunks:
                    paused = clock()
                    yield from chunks
                    waited += clock() - paused
                if answer.stop is not None:
                    reason = "stop"
                    break
                if answer.n_tokens < most:
                    if signals.flag[0] or not context.step(token):
                        reason = "interrupted"
                        break
                    n_decoded += 1
            seconds = clock() - started - waited
            yield from answer.flush()
            stats = Stats(load_seconds, started - began, seconds, len(tokens), n_evaluated, answer.n_tokens, n_decoded)
            yield Finish(reason, sampling.seed, stats, limits.n_ctx, answer.stop, tuple(answered))


@dataclass
class Stream:
    """One of several answers that are decoded side by side."""

    index: int
    seed: int
    sampler: Sampler
    answer: Answer
    position: int = 0
    token: int = 0
    row: int = -1  # of the logits to sample from; at first the prompt's last one
    reason: FinishReason | None = None
    chunks: list[Chunk] = field(default_factory=list)

    def advance(self, context: Context) -> None:
        """Sample the next token."""
        self.token = self.sampler.sample(context, self.row)
        if context.model.ends_generation(self.token):
            self.reason = "stop"
            return
        self.chunks += self.answer.feed(context.model.piece(self.token))
        if self.answer.stop is not None:
            self.reason = "stop"


def generate_many(
    context: Context,
    tokens: Sequence[int],
    sampling: Sampling,
    limits: Limits,
    count: int,
    *,
    reasoning: Callable[[], Reasoning | None] = lambda: None,
    load_seconds: float = 0.0,
    progress: Progress | None = None,
) -> Iterator[tuple[int, list[Chunk], Finish]]:
    """`count` independent answers to one prompt, which is evaluated once: (index, chunks, Finish), each when complete.

    Answer i has the seed `sampling.seed + i`. The context needs `count` sequences and room for all answers;
    `limits.n_ctx` is what one answer may use. Raises UsageError, ContextFull, EngineError.
    """
    assert sampling.seed is not None
    began = time.perf_counter()
    evaluated, n_evaluated = evaluate_prompt(context, tokens, limits, progress)
    started = time.perf_counter()
    most, at_most = limits.room(len(tokens))
    running: list[Stream] = []
    samplers: list[Sampler] = []
    n_decoded = 0
    try:
        for i in range(count):
            seed = (sampling.seed + i) % 0xFFFFFFFF
            samplers.append(Sampler(context.model, sampling, seed, limits.n_ctx))
            samplers[i].accept_prompt(tokens)
            running.append(Stream(i, seed, samplers[i], Answer(limits, reasoning()), len(tokens)))
            if i and evaluated:
                context.copy_sequence(0, i)
        with signals.deferred(signals.FINISHING_SECONDS):
            while running:
                for stream in running:
                    if not evaluated or signals.flag[0]:
                        stream.reason = "interrupted"
                    elif stream.answer.n_tokens >= most:
                        stream.reason = at_most
                    else:
                        stream.advance(context)
                    if stream.reason is not None:
                        stream.chunks += stream.answer.flush()
                        seconds = time.perf_counter() - started
                        n = stream.answer.n_tokens
                        stats = Stats(load_seconds, started - began, seconds, len(tokens), n_evaluated, n, n_decoded)
                        context.remove_sequence(stream.index)
                        finish = Finish(stream.reason, stream.seed, stats, limits.n_ctx, stream.answer.stop)
                        yield stream.index, stream.chunks, finish
                running = [stream for stream in running if stream.reason is None]
                if running:
                    evaluated = context.step_many([(s.index, s.token, s.position) for s in running])
                    n_decoded += 1
                    for row, stream in enumerate(running):
                        stream.row, stream.position = row, stream.position + 1
    finally:
        for sampler in samplers:
            sampler.close()
