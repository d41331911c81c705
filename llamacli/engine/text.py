"""From bytes to text while it streams: whole UTF-8 characters, stop strings, reasoning apart from the answer.

Tokens are byte strings that may end inside a character, a stop string or a marker, so each stage holds back what the
next token may complete. Standard library only; knows nothing of models.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Literal


def incomplete_tail(data: bytes) -> int:
    """Length of an unfinished UTF-8 character at the end of `data`: 0 to 3. Invalid bytes are not unfinished."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        size = 4 if byte & 0xF8 == 0xF0 else 3 if byte & 0xF0 == 0xE0 else 2 if byte & 0xE0 == 0xC0 else 1
        if size <= back:
            return 0
        # The decoder knows the finer rules (overlong forms, surrogates): it waits only for what can still be valid.
        decoder = codecs.getincrementaldecoder("utf-8")("strict")
        try:
            decoder.decode(data[-back:])
        except UnicodeDecodeError:
            return 0
        return back
    return 0


def partial_match(data: bytes, words: Iterable[bytes]) -> int:
    """Length of the longest end of `data` that begins one of `words` without completing it."""
    longest = 0
    for word in words:
        for size in range(min(len(word) - 1, len(data)), longest, -1):
            if data.endswith(word[:size]):
                longest = size
                break
    return longest


class WholeCharacters:
    """Passes bytes on at character boundaries. Bytes that can be no UTF-8 pass as they are."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        data = self._held + data
        tail = incomplete_tail(data)
        self._held = data[len(data) - tail :] if tail else b""
        return data[: len(data) - tail] if tail else data

    def flush(self) -> bytes:
        held, self._held = self._held, b""
        return held


class StopStrings:
    """Passes bytes on until one of the stop strings appears; `found` is then that string."""

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = [stop.encode() for stop in stops if stop]
        self._held = b""
        self.found: str | None = None

    def feed(self, data: bytes) -> bytes:
        """What is sure to come before a stop string. Nothing more once one is found."""
        if not self._stops or self.found is not None:
            return b"" if self.found is not None else data
        data = self._held + data
        # The earliest wins; of those that begin at one place, the longest.
        hits = [(at, -len(stop), stop) for stop in self._stops if (at := data.find(stop)) >= 0]
        if hits:
            at, _, stop = min(hits)
            self.found, self._held = stop.decode(), b""
            return data[:at]
        keep = partial_match(data, self._stops)
        self._held = data[len(data) - keep :] if keep else b""
        return data[: len(data) - keep] if keep else data

    def flush(self) -> bytes:
        held, self._held = self._held, b""
        return held


#: Most models; Mistral's.
_THINKING = ((b"<think>", b"</think>"), (b"[THINK]", b"[/THINK]"))
#: What opens the reasoning in front of an answer.
OPENINGS = tuple(opening for opening, _ in _THINKING)
#: gpt-oss writes `<|channel|>NAME …<|message|>text<|end|>`; the channel `final` is the answer.
_CHANNEL, _MESSAGE, _START, _END = b"<|channel|>", b"<|message|>", b"<|start|>", b"<|end|>"

#: Control tokens whose text the splitter needs to see; every other control token is silent.
MARKER_TOKENS = tuple(
    word.decode() for word in (*(word for pair in _THINKING for word in pair), _CHANNEL, _MESSAGE, _START, _END)
)

_State = Literal["answer", "thinking", "between", "header", "channel"]


class Reasoning:
    """Splits a stream into reasoning and answer. White space around the reasoning belongs to neither.

    A marker opens the reasoning only in front of the answer: afterwards it is text that speaks of it.
    """

    def __init__(self, prompt: str = "", *, channels: bool = False) -> None:
        """`prompt`: the rendered prompt; a template may have opened the reasoning itself. `channels`: this model's
        vocabulary has gpt-oss's control tokens.
        """
        self._channels = channels
        self._held = b""
        self._state: _State = "answer"
        self._closing = b""
        self._trim = False  # drop white space until something visible comes
        self._turned = False
        self.answered = False
        tail = prompt.rstrip().encode("utf-8", "replace")
        for opening, closing in _THINKING:
            if tail.endswith(opening):
                self._think(closing)

    @property
    def answering(self) -> bool:
        """Whether the answer is what comes next, as far as can be known. With channels a header comes first."""
        return self._state == "answer" and (self._turned or not self._channels)

    @property
    def between(self) -> bool:
        """Whether white space that comes next would belong to neither part."""
        return self._trim and not self.answered

    def feed(self, data: bytes) -> list[tuple[bool, bytes]]:
        """(is_reasoning, bytes) in order."""
        data = self._held + data
        out: list[tuple[bool, bytes]] = []
        while True:
            words = self._words()
            hits = [(at, -len(word), word) for word in words if (at := data.find(word)) >= 0]
            if not hits:
                break
            at, _, word = min(hits)
            self._emit(out, data[:at])
            if word in self._words():  # what came before it may have begun the answer
                self._turn(word, data[:at])
                data = data[at + len(word) :]
            else:
                data = data[at:]
        keep = len(data) if self._state == "header" else partial_match(data, words)
        self._held = data[len(data) - keep :] if keep else b""
        self._emit(out, data[: len(data) - keep] if keep else data)
        return out

    def flush(self) -> list[tuple[bool, bytes]]:
        out: list[tuple[bool, bytes]] = []
        held, self._held = self._held, b""
        self._emit(out, held)
        return out

    def _words(self) -> tuple[bytes, ...]:
        """What to look for now."""
        match self._state:
            case "thinking":
                return (self._closing,)
            case "header":
                return (_MESSAGE,)
            case "channel":
                return (_END, _START, _CHANNEL)
            case "between":
                return (_CHANNEL, _MESSAGE)
        openings = () if self.answered else OPENINGS
        return (*openings, _CHANNEL, _START, _END) if self._channels else openings

    def _turn(self, word: bytes, before: bytes) -> None:
        self._trim = self._turned = True
        if self._state == "thinking":
            self._state = "answer"
        elif word == _CHANNEL:
            self._state = "header"
        elif word in (_START, _END):
            self._state = "between"
        elif word == _MESSAGE:
            final = self._state == "between" or before.strip().startswith(b"final")
            self._state = "answer" if final else "channel"
        else:
            self._think(dict(_THINKING)[word])

    def _think(self, closing: bytes) -> None:
        self._state, self._closing, self._trim = "thinking", closing, True

    def _emit(self, out: list[tuple[bool, bytes]], data: bytes) -> None:
        if self._state in ("between", "header"):
            return  # names of roles and channels
        if self._trim:
            data = data.lstrip()
        if not data:
            return
        inside = self._state != "answer"
        self._trim = False
        self.answered = self.answered or (not inside and not data.isspace())
        out.append((inside, data))
