"""Many prompts, several of them decoded side by side: continuous batching.

A sequence has tokens: its prompt, then what was sampled. What of them the context does not hold yet is evaluated, in
one batch with what the others need; once it holds all of them, the next token is sampled. So a sequence that writes is
one with a single token to evaluate, and one that begins, or that had to give up its room in the KV cache, has many.

What a new prompt has in common with a sequence that is there, running or done, is not evaluated again: it waits until
that one has come so far, and copies it. This is how a system prompt is evaluated once, and each of several, too.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from llamacli import signals
from llamacli.engine.context import Context
from llamacli.engine.generate import Answer, Limits, Stream, check_numbers
from llamacli.engine.logits import Batch
from llamacli.engine.model import Model
from llamacli.engine.native import C
from llamacli.engine.offload import Shape
from llamacli.engine.prompt_cache import common_prefix
from llamacli.engine.sampling import Sampler
from llamacli.engine.text import Reasoning
from llamacli.engine.types import Chunk, ContextOptions, Finish, FinishReason, Sampling, Stats
from llamacli.errors import ContextFull, LlamacliError, OutOfMemory, UsageError

if TYPE_CHECKING:
    from llamacli.engine.shape import Matcher

#: A shorter beginning is not worth waiting for.
_LEAST_SHARED = 16
#: Tokens that are kept free for each running sequence to go on with before another one begins.
_MARGIN = 32
#: What a KV cache takes at most, in bytes, unless a single prompt with its answer needs more.
_ROOM = 1 << 30
#: Room for an answer whose length is not limited, tokens, when sizes are chosen; it may become longer.
_USUAL_ANSWER = 512
_STEP = 256  # the library rounds sizes up to it

_opening = threading.Lock()  # one context at a time: the errors that the library logs have no other name


@dataclass(frozen=True)
class Job:
    """A prompt and how to go on with it. `sampling.seed` must be set; `number` is the caller's."""

    number: int
    tokens: Sequence[int]
    sampling: Sampling
    limits: Limits
    reasoning: Reasoning | None = None
    matcher: Matcher | None = None
    logprobs: int | None = None  # as of an Answer


@dataclass(frozen=True)
class Done:
    """An answer, complete."""

    number: int
    chunks: tuple[Chunk, ...]
    finish: Finish


@dataclass(frozen=True)
class Failed:
    """A job that could not be begun, or whose answer cannot go on within its shape."""

    number: int
    error: LlamacliError


#: Gives the next job. Called with False, None means that there is none at the moment; with True it waits, and None is
#: the end.
Take = Callable[[bool], Job | None]


class _Running:
    """A job on its way. `id` is its sequence of the context, -1 while it has none."""

    def __init__(self, job: Job, model: Model) -> None:
        self.job = job
        self.tokens = [*job.tokens]
        self.id = -1
        self.n_held = 0
        self.source: tuple[int, int] | None = None  # (sequence, tokens): copied as soon as that one holds so many
        self.n_copied = 0  # tokens whose cells are also another one's
        self.n_found = 0  # tokens of the prompt that were not evaluated for it
        self.most, self.at_most = job.limits.room(len(job.tokens))
        seed = job.sampling.seed
        assert seed is not None
        sampler = Sampler(model, job.sampling, seed, job.limits.n_ctx)
        sampler.accept_prompt(job.tokens)
        answer = Answer(job.limits, job.reasoning, job.matcher, job.logprobs)
        self.stream = Stream(job.number, seed, sampler, answer)
        self.began = self.started = time.perf_counter()
        self.n_decoded = 0
        self.error: UsageError | None = None  # why it cannot go on

    @property
    def n_todo(self) -> int:
        return len(self.tokens) - self.n_held

    @property
    def needs(self) -> int:
        """Positions that it should have: for all of its answer, or for some more of one whose length is not limited."""
        left = self.most - self.stream.answer.n_tokens
        return len(self.tokens) + max(left if self.at_most == "length" else min(left, _USUAL_ANSWER), 1)

    def done(self, reason: FinishReason) -> Done:
        stream, answer, n = self.stream, self.stream.answer, len(self.job.tokens)
        stream.sampler.close()
        stream.chunks += answer.flush()
        now = time.perf_counter()
        reading, writing = self.started - self.began, now - self.started
        stats = Stats(0.0, reading, writing, n, n - self.n_found, answer.n_tokens, max(self.n_decoded - 1, 0))
        finish = Finish(
            reason,
            stream.seed,
            stats,
            self.job.limits.n_ctx,
            answer.stop,
            tuple(self.tokens[n:]),
            answer.whole,
            answer.n_before,
            tuple(answer.logprobs),
        )
        return Done(self.job.number, tuple(stream.chunks), finish)

    def failed(self, error: LlamacliError) -> Failed:
        self.stream.sampler.close()
        return Failed(self.job.number, error)


