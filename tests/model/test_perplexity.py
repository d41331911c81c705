"""Perplexity and KL divergence on real models: figures of llama-perplexity, and what must hold for any model."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import perplexity_facts
import pytest
from perplexity_facts import SIZES, STORY

from llamacli import signals
from llamacli.builtin import TINY, corpus
from llamacli.engine import logits
from llamacli.engine.model import Model
from llamacli.engine.types import ContextOptions, ModelOptions
from llamacli.errors import BadModelFile
from llamacli.tasks import logits_file
from llamacli.tasks.chunked import Estimate, Perplexity
from llamacli.tasks.perplexity import Request, Text, Warned, perplexity, read_text


@pytest.fixture(scope="session")
def facts() -> dict[str, Any]:
    """What llama-perplexity says of the built-in model."""
    return perplexity_facts.read()


def measure(request: Request) -> list[Perplexity]:
    context = replace(request.context, n_threads=1)
    return [e for e in perplexity(replace(request, context=context)) if isinstance(e, Perplexity)]


def request(*models: Path, text: str = STORY, n_batch: int = 2048, **rest: Any) -> Request:
    texts = () if "kl_base" in rest else (Text("text", text),)
    context = ContextOptions(n_ctx=0, n_batch=n_batch)
    return Request([ModelOptions(model) for model in models], texts, context=context, **rest)


@pytest.fixture(scope="session")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model in Q4_0."""
    import ctypes
    import os

    from llamacli.engine.native import C

    path = tmp_path_factory.mktemp("quantized") / "q4_0.gguf"
    params = C.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = 2, True
    assert C.llama_model_quantize(os.fsencode(TINY), os.fsencode(path), ctypes.byref(params)) == 0
    return path


def write_flat(path: Path, **metadata: Any) -> Path:
    """A model whose logits are all 0."""
    from make_gguf import DIM, spm_tokens, write_llama

    flat = np.zeros((len(spm_tokens()), DIM), np.float32)
    return write_llama(path, tensor_overrides={"output.weight": flat}, metadata_overrides=metadata)


# --- figures of llama-perplexity ------------------------------------------------------------------------------------


