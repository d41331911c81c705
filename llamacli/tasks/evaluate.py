"""Accuracy on questions with several answers: the most likely one counts as the model's.

HellaSwag and Winogrande are scored as llama-perplexity scores them, by the mean log-probability of a token. Other
choices are by the field's two measures: the sum of the log-probabilities, and that sum by byte of the choice, so that
long answers have a chance.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from llamacli import signals
from llamacli.engine.branches import MOST_SEQUENCES, Branch, Branches, n_tokens, shared
from llamacli.engine.fingerprint import fingerprint
from llamacli.engine.model import Model
from llamacli.engine.types import ContextOptions, ModelOptions
from llamacli.engine.workers import workers
from llamacli.errors import BadModelFile, UsageError
from llamacli.models.reference import name
from llamacli.tasks.evaluate_results import Outcome, ResultsFile
from llamacli.tasks.evaluate_sets import USUAL_COUNT, Question, Set, Task, chosen, read, shuffled

#: Tokens that are evaluated at a time, as long as one question fits: more are no faster.
GROUP = 512
#: Sequences of a group, as long as one question has fewer.
_SEQUENCES = 16
#: Winogrande: with no more tokens than this after the gap, the choice itself is scored, too.
_LEAST_AFTER = 3
_Z = 1.95996398454  # 95 %

TOO_LONG = "longer than the context"
NOTHING_BEFORE = "no token before the answer"
NOTHING_AFTER = "no token to score"


@dataclass(frozen=True)
class Request:
    """What to measure. `data` is the file; `n` None is the task's usual number of questions, 0 all.

    `n_ctx` None is the trained size; it limits one question with one answer. `context` holds the rest about it.
    """

    task: Task
    file: str
    data: bytes
    model: ModelOptions
    n: int | None = None
    seed: int = 1
    shots: int = 0
    delimiter: str | None = None
    results: Path | None = None
    n_ctx: int | None = None
    context: ContextOptions = field(default_factory=lambda: ContextOptions(n_ctx=0))


@dataclass(frozen=True)
class Warned:
    """What a person should know."""

    message: str


@dataclass(frozen=True)
class Running:
    """So many of n questions are done; `score` is the accuracy so far, the one that the task is known by."""

    done: int
    n: int
    score: float | None


@dataclass(frozen=True)
class Accuracy:
    """A share, its standard error, and Wilson's interval at 95 %; all None where no question was scored."""

    correct: int
    value: float | None
    error: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Evaluation:
    """The result. `complete` is false where a signal came before the last question.

    `accuracy` goes by the sum of log-probabilities; `accuracy_norm` by that sum per token, or per byte of the choice.
    Both count the `scored` questions; `skipped` are others, by reason; `resumed` were in the file of results.
    """

    task: str
    model: str
    file: str
    n: int
    scored: int
    accuracy: Accuracy
    accuracy_norm: Accuracy
    normalised_by: str
    skipped: Mapping[str, int]
    seed: int
    shots: int
    resumed: int
    complete: bool
    seconds: float


Event = Warned | Running | Evaluation


def evaluate(request: Request, loading: Callable[[float], None] | None = None) -> Iterator[Event]:
    """Measure: warnings, Running after each group of questions, an Evaluation at the end.

    A signal, where it is deferred, ends it: what was measured until then is the result. Raises UsageError for a damaged
    file, options that do not fit, and results of another run; StorageError; and what models and contexts raise.
    """
    began = time.perf_counter()
    found = read(request.task, request.data, request.file, request.delimiter)
    n_all = len(found.questions)
    count = USUAL_COUNT[request.task] if request.n is None else request.n
    if request.shots >= n_all:
        raise UsageError(f"--shots {request.shots}: there are {n_all - 1} other questions in {request.file}")
    order = chosen(request.task, n_all, count, request.seed)
    if found.left_out:
        yield Warned("the last line is left out, as llama-perplexity leaves it out, so that figures can be compared")
    if request.n is not None and request.n > n_all:
        yield Warned(f"{request.file} holds {n_all} questions, not {request.n}")
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(ResultsFile(request.results, _asked(request, order))) if request.results else None
        tally = _Tally(request.task, len(order))
        wanted = set(order)
        for outcome in file.outcomes if file else ():
            if outcome.item in wanted:  # once, whatever the file holds
                wanted.remove(outcome.item)
                tally.add(outcome)
        resumed = tally.done
        yield tally.running()
        rest = [item for item in order if item in wanted]
        if rest:
            yield from _measure(request, found, rest, tally, file, loading)
    yield tally.result(request, resumed, time.perf_counter() - began)


