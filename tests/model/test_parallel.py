"""Sequences side by side: each writes what it writes alone; beginnings are shared; a full cache means fewer at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from make_gguf import write_mamba

from llamacli import signals
from llamacli.engine import parallel
from llamacli.engine.context import Context
from llamacli.engine.generate import Limits, generate
from llamacli.engine.model import Model
from llamacli.engine.parallel import Done, Failed, Job, Parallel
from llamacli.engine.prompt_cache import common_prefix
from llamacli.engine.types import Chunk, ContextOptions, Finish, ModelOptions, Sampling
from llamacli.errors import OutOfMemory

GREEDY = Sampling(temp=0, seed=1)
#: Numbers as exact as the library has them, so that texts do not depend on who computes beside whom.
EXACT = ContextOptions(n_ctx=0, n_threads=1, type_k="f32", type_v="f32")
LONG = (
    "Once upon a time, there was a little bird named Lily. She liked honey and bread. One day Lily went to the forest. "
)
NAMES = ("Anna", "Ben", "Tom", "Lily", "Max", "Sue", "Bob", "Tim", "Mia", "Sam")


@pytest.fixture(scope="module")
def model(plain: Path) -> Iterator[Model]:
    """Random weights in f32: rounding decides next to nothing."""
    with Model(ModelOptions(plain)) as opened:
        yield opened


def alone(model: Model, job: Job) -> tuple[bytes, Finish]:
    with Context(model, replace(EXACT, n_ctx=job.limits.n_ctx)) as context:
        *chunks, end = generate(context, job.tokens, job.sampling, job.limits)
    assert isinstance(end, Finish)
    return b"".join(chunk.data for chunk in chunks if isinstance(chunk, Chunk)), end


def jobs_of(model: Model, texts: Sequence[str], limits: Limits, **sampling: Any) -> list[Job]:
    return [Job(i, model.tokenize(text), Sampling(seed=i, **sampling), limits) for i, text in enumerate(texts)]


def run(model: Model, jobs: Sequence[Job], n: int, *, unified: bool = True) -> dict[int, tuple[bytes, Finish]]:
    left = deque(jobs)
    found = {}
    with Parallel(model, EXACT, n, unified=unified) as worker:
        for item in worker.run(lambda _: left.popleft() if left else None):
            assert isinstance(item, Done)
            assert item.number not in found
            found[item.number] = (b"".join(chunk.data for chunk in item.chunks), item.finish)
    return found


def same(job: Job, one: tuple[bytes, Finish], other: tuple[bytes, Finish]) -> None:
    assert one[0] == other[0]
    assert (one[1].reason, one[1].stop, one[1].seed) == (other[1].reason, other[1].stop, other[1].seed)
    assert one[1].tokens == other[1].tokens
    assert one[1].stats.completion_tokens == other[1].stats.completion_tokens


def nearly_same(model: Model, job: Job, one: tuple[bytes, Finish], other: tuple[bytes, Finish]) -> None:
    """Greedy texts that are evaluated again in other batches may part where two tokens are as good as each other.

    Batches of other sizes move this model's logits, whose deviation is 0.8, by up to 0.01.
    """
    a, b = one[1].tokens, other[1].tokens
    assert (one[1].reason, len(a)) == (other[1].reason, len(b))
    n = common_prefix(a, b)
    if n < len(a):
        tokens = [*job.tokens, *a[:n]]
        with Context(model, replace(EXACT, n_ctx=len(tokens) + 8)) as context:
            last = context.logits(tokens)[-1]
        assert abs(last[a[n]] - last[b[n]]) < 2e-2
        assert last[a[n]] > last.max() - 2e-2


@pytest.mark.parametrize("unified", [True, False])
@pytest.mark.parametrize("n", [1, 3, 16])
def test_each_writes_what_it_writes_alone(model: Model, n: int, unified: bool) -> None:
    texts = [f"{name} went to the {'big ' * (i % 4)}" for i, name in enumerate(NAMES * 2)]
    # penalties: the samplers' states are different from the second token on
    jobs = jobs_of(model, texts, Limits(24, 128), temp=0, repeat_penalty=1.3)
    text = alone(model, jobs[3])[0].decode("utf-8", "ignore")
    jobs[3] = replace(jobs[3], limits=Limits(24, 128, stops=(text[4:6],)))
    found = run(model, jobs, n, unified=unified)
    assert len(found) == len(jobs)
    for job in jobs:
        same(job, found[job.number], alone(model, job))
    assert {finish.reason for _, finish in found.values()} == {"stop", "length"}


@pytest.mark.parametrize("n", [2, 6])
def test_each_has_its_own_random_numbers(model: Model, n: int) -> None:
    jobs = jobs_of(model, ["Once upon a time"] * 6, Limits(6, 128), temp=0.8)
    found = run(model, jobs, n)
    assert len({text for text, _ in found.values()}) == 6
    for job in jobs:
        same(job, found[job.number], alone(model, job))


@pytest.mark.parametrize("unified", [True, False])
def test_a_shared_beginning_is_evaluated_once(model: Model, unified: bool) -> None:
    jobs = jobs_of(model, [LONG + name for name in NAMES], Limits(8, 256), temp=0)
    found = run(model, jobs, 4, unified=unified)
    shared = len(model.tokenize(LONG.strip()))
    evaluated = sorted(finish.stats.evaluated_tokens for _, finish in found.values())
    assert evaluated[-1] == len(jobs[NAMES.index("Anna")].tokens)
    assert evaluated[-2] <= max(len(job.tokens) for job in jobs) - shared + 1
    for job in jobs:
        same(job, found[job.number], alone(model, job))


def test_each_of_several_beginnings_is_evaluated_once(model: Model) -> None:
    other = LONG.replace("bird", "dog").replace("Once upon a time", "One day")
    texts = [(LONG, other)[i % 2] + name for i, name in enumerate(NAMES)]
    found = run(model, jobs_of(model, texts, Limits(8, 256), temp=0), 4)
    long = [finish for _, finish in found.values() if finish.stats.evaluated_tokens > 20]
    assert len(long) == 2


def test_a_full_cache_means_fewer_at_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six long answers in room for two: those that give up their room are evaluated again, and lose nothing."""
    monkeypatch.setattr(parallel, "_ROOM", 0)
    monkeypatch.setattr(parallel, "_USUAL_ANSWER", 60)
    given_up = []
    original = Parallel._give_up
    monkeypatch.setattr(
        Parallel, "_give_up", lambda self, each: (given_up.append(each.job.number), original(self, each))
    )
    endless = replace(GREEDY, logit_bias=((2, -1e9), (1, -1e9)))
    jobs = [
        replace(job, sampling=replace(endless, seed=job.number)) for job in jobs_of(model, NAMES[:6], Limits(None, 200))
    ]
    found = run(model, jobs, 6)
    assert given_up
    for job in jobs:
        nearly_same(model, job, found[job.number], alone(model, job))
        assert found[job.number][1].reason == "context"


