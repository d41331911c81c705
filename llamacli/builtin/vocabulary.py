"""The vocabulary of `tiny`: byte-pair merges over the training text, in SentencePiece's form as llama.cpp reads it.

Tokens are control tokens, the 256 bytes, printable ASCII, and pieces of words: letters, with U+2581 for a space before
them. Digits and punctuation never merge. Source of the algorithm: Sennrich et al. 2016, "Neural machine translation of
rare words with subword units"; a piece's score is minus its rank, and the pair with the best score merges first.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

SPACE = "\u2581"
UNKNOWN, BOS, EOS = "<unk>", "<s>", "</s>"
TURN, TURN_END = "<|im_start|>", "<|im_end|>"
FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
BYTES = [f"<0x{value:02X}>" for value in range(256)]
#: In the order of their numbers: LLaMA's first 259, then our own control tokens.
FIXED = [UNKNOWN, BOS, EOS, *BYTES, TURN, TURN_END, FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE]
CONTROL = {BOS, EOS, TURN, TURN_END, FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE}
_ASCII = [SPACE, *map(chr, range(33, 127))]
_PIECE = re.compile(f"{SPACE}?[A-Za-z]+|.", re.DOTALL)


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in the order of their numbers."""

    tokens: tuple[str, ...]
    _number: dict[str, int] = field(init=False, repr=False, compare=False)
    _known: dict[str, tuple[int, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_number", {token: number for number, token in enumerate(self.tokens)})
        object.__setattr__(self, "_known", {})

    def number(self, token: str) -> int:
        """A token's number. Raises KeyError."""
        return self._number[token]

    def scores(self) -> list[float]:
        """A score for each token: 0 for the fixed ones, then minus the rank."""
        return [0.0 if number < len(FIXED) else float(len(FIXED) - number) for number in range(len(self.tokens))]

    def encode(self, text: str) -> list[int]:
        """The tokens of a text without control tokens, as llama.cpp's SPM tokenizer gives them."""
        numbers: list[int] = []
        for piece in _PIECE.findall(text.replace(" ", SPACE)):
            if piece not in self._known:
                self._known[piece] = tuple(self._split(piece))
            numbers += self._known[piece]
        return numbers

    def _split(self, piece: str) -> list[int]:
        parts = list(piece)
        while len(parts) > 1:
            ranks = [self._number.get(left + right, 1 << 30) for left, right in itertools.pairwise(parts)]
            best = min(ranks)
            if best == 1 << 30:
                break
            place = ranks.index(best)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        numbers = []
        for part in parts:
            if part in self._number:
                numbers.append(self._number[part])
            else:
                numbers += [self._number[BYTES[value]] for value in part.encode()]
        return numbers


def learn(texts: Iterable[str], size: int) -> Vocabulary:
    """A vocabulary of `size` tokens from the pairs that are most frequent in `texts`."""
    counts = Counter(piece for text in texts for piece in _PIECE.findall(text.replace(" ", SPACE)) if len(piece) > 1)
    split = {piece: tuple(piece) for piece in counts}
    tokens = [*FIXED, *_ASCII]
    known = set(tokens)
    while len(tokens) < size:
        pairs: Counter[tuple[str, str]] = Counter()
        for piece, parts in split.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += counts[piece]
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merged = "".join(best)
        if merged not in known:
            known.add(merged)
            tokens.append(merged)
        split = {piece: _merge(parts, best, merged) for piece, parts in split.items()}
    return Vocabulary(tuple(tokens))


def _merge(parts: tuple[str, ...], pair: tuple[str, str], merged: str) -> tuple[str, ...]:
    if pair[0] not in parts:
        return parts
    result: list[str] = []
    index = 0
    while index < len(parts):
        if parts[index : index + 2] == pair:
            result.append(merged)
            index += 2
        else:
            result.append(parts[index])
            index += 1
    return tuple(result)
