"""Many prompts, one a line: each is answered by itself, several side by side.

    source ─▸ inbox ─▸ this thread: line → job ─▸ ready ─▸ workers (engine/parallel.py) ─▸ inbox ─▸ record

A thread of its own reads the source, so that what comes through a pipe is begun at once. A line is read, rendered and
tokenised here while the workers compute. Nothing here depends on which sequences run beside each other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamacli import signals
from llamacli.engine.fingerprint import fingerprint
from llamacli.engine.generate import Limits, check_prompt
from llamacli.engine.model import Model
from llamacli.engine.parallel import Done, Failed, Job, Parallel
from llamacli.engine.sampling import draw_seed, resolve
from llamacli.engine.sampling_values import NO_SEED
from llamacli.engine.text import Reasoning
from llamacli.engine.types import Finish, Shape
from llamacli.engine.workers import workers
from llamacli.errors import ContextFull, LlamacliError, UsageError
from llamacli.models import store
from llamacli.models.reference import name
from llamacli.tasks.batch_file import AnswersFile
from llamacli.tasks.batch_lines import Id, Line, LineError, parse
from llamacli.tasks.complete import Request as One
from llamacli.tasks.complete import choose_mode, context_size, prompt_of
from llamacli.tasks.completion import shown_tokens
from llamacli.tasks.presets import Filled

if TYPE_CHECKING:
    from llamacli.engine.shape import Matcher, Shapes

#: Sequences of one context, llama.cpp's LLAMA_MAX_SEQ.
MOST_PARALLEL = 256
#: Seconds between two looks at whether a signal came.
_LOOK = 0.1


@dataclass(frozen=True)
class Request:
    """What to answer. `usual` is what lines do not say themselves; its prompt is nobody's.

    `lines` are the bytes of the input's lines, as they come, and `n_lines` how many there are, where that is known. The
    seed of line k is `seed` + k - 1, None draws the first. `output` None yields the records, in the order of the input
    unless `as_completed`; otherwise they are in the file, in that order at the end. `thoughts`: with the reasoning.
    `partial`: the error of an answer that ends inside its shape comes with what there is of it. `preset`: what becomes
    of a line's text, and the system message where the line has none.
    """

    usual: One
    lines: Iterable[bytes]
    n_lines: int | None = None
    parallel: int = 16
    seed: int | None = 1
    output: Path | None = None
    as_completed: bool = False
    thoughts: bool = True
    partial: bool = False
    preset: Callable[[str], Filled] | None = None


@dataclass(frozen=True)
class Record:
    """One line's answer, or its error: what is written as a line of JSON."""

    value: Mapping[str, Any]


@dataclass(frozen=True)
class Running:
    """How far it is. `tokens` have been written, prompts not counted, in `seconds` since the model was there."""

    done: int
    n_lines: int | None
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Summary:
    """The end. `resumed` were answered by an earlier run, `complete` is false where a signal came before the last line.

    Tokens and seconds are this run's: `evaluated_tokens` of the prompts, what was shared counted once.
    """

    lines: int
    failed: int
    resumed: int
    prompt_tokens: int
    evaluated_tokens: int
    completion_tokens: int
    seconds: float
    complete: bool

    @property
    def tokens_per_second(self) -> float:
        return self.completion_tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Warned:
    """What a person should know."""

    message: str


Event = Record | Running | Summary | Warned


def batch(request: Request, loading: Callable[[float], None] | None = None) -> Iterator[Event]:
    """Answer the lines: records where no file takes them, Running as it goes, a Summary at the end.

    A signal, where it is deferred, ends it: complete answers are kept. Raises UsageError for options that fit no line,
    and a file of another run; StorageError; and what models and contexts raise.
    """
    usual = request.usual
    if usual.shape is not None:
        from llamacli.engine.shape import check

        check(usual.shape)
    run = _digest(_asked(request))
    if request.seed is None:
        request = replace(request, seed=draw_seed())
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(AnswersFile(request.output, run)) if request.output is not None else None
        planned = replace(usual.context, n_ctx=min(usual.n_ctx or 512, 4096) * request.parallel)
        model = stack.enter_context(Model(usual.model, context=planned, progress=loading))
        signals.check()
        if not model.writes_text:
            raise UsageError(f"{usual.model.path}: this model reads text but does not write it")
        choose_mode(usual, model)
        resolve(usual.sampling, model)  # an option that is wrong is wrong for every line
        yield from _Batch(request, model, file, run).events(stack)


