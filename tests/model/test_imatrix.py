"""Importance matrices on real models: llama-imatrix's figures, runs that were stopped, what goes wrong in between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import perplexity_facts
import pytest
from make_gguf import write_moe
from perplexity_facts import STORY

from llamacli import signals
from llamacli.builtin import TINY
from llamacli.engine import imatrix as engine
from llamacli.engine.types import ContextOptions, ModelOptions
from llamacli.errors import BadModelFile, EngineError, UsageError
from llamacli.tasks.imatrix import Imatrix, Progress, Request, Started, Warned, imatrix
from llamacli.tasks.imatrix_file import ImatrixFile, read_imatrix
from llamacli.tasks.imatrix_write import write_imatrix
from llamacli.tasks.perplexity import Text

EXPERTS = [12, 46, 306, 25, 42, 52, 202, 35]
#: What llama-imatrix (llama.cpp of llama-cpp-python 0.3.36) makes of STORY with the models of make_gguf: sums, and rows
#: of each expert. For the built-in model see perplexity_facts.py.
PLAIN_FIGURES = {
    "blk.1.attn_q.weight": (81916.3681, [1280]),
    "blk.1.attn_v.weight": (81916.3681, [1280]),
    "blk.1.ffn_down.weight": (22358.775, [1280]),
    "output.weight": (81918.2516, [1280]),
}
MOE_FIGURES = {
    "blk.1.attn_output.weight": (4855.4139, [360]),
    "blk.1.ffn_gate_inp.weight": (23039.2795, [360]),
    "blk.1.ffn_down_exps.weight": (11594.7414, EXPERTS),
    "blk.1.ffn_up_exps.weight": (46078.5574, EXPERTS),
}


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moe(tmp_path_factory.mktemp("moe") / "moe.gguf", n_expert=8)


def request(model: Path, text: str = STORY, *, n_batch: int = 2048, n_ubatch: int = 512, **rest: Any) -> Request:
    context = ContextOptions(n_ctx=0, n_batch=n_batch, n_ubatch=n_ubatch, n_threads=1)
    return Request([Text("text", text)], ModelOptions(model), context=context, **{"n_ctx": 64, **rest})


def result(request: Request) -> Imatrix:
    *_, last = imatrix(request)
    assert isinstance(last, Imatrix)
    return last


def check(matrix: ImatrixFile, figures: dict[str, tuple[float, list[int]]]) -> None:
    for name, (total, counts) in figures.items():
        assert matrix.counts[name].tolist() == counts, name
        assert matrix.sums[name].sum(dtype=np.float64) == pytest.approx(total, rel=1e-5), name


# --- llama-imatrix's figures ----------------------------------------------------------------------------------------


def test_the_reference_of_llama_imatrix(shared: Path, stories: Path, tmp_path: Path) -> None:
    text = (shared / "data/text/wizard_of_oz.txt").read_text().removesuffix("\n")
    found = result(request(stories, text, n_ctx=256, most_chunks=20, out=tmp_path / "oz.gguf"))
    theirs = read_imatrix(shared / "data/reference/stories260K-oz.imatrix.gguf")
    ours = read_imatrix(tmp_path / "oz.gguf")
    assert sorted(ours.sums) == sorted(theirs.sums)
    for name in theirs.sums:
        np.testing.assert_array_equal(ours.counts[name], theirs.counts[name])
        np.testing.assert_allclose(ours.sums[name], theirs.sums[name], rtol=1e-4)
    assert (ours.chunk_count, ours.chunk_size, ours.datasets) == (20, 256, ["text"])
    assert found.ppl == pytest.approx(31.7617, abs=1e-4)


def test_figures_of_the_built_in_model() -> None:
    found = result(request(TINY, n_ctx=128))
    facts = perplexity_facts.read()
    check(found.matrix, facts["imatrix"])
    assert (len(found.matrix.sums), found.chunk_count, found.tokens) == (35, 14, 1792)
    assert (found.ppl, found.ppl_error) == pytest.approx(facts["perplexity"][0]["final"], rel=1e-5)


def test_grouped_queries_and_the_output_matrix(plain: Path) -> None:
    found = result(request(plain, most_chunks=20, process_output=True))
    check(found.matrix, PLAIN_FIGURES)
    assert len(found.matrix.sums) == 15
    assert "output.weight" not in result(request(plain, most_chunks=2)).matrix.sums


def test_experts_are_counted_one_by_one(moe: Path) -> None:
    whole = request(moe, n_ctx=40, n_batch=200, n_ubatch=100, most_chunks=9, skipped_chunks=2, ppl=False)
    found = result(whole)
    check(found.matrix, MOE_FIGURES)
    assert found.matrix.sums["blk.0.ffn_down_exps.weight"].shape == (8, 128)
    assert (found.chunk_count, found.ppl) == (9, None)


def test_batches_smaller_than_chunks(plain: Path) -> None:
    in_parts, whole = (result(request(plain, most_chunks=4, n_batch=n)).matrix for n in (32, 2048))
    for name, sums in whole.sums.items():
        np.testing.assert_array_equal(in_parts.counts[name], whole.counts[name])
        np.testing.assert_allclose(in_parts.sums[name], sums, rtol=1e-2)  # the cache is F16


def test_rows_of_fewer_than_16_do_not_count(plain: Path) -> None:
    found = result(request(plain, n_ctx=70, n_batch=70, n_ubatch=60, most_chunks=4))
    assert found.matrix.counts["blk.0.attn_q.weight"].tolist() == [240.0]
    assert found.chunk_count == 4


def test_memory_of_a_device_is_copied(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = result(request(plain, most_chunks=3)).matrix
    monkeypatch.setattr(engine.native.ggml_base, "ggml_backend_buffer_is_host", lambda buffer: False)
    after = result(request(plain, most_chunks=3)).matrix
    assert all((after.sums[name] == sums).all() for name, sums in before.sums.items())


def test_several_texts_are_one(plain: Path) -> None:
    whole = request(plain)
    halves = [Text("a", STORY[: len(STORY) // 2]), Text("b", STORY[len(STORY) // 2 :])]
    found = result(replace(whole, texts=halves))
    assert found.matrix.datasets == ["a", "b"]
    assert found.chunk_count >= result(whole).chunk_count


# --- stopped, gone on with, merged ----------------------------------------------------------------------------------


@pytest.fixture
def stop() -> Iterator[None]:
    """Forget the signal afterwards."""
    yield
    signals.flag[0] = 0


@pytest.mark.parametrize("kind", ["plain", "moe"])
def test_a_stopped_run_goes_on_to_the_same_bytes(kind: str, plain: Path, moe: Path, tmp_path: Path, stop: None) -> None:
    model = {"plain": plain, "moe": moe}[kind]
    once, twice = tmp_path / "once", tmp_path / "twice"
    whole = request(model, most_chunks=20, n_batch=256)
    result(replace(whole, out=once))
    events = imatrix(replace(whole, out=twice))
    for event in events:
        if isinstance(event, Progress) and event.chunk == 6:
            signals.flag[0] = 1  # in the middle of a group of four
    assert isinstance(event, Imatrix)
    assert (event.complete, event.chunks, read_imatrix(twice).chunk_count) == (False, 8, 8)
    signals.flag[0] = 0
    started, *_, last = [e for e in imatrix(replace(whole, out=twice, resume=True)) if not isinstance(e, Warned)]
    assert started == Started(20, 8)
    assert isinstance(last, Imatrix)
    assert (last.complete, last.resumed, last.tokens) == (True, 8, 12 * 64)
    assert twice.read_bytes() == once.read_bytes()
    *_, last = imatrix(replace(whole, out=twice, resume=True))
    assert isinstance(last, Imatrix)
    assert (last.resumed, last.tokens, last.ppl) == (20, 0, None)
    assert twice.read_bytes() == once.read_bytes()


def test_what_a_signal_cuts_short_is_left_out(plain: Path, tmp_path: Path, stop: None) -> None:
    """The signal comes while the second group is computed: its layers are half summed."""
    whole = request(plain, most_chunks=8, n_batch=256, out=tmp_path / "out")
    events = imatrix(whole)
    for event in events:
        if isinstance(event, Progress) and event.chunk == 4:
            break
    collect, seen = engine._add_plain, []

    def signal_after_three(*arguments: Any) -> Any:
        seen.append(arguments)
        if len(seen) == 3:
            signals.flag[0] = 1
        return collect(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_add_plain", signal_after_three)
        *_, last = events
    assert isinstance(last, Imatrix)
    assert (last.chunks, len(seen)) == (4, 3)
    signals.flag[0] = 0
    expected = result(request(plain, most_chunks=4, n_batch=256)).matrix
    assert all((last.matrix.sums[name] == sums).all() for name, sums in expected.sums.items())


def test_the_file_is_written_in_between(plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    counts = []
    for event in imatrix(request(plain, most_chunks=12, n_batch=128, out=out, save_every=4, copy_every=6)):
        if isinstance(event, Progress) and event.chunk % 2 == 0:
            counts.append(read_imatrix(out).chunk_count if out.exists() else 0)
    assert counts == [0, 4, 4, 8, 8, 12]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.at_12", "out.at_6"]
    assert read_imatrix(tmp_path / "out.at_6").counts["blk.0.attn_q.weight"].tolist() == [6 * 64]


def test_two_halves_merged_are_the_whole(plain: Path, tmp_path: Path) -> None:
    a, b, both = (tmp_path / name for name in ("a", "b", "both"))
    result(request(plain, n_batch=256, most_chunks=4, out=a))
    result(request(plain, n_batch=256, most_chunks=8, skipped_chunks=4, out=b))
    merged = result(Request([], None, out=both, add=[a, b]))
    whole = result(request(plain, n_batch=256, most_chunks=12)).matrix
    assert (merged.chunk_count, merged.chunk_size, merged.datasets) == (12, 64, ("text", "text"))
    added = result(request(plain, n_batch=256, most_chunks=8, skipped_chunks=4, add=[a])).matrix
    for matrix in (read_imatrix(both), added):
        for name, sums in whole.sums.items():
            np.testing.assert_array_equal(matrix.counts[name], whole.counts[name])
            np.testing.assert_allclose(matrix.sums[name], sums, rtol=1e-5)
    assert added.chunk_count == 12


def test_adding_the_output_itself_goes_on_or_merges(plain: Path, tmp_path: Path) -> None:
    out, once = tmp_path / "out", tmp_path / "once"
    result(request(plain, most_chunks=8, n_batch=256, out=once))
    result(request(plain, most_chunks=4, n_batch=256, out=out))
    link = tmp_path / "link"
    link.symlink_to(out)
    result(request(plain, most_chunks=8, n_batch=256, out=out, add=[link]))
    assert out.read_bytes() == once.read_bytes()
    other = replace(request(plain, most_chunks=4, out=out, add=[out]), texts=[Text("other", STORY)])
    assert result(other).matrix.counts["blk.0.attn_q.weight"].tolist() == [12 * 64]
    assert read_imatrix(out).datasets == ["text", "other"]


def test_what_cannot_be_gone_on_with(plain: Path, moe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = result(request(plain, most_chunks=4, out=out)).matrix
    again = request(plain, most_chunks=8, out=out, resume=True)
    data = out.read_bytes()
    for wrong, words in (
        (replace(again, resume=False), "is there already"),
        (replace(again, force=True), "exclude each other"),
        (replace(again, n_ctx=3), "at least 4 tokens"),
        (replace(again, out=tmp_path), "is a folder"),
        (replace(again, add=[tmp_path / "none"]), "no such file"),
        (replace(again, n_ctx=32), "its chunks have 64 tokens, these 32"),
        (replace(again, texts=[Text("other", STORY)]), "it is of text, this is of other"),
        (replace(again, model=ModelOptions(moe)), "not of the same tensors"),
        (replace(again, process_output=True), "not of the same tensors"),
    ):
        with pytest.raises(UsageError, match=words):
            list(imatrix(wrong))
        assert out.read_bytes() == data
    before.counts["blk.0.attn_q.weight"] += 64
    write_imatrix(out, before)
    with pytest.raises(UsageError, match="in the middle of a chunk"):
        list(imatrix(again))


def test_a_text_that_an_added_file_is_of(plain: Path, tmp_path: Path) -> None:
    result(request(plain, most_chunks=2, out=tmp_path / "a"))
    warnings = [e for e in imatrix(request(plain, most_chunks=2, add=[tmp_path / "a"])) if isinstance(e, Warned)]
    assert [w.message for w in warnings] == ["text is in an added file already, and will count twice"]


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_an_exception_while_llama_cpp_computes_is_raised(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    on_node = engine.Collector._on_node

    def counted(self: engine.Collector, *arguments: Any) -> bool:
        seen.append("node")
        return on_node(self, *arguments)

    def fail(*_: object) -> None:
        seen.append("failure")
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(engine.Collector, "_on_node", counted)
    monkeypatch.setattr(engine, "_add_plain", fail)
    with pytest.raises(ZeroDivisionError, match="planted"):
        list(imatrix(request(plain, most_chunks=4, n_ubatch=64)))
    assert seen.count("failure") == 1
    assert len(seen) - seen.index("failure") < 12  # of three more graphs little is computed in vain


def test_inputs_that_are_no_numbers(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_squares", lambda rows: np.full(rows.shape[1], np.inf, np.float32))
    with pytest.raises(BadModelFile, match=r"blk\.0\.attn_\w+\.weight: what goes into it are no numbers"):
        list(imatrix(request(plain, most_chunks=2)))


def test_another_layout_of_tensors_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.native.ggml_base, "ggml_tensor_overhead", lambda: 400)
    engine._operations.cache_clear()
    with pytest.raises(EngineError, match="lays its tensors out"):
        engine.Collector()


def test_texts_too_short(plain: Path) -> None:
    with pytest.raises(UsageError, match=r"makes \d+ tokens of that, and two chunks of 64 need 128"):
        list(imatrix(request(plain, STORY[:50])))
    with pytest.raises(UsageError, match="after the 5000 that are left out"):
        list(imatrix(request(plain, skipped_chunks=5000)))