def _measure(
    request: Request,
    found: Set,
    items: Sequence[int],
    tally: _Tally,
    file: ResultsFile | None,
    loading: Callable[[float], None] | None,
) -> Iterator[Event]:
    with Model(request.model, context=replace(request.context, n_ctx=4096), progress=loading) as model:
        signals.check()
        if not model.writes_text:
            raise UsageError(f"{request.model.path}: this model reads text but does not write it")
        if request.n_ctx and 0 < model.n_ctx_train < request.n_ctx:
            yield Warned(
                f"a context of {request.n_ctx} tokens, but the model was trained with {model.n_ctx_train}: "
                "beyond that its predictions fall apart"
            )
        trees = _Trees(request, found, model)
        n_sequences = max(_SEQUENCES, *(len(found.questions[item].choices) for item in items))
        n_workers, context = workers(model, request.context, MOST_SEQUENCES, exact=False)
        with contextlib.ExitStack() as stack:
            everybody = [Branches(model, context, min(n_sequences, MOST_SEQUENCES)) for _ in range(n_workers)]
            for worker in everybody:
                stack.callback(worker.close)
            for group, logprobs in _in_order(everybody, _groups(trees.of(item) for item in items)):
                if logprobs is None:
                    return
                outcomes = _outcomes(request, group, logprobs)
                if file is not None:
                    file.add(outcomes)
                for outcome in outcomes:
                    tally.add(outcome)
                yield tally.running()
                if signals.flag[0]:
                    return


_Logprobs = list[list[np.ndarray]]


def _in_order(
    everybody: Sequence[Branches], groups: Iterator[list[_Tree]]
) -> Iterator[tuple[list[_Tree], _Logprobs | None]]:
    """Evaluate groups, each by the worker whose turn it is; while they work, the next groups are made ready."""
    waiting: deque[tuple[list[_Tree], Future[_Logprobs | None]]] = deque()
    with contextlib.ExitStack() as stack:
        pools = [stack.enter_context(ThreadPoolExecutor(1, "branches")) for _ in everybody]
        for i, group in enumerate(groups):
            worker, pool = everybody[i % len(everybody)], pools[i % len(pools)]
            trees = [tree.branches for tree in group if tree.branches]
            if not worker.fits(trees):
                while waiting:  # it must be at rest
                    done, future = waiting.popleft()
                    yield done, future.result()
                worker.reserve(trees)
            waiting.append((group, pool.submit(worker.evaluate, trees)))
            while len(waiting) > 2 * len(everybody) or (waiting and waiting[0][1].done()):
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()


# --- questions as tokens ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tree:
    """A question's texts as tokens, or why it has none."""

    item: int
    question: Question
    branches: tuple[Branch, ...] = ()
    skipped: str | None = None


