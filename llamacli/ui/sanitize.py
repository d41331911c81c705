"""Nothing foreign reaches a terminal unescaped: the model's text, metadata, file names, messages of libraries.

A terminal obeys escape sequences (clipboard, title, cursor, colours), so every character that could begin or change one
is shown as an escape instead. One character at a time: a sequence split across tokens is caught all the same.
"""

from __future__ import annotations

import re

# C0 but tab and line feed; DEL and C1; marks that reorder text (bidi) or break lines (U+2028/9).
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character == "\r":
        return ""  # of CR LF; alone it would overwrite the line
    return character.encode("unicode_escape").decode("ascii")


def for_terminal(text: str) -> str:
    """`text` with every harmful character as a visible escape."""
    return _HARMFUL.sub(_escape, text)


def json_for_terminal(document: str) -> str:
    r"""The same for a JSON document: as \uXXXX, so that it stays the same document."""
    return _HARMFUL.sub(lambda m: m[0] if m[0] == "\n" else f"\\u{ord(m[0]):04x}", document)
