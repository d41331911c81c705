"""Types chosen for a size: the file fits and is full, the types file makes the same file, and the model is better."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest
from make_gguf import write_llama

from llamacli.builtin import TINY
from llamacli.builtin.corpus import documents
from llamacli.engine.model import Model
from llamacli.engine.types import ContextOptions, ModelOptions
from llamacli.engine.weights import Weights
from llamacli.errors import OutOfMemory, UsageError
from llamacli.models.gguf import read_header
from llamacli.tasks import calibration, target
from llamacli.tasks.chunked import Perplexity
from llamacli.tasks.damage import Damages
from llamacli.tasks.perplexity import Request, Text, perplexity
from llamacli.tasks.quantize import plan, quantize
from llamacli.tasks.quantize_options import tensor_types
from llamacli.tasks.quantize_request import QuantizeOptions
from llamacli.tasks.quantize_types import TENSOR_TYPES, quant_type
from llamacli.tasks.source_weights import matrices
from llamacli.tasks.target import Choice, Target, choose
from llamacli.tasks.trials import Trials

#: What the fast test may spend: 400 tokens at the most, and not all of the choice measured.
FEW_SECONDS = 2.0
STOCK = ("Q3_K_M", "Q4_K_M", "Q5_K_M")


@pytest.fixture(scope="module")
def held_out() -> str:
    """Documents that were not drawn for the training, without the marks of their turns."""
    texts = []
    for document in itertools.islice(documents(999), 600):
        if "text" in document:
            texts.append(document["text"])
        elif "turns" in document:
            texts += [content for _, content in document["turns"]]
    return "\n".join(texts)


def kld(models: list[Path], text: str, chunks: int) -> list[float]:
    """Mean KL divergence of each from the built-in model."""
    request = Request(
        [ModelOptions(path) for path in models], [Text("held out", text)], ModelOptions(TINY), most_chunks=chunks
    )
    results = [event for event in perplexity(request) if isinstance(event, Perplexity)]
    return [result.statistics["Mean KLD"].value for result in results if result.statistics]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def made(choice: Choice, source: Path, path: Path) -> Path:
    """The file, which is exactly as large as was foretold and allowed."""
    result = quantize(source, path, choice.kind, choice.options)
    assert path.stat().st_size == result.size == choice.size <= choice.target_size
    assert {t.name: t.type for t in result.tensors if t.name in {c.name for c in choice.tensors}} == {
        tensor.name: tensor.type for tensor in choice.tensors
    }
    return path


@pytest.mark.slow
def test_better_than_the_stock_type_at_its_size(tmp_path: Path, held_out: str) -> None:
    stock = quantize(TINY, tmp_path / "stock.gguf", quant_type("Q4_K_M"), QuantizeOptions())
    choice = choose(TINY, Target(size=stock.size), QuantizeOptions(), seconds=FEW_SECONDS)
    ours = made(choice, TINY, tmp_path / "ours.gguf")
    assert choice.size >= 0.99 * stock.size
    assert choice.text is None
    assert choice.tokens < 500
    stock_kld, our_kld = kld([stock.files[0], ours], held_out, 8)
    assert our_kld < 0.8 * stock_kld

    (tmp_path / "types").write_text(choice.file_text())
    options = QuantizeOptions(tensor_types=tensor_types([], tmp_path / "types"))
    again = quantize(TINY, tmp_path / "again.gguf", choice.kind, options)
    assert sha256(again.files[0]) == sha256(ours)


@pytest.mark.slow
@pytest.mark.parametrize("name", STOCK)
def test_better_at_all_three_sizes(name: str, tmp_path: Path, held_out: str) -> None:
    stock = quantize(TINY, tmp_path / "stock.gguf", quant_type(name), QuantizeOptions())
    choice = choose(TINY, Target(bits_per_weight=stock.bits_per_weight), QuantizeOptions())
    ours = made(choice, TINY, tmp_path / "ours.gguf")
    assert 0.99 * stock.size <= choice.size <= stock.size
    stock_kld, our_kld = kld([stock.files[0], ours], held_out, 36)
    assert our_kld < 0.8 * stock_kld


# --- a model without meaning: sizes and refusals --------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """F32, width 64: the 256-blocks fit none of its rows."""
    return write_llama(tmp_path_factory.mktemp("target") / "model.gguf", n_layer=3)


@pytest.mark.parametrize("bits", [4.6, 5.5, 7.0, 12.0])
def test_sizes_and_types_that_fit(bits: float, source: Path, tmp_path: Path) -> None:
    choice = choose(source, Target(bits_per_weight=bits), QuantizeOptions(), text=("a text", "a" * 300))
    made(choice, source, tmp_path / "out.gguf")
    assert choice.size >= 0.98 * choice.target_size
    assert choice.bits_per_weight <= bits
    assert choice.text == "a text"
    assert {tensor.kind for tensor in choice.tensors} >= {"attn_q.weight", "ffn_down.weight", "token_embd.weight"}
    assert {tensor.type for tensor in choice.tensors} <= {
        "Q4_0", "Q4_1", "IQ4_NL", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16", "F32"
    }  # fmt: skip


def test_what_the_user_decided_stays(source: Path) -> None:
    options = QuantizeOptions(
        tensor_types=(("ffn_down", TENSOR_TYPES["F16"]),), token_embedding_type=TENSOR_TYPES["Q8_0"]
    )
    choice = choose(source, Target(bits_per_weight=9), options)
    assert not {"ffn_down.weight", "token_embd.weight"} & {tensor.kind for tensor in choice.tensors}
    types = {tensor.name: tensor.type for tensor in plan(source, choice.kind, choice.options).tensors}
    assert types["blk.1.ffn_down.weight"] == "F16"
    assert types["token_embd.weight"] == "Q8_0"
    assert 0.98 * choice.target_size <= choice.size <= choice.target_size


@pytest.mark.slow
def test_the_same_choice_twice_and_its_sum_is_the_whole(source: Path) -> None:
    first, second = (choose(source, Target(bits_per_weight=6), QuantizeOptions()) for _ in range(2))
    assert first.file_text() == second.file_text()
    assert first.measured == pytest.approx(first.damage, rel=0.5)
    assert first.damage == pytest.approx(sum(tensor.damage for tensor in first.tensors))


@pytest.mark.parametrize(
    ("wanted", "options", "message"),
    [
        (Target(bits_per_weight=3), QuantizeOptions(), r"at the least, and [\d,]+ bytes \(3.00 bits per weight\)"),
        (Target(size=1000), QuantizeOptions(), "and 1,000 bytes "),
        (Target(size=1 << 30), QuantizeOptions(), "nothing to do"),
        (Target(bits_per_weight=5), QuantizeOptions(prune_layers=(0,)), "--prune-layers"),
    ],
)
def test_what_cannot_be(wanted: Target, options: QuantizeOptions, message: str, source: Path) -> None:
    with pytest.raises(UsageError, match=message):
        choose(source, wanted, options)


def test_what_is_quantised_already_has_no_types_to_choose(source: Path, tmp_path: Path) -> None:
    small = quantize(source, tmp_path / "small.gguf", quant_type("Q4_0"), QuantizeOptions(pure=True))
    with pytest.raises(UsageError, match="has no tensors to choose types for"):
        choose(small.files[0], Target(bits_per_weight=4), QuantizeOptions(allow_requantize=True))


def test_a_model_larger_than_the_memory(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target.native, "memory_available", lambda: 1000)
    with pytest.raises(OutOfMemory, match=r"are needed, 1000 B are free"):
        choose(source, Target(bits_per_weight=5), QuantizeOptions())


# --- trials ---------------------------------------------------------------------------------------------------------


def test_a_tensor_is_exchanged_and_put_back(source: Path) -> None:
    tensors = list(matrices([read_header(source)]))
    with Trials(ModelOptions(source), ContextOptions(n_ctx=0), tensors, "some text " * 40) as trials:
        assert {tensor.name for tensor in trials.tensors} == {tensor.name for tensor in tensors}
        by_name = {tensor.name: tensor for tensor in tensors}
        down, embedding = by_name["blk.0.ffn_down.weight"], by_name["token_embd.weight"]
        assert trials.divergence({}) == (0.0, 0.0)
        coarse, error = trials.divergence({down: TENSOR_TYPES["Q4_0"]})
        fine, smaller = trials.divergence({down: TENSOR_TYPES["Q8_0"]})
        both, _ = trials.divergence({down: TENSOR_TYPES["Q4_0"], embedding: TENSOR_TYPES["Q4_0"]})
        assert 0 < fine < coarse < both
        assert 0 < smaller < error
        assert trials.divergence({}) == (0.0, 0.0)


def test_many_layers_are_tried_at_once_where_one_by_one_would_take_too_long(source: Path) -> None:
    tensors = list(matrices([read_header(source)]))
    errors = {(tensor.name, TENSOR_TYPES["Q4_0"]): 0.01 for tensor in tensors}
    with Trials(ModelOptions(source), ContextOptions(n_ctx=0), tensors, "some text " * 40) as trials:
        before = trials.passes
        damages = Damages(trials, errors, seconds=1e-4)
        damages.try_all()
        kinds = {tensor.kind for tensor in tensors}
        assert len(kinds) <= trials.passes - before - 1 < len(tensors)
        assert trials.n_tokens < 100
        assert damages.sensitivity("blk.0.attn_q.weight") == damages.sensitivity("blk.2.attn_q.weight") > 0
        assert not damages.measure(dict.fromkeys(tensors, TENSOR_TYPES["Q4_0"]))


def test_weights_of_another_size_are_refused(source: Path) -> None:
    from llamacli.errors import EngineError

    with Model(ModelOptions(source, mmap=False, repack=False)) as model:
        weights = Weights(model, ["output_norm.weight", "no.such.tensor"])
        assert weights.found == {"output_norm.weight"}
        with pytest.raises(EngineError, match="has 256 bytes, not 260"):
            weights.set("output_norm.weight", np.zeros(1, np.float32), offset=256)


def test_the_model_writes_its_own_text() -> None:
    with Model(ModelOptions(TINY)) as model:
        texts = calibration.written(model, ContextOptions(n_ctx=0))
        again = calibration.written(model, ContextOptions(n_ctx=0))
        bos, eos = model.bos, model.eos
    assert [text.tolist() for text in texts] == [text.tolist() for text in again]
    assert sum(map(len, texts)) >= calibration.N_TOKENS
    assert max(map(len, texts)) == calibration.N_CTX
    assert all(text[0] == bos for text in texts)
    every = np.concatenate(texts)
    ends = np.flatnonzero(every[:-1] == eos)
    assert len(ends) > 3
    assert set(every[ends + 1]) == {bos}


def test_pieces_of_a_text_are_spread_over_it() -> None:
    with Model(ModelOptions(TINY)) as model:
        words = " ".join(str(number) for number in range(4000))
        texts = calibration.cut(model, words)
        tokens = model.tokenize(words)
        assert [len(text) for text in texts] == [calibration.N_CTX] * 4
        assert all(text[0] == model.bos for text in texts)
        assert texts[0].tolist() == tokens[: calibration.N_CTX]
        assert texts[-1].tolist()[1:] == tokens[1 - calibration.N_CTX :]
        (short,) = calibration.cut(model, "a few words")
        assert short.tolist() == model.tokenize("a few words")
