"""Where text may be broken into lines: between words, between Chinese characters, never inside what is seen as one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.cells import cell_len

_CJK = "\u2e80-\u303e\u3041-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uff60\U00020000-\U0003ffff"
#: Punctuation that begins no line, and that ends none.
_CLOSING = "、。，．：；！？）」』】》〉〕…—～”’%!?,.;:)"
_OPENING = "（「『【《〈〔“‘("
#: What stays together: a word of letters, or one Chinese character, each with its punctuation and spaces.
_ATOM = re.compile(rf"\s*(?:[{_OPENING}]*[{_CJK}][{_CLOSING}]*|(?:(?![{_CJK}])\S)+[{_CLOSING}]*)\s*")
_REGIONAL = ("\U0001f1e6", "\U0001f1ff")
_JOINER = "\u200d"


def clusters(text: str) -> Iterator[str]:
    """The characters as a reader sees them: marks with their letter, emoji sequences and flags whole.

    rich 15 has the like, but it cuts flags into their two letters, and rich 13 has nothing.
    """
    cluster, flag = "", False
    for character in text:
        regional = _REGIONAL[0] <= character <= _REGIONAL[1]
        mark = not character.isascii() and not cell_len(character)
        joined = mark or cluster.endswith(_JOINER) or (regional and flag)
        if cluster and not joined:
            yield cluster
            cluster = ""
        flag = regional and not (joined and flag)
        cluster += character
    if cluster:
        yield cluster


def fold(text: str, width: int) -> list[int]:
    """The offsets at which a text is cut into lines of `width` cells, wherever these may fall."""
    if text.isascii():
        return list(range(width, len(text), width))
    offsets, offset, used = [], 0, 0
    for cluster in clusters(text):
        size = cell_len(cluster)
        if used + size > width and used:
            offsets.append(offset)
            used = 0
        used += size
        offset += len(cluster)
    return offsets


def divide(text: str, width: int) -> list[int]:
    """The offsets at which a text without line breaks is wrapped into lines of `width` cells.

    As rich's divide_line, which takes a Chinese sentence for one long word and starts a line of its own for it.
    """
    offsets: list[int] = []
    used = 0
    for match in _ATOM.finditer(text):
        start, atom = match.start(), match[0]
        size = cell_len(atom.rstrip())
        if used + size <= width:
            used += cell_len(atom)
        elif size <= width:
            offsets.append(start)
            used = cell_len(atom)
        else:
            cuts = [0, *fold(atom.rstrip(), width)]
            offsets += [start + cut for cut in cuts if start + cut]
            used = cell_len(atom[cuts[-1] :])
    return offsets


def rows(text: str, width: int) -> int:
    """The rows that a line of `text` takes on a terminal that wraps it by itself."""
    return 1 if cell_len(text) <= width else 1 + len(fold(text, width))


def most_cells(text: str) -> int:
    """The cells that a terminal may give to a text: some know no emoji sequences, some draw an ellipsis wide."""
    return len(text) if text.isascii() else sum(1 if character < "\u2000" else 2 for character in text)