@pytest.mark.parametrize("i", range(len(SIZES)), ids=str)
def test_the_built_in_model(i: int, facts: dict[str, Any]) -> None:
    fact = facts["perplexity"][i]
    n_ctx = fact["n_ctx"]
    (found,) = measure(request(TINY, n_ctx=n_ctx, n_batch=fact["n_batch"]))
    assert [e.ppl for e in found.running] == pytest.approx(fact["running"], rel=1e-5)
    assert (found.ppl, found.ppl_error) == pytest.approx(fact["final"], rel=1e-5)
    assert found.complete
    assert found.tokens == found.n_chunk * (n_ctx - 1 - n_ctx // 2)


def test_batches_smaller_than_a_chunk_and_more_sequences_change_nothing() -> None:
    figures = [measure(request(TINY, n_ctx=128, n_batch=n))[0].ppl for n in (50, 128, 300, 2048)]
    assert figures == pytest.approx([figures[0]] * 4, rel=1e-4)  # other kernels


def test_divergence_of_the_quantized_built_in_model(quantized: Path, facts: dict[str, Any], tmp_path: Path) -> None:
    base = tmp_path / "base"
    measure(request(TINY, n_ctx=128, save_logits=base))
    (found,) = measure(request(quantized, kl_base=base))
    assert found.statistics is not None
    assert set(found.statistics) == set(facts["q4_0"])
    for name, values in facts["q4_0"].items():
        got = [found.statistics[name].value, found.statistics[name].error][: len(values)]
        printed = 0.006 if name.startswith("Cor") else 0.0006 if "Δp" in name or "top" in name else 2e-6
        assert got == pytest.approx(list(values), rel=1e-6, abs=printed), name


def test_against_is_exact(quantized: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    # Of what is less likely than e^-16 the file knows nothing, so the text is one that the model expects.
    documents = itertools.islice(corpus.documents(7), 1000)
    text = "\n".join(document["text"] for document in documents if "text" in document)
    (single,) = measure(request(TINY, text=text, n_ctx=128, save_logits=base))
    (stored,) = measure(request(quantized, kl_base=base))
    (exact,) = measure(request(quantized, text=text, n_ctx=128, against=ModelOptions(TINY)))
    assert exact.statistics is not None
    assert stored.statistics is not None
    assert exact.statistics["Mean PPL(base)"].value == single.ppl
    assert exact.statistics["Mean PPL(base)"].error == single.ppl_error
    assert stored.statistics["Mean PPL(base)"].value != single.ppl  # 16 bits
    # tiny is so sure of itself that a tenth of a per cent of this lies beyond e^-16; the reference's model is not.
    assert exact.statistics["Mean KLD"].value == pytest.approx(stored.statistics["Mean KLD"].value, rel=5e-3)
    assert exact.statistics["Minimum KLD"].value > -1e-7


def test_each_core_by_itself_changes_nothing(plain: Path, quantized: Path) -> None:
    for model in (plain, TINY, quantized):
        asked = request(model, n_ctx=64)
        one, two = (
            [
                e
                for e in perplexity(replace(asked, context=replace(asked.context, n_threads=n)))
                if isinstance(e, Perplexity)
            ]
            for n in (1, 2)
        )
        tolerance = 1e-5 if model == plain else 0
        assert [e.ppl for e in two[0].running] == pytest.approx([e.ppl for e in one[0].running], rel=tolerance, abs=0)


def test_several_models_in_one_table(quantized: Path) -> None:
    single = measure(request(quantized, n_ctx=128))[0]
    first, second = measure(request(TINY, quantized, n_ctx=128))
    assert first.statistics is None
    assert second.ppl == single.ppl
    assert second.statistics is not None
    assert second.statistics["Mean PPL(Q)-PPL(base)"].value == pytest.approx(second.ppl - first.ppl, rel=1e-12)
    paired = second.statistics["Mean PPL(Q)-PPL(base)"].error
    assert paired is not None
    assert paired < 0.1 * math.hypot(first.ppl_error, second.ppl_error)  # far smaller than of independent figures


REFERENCE_CASES = [("tinystories_valid_100.txt", 256), ("tinyshakespeare.txt", 512)]
LONG_CASES = [
    ("wizard_of_oz.txt", 256),
    ("wizard_of_oz.txt", 512),
    ("wizard_of_oz.txt", 1000),
    ("wiki.test.raw", 256),
    ("wiki.test.raw", 512),
]


@pytest.mark.parametrize(
    ("text", "n_ctx"), [*REFERENCE_CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in LONG_CASES)]
)
def test_figures_equal_the_reference(shared: Path, stories: Path, text: str, n_ctx: int) -> None:
    reference = json.loads((shared / "data/reference/llama.cpp.json").read_text())
    (row,) = [r for r in reference["perplexity"] if (r["text"], r["n_ctx"]) == (f"text/{text}", n_ctx)]
    source = read_text(shared / "data/text" / text, None)
    asked = request(stories, text=source.text, n_ctx=n_ctx, most_chunks=row["chunks"])
    (found,) = measure(asked)
    assert found.n_chunk == row["chunks"]
    assert (found.ppl, found.ppl_error) == pytest.approx((row["ppl"], row["ppl_error"]), rel=1e-4)
    running = reference["perplexity_per_chunk"].get(f"text/{text} n_ctx {n_ctx}, running")
    if running:
        assert [e.ppl for e in found.running] == pytest.approx(running, rel=1e-3)


# --- what must hold for any model -----------------------------------------------------------------------------------


def test_uniform_logits_give_the_size_of_the_vocabulary(tmp_path: Path) -> None:
    (found,) = measure(request(write_flat(tmp_path / "flat.gguf"), n_ctx=64))
    assert found.ppl == pytest.approx(found.n_vocab, rel=1e-12)
    assert found.ppl_error == pytest.approx(0, abs=1e-4)


def test_a_model_does_not_diverge_from_itself(plain: Path) -> None:
    (found,) = measure(request(plain, n_ctx=64, against=ModelOptions(plain)))
    assert found.statistics is not None
    for name in ("Mean KLD", "Maximum KLD", "Minimum KLD", "Mean PPL(Q)-PPL(base)", "Maximum Δp", "RMS Δp"):
        assert found.statistics[name].value == 0, name
    assert found.statistics["Same top p"].value == 100


def test_a_model_that_adds_eos(tmp_path: Path) -> None:
    """llama-perplexity aborts. No EOS can be in the middle of a text, so the figure is that without."""
    from make_gguf import write_llama

    switches = {"tokenizer.ggml.add_bos_token": True}
    without = write_llama(tmp_path / "a.gguf", metadata_overrides=switches)
    adds = write_llama(tmp_path / "b.gguf", metadata_overrides={**switches, "tokenizer.ggml.add_eos_token": True})
    with Model(ModelOptions(without, vocab_only=True)) as model:
        lengths = (n for n in range(len(STORY), 0, -1) if len(model.tokenize(STORY[:n])) % 64 == 63)
        text = STORY[: next(lengths)]  # an EOS would make another chunk whole
    figures = [measure(request(path, n_ctx=64, text=text))[0] for path in (adds, without)]
    assert figures[0].n_chunk == figures[1].n_chunk
    assert figures[0].ppl == figures[1].ppl


def test_damaged_weights(tmp_path: Path) -> None:
    from make_gguf import DIM, spm_tokens, write_llama

    path = tmp_path / "nan.gguf"
    write_llama(path, tensor_overrides={"output.weight": np.full((len(spm_tokens()), DIM), np.nan, np.float32)})
    with pytest.raises(BadModelFile, match="NaN"):
        measure(request(path, n_ctx=64))


def test_models_of_different_vocabularies_stand_beside_each_other(plain: Path) -> None:
    events = list(perplexity(request(TINY, plain, n_ctx=64)))
    results = [e for e in events if isinstance(e, Perplexity)]
    assert results[0].n_vocab != results[1].n_vocab
    assert [r.statistics for r in results] == [None, None]
    assert any(isinstance(e, Warned) and "vocabularies have" in e.message for e in events)


def test_chunks_longer_than_the_trained_size_warn(tmp_path: Path) -> None:
    small = write_flat(tmp_path / "small.gguf", **{"llama.context_length": 32})
    warned = [e.message for e in perplexity(request(small, n_ctx=64)) if isinstance(e, Warned)]
    assert len(warned) == 1
    assert "chunks of 64 tokens" in warned[0]
    assert "trained with 32" in warned[0]


@pytest.fixture
def flag() -> Iterator[bytearray]:
    yield signals.flag
    signals.flag[0] = 0


def test_a_signal_leaves_the_estimate_so_far(flag: bytearray, plain: Path, tmp_path: Path) -> None:
    results = []
    with signals.deferred():
        for event in perplexity(request(plain, n_ctx=64, n_batch=64, save_logits=tmp_path / "base")):
            if isinstance(event, Estimate) and event.chunk == 3:
                flag[0] = 1
            results += [event] if isinstance(event, Perplexity) else []
    (found,) = results
    assert (found.chunks, found.complete) == (3, False)
    assert found.ppl == found.running[-1].ppl
    assert list(tmp_path.iterdir()) == []  # half a file is of no use


# --- arithmetic -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_vocab", [1, 7, 512, 1023, 1024, 5000, 70000])
def test_log_sum_exp(n_vocab: int) -> None:
    rows = (np.random.default_rng(0).standard_normal((9, n_vocab)) * 30).astype(np.float32)
    wide = rows.astype(np.float64)
    most = wide.max(1, keepdims=True)
    expected = (most + np.log(np.exp(wide - most).sum(1, keepdims=True)))[:, 0]
    assert logits.log_sum_exp(rows) == pytest.approx(expected, rel=1e-6)


def test_log_sum_exp_without_the_librarys_function(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).standard_normal((300, 3000)).astype(np.float32)
    expected = logits.log_sum_exp(rows)
    monkeypatch.setattr(logits, "_soft_max", lambda: None)
    assert logits.log_sum_exp(rows) == pytest.approx(expected, rel=1e-6)


def test_a_base_file_keeps_log_probabilities_to_16_bits(tmp_path: Path) -> None:
    n_ctx, n_vocab = 8, 101  # odd: a row is padded
    tokens = np.arange(16, dtype=np.int32).reshape(2, n_ctx)
    rows = (np.random.default_rng(0).standard_normal((2, 3, n_vocab)) * 2).astype(np.float32)
    rows[1, 2] = 1.5  # all the same
    rows[0, 0, 5] = -50  # more than 16 below the greatest
    with logits_file.create(tmp_path / "base", n_vocab, tokens, force=False) as writer:
        for chunk in rows:
            writer.add(chunk, logits.log_sum_exp(chunk))
    with logits_file.Reader(tmp_path / "base") as reader:
        assert (reader.n_ctx, reader.n_vocab, reader.n_chunk) == (n_ctx, n_vocab, 2)
        assert (reader.tokens == tokens).all()
        for chunk in rows:
            q, scale, least = reader.next()
            log_p = chunk - logits.log_sum_exp(chunk)[:, None]
            expected = np.maximum(log_p, log_p.max(1, keepdims=True) - 16)
            assert q * scale[:, None] + least[:, None] == pytest.approx(expected, abs=1.3e-4)
