"""Where the gap in a file is."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamacli.builtin import TINY
from llamacli.engine.model import Model
from llamacli.engine.types import ModelOptions
from llamacli.errors import UsageError
from llamacli.tasks.infill import prompt_tokens, split


@pytest.fixture
def part(tmp_path: Path) -> Path:
    path = tmp_path / "a:b.txt"
    path.write_bytes("one\r\ntwé\n\nfour".encode())
    return path


@pytest.mark.parametrize(
    ("place", "before"),
    [("1", "one"), ("1:1", ""), ("1:4", "one"), ("2", "one\r\ntwé"), ("2:3", "one\r\ntw"), ("3", "one\r\ntwé\n"),
     ("4:2", "one\r\ntwé\n\nf"), ("4", "one\r\ntwé\n\nfour")],
)  # fmt: skip
def test_places(part: Path, place: str, before: str) -> None:
    prefix, suffix = split(f"{part}:{place}")
    assert prefix == before
    assert (prefix + suffix).encode() == part.read_bytes()


@pytest.mark.parametrize(
    ("place", "wanted"),
    [("0", "lines 1 to 4"), ("5", "lines 1 to 4"), ("2:5", "columns 1 to 4"), ("2:0", "columns 1 to 4")],
)
def test_outside(part: Path, place: str, wanted: str) -> None:
    with pytest.raises(UsageError) as error:
        split(f"{part}:{place}")
    assert wanted in error.value.message


def test_no_place(tmp_path: Path) -> None:
    for place in ("part.py", "part.py:x", ":3", str(tmp_path / "none.py:1")):
        with pytest.raises(UsageError):
            split(place)


def test_the_prompt_is_what_llama_cpps_server_makes() -> None:
    with Model(ModelOptions(TINY, vocab_only=True)) as model:
        names = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
        before, after, middle = (model.tokenize(n, add_special=False, parse_special=True)[0] for n in names)
        tokens = prompt_tokens(model, "Once <|fim_middle|>", " end.")
        assert tokens == [
            model.bos,
            before,
            *model.tokenize("Once <|fim_middle|>", add_special=False),
            after,
            *model.tokenize(" end.", add_special=False),
            middle,
        ]
        assert tokens.count(middle) == 1  # text stays text
