"""Control tokens in rendered text: where they are tokens, and where they only look like one.

Text that looks like a control token (`<|im_start|>`) is one only where the template wrote it. In the messages it is
replaced by a private-use character while the template runs (`Hidden`), the output is split at what control tokens it
then holds (`ControlTokens.split`), and the messages' own text is put back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from llamacli.engine.types import SpecialToken

#: C's isspace, by which llama.cpp trims the text beside a token that swallows white space.
WHITE_SPACE = " \t\n\v\f\r"

#: Supplementary private-use planes: no script, no case, no white space, no normalisation.
PRIVATE_USE = (range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))


class ControlTokens:
    """The control tokens of a vocabulary, prepared for finding which of them a text holds.

    Vocabularies have up to thousands of them, most reserved for nothing, and texts may be long: so a text is searched
    once for each pair of characters that tokens start with (`<|`), not once for each token.
    """

    def __init__(self, special: Iterable[SpecialToken]) -> None:
        # llama.cpp's order (bytes, not characters); a token without text matches nowhere.
        self.longest_first = sorted((t for t in special if t.text), key=lambda token: -len(token.text.encode()))
        self._by_start: dict[str, set[str]] = {}
        for token in self.longest_first:
            self._by_start.setdefault(token.text[:2], set()).add(token.text)

    def occurring_in(self, text: str) -> list[SpecialToken]:
        """Those that occur, longest first."""
        found: set[str] = set()
        for start, tokens in self._by_start.items():
            lengths = {len(token) for token in tokens}
            at = text.find(start)
            while at >= 0:
                found |= tokens.intersection([text[at : at + length] for length in lengths])
                at = text.find(start, at + 1)
        return [token for token in self.longest_first if token.text in found]

    def split(self, text: str) -> list[str | int]:
        """Text and token ids as `llama_tokenize` splits them before it tokenises (`tokenizer_st_partition`).

        The longest token is looked for in the whole text before the next one. No fragment is empty, no two strings are
        neighbours.
        """
        fragments: list[str | int] = [text] if text else []
        for token in self.occurring_in(text):
            parts = ([part] if isinstance(part, int) else _split_at(part, token) for part in fragments)
            fragments = list(chain.from_iterable(parts))
        return fragments


def _split_at(text: str, token: SpecialToken) -> Iterator[str | int]:
    pieces = text.split(token.text)
    for position, piece in enumerate(pieces):
        if position > 0:
            yield token.id
            piece = piece.lstrip(WHITE_SPACE) if token.rstrip else piece
        if position < len(pieces) - 1 and token.lstrip:
            piece = piece.rstrip(WHITE_SPACE)
        if piece:
            yield piece


def is_reasoning_marker(text: str) -> bool:
    """`<think>`, `[/THINK]`, `<|END_THINKING|>` …: templates split an assistant's text there."""
    return "think" in text.lower()


class Hidden:
    """Placeholders for what must not become a control token: one private-use character for each text that occurs.

    A single character survives what templates do to a message: trimming, case, splitting, replacing, concatenation.
    JSON and `repr` may escape it, which `unhide` knows. `reserved` are further texts that placeholders must not be in.
    """

    def __init__(self, control: ControlTokens, messages: Iterable[str], reserved: Iterable[str]) -> None:
        foreign = "\0".join(messages)
        tokens = [token.text for token in control.longest_first]
        taken = "\0".join([foreign, *reserved, *tokens])
        unused = (char for char in map(chr, chain(*PRIVATE_USE)) if not any(form in taken for form in _forms(char)))
        self._tokens = {token.text: next(unused) for token in control.occurring_in(foreign)}
        self._starts = {char: next(unused) for char in sorted({token[0] for token in tokens}) if char in foreign}

    @property
    def may_be_forged(self) -> bool:
        """Whether a template could make a control token of the messages' text, by editing it: see `hide_starts`."""
        return bool(self._starts)

    def hide(self, text: str) -> str:
        """Hides each control token."""
        return _replace_all(text, self._tokens)

    def hide_in_answer(self, text: str) -> str:
        """For an assistant's content, the model's own output: hides each control token that is no reasoning marker.

        A template looks for the markers, to drop what an earlier answer thought; what it passes on are tokens again.
        """
        return _replace_all(text, {token: to for token, to in self._tokens.items() if not is_reasoning_marker(token)})

    def hide_starts(self, text: str) -> str:
        """Hides each character that a control token starts with, too.

        A template that deletes `/think` from a message makes `<|im_start|>` of `<|im_/thinkstart|>`, one that turns it
        to capitals makes `[INST]` of `[inst]`; not so with the first character hidden. But it is blind to `<tool_call>`
        in that text as well.
        """
        return _replace_all(self.hide(text), self._starts)

    def unhide(self, text: str) -> str:
        for original, placeholder in chain(self._tokens.items(), self._starts.items()):
            for form in _forms(placeholder):
                text = text.replace(form, original)
        return text


def _replace_all(text: str, replacements: Mapping[str, str]) -> str:
    for old, new in replacements.items():
        text = text.replace(old, new)
    return text


def _forms(char: str) -> tuple[str, ...]:
    """A character as itself, as JSON in ASCII writes it, and as `repr` does."""
    high, low = divmod(ord(char) - 0x10000, 0x400)
    return char, f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}", f"\\U{ord(char):08x}"