@pytest.mark.parametrize("unified", [True, False])
def test_a_prompt_that_needs_more_room_gets_it(model: Model, monkeypatch: pytest.MonkeyPatch, unified: bool) -> None:
    monkeypatch.setattr(parallel, "_ROOM", 0)
    monkeypatch.setattr(parallel, "_USUAL_ANSWER", 16)
    texts = ["Once upon a time", LONG * 3, "One day"]
    jobs = jobs_of(model, texts, Limits(10, 600), temp=0)
    assert len(jobs[1].tokens) > 256
    found = run(model, jobs, 4, unified=unified)
    for job in jobs:
        nearly_same(model, job, found[job.number], alone(model, job))


@pytest.mark.parametrize("unified", [True, False])
def test_an_answer_that_outgrows_its_cache_goes_on(
    model: Model, monkeypatch: pytest.MonkeyPatch, unified: bool
) -> None:
    monkeypatch.setattr(parallel, "_ROOM", 0)
    monkeypatch.setattr(parallel, "_USUAL_ANSWER", 16)
    endless = replace(GREEDY, logit_bias=((2, -1e9), (1, -1e9)))
    jobs = [replace(job, sampling=endless) for job in jobs_of(model, NAMES[:2], Limits(None, 330))]
    found = run(model, jobs, 2, unified=unified)
    for job in jobs:
        nearly_same(model, job, found[job.number], alone(model, job))


def test_what_memory_cannot_hold_fails_alone(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = parallel.Context

    def small_machine(model: Model, options: ContextOptions) -> Context:
        if options.n_ctx > 1024:
            raise OutOfMemory("too much")
        return opened(model, options)

    monkeypatch.setattr(parallel, "Context", small_machine)
    jobs = jobs_of(model, NAMES[:3], Limits(10, 128), temp=0)
    jobs[1] = replace(jobs[1], limits=Limits(3000, 4000))
    left = deque(jobs)
    with Parallel(model, EXACT, 3, unified=True) as worker:
        items = {item.number: item for item in worker.run(lambda _: left.popleft() if left else None)}
    assert isinstance(items[1], Failed)
    for i in (0, 2):
        item = items[i]
        assert isinstance(item, Done)
        assert b"".join(chunk.data for chunk in item.chunks) == alone(model, jobs[i])[0]


def test_a_recurrent_model_shares_nothing(tmp_path: Path) -> None:
    with Model(ModelOptions(write_mamba(tmp_path / "mamba.gguf"))) as model:
        jobs = jobs_of(model, ["the cat sat on the mat and looked at the dog " * 2] * 4, Limits(6, 128), temp=0)
        found = run(model, jobs, 2)
        assert {finish.stats.evaluated_tokens for _, finish in found.values()} == {len(jobs[0].tokens)}
        for job in jobs:
            assert found[job.number][0] == alone(model, job)[0]


def test_a_signal_ends_it(model: Model) -> None:
    left = deque(jobs_of(model, NAMES, Limits(200, 256), temp=0.8))
    done = []
    try:
        with Parallel(model, EXACT, 4, unified=True) as worker:
            for item in worker.run(lambda _: left.popleft() if left else None):
                done.append(item)
                signals.flag[0] = 1
    finally:
        signals.flag[0] = 0
    assert 1 <= len(done) < len(NAMES)