class _Trees:
    """Makes tokens of questions."""

    def __init__(self, request: Request, found: Set, model: Model) -> None:
        self._questions, self._task, self._model = found.questions, request.task, model
        self._limit = request.n_ctx or model.n_ctx_train or 1 << 20
        self._shots = _shots(request, len(found.questions))

    def of(self, item: int) -> _Tree:
        question = self._questions[item]
        solved = [self._questions[shot].solved for shot in self._shots[:-1]]
        if item in self._shots[:-1]:  # the spare one takes its place
            solved[self._shots.index(item)] = self._questions[self._shots[-1]].solved
        before = "".join(f"{text}\n\n" for text in solved) + question.before
        whole = [self._tokens(before + choice + question.after) for choice in question.choices]
        if max(map(len, whole)) > self._limit:
            return _Tree(item, question, skipped=TOO_LONG)
        spans = list(self._spans(question, before, whole))
        if any(start < 1 for start, _ in spans):
            return _Tree(item, question, skipped=NOTHING_BEFORE)
        if any(start >= stop for start, stop in spans):
            return _Tree(item, question, skipped=NOTHING_AFTER)
        branches = [Branch(tokens, *span) for tokens, span in zip(whole, spans, strict=True)]
        if self._task == "winogrande" and branches[1].start == shared(whole):
            branches = [*_first_token_elsewhere(*branches)]
        return _Tree(item, question, tuple(branches))

    def _tokens(self, text: str) -> np.ndarray:
        tokens = self._model.tokenize(text)
        if self._model.adds_eos and tokens[-1:] == [self._model.eos]:
            tokens.pop()  # it is no part of the text
        return np.array(tokens, np.int32)

    def _spans(self, question: Question, before: str, whole: list[np.ndarray]) -> Iterator[tuple[int, int]]:
        """The first token that is scored of each text, and the one after the last."""
        common = shared(whole)
        if self._task == "hellaswag":
            start = min(common, *(len(tokens) - 1 for tokens in whole))
            yield from ((start, len(tokens)) for tokens in whole)
        elif self._task == "winogrande":
            after_only = all(len(tokens) - common > _LEAST_AFTER for tokens in whole)
            for tokens, choice in zip(whole, question.choices, strict=True):
                start = len(self._tokens(before + choice)) if after_only else common
                yield start, len(tokens) - (1 if len(tokens) - start > 1 else 0)  # without the full stop
        else:
            # Where a token reaches over the border of query and choice, it belongs to the choice: of all choices, or
            # their log-probabilities would be of different things.
            query = self._tokens(before.rstrip())
            start = shared([query, *whole])
            yield from ((start, len(tokens)) for tokens in whole)


def _first_token_elsewhere(first: Branch, second: Branch) -> tuple[Branch, Branch, Branch]:
    """A fault of llama-perplexity's, known there, without which its scores would not be met.

    Where the second sentence is scored from its first token on that differs, it takes that token's probability from
    after the whole first sentence: here a branch of its own.
    """
    token = second.tokens[second.start]
    elsewhere = np.append(first.tokens, token)
    return first, replace(second, start=second.start + 1), Branch(elsewhere, len(first.tokens), len(elsewhere))


def _shots(request: Request, n_all: int) -> list[int]:
    """The questions whose answers are shown first, and a spare one; all [] without --shots."""
    return shuffled(n_all, request.seed + 1)[: request.shots + 1] if request.shots else []


def _groups(trees: Iterator[_Tree]) -> Iterator[list[_Tree]]:
    """Trees that are evaluated at once."""
    group: list[_Tree] = []
    total = n_sequences = 0
    for tree in trees:
        size, width = n_tokens(tree.branches) if tree.branches else 0, len(tree.branches)
        if group and (total + size > GROUP or n_sequences + width > _SEQUENCES):
            yield group
            group, total, n_sequences = [], 0, 0
        group.append(tree)
        total, n_sequences = total + size, n_sequences + width
    if group:
        yield group


# --- scores -----------------------------------------------------------------------------------------------------------


def _outcomes(request: Request, group: Sequence[_Tree], logprobs: _Logprobs) -> list[Outcome]:
    found = iter(logprobs)
    return [_outcome(request, tree, next(found)) if tree.branches else _skipped(tree) for tree in group]


