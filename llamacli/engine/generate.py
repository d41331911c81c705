"""Prompt → stream of chunks: the token loop.

A stream ends with a Finish. Signals are deferred while it runs: the loop stops at the next token, the text so far
stays, and whoever folds the stream ends the process afterwards (`signals.check`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llamacli import signals
from llamacli.engine.context import Context
from llamacli.engine.prompt_cache import reuse
from llamacli.engine.sampling import Sampler
from llamacli.engine.text import OPENINGS, Reasoning, StopStrings, WholeCharacters
from llamacli.engine.types import Chunk, Finish, FinishReason, Sampling, Stats, TokenLogprob
from llamacli.errors import BadModelFile, ContextFull, UsageError

if TYPE_CHECKING:
    from llamacli.engine.model import Model
    from llamacli.engine.shape import Matcher

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
    """One answer: its tokens within its shape, and their bytes on their way to chunks."""

    def __init__(
        self, limits: Limits, reasoning: Reasoning | None, matcher: Matcher | None = None, logprobs: int | None = None
    ) -> None:
        """`logprobs`: how many of the most probable tokens to name beside each; None for no probabilities at all."""
        self._characters = WholeCharacters()
        self._reasoning = reasoning
        self._matcher = matcher
        self._top = logprobs
        self._pending = 0.0  # log-probability of what no chunk has shown yet
        self._stops = StopStrings(limits.stops)
        self._plain = reasoning is None and not limits.stops
        self.n_tokens = 0
        self.n_before = 0
        self.logprobs: list[TokenLogprob] = []

    @property
    def whole(self) -> bool | None:
        """Whether the answer has its shape; None where it was to have none."""
        return self._matcher.whole if self._matcher is not None else None

    @property
    def ended(self) -> bool:
        """Whether its shape, or a stop string, lets nothing follow."""
        return self._stops.found is not None or (self._matcher is not None and self._matcher.ended)

    @property
    def _answering(self) -> bool:
        return self._reasoning is None or self._reasoning.answering

    def sample(self, sampler: Sampler, context: Context, row: int = -1) -> int:
        """The next token. The shape is that of the answer: reasoning in front of it is free."""
        matcher = self._matcher
        if matcher is None or not self._answering:
            self.n_before += matcher is not None
            return sampler.sample(context, row)
        token = sampler.sample_within(
            context,
            row,
            lambda token: matcher.allows(token) or self._stands_before(context.model, token),
            matcher.allowed,
        )
        if context.model.ends_generation(token):
            return token
        if matcher.allows(token):
            matcher.accept(token)
        else:
            self.n_before += 1
        return token

    def _stands_before(self, model: Model, token: int) -> bool:
        """Whether a token may stand before the answer: one that opens the reasoning, and white space after it."""
        reasoning = self._reasoning
        if reasoning is None or reasoning.answered:
            return False
        piece = model.piece(token)
        return piece in OPENINGS or (reasoning.between and piece.isspace())

    @property
    def stop(self) -> str | None:
        return self._stops.found

    def feed(self, context: Context, token: int, row: int = -1) -> list[Chunk]:
        """The chunks that a token completes; `row` is where it was sampled from."""
        self.n_tokens += 1
        before = self._answering
        data = self._characters.feed(context.model.piece(token))
        chunks = self._split(data) if not self._plain else [Chunk(data)] if data else []
        if self._top is None:
            return chunks
        from llamacli.engine.logits import token_logprob  # numpy, which a plain completion does without

        found = token_logprob(context, row, token, self._top)
        if before and self._answering:
            self.logprobs.append(found)
        self._pending += found.logprob
        if chunks:
            chunks = [replace(chunk, logprob=self._pending) for chunk in chunks]
            self._pending = 0.0
        return chunks

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
    matcher: Matcher | None = None,
    logprobs: int | None = None,
    load_seconds: float = 0.0,
    progress: Progress | None = None,
    make_room: MakeRoom = lambda _: None,
) -> Iterator[Chunk | Finish]:
    """Evaluate `tokens` and sample until one of the limits: chunks, then a Finish. `sampling.seed` must be set.

    `reasoning`, where given, splits the answer; `matcher` holds it to a shape; `logprobs` asks for the probability of
    each token and names so many of the most probable ones. Raises UsageError, ContextFull, EngineError.
    """
    assert sampling.seed is not None
    clock, model = time.perf_counter, context.model
    answer = Answer(limits, reasoning, matcher, logprobs)
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
                token = answer.sample(sampler, context)
                if model.ends_generation(token):
                    reason = "stop"
                    break
                answered.append(token)
                chunks = answer.feed(context, token)
                if chunks:
                    paused = clock()
                    yield from chunks
                    waited += clock() - paused
                if answer.ended:
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
            yield Finish(
                reason,
                sampling.seed,
                stats,
                limits.n_ctx,
                answer.stop,
                tuple(answered),
                answer.whole,
                answer.n_before,
                tuple(answer.logprobs),
            )


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
        self.token = self.answer.sample(self.sampler, context, self.row)
        if context.model.ends_generation(self.token):
            self.reason = "stop"
            return
        self.chunks += self.answer.feed(context, self.token, self.row)
        if self.answer.ended:
            self.reason = "stop"


def generate_many(
    context: Context,
    tokens: Sequence[int],
    sampling: Sampling,
    limits: Limits,
    count: int,
    *,
    reasoning: Callable[[], Reasoning | None] = lambda: None,
    matcher: Matcher | None = None,
    logprobs: int | None = None,
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
            answer = Answer(limits, reasoning(), matcher.copy() if matcher is not None else None, logprobs)
            running.append(Stream(i, seed, samplers[i], answer, len(tokens)))
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
                        finish = Finish(
                            stream.reason,
                            stream.seed,
                            stats,
                            limits.n_ctx,
                            stream.answer.stop,
                            whole=stream.answer.whole,
                            logprobs=tuple(stream.answer.logprobs),
                        )
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
