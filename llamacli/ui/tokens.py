"""Tokens as a table, as ids, or as a number."""

from __future__ import annotations

import re

from llamacli.tasks.tokens import Tokens
from llamacli.ui.output import Output


def show(result: Tokens, output: Output, *, count: bool = False, ids: bool = False) -> None:
    if output.mode == "json":
        tokens = [
            {"id": t.id, "piece": t.piece.decode("utf-8", "replace"), "bytes": t.piece.hex(), "text": t.text}
            for t in result.tokens
        ]
        output.document({"model": result.model, "count": result.count, "tokens": tokens})
    elif count:
        output.text(f"{result.count}\n".encode())
    elif ids:
        output.text((" ".join(str(t.id) for t in result.tokens) + "\n").encode())
    else:
        output.table(("id", "piece"), [(t.id, quoted(t.piece)) for t in result.tokens])
        if output.mode == "human":
            output.text(f"{result.count} tokens\n".encode())


def quoted(piece: bytes) -> str:
    """As a string of Python; bytes that are no UTF-8 (a character may be spread over tokens) as \\xNN."""
    return re.sub(r"\\udc([89a-f][0-9a-f])", r"\\x\1", repr(piece.decode("utf-8", "surrogateescape")))
