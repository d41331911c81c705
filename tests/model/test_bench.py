"""Speeds: what is measured, in which order, and what a signal or an error leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamacli import signals
from llamacli.builtin import TINY
from llamacli.engine.bench import Runner
from llamacli.engine.context import Context
from llamacli.engine.model import Model
from llamacli.engine.native import C
from llamacli.engine.types import ContextOptions, ModelOptions
from llamacli.errors import UsageError
from llamacli.tasks import bench as task
from llamacli.tasks.bench import Failed, Measured, Request, Step, bench

CONTEXT = ContextOptions(n_ctx=0, n_threads=1)


def request(*models: Path, **changes: Any) -> Request:
    defaults: dict[str, Any] = {"contexts": [CONTEXT], "sizes": [(32, 0), (0, 4)], "repetitions": 2}
    return Request([ModelOptions(path) for path in models], **{**defaults, **changes})


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(position of the first token, tokens) of each batch that is evaluated."""
    found = []
    real = Context.decode

    def decode(self: Context, batch: Any) -> bool:
        memory = C.llama_get_memory(self.handle)
        found.append((C.llama_memory_seq_pos_max(memory, 0) + 1, batch.n_tokens))
        return real(self, batch)

    monkeypatch.setattr(Context, "decode", decode)
    return found


def test_what_is_evaluated(plain: Path, decoded: list[tuple[int, int]]) -> None:
    """The prompt in batches, the generation token by token; a warm-up of the whole prompt and one token."""
    context = ContextOptions(n_ctx=0, n_batch=20, n_threads=1)
    list(bench(request(plain, contexts=[context], sizes=[(32, 2)], repetitions=2)))
    prompt = [(0, 20), (20, 12)]
    assert decoded == [*prompt, (32, 1), *([*prompt, (32, 1), (33, 1)] * 2)]
    decoded.clear()
    list(bench(request(plain, sizes=[(0, 2)], repetitions=1, warmup=False)))
    assert decoded == [(0, 1), (1, 1)]


def test_the_depth_is_computed_once(plain: Path, decoded: list[tuple[int, int]]) -> None:
    results = list(bench(request(plain, sizes=[(8, 0), (0, 2)], depths=[40], warmup=False)))
    assert decoded == [(0, 40), (40, 8), (40, 8), *[(40, 1), (41, 1)] * 2]
    assert [r.test for r in results if isinstance(r, Measured)] == ["pp8 @ d40", "tg2 @ d40"]


def test_all_combinations(plain: Path) -> None:
    contexts = [ContextOptions(n_ctx=0, n_threads=1, n_ubatch=n) for n in (16, 32)]
    sizes = [(8, 0), (0, 0), (0, 2), (8, 2)]
    events = list(bench(request(plain, TINY, contexts=contexts, depths=[0, 4], sizes=sizes, repetitions=1)))
    results = [e for e in events if isinstance(e, Measured)]
    tests = ["pp8", "tg2", "pp8+tg2", "pp8 @ d4", "tg2 @ d4", "pp8+tg2 @ d4"] * 2
    assert [r.test for r in results] == tests * 2
    assert [r.n_ubatch for r in results] == ([16] * 6 + [32] * 6) * 2
    assert [r.model for r in results] == [str(plain)] * 12 + ["tiny"] * 12
    steps = [e for e in events if isinstance(e, Step)]
    assert [(s.step, s.n_step) for s in steps] == [(i, 24) for i in range(24)]


def test_mean_and_deviation(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10 tokens in 1, 2 and 4 seconds: 10, 5 and 2.5 tokens/s; llama-bench's formulas."""
    seconds = iter([1.0, 2.0, 4.0])
    monkeypatch.setattr(Runner, "timed", lambda *_: next(seconds))
    *_, found = bench(request(plain, sizes=[(6, 4)], repetitions=3, warmup=False))
    assert isinstance(found, Measured)
    mean, squares = 17.5 / 3, 100 + 25 + 6.25
    assert found.tokens_per_second == pytest.approx(mean)
    assert found.deviation == pytest.approx((squares / 2 - mean**2 * 3 / 2) ** 0.5)
    assert found.seconds == (1, 2, 4)


def test_what_is_said_of_a_model() -> None:
    *_, found = bench(request(TINY, sizes=[(8, 0)], repetitions=1))
    assert isinstance(found, Measured)
    with Model(ModelOptions(TINY)) as model:
        assert (found.type, found.size, found.n_params) == (model.description, model.n_bytes, model.n_params)
    assert (found.n_params, found.n_threads, found.n_batch, found.deviation) == (3410688, 1, 2048, 0)
    assert found.peak is None or found.peak > found.size


def test_the_rest_goes_on_after_a_failure(plain: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF")
    contexts = [CONTEXT, ContextOptions(n_ctx=0, type_v="q8_0", flash_attn="off", n_threads=1)]
    events = list(bench(request(bad, plain, contexts=contexts, sizes=[(8, 0)], repetitions=1)))
    failures = [e for e in events if isinstance(e, Failed)]
    assert [(f.model, f.test) for f in failures] == [(str(bad), None), (str(plain), "pp8")]
    assert "needs flash attention" in failures[1].error.message
    assert len([e for e in events if isinstance(e, Measured)]) == 1


@pytest.fixture
def stop() -> Iterator[None]:
    yield
    signals.flag[0] = 0


def test_a_signal_leaves_what_is_finished(plain: Path, stop: None) -> None:
    results = []
    for event in bench(request(plain, sizes=[(8, 0), (16, 0)], repetitions=3)):
        if isinstance(event, Step) and event.step == 4:
            signals.flag[0] = 1
        results += [event] if isinstance(event, Measured) else []
    assert [r.test for r in results] == ["pp8"]


def test_nothing_to_measure(plain: Path) -> None:
    with pytest.raises(UsageError, match="nothing to measure"):
        list(bench(request(plain, sizes=[(0, 0)])))


def test_others_that_run_are_told(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "others_run", lambda: True)
    first = next(iter(bench(request(plain))))
    assert isinstance(first, task.Warned)
    assert "other processes use the processor" in first.message
