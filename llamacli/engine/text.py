"""From bytes to text while it streams: whole UTF-8 characters, stop strings, reasoning apart from the answer.

Tokens are byte strings that may end inside a character, a stop string or a marker, so each stage holds back what the
next token may complete. Standard library only; knows nothing of models.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from dataclasses import dataclass


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


@dataclass(frozen=True)
class ReasoningMarkers:
    """What opens a stretch of reasoning, and what closes it and begins the answer."""

    open: bytes
    close: bytes


#: The markers in use: most models; Mistral's; gpt-oss's channels. In gpt-oss's form the analysis ends, and after a new
#: header the final channel begins; everything between the markers' ends is neither reasoning nor answer.
REASONING = (
    ReasoningMarkers(b"<think>", b"</think>"),
    ReasoningMarkers(b"[THINK]", b"[/THINK]"),
    ReasoningMarkers(b"<|channel|>analysis<|message|>", b"<|end|>"),
    ReasoningMarkers(b"<|channel|>commentary<|message|>", b"<|end|>"),
)
#: Headers that gpt-oss writes before the answer; they belong to neither side.
_HEADERS = (b"<|start|>assistant", b"<|channel|>final<|message|>")
_OPENING = tuple(marker.open for marker in REASONING) + _HEADERS

#: Control tokens whose text the splitter needs to see; every other control token is silent.
MARKER_TOKENS = ("<think>", "</think>", "[THINK]", "[/THINK]", "<|channel|>", "<|message|>", "<|start|>", "<|end|>")


class Reasoning:
    """Splits a stream into reasoning and answer. White space around the reasoning belongs to neither."""

    def __init__(self, prompt: str = "") -> None:
        """`prompt`: the rendered prompt; a template may have opened the reasoning itself."""
        self._held = b""
        self._closing: bytes | None = None
        self._trim = False  # drop white space until something visible comes
        self.answered = False
        tail = prompt.rstrip().encode()
        for marker in REASONING:
            if tail.endswith(marker.open):
                self._closing, self._trim = marker.close, True

    @property
    def inside(self) -> bool:
        return self._closing is not None

    def feed(self, data: bytes) -> list[tuple[bool, bytes]]:
        """(is_reasoning, bytes) in order."""
        data = self._held + data
        self._held = b""
        out: list[tuple[bool, bytes]] = []
        while True:
            words = (self._closing,) if self._closing is not None else _OPENING
            hits = [(at, -len(word), word) for word in words if (at := data.find(word)) >= 0]
            if not hits:
                break
            at, _, word = min(hits)
            self._emit(out, data[:at])
            data = data[at + len(word) :]
            self._turn(word)
        keep = partial_match(data, words)
        self._held = data[len(data) - keep :] if keep else b""
        self._emit(out, data[: len(data) - keep] if keep else data)
        return out

    def _turn(self, word: bytes) -> None:
        self._trim = True
        if self._closing is not None:
            self._closing = None
            return
        for marker in REASONING:
            if marker.open == word:
                self._closing = marker.close

    def _emit(self, out: list[tuple[bool, bytes]], data: bytes) -> None:
        if self._trim:
            data = data.lstrip()
        if data:
            self._trim = False
            self.answered = self.answered or not self.inside
            out.append((self.inside, data))

    def flush(self) -> list[tuple[bool, bytes]]:
        out: list[tuple[bool, bytes]] = []
        held, self._held = self._held, b""
        self._emit(out, held)
        return out