def _skipped(tree: _Tree) -> Outcome:
    return Outcome(tree.item, tree.question.gold, skipped=tree.skipped)


def _outcome(request: Request, tree: _Tree, logprobs: Sequence[np.ndarray]) -> Outcome:
    logprobs = [*logprobs]
    for elsewhere in logprobs[len(tree.question.choices) :]:
        logprobs[1] = np.append(logprobs[1], elsewhere)
    logprobs = logprobs[: len(tree.question.choices)]
    sums = [float(values.sum()) for values in logprobs]
    if any(math.isnan(value) for value in sums):
        raise BadModelFile(f"{name(request.model.path)}: its weights give no numbers (NaN); the file is damaged")
    if request.task == "choice":
        lengths = [len(choice.encode()) for choice in tree.question.choices]
    else:
        lengths = [len(values) for values in logprobs]
    means = [value / length for value, length in zip(sums, lengths, strict=True)]
    best = _last_best if request.task == "winogrande" else _first_best
    return Outcome(tree.item, tree.question.gold, best(sums), best(means), tuple(sums), tuple(lengths))


def _first_best(values: Sequence[float]) -> int:
    return values.index(max(values))


def _last_best(values: Sequence[float]) -> int:
    """As llama-perplexity decides between two equal sentences."""
    return len(values) - 1 - values[::-1].index(max(values))


class _Tally:
    """What is known so far."""

    def __init__(self, task: Task, n: int) -> None:
        self._task, self._n = task, n
        self.done = self._scored = self._correct = self._correct_norm = 0
        self._skipped: Counter[str] = Counter()

    def add(self, outcome: Outcome) -> None:
        self.done += 1
        if outcome.skipped:
            self._skipped[outcome.skipped] += 1
            return
        self._scored += 1
        self._correct += outcome.correct
        self._correct_norm += outcome.correct_norm

    def running(self) -> Running:
        correct = self._correct if self._task == "choice" else self._correct_norm
        return Running(self.done, self._n, correct / self._scored if self._scored else None)

    def result(self, request: Request, resumed: int, seconds: float) -> Evaluation:
        return Evaluation(
            task=request.task,
            model=name(request.model.path),
            file=request.file,
            n=self._n,
            scored=self._scored,
            accuracy=wilson(self._correct, self._scored),
            accuracy_norm=wilson(self._correct_norm, self._scored),
            normalised_by="bytes" if request.task == "choice" else "tokens",
            skipped=dict(self._skipped),
            seed=request.seed,
            shots=request.shots,
            resumed=resumed,
            complete=self.done == self._n,
            seconds=round(seconds, 3),
        )


def wilson(correct: int, n: int) -> Accuracy:
    """The share of correct ones among n: https://en.wikipedia.org/wiki/Binomial_proportion_confidence_interval."""
    if not n:
        return Accuracy(0, None, None, None, None)
    share = correct / n
    z = _Z * _Z / n
    centre, half = share + z / 2, math.sqrt(z * (share * (1 - share) + z / 4))
    error = math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else None
    return Accuracy(correct, share, error, (centre - half) / (1 + z), (centre + half) / (1 + z))


# --- what a file of results is of -------------------------------------------------------------------------------------


def _asked(request: Request, order: Sequence[int]) -> dict[str, Any]:
    """All that the results depend on. The questions themselves, their number and order follow from these."""
    context = request.context
    return {
        "task": request.task,
        "file": hashlib.sha256(request.data).hexdigest(),
        "model": name(request.model.path),
        "weights": fingerprint(request.model.path),
        "loras": [[fingerprint(path), scale] for path, scale in request.model.loras],
        "n": len(order),
        "seed": request.seed,
        "shots": request.shots,
        "delimiter": request.delimiter,
        "n_ctx": request.n_ctx,
        "flash_attn": context.flash_attn,
        "cache_types": [context.type_k, context.type_v],
    }
