"""How a model's vocabulary splits a text. Loads the vocabulary only."""

from __future__ import annotations

from dataclasses import dataclass

from llamacli.engine.model import Model
from llamacli.engine.types import ModelOptions
from llamacli.models.reference import name


@dataclass(frozen=True)
class Token:
    """One token: its id, the bytes it stands for, and its spelling in the vocabulary."""

    id: int
    piece: bytes
    text: str


@dataclass(frozen=True)
class Tokens:
    model: str
    count: int
    tokens: tuple[Token, ...]


def tokens(options: ModelOptions, text: str, *, add_special: bool = True, parse_special: bool = False) -> Tokens:
    """Split `text`. `add_special`: BOS and EOS where the vocabulary adds them; `parse_special`: the text may name
    control tokens. Raises ModelNotFound, BadModelFile.
    """
    with Model(options) as model:
        model.show_all_tokens()
        ids = model.tokenize(text, add_special=add_special, parse_special=parse_special)
        found = tuple(Token(i, model.piece(i), model.token_text(i)) for i in ids)
    return Tokens(name(options.path), len(found), found)
