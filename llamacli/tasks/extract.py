"""The fenced code blocks of a Markdown text."""

from __future__ import annotations

import re

_FENCE = re.compile(rb"([ \t]*)(`{3,}|~{3,})(.*)")


def code_blocks(text: bytes) -> list[bytes]:
    """What stands in each fenced block, in order; one that is not closed goes on to the end.

    By CommonMark's rules, but that one may stand at any depth, as in the items of a list.
    """
    blocks: list[bytes] = []
    fence, indent, lines = b"", 0, list[bytes]()
    for line in text.splitlines():
        found = _FENCE.fullmatch(line)
        if not fence:
            if found and not (found[2].startswith(b"`") and b"`" in found[3]):
                fence, indent, lines = found[2], len(found[1]), []
        elif found and found[2].startswith(fence) and not found[3].strip() and len(found[1]) <= indent + 3:
            blocks.append(b"\n".join(lines))
            fence = b""
        else:
            lines.append(line[min(indent, len(line) - len(line.lstrip(b" \t"))) :])
    if fence:
        blocks.append(b"\n".join(lines))
    return blocks


def code(text: bytes, *, last: bool = False) -> bytes | None:
    """The first block, or the last; None where there is none."""
    blocks = code_blocks(text)
    return blocks[-1 if last else 0] if blocks else None
