"""A scored text: as a heat map, a table, TSV or JSON."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from llamacli.tasks.score import Progress, Score, ScoredToken
from llamacli.ui.heat import colour, legend
from llamacli.ui.output import Output, colours, is_terminal, note
from llamacli.ui.progress import Bar
from llamacli.ui.sanitize import for_terminal
from llamacli.ui.tokens import quoted

_TAB = 8


class Bars:
    """The bars of loading and of reading the text."""

    def __init__(self) -> None:
        self._loading = Bar("loading the model")
        self._text: Bar | None = None
        seen = is_terminal(sys.stderr)
        self.progress = Progress(self._loading.update if seen else None, self._read if seen else None)

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self._loading.close()
        if self._text is not None:
            self._text.close()

    def _read(self, done: int, total: int) -> None:
        self._loading.close()
        if self._text is None:
            self._text = Bar("reading the text", total)
        self._text.update(done)


def show(result: Score, output: Output, *, top: int) -> None:
    if 0 < result.n_ctx_train < len(result.tokens):
        note(
            f"warning: a text of {len(result.tokens)} tokens, but the model was trained with {result.n_ctx_train}: "
            "beyond that its predictions fall apart",
            style="hint",
        )
    if output.mode == "json":
        output.document(_document(result))
    elif output.mode == "plain" or top or not colours(sys.stdout):
        _table(result, output, top)
    else:
        output.data(_heat_map(result).encode(sys.stdout.encoding or "utf-8", "backslashreplace"))
    if output.mode == "human":
        output.data((_totals(result) + "\n").encode(sys.stdout.encoding or "utf-8", "backslashreplace"))


def _document(result: Score) -> dict[str, object]:
    tokens = []
    for token in result.tokens:
        row: dict[str, object] = {"position": token.position, "id": token.id, **_piece(token.piece)}
        row |= {"bits": token.bits, "p": token.p, "rank": token.rank}
        row["top"] = [{"id": other.id, **_piece(other.piece), "p": other.p} for other in token.top]
        tokens.append(row)
    names = ("model", "n_ctx_train", "tokens_scored", "bytes", "bits", "bits_per_byte", "perplexity")
    return {**{name: getattr(result, name) for name in names}, "tokens": tokens}


def _piece(piece: bytes) -> dict[str, str]:
    return {"piece": piece.decode("utf-8", "replace"), "bytes": piece.hex()}


def _totals(result: Score) -> str:
    if result.perplexity is None:
        return "no token has another before it"
    per_byte = f", {result.bits_per_byte:.3f} per byte" if result.bits_per_byte is not None else ""
    return f"{result.tokens_scored} tokens, {result.bits:.2f} bits{per_byte}, perplexity {result.perplexity:.4g}"


def _table(result: Score, output: Output, top: int) -> None:
    header = ["position", "id", "piece", "bits", "p", "rank"]
    header += [name for k in range(1, top + 1) for name in (f"top{k}", f"top{k}_p")]
    rows = []
    for token in result.tokens:
        row: list[object] = [token.position, token.id, quoted(token.piece)]
        row += [_bits(token), _probability(token.p), token.rank]
        row += [cell for other in token.top for cell in (quoted(other.piece), _probability(other.p))]
        rows.append(row + [None] * (len(header) - len(row)))
    output.table(header, rows)


def _bits(token: ScoredToken) -> str | None:
    return None if token.bits is None else f"{token.bits:.4f}"


def _probability(p: float | None) -> str | None:
    return None if p is None else f"{p:.6g}"


# --- the heat map -----------------------------------------------------------------------------------------------------


class _Span(NamedTuple):
    """A piece of the text with its surprisal; None for what is not scored."""

    text: str
    bits: float | None


def _heat_map(result: Score) -> str:
    from llamacli.ui.wrap import divide

    width = shutil.get_terminal_size().columns
    lines = []
    for text, bits in _lines(spans(result)):
        start = 0
        for end in [*divide(text, width), len(text)]:
            lines.append(_coloured(text[start:end], bits[start:end]))
            start = end
    return "\n".join([*lines, "", legend(), ""])


def spans(result: Score) -> Iterator[_Span]:
    """Whole characters: where several tokens make one, they are surprising together. Made harmless."""
    tokens = result.tokens[1:] if result.begins_with_bos else result.tokens
    data, bits = b"", None
    for i, token in enumerate(tokens):
        piece = token.piece
        if i == 0 and piece.startswith(b" ") and not result.text.startswith(" "):
            piece = piece[1:]  # SentencePiece puts one before the text
        data += piece
        bits = token.bits if bits is None else bits + (token.bits or 0)
        if _is_whole(data) or i == len(tokens) - 1:
            yield _Span(for_terminal(data.decode("utf-8", "replace")), bits)
            data, bits = b"", None


def _is_whole(data: bytes) -> bool:
    """Whether no character is cut at the end."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.reason != "unexpected end of data"
    return True


def _lines(found: Iterator[_Span]) -> Iterator[tuple[str, list[float | None]]]:
    """Each line with the bits of each of its characters. A line break is shown, for it is surprising, too."""
    from rich.cells import cell_len

    text, bits = "", list[float | None]()
    for span in found:
        for character in span.text:
            shown = (
                "↵" if character == "\n" else " " * (_TAB - cell_len(text) % _TAB) if character == "\t" else character
            )
            text += shown
            bits += [span.bits] * len(shown)
            if character == "\n":
                yield text, bits
                text, bits = "", []
    if text:
        yield text, bits


def _coloured(text: str, bits: Sequence[float | None]) -> str:
    """One row of the screen. Colours end before its end, or the terminal would fill the rest with them."""
    from llamacli.ui.wrap import clusters

    shown, now, at = [], "", 0
    for cluster in clusters(text):
        wanted = colour(bits[at])
        shown.append(cluster if wanted == now else f"\x1b[0m{wanted}{cluster}")
        now = wanted
        at += len(cluster)
    return "".join(shown) + ("\x1b[0m" if now else "")
