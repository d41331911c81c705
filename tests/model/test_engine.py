"""The engine on real models: figures of llama.cpp's own tools, samplers, several sequences, interruption."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamacli import signals
from llamacli.engine.context import Context
from llamacli.engine.generate import Limits, generate, generate_many
from llamacli.engine.model import Model
from llamacli.engine.sampling import recommended, resolve
from llamacli.engine.types import Chunk, ContextOptions, Finish, ModelOptions, Sampling
from llamacli.errors import ContextFull, UsageError

GREEDY = Sampling(temp=0, seed=1)


@pytest.fixture(scope="module")
def model(bare: Path) -> Iterator[Model]:
    with Model(ModelOptions(bare)) as opened:
        yield opened


@pytest.fixture
def context(model: Model) -> Iterator[Context]:
    with Context(model, ContextOptions(n_ctx=512, n_threads=1)) as made:
        yield made


def run(context: Context, prompt: str, sampling: Sampling, limits: Limits) -> tuple[str, Finish]:
    items = list(generate(context, context.model.tokenize(prompt), sampling, limits))
    end = items.pop()
    assert isinstance(end, Finish)
    return b"".join(item.data for item in items if isinstance(item, Chunk)).decode(), end


def reference(shared: Path) -> Any:
    return json.loads((shared / "data/reference/llama.cpp.json").read_text())


@pytest.mark.parametrize("prompt", ["Once upon a time", "Lily and Tom went to the", "The dog was", "One day, a"])
def test_greedy_texts_equal_those_of_llama_cpp(shared: Path, stories: Path, prompt: str) -> None:
    with Model(ModelOptions(stories)) as model, Context(model, ContextOptions(n_ctx=512, n_threads=1)) as context:
        text, end = run(context, prompt, GREEDY, Limits(48, 512))
    assert text == reference(shared)["greedy"][prompt]
    assert (end.reason, end.stats.completion_tokens) == ("length", 48)


@pytest.mark.parametrize("name", ["bert-bge", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2"])
def test_tokens_equal_the_expected_ones(shared: Path, name: str) -> None:
    path = shared / f"data/vocab/ggml-vocab-{name}.gguf"
    texts = path.with_name(path.name + ".inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = path.with_name(path.name + ".out").read_text().splitlines()
    with Model(ModelOptions(path, vocab_only=True)) as vocabulary:
        for text, line in zip(texts, lines, strict=False):
            assert vocabulary.tokenize(text, add_special=False) == [int(i) for i in line.split()], repr(text)


def test_the_same_seed_gives_the_same_text(context: Context) -> None:
    texts = []
    for seed in (7, 7, 8):
        context.keep(0)
        texts.append(run(context, "Once upon a time", Sampling(seed=seed), Limits(40, 512))[0])
    assert texts[0] == texts[1] != texts[2]


def test_several_samples_equal_the_single_ones(model: Model) -> None:
    tokens, limits = model.tokenize("Once upon a time"), Limits(30, 256)
    with Context(model, ContextOptions(n_ctx=512, n_sequences=3, n_threads=1)) as context:
        many = {}
        for index, chunks, end in generate_many(context, tokens, Sampling(seed=5), limits, 3):
            many[index] = (b"".join(chunk.data for chunk in chunks).decode(), end.seed)
    for index in range(3):
        with Context(model, ContextOptions(n_ctx=512, n_threads=1)) as context:
            single, end = run(context, "Once upon a time", Sampling(seed=5 + index), limits)
        assert many[index] == (single, end.seed)


def test_the_context_full_ends_the_answer(model: Model) -> None:
    with Context(model, ContextOptions(n_ctx=256, n_threads=1)) as context:
        n = len(model.tokenize("Once upon a time"))
        endless = replace(GREEDY, logit_bias=((2, -1e9), (1, -1e9)))
        text, end = run(context, "Once upon a time", endless, Limits(None, 64))
    assert end.reason == "context"
    assert end.stats.completion_tokens == 64 - n
    assert text


def test_a_prompt_as_long_as_the_context_is_refused_with_both_numbers(context: Context) -> None:
    with pytest.raises(ContextFull, match=r"600 tokens.* 512"):
        list(generate(context, [5] * 600, GREEDY, Limits(4, 512)))


def test_stop_strings(context: Context) -> None:
    whole, _ = run(context, "Once upon a time", GREEDY, Limits(100, 512))
    context.remove_sequence(0)
    stop = whole[20:29]  # it begins and ends within tokens
    text, end = run(context, "Once upon a time", GREEDY, Limits(100, 512, stops=(stop, "never")))
    assert text == whole[: whole.index(stop)]
    assert (end.reason, end.stop) == ("stop", stop)


def test_a_signal_stops_after_the_token_and_keeps_the_text(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []
    try:
        for item in generate(context, context.model.tokenize("Once upon a time"), GREEDY, Limits(100, 512)):
            texts.append(item)
            signals.flag[0] = len(texts) >= 3
    finally:
        signals.flag[0] = 0
    end = texts[-1]
    assert isinstance(end, Finish)
    assert (end.reason, end.stats.completion_tokens) == ("interrupted", 3)


def test_a_signal_stops_a_prompt_in_the_native_call(context: Context) -> None:
    signals.flag[0] = 1
    try:
        assert context.evaluate([5] * 100) is False
    finally:
        signals.flag[0] = 0


def test_greedy_shortcut_equals_the_whole_chain(context: Context) -> None:
    """The chain with every sampler in place must give what the shortened one gives."""
    short, _ = run(context, "One day, a", GREEDY, Limits(48, 512))
    context.keep(0)
    whole, _ = run(context, "One day, a", replace(GREEDY, adaptive_target=-1.0, typical_p=0.9999999), Limits(48, 512))
    assert short == whole


def test_recommended_values_of_a_gguf() -> None:
    stored = {
        "general.sampling.temp": "0.6",
        "general.sampling.top_k": "20",
        "general.sampling.penalty_repeat": "1.1",
        "general.sampling.penalty_last_n": "-5",
        "general.sampling.top_p": "nonsense",
        "general.sampling.sequence": "top-k;temp;typ_p",
    }
    assert recommended(stored.get) == {
        "temp": 0.6,
        "top_k": 20,
        "repeat_penalty": 1.1,
        "samplers": ("top_k", "temperature", "typ_p"),
    }


def test_options_win_over_what_the_gguf_recommends(tmp_path: Path) -> None:
    from make_gguf import write_llama

    path = write_llama(
        tmp_path / "s.gguf", metadata_overrides={"general.sampling.temp": 0.25, "general.sampling.top_k": 7}
    )
    with Model(ModelOptions(path)) as small:
        assert (resolve({}, small).temp, resolve({}, small).top_k) == (0.25, 7)
        assert (resolve({"temp": 0.9}, small).temp, resolve({"temp": 0.9}, small).top_k) == (0.9, 7)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temp": -1.0}, "--temp -1.0"),
        ({"temp": float("nan")}, "--temp nan"),
        ({"top_p": 1.5}, "--top-p 1.5"),
        ({"mirostat": 3}, "--mirostat 3"),
        ({"repeat_penalty": 0.0}, "--repeat-penalty 0.0"),
        ({"seed": -2}, "--seed -2"),
        ({"logit_bias": ((1792, 1.0),)}, "no token 1792"),
    ],
)
def test_values_out_of_range(model: Model, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(values, model)


def test_statistics(context: Context) -> None:
    _, end = run(context, "Once upon a time", GREEDY, Limits(20, 512))
    assert (end.stats.prompt_tokens, end.stats.completion_tokens) == (5, 20)
    assert end.stats.prompt_seconds > 0
    assert end.stats.tokens_per_second == pytest.approx(19 / end.stats.generation_seconds)