class _Batch:
    """One run."""

    def __init__(self, request: Request, model: Model, file: AnswersFile | None, run: str) -> None:
        self._request, self._model, self._file, self._run = request, model, file, run
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        # Lines that were read and are not done: those that run, and as many more to take their places.
        self._permits = threading.Semaphore(3 * request.parallel)
        self._known: dict[int, tuple[Id, str]] = {}  # line → its id and its fingerprint, while it is on its way
        self._ids: dict[Id, int] = {}
        self._waiting: dict[int, Record] = {}  # complete, but an earlier line is not
        self._order: deque[int] = deque()  # lines whose records are to be given in order
        self._failed = self._done = self._resumed = 0
        self._prompt = self._evaluated = self._completion = 0
        self._began = 0.0
        self._warned = False
        self._shapes: Shapes | None = None
        self._workers: list[Parallel] = []
        # A file is put into the order of the input at its end.
        self._in_order = not request.as_completed and (file is None or file.special)

    def events(self, stack: contextlib.ExitStack) -> Iterator[Event]:
        request = self._request
        n, context = workers(self._model, request.usual.context, request.parallel, exact=False)
        shares = [request.parallel * (i + 1) // n - request.parallel * i // n for i in range(n)]
        # Models that are small enough to run on each core by themselves are quicker with a KV cache for each sequence.
        self._workers = [Parallel(self._model, context, share, unified=n == 1) for share in shares]
        threads = [threading.Thread(target=self._work, args=(worker,), daemon=True) for worker in self._workers]
        for worker in self._workers:
            stack.callback(worker.close)
        stack.callback(self._join, threads)
        reader = threading.Thread(target=self._read, daemon=True)  # it may wait for a pipe for ever
        self._began = time.perf_counter()
        for thread in (reader, *threads):
            thread.start()
        left, ended = n, False
        while left:
            if signals.flag[0]:
                self._stop.set()
            try:
                item = self._inbox.get(timeout=_LOOK)
            except queue.Empty:
                yield self._running()
                continue
            if isinstance(item, BaseException):
                raise item
            if item is None:
                left -= 1
            elif isinstance(item, tuple):
                number, data = item
                if not self._stop.is_set():
                    yield from self._take(number, data)
            elif isinstance(item, _End):
                ended = True
                for _ in self._workers:
                    self._ready.put(None)
            else:
                yield from self._answered(item)
        complete = ended and not self._known and not self._stop.is_set()
        if self._file is not None and complete:
            self._file.finish(in_order=not request.as_completed)
            if more := self._file.n_known - self._done:
                yield Warned(f"{request.output} has answers to {more} lines that the input has no longer")
        yield Summary(
            self._done,
            self._failed,
            self._resumed,
            self._prompt,
            self._evaluated,
            self._completion,
            time.perf_counter() - self._began,
            complete,
        )

    # --- threads --------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """The source's lines, as many as are wanted."""
        try:
            for number, data in enumerate(self._request.lines, 1):
                data = data.strip(b" \t\r\n")
                if number == 1:
                    data = data.removeprefix(b"\xef\xbb\xbf")
                if not data:
                    continue
                self._permits.acquire()
                if self._stop.is_set():
                    return
                self._inbox.put((number, data))
            self._inbox.put(_End())
        except BaseException as error:
            self._inbox.put(error)

    def _work(self, worker: Parallel) -> None:
        try:
            for item in worker.run(self._next):
                self._inbox.put(item)
            self._inbox.put(None)
        except BaseException as error:
            self._inbox.put(error)

    def _next(self, wait: bool) -> Job | None:
        """A worker's next job."""
        while not self._stop.is_set() and not signals.flag[0]:
            try:
                job = self._ready.get(timeout=_LOOK) if wait else self._ready.get_nowait()
            except queue.Empty:
                if wait:
                    continue
                return None
            if job is None and not wait:  # the end: it shall be met again
                self._ready.put(None)
            return job
        return None

    def _join(self, threads: Iterable[threading.Thread]) -> None:
        self._stop.set()
        for thread in threads:
            thread.join()

    # --- lines ----------------------------------------------------------------------------------------------------

    def _take(self, number: int, data: bytes) -> Iterator[Event]:
        """A line that came: to the workers, or it has its record already."""
        print_ = f"{self._run}-{_digest(data)}"
        place = self._file.find(number, print_) if self._file is not None else None
        if place is not None:
            self._permits.release()
            self._ids.setdefault(place.id, number)
            self._done += 1
            self._resumed += 1
            self._failed += place.code != 0
            yield self._running()
            return
        if self._in_order:
            self._order.append(number)
        try:
            line = parse(data, number, self._request.usual)
        except LineError as error:
            id = number if error.id is None else error.id
            self._ids.setdefault(id, number)
            self._known[number] = (id, print_)
            yield from self._fail(number, error)
            return
        self._known[number] = (line.id, print_)
        try:
            earlier = self._ids.setdefault(line.id, number)
            if earlier != number:
                raise UsageError(f"id {json.dumps(line.id)}: line {earlier} has the same")
            if line.model is not None and not self._warned:
                self._warned = True
                yield Warned(f"line {number} names a model; all lines are answered by {name(self._model.header.path)}")
            self._ready.put(self._job(number, line))
        except LlamacliError as error:
            yield from self._fail(number, error)

    def _job(self, number: int, line: Line) -> Job:
        request, model = self._filled(line.request), self._model
        mode = choose_mode(request, model)
        prompt, tokens = prompt_of(request, model, mode)
        limits = Limits(request.max_tokens, context_size(request, model, len(tokens)), request.stops)
        check_prompt(tokens, limits)
        assert self._request.seed is not None
        seed = (self._request.seed + number - 1) % NO_SEED
        sampling = resolve({"seed": seed, **request.sampling}, model)
        reasoning = Reasoning(prompt.text, channels=model.has_channels) if mode == "chat" else None
        return Job(number, tokens, sampling, limits, reasoning, self._matcher(request.shape), request.logprobs)

    def _filled(self, request: One) -> One:
        if self._request.preset is None:
            return request
        filled = self._request.preset(request.prompt)
        usual = request.system == self._request.usual.system
        return replace(request, prompt=filled.prompt or "", system=filled.system if usual else request.system)

    def _matcher(self, shape: Shape | None) -> Matcher | None:
        if shape is None:
            return None
        if self._shapes is None:
            from llamacli.engine.shape import Shapes

            self._shapes = Shapes(self._model)
        return self._shapes.matcher(shape)

    # --- records --------------------------------------------------------------------------------------------------

    def _answered(self, item: Done | Failed) -> Iterator[Event]:
        if isinstance(item, Failed):
            yield from self._fail(item.number, item.error)
            return
        stats = item.finish.stats
        self._prompt += stats.prompt_tokens
        self._evaluated += stats.evaluated_tokens
        self._completion += stats.completion_tokens
        answer = _answer(item, self._request.thoughts)
        if item.finish.whole is not False:
            yield from self._record(item.number, answer)
        else:
            yield from self._fail(item.number, _unfinished(item.finish), answer if self._request.partial else {})

    def _fail(self, number: int, error: LlamacliError, partial: Mapping[str, Any] = {}) -> Iterator[Event]:
        self._failed += 1
        yield from self._record(number, {**partial, "error": {"code": error.exit_code, "message": error.message}})

    def _record(self, number: int, what: Mapping[str, Any]) -> Iterator[Event]:
        id, print_ = self._known.pop(number)
        record = Record({"id": id, "line": number, **what, "fingerprint": print_})
        self._permits.release()
        self._done += 1
        if self._in_order:
            self._waiting[number] = record
            while self._order and self._order[0] in self._waiting:
                yield from self._give(self._waiting.pop(self._order.popleft()))
        else:
            yield from self._give(record)
        yield self._running()

    def _give(self, record: Record) -> Iterator[Event]:
        if self._file is not None:
            self._file.add(record.value)
        else:
            yield record

    def _running(self) -> Running:
        n_tokens = sum(worker.n_written for worker in self._workers)
        return Running(self._done, self._request.n_lines, n_tokens, time.perf_counter() - self._began)


class _End:
    """There are no more lines."""


def _answer(item: Done, with_thoughts: bool) -> dict[str, Any]:
    finish = item.finish
    text = b"".join(chunk.data for chunk in item.chunks if not chunk.reasoning).decode("utf-8", "replace")
    thoughts = b"".join(chunk.data for chunk in item.chunks if chunk.reasoning).decode("utf-8", "replace")
    return {
        "text": text,
        "reasoning": thoughts or None if with_thoughts else None,
        "finish_reason": finish.reason,
        "stop": finish.stop,
        "seed": finish.seed,
        "usage": {
            "prompt_tokens": finish.stats.prompt_tokens,
            "completion_tokens": finish.stats.completion_tokens,
            "cached_tokens": finish.stats.prompt_tokens - finish.stats.evaluated_tokens,
        },
        **({"logprobs": [dataclasses.asdict(token) for token in shown_tokens(finish)]} if finish.logprobs else {}),
    }


def _unfinished(finish: Finish) -> ContextFull:
    why = {"length": "no more were allowed", "context": f"the context of {finish.n_ctx} is full"}
    said = why.get(finish.reason, "the model ended it")
    return ContextFull(f"after {finish.stats.completion_tokens} tokens the answer has not its whole shape: {said}")


# --- what an answer depends on ----------------------------------------------------------------------------------------


def _asked(request: Request) -> bytes:
    """All but the line: the model and the options. Not how many run side by side, nor the seed that was drawn."""
    usual = request.usual
    files = [*store.parts(usual.model.path), *(path for path, _ in usual.model.loras)]
    asked = {
        "weights": [fingerprint(path) for path in files],
        "scales": [scale for _, scale in usual.model.loras],
        "seed": request.seed,
        "system": usual.system,
        "raw": usual.raw,
        "special": usual.special,
        "think": usual.think,
        "template": usual.template,
        "template_args": usual.template_args,
        "sampling": usual.sampling,
        "max_tokens": usual.max_tokens,
        "stops": usual.stops,
        "shape": None if usual.shape is None else [usual.shape.kind, usual.shape.source],
        "thoughts": request.thoughts,
        "partial": request.partial,
        "logprobs": usual.logprobs,
        "preset": None if request.preset is None else dataclasses.asdict(request.preset("\0")),
        "n_ctx": usual.n_ctx,
        "flash_attn": usual.context.flash_attn,
        "cache_types": [usual.context.type_k, usual.context.type_v],
    }
    return json.dumps(asked, sort_keys=True, default=str).encode()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