class Parallel:
    """Up to `n_parallel` sequences of one context. Close it, or use it as a context manager. Knows nothing of lines.

    With `unified` all share the cells of one KV cache: long answers take what short ones leave, and a common beginning
    is there once. Otherwise each has its own, which small models are quicker with: attention looks at no other's cells.
    """

    def __init__(self, model: Model, options: ContextOptions, n_parallel: int, *, unified: bool) -> None:
        """`options` gives all about the context but its size, which follows from the jobs."""
        self._model = model
        self._most = n_parallel
        self._options = replace(options, kv_unified=unified)
        self._context: Context | None = None
        self._batch = Batch(max(options.n_ubatch, n_parallel))
        self._n_batch = 0  # tokens at once
        self._capacity = 0  # positions that one sequence may have
        self._running: list[_Running] = []
        self._put_off: deque[_Running] = deque()  # begun already, or too large for the context as it is
        self._held: list[list[int]] = []  # of each sequence: the tokens that the context holds, or will hold
        self._ids: list[int] = []  # sequences that nobody runs in
        self.n_written = 0  # tokens of all answers so far
        self._full = False  # nothing new before a sequence is done
        # The state of a recurrent model is that after its last token: nothing of it can be shared or taken back.
        self._shares = not (C.llama_model_is_recurrent(model.handle) or C.llama_model_is_hybrid(model.handle))

    def __enter__(self) -> Parallel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        for each in (*self._running, *self._put_off):
            each.stream.sampler.close()
        self._running.clear()
        self._put_off.clear()
        self.close_context()

    def close_context(self) -> None:
        if self._context is not None:
            self._context.close()
            self._context = None

    def run(self, take: Take) -> Iterator[Done | Failed]:
        """Answers, each when it is complete, until there are no more jobs, or a signal comes.

        Raises BadModelFile, EngineError.
        """
        while not signals.flag[0]:
            yield from self._admit(take)
            if not self._running:
                return
            if not self._step():
                return
            yield from self._end()

    # --- beginning ------------------------------------------------------------------------------------------------

    def _admit(self, take: Take) -> Iterator[Done | Failed]:
        """Begin what there is room for."""
        while len(self._running) < self._most and not (self._full and self._running):
            each = self._next(take)
            if each is None:
                return
            if each.most <= 0:
                yield each.done(each.at_most)
            elif self._fits(each):
                self._place(each)
            elif self._running:
                self._put_off.appendleft(each)
                return
            else:
                try:
                    self._open(each.needs)
                    self._place(each)
                except OutOfMemory as error:
                    yield each.done("context") if each.stream.answer.n_tokens else each.failed(error)

    def _next(self, take: Take) -> _Running | None:
        if self._put_off:
            return self._put_off.popleft()
        job = take(not self._running)
        return _Running(job, self._model) if job is not None else None

    def _fits(self, each: _Running) -> bool:
        """Whether there is a sequence for it, and room in the KV cache."""
        if self._context is None or not self._ids or each.needs > self._capacity:
            return False
        if not self._options.kv_unified or not self._running:
            return True
        used = sum(other.n_held - other.n_copied for other in self._running)
        return used + each.n_todo + _MARGIN * (len(self._running) + 1) <= self._capacity

    def _open(self, needed: int) -> None:
        """A context in which one that needs so much can run, and as many more as memory allows. Nobody runs now.

        Raises OutOfMemory, EngineError.
        """
        self.close_context()
        each = -(-max(needed, _USUAL_ANSWER) // _STEP) * _STEP
        shape = Shape.of(self._model.header.metadata, (), self._model.n_vocab)
        a_token = shape.n_layer * shape.kv_bytes(1, self._options.type_k, self._options.type_v)
        room = max(_ROOM // max(a_token, 1) // each, 1)  # for so many
        while True:
            n = min(self._most, room)
            # In one cache more of them may run than each could fill its part.
            n_sequences = self._most if self._options.kv_unified else n
            try:
                with _opening:
                    options = replace(self._options, n_ctx=n * each, n_sequences=n_sequences)
                    self._context = Context(self._model, options)
            except OutOfMemory:
                if n == 1:
                    raise
                room = n // 2
                continue
            # The library's own limit is lower where -b or the context are small; beyond it, it ends the process.
            self._n_batch = min(len(self._batch.token), self._context.n_batch)
            self._capacity = self._context.n_ctx // (1 if self._options.kv_unified else n)
            self._held, self._ids = [[] for _ in range(n_sequences)], [*range(n_sequences)]
            return

    def _place(self, each: _Running) -> None:
        """Give it a sequence: an idle one that holds its beginning, or one that copies it from another."""
        source, n = self._beginning(each)
        if source in self._ids:
            each.id = source
            each.n_held = each.n_found = self._trim(source, n)
        else:  # rather an empty one than one whose beginning the next may have
            each.id = min(self._ids, key=lambda id: len(self._held[id]))
            self._trim(each.id, 0)
            each.source = (source, n) if n else None
        self._ids.remove(each.id)
        self._held[each.id] = each.tokens
        self._running.append(each)

    def _beginning(self, each: _Running) -> tuple[int, int]:
        """The sequence that begins most like this one, and how many tokens they share; (-1, 0) where none pays."""
        if not self._shares:
            return -1, 0
        # Of those that run, only such as began before: or two might wait for each other.
        before = [other.id for other in takewhile(lambda other: other is not each, self._running)]
        lengths = {id: common_prefix(self._held[id], each.tokens) for id in (*self._ids, *before)}
        best = max(lengths, key=lambda id: lengths[id])
        n = min(lengths[best], len(each.tokens) - 1)  # one is left to evaluate, for its logits
        return (best, n) if n >= _LEAST_SHARED else (-1, 0)

    def _trim(self, id: int, n: int) -> int:
        """Forget all but the first n tokens of a sequence that nobody runs in; how many are left."""
        if self._held[id][n:]:
            memory = C.llama_get_memory(self._handle)
            if n == 0 or not C.llama_memory_seq_rm(memory, id, n, -1):
                C.llama_memory_seq_rm(memory, id, -1, -1)
                n = 0
            self._held[id] = self._held[id][:n]
        return n

    @property
    def _handle(self) -> Any:
        assert self._context is not None
        return self._context.handle

    # --- going on -------------------------------------------------------------------------------------------------

    def _step(self) -> bool:
        """Evaluate one batch, and sample where a sequence holds all its tokens. False if a signal came in between."""
        assert self._context is not None
        self._copy()
        if not self._options.kv_unified:
            for each in [each for each in self._running if len(each.tokens) > self._capacity]:
                self._give_up(each)
        while self._running:
            parts = self._parts()
            n = self._fill(parts)
            try:
                if not self._batch.decode(self._context, n):
                    return False
            except ContextFull:
                self._make_room()
                continue
            self._advance(parts)
            break
        return True

    def _parts(self) -> list[tuple[_Running, int]]:
        """How many tokens of which sequence come next: all that write, and of prompts what then has room in a batch."""
        ready = [each for each in self._running if each.source is None]
        room = self._n_batch - sum(each.n_todo == 1 for each in ready)
        parts = []
        for each in ready:
            n = each.n_todo
            if n > 1:
                n = min(n, room)
                room -= n
            if n:
                parts.append((each, n))
        if not self._options.kv_unified:  # the library takes neighbours together
            parts.sort(key=lambda part: part[0].id)
        return parts

    def _fill(self, parts: Sequence[tuple[_Running, int]]) -> int:
        batch, at = self._batch, 0
        for each, n in parts:
            begin, to = each.n_held, at + n
            batch.token[at:to] = each.tokens[begin : begin + n]
            batch.pos[at:to] = range(begin, begin + n) if n > 1 else begin
            batch.seq[at:to, 0] = each.id
            batch.wanted[at:to] = 0
            at = to
            each.stream.row = at - 1
            batch.wanted[at - 1] = n == each.n_todo
        return at

    def _advance(self, parts: Sequence[tuple[_Running, int]]) -> None:
        assert self._context is not None
        for each, n in parts:
            each.n_held += n
            if each.n_todo:
                continue
            stream, answer = each.stream, each.stream.answer
            if not each.n_decoded:
                check_numbers(self._context, stream.row)
                each.started = time.perf_counter()
            each.n_decoded += 1
            n_before = answer.n_tokens
            try:
                stream.advance(self._context)
            except UsageError as error:  # of its shape
                each.error = error
                continue
            if answer.n_tokens > n_before:  # not one that ends the generation
                each.tokens.append(stream.token)
                self.n_written += 1
            if stream.reason is None and answer.n_tokens >= each.most:
                stream.reason = each.at_most

    def _copy(self) -> None:
        """The common beginnings that are there by now. Those that began with others go on by themselves then."""
        by_id = {each.id: each for each in self._running}
        for each in self._running:
            if each.source is None:
                continue
            source, n = each.source
            other = by_id.get(source)
            if other is not None and other.n_held < n:
                continue
            n = min(n, len(self._held[source]))
            memory = C.llama_get_memory(self._handle)
            if self._options.kv_unified:
                C.llama_memory_seq_cp(memory, source, each.id, 0, n)
            else:  # from one cache to another only the whole can be copied
                C.llama_memory_seq_cp(memory, source, each.id, -1, -1)
                C.llama_memory_seq_rm(memory, each.id, n, -1)
            each.n_held = each.n_copied = each.n_found = n
            each.source = None

    def _make_room(self) -> None:
        """The KV cache is full: forget what nobody runs in, or else take back the youngest that holds something."""
        idle = [id for id in self._ids if self._held[id]]
        for id in idle:
            self._trim(id, 0)
        if not idle:
            self._give_up(next(each for each in reversed(self._running) if each.n_held))

    def _give_up(self, each: _Running) -> None:
        """It is evaluated again later, when there is room."""
        self._running.remove(each)
        self._put_off.appendleft(each)
        self._held[each.id] = each.tokens[: each.n_held]
        self._ids.append(each.id)
        self._trim(each.id, 0)
        for other in self._running:
            if other.source is not None and other.source[0] == each.id:
                source, n = self._beginning(other)
                other.source = (source, n) if n else None
        each.id, each.n_held, each.n_copied, each.source = -1, 0, 0, None
        self._full = True

    def _end(self) -> Iterator[Done | Failed]:
        """Those that are complete, or cannot go on."""
        done = [each for each in self._running if each.stream.reason is not None or each.error is not None]
        if not done:
            return
        for each in done:
            self._held[each.id] = each.tokens[: each.n_held]
            self._running.remove(each)
        self._copy()  # before a sequence is given to another
        for each in done:
            self._ids.append(each.id)
            if each.error is not None:
                yield each.failed(each.error)
            elif each.stream.reason is not None:
                yield each.done(each.stream.reason)
        self._full = False
