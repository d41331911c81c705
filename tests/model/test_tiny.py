"""The built-in model: its file, its tokens, and that it does its jobs."""

from __future__ import annotations

import itertools
import random
import subprocess
from collections.abc import Callable, Iterator

import gguf
import pytest

from llamacli.builtin import TINY
from llamacli.builtin.corpus import JOBS, documents
from llamacli.builtin.dialogues import with_system
from llamacli.builtin.jobs import UNKNOWN
from llamacli.builtin.measure import Measured, perplexities, right
from llamacli.builtin.stories import parse_story
from llamacli.builtin.vocabulary import Vocabulary
from llamacli.models.gguf import read_header

Cli = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def measured() -> Iterator[Measured]:
    opened = Measured(TINY)
    yield opened
    opened.close()


def test_the_file() -> None:
    assert TINY.stat().st_size <= 8_000_000
    metadata = read_header(TINY).metadata
    assert metadata["general.architecture"] == "llama"
    assert metadata["llama.context_length"] == 1024
    assert metadata["llama.embedding_length"] % 256 == metadata["llama.feed_forward_length"] % 256 == 0
    assert metadata["llama.attention.head_count"] > metadata["llama.attention.head_count_kv"]
    assert 1000 <= metadata["llama.vocab_size"] <= 2000
    assert "<|im_start|>" in metadata["tokenizer.chat_template"]
    types = {tensor.tensor_type.name for tensor in gguf.GGUFReader(TINY).tensors}
    assert types == {"F16", "F32"}


def test_llama_cpp_splits_text_as_training_did(measured: Measured) -> None:
    tokens = gguf.GGUFReader(TINY).fields["tokenizer.ggml.tokens"].contents()
    vocabulary = Vocabulary(tuple(tokens))
    said = [
        text
        for document in itertools.islice(documents(5), 400)
        for _, text in document.get("turns", [["", document.get("text", "")]])
    ]
    for text in [*said, "  two  spaces ", "a\n\nb\tc", "日本語 ñ 😀", "x" * 300, "DON'T panic_42"]:
        assert measured.model.tokenize(text, add_special=False) == vocabulary.encode(text), text


@pytest.mark.parametrize("kind", JOBS)
def test_it_does_its_jobs(measured: Measured, kind: str) -> None:
    """A sample of what builtin/measure.py measures in full, with its bound of 95 % loosened for the smaller number."""
    wrong = []
    for number in range(20):
        rng = random.Random(f"suite {kind} {number}")
        dialogue = with_system(rng, JOBS[kind][0](rng))
        answer = measured.answer(measured.prompt(dialogue.turns[:-1]), 0, 1)
        if not right(dialogue, answer):
            wrong.append((dialogue.turns[-2].content, answer, dialogue.answer))
    assert len(wrong) <= 3, wrong


def test_stories_end_by_themselves_and_are_accepted(measured: Measured) -> None:
    begun = "Once upon a time"
    texts = [begun + measured.answer(measured.model.tokenize(begun), 0.7, seed) for seed in range(10)]
    assert sum(parse_story(text) is not None for text in texts) >= 7, texts
    assert len(set(texts)) == 10


@pytest.mark.slow
def test_held_out_text_is_no_surprise(measured: Measured) -> None:
    for seen, held_out in zip(perplexities(measured, 1, 150), perplexities(measured, 2, 150), strict=True):
        assert 1.0 < held_out < 1.5 * seen


def test_a_blank_is_filled(measured: Measured) -> None:
    """The infill tokens are trained: what comes between fits the grammar."""
    before, after = (
        "Once there was a shy girl named Mia. Mia wanted to learn to swim. But she did not know how. ",
        " Then Mia met a kind fox named Ben. Ben could swim very well. They practiced for two days. "
        "At last Mia could swim too. They laughed and played until the sun went down.",
    )
    text = f"<|fim_prefix|>{before}<|fim_suffix|>{after}<|fim_middle|>"
    middle = measured.answer(measured.model.tokenize(text, parse_special=True), 0, 1)
    assert parse_story(before + middle + after) is not None, middle


@pytest.mark.parametrize(
    ("stdin", "prompt", "answer"),
    [
        ("The hotel was wonderful. We will come back soon.", "Is this review positive or negative?", "positive"),
        ("The soup was cold and the people were rude.", "Is this review positive or negative?", "negative"),
        ("Anna went from Oakdale to Berlin.", "List the people.", "Anna"),
        ("", "What is 7 plus 8?", "15"),
        ("", 'Say "good morning".', "good morning"),
        ("", "Who was the first president of France?", UNKNOWN),
    ],
)
def test_jobs_in_a_pipe(cli: Cli, stdin: str, prompt: str, answer: str) -> None:
    done = cli("complete", "-m", "tiny", "--temp", 0, prompt, stdin=stdin.encode())
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, answer + "\n", b"")
