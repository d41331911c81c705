"""Bytes to text while it streams."""

from __future__ import annotations

import random

import pytest

from llamacli.engine.text import Reasoning, StopStrings, WholeCharacters, incomplete_tail

TEXT = "a é 漢字 🙂 ﷽ end".encode()


def in_pieces(data: bytes, seed: int) -> list[bytes]:
    rng = random.Random(seed)
    pieces = []
    while data:
        size = rng.randint(1, 4)
        pieces.append(data[:size])
        data = data[size:]
    return pieces


@pytest.mark.parametrize("seed", range(20))
def test_whole_characters_never_cut_and_lose_nothing(seed: int) -> None:
    characters = WholeCharacters()
    out = [characters.feed(piece) for piece in in_pieces(TEXT, seed)]
    for piece in out:
        piece.decode("utf-8")  # strict: each is whole
    assert b"".join(out) + characters.flush() == TEXT


@pytest.mark.parametrize(
    ("data", "tail"),
    [
        (b"", 0),
        (b"a", 0),
        (b"\xc3", 1),
        (b"\xe6\xbc", 2),
        (b"\xf0\x9f\x99", 3),
        (b"\xf0\x9f\x99\x82", 0),
        (b"\xff", 0),  # never the beginning of a character
        (b"\x80\x80\x80\x80", 0),  # continuations of nothing
        (b"\xc0", 0),  # overlong: can never become valid
    ],
)
def test_incomplete_tail(data: bytes, tail: int) -> None:
    assert incomplete_tail(data) == tail


def test_invalid_bytes_pass_at_once() -> None:
    characters = WholeCharacters()
    assert characters.feed(b"a\xff\xfeb") == b"a\xff\xfeb"
    assert characters.feed(b"\xe6") == b""
    assert characters.feed(b"x") == b"\xe6x"
    assert characters.feed(b"\xe6\xbc") == b""
    assert characters.flush() == b"\xe6\xbc"


@pytest.mark.parametrize("seed", range(20))
def test_a_stop_string_ends_the_text_wherever_tokens_end(seed: int) -> None:
    stops = StopStrings(["\n\nUser:", "STOP"])
    out = b"".join(stops.feed(piece) for piece in in_pieces(b"one STO two\n\nUse three\n\nUser: four STOP", seed))
    assert out + stops.flush() == b"one STO two\n\nUse three"
    assert stops.found == "\n\nUser:"


def test_text_that_only_begins_a_stop_string_comes_out_at_the_end() -> None:
    stops = StopStrings(["END"])
    assert stops.feed(b"an EN") == b"an "
    assert stops.flush() == b"EN"
    assert stops.found is None


def test_the_earliest_stop_string_wins() -> None:
    stops = StopStrings(["later", "so"])
    assert stops.feed(b"and so later") == b"and "
    assert stops.found == "so"


def split(text: str, seed: int, prompt: str = "") -> tuple[str, str]:
    reasoning = Reasoning(prompt, channels="<|" in text)
    parts = [part for piece in in_pieces(text.encode(), seed) for part in reasoning.feed(piece)]
    parts += reasoning.flush()
    return (
        b"".join(data for inside, data in parts if inside).decode(),
        b"".join(data for inside, data in parts if not inside).decode(),
    )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("text", "prompt", "thought", "answer"),
    [
        ("<think>\nhm\n</think>\n\nYes.", "", "hm\n", "Yes."),
        ("hm</think>Yes.", "…<think>\n", "hm", "Yes."),
        ("[THINK]hm[/THINK]Yes.", "", "hm", "Yes."),
        ("No thought, 1 < 2 and <thin air>.", "", "", "No thought, 1 < 2 and <thin air>."),
        ("  leading space stays", "", "", "  leading space stays"),
        (
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
            "<|start|>assistant",
            "hm",
            "Yes.",
        ),
        (
            "<|channel|>analysis<|message|>hm<|start|>assistant<|channel|>final <|constrain|>json<|message|>{}",
            "<|start|>assistant",
            "hm",
            "{}",
        ),
        ("<|channel|>commentary to=functions.x<|message|>{}<|end|>", "<|start|>assistant", "{}", ""),
        ("<|channel|>final<|message|>Yes.", "<|start|>assistant", "", "Yes."),
        ("Write `<think>` and close it with `</think>`.", "", "", "Write `<think>` and close it with `</think>`."),
        ("<think>a</think>Then <think>b</think>", "", "a", "Then <think>b</think>"),
        ("<think>never done", "", "never done", ""),
        ("<think></think>Yes.", "", "", "Yes."),
    ],
)
def test_reasoning_apart_from_the_answer(text: str, prompt: str, thought: str, answer: str, seed: int) -> None:
    assert split(text, seed, prompt) == (thought, answer)
