"""Markdown → blocks, and one block → lines for a terminal, by rich's elements where they suit."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterable, Iterator, Sequence

from markdown_it import MarkdownIt
from markdown_it.rules_block.table import escapedSplit, table
from markdown_it.token import Token
from rich.color import ColorSystem
from rich.console import Console, RenderableType
from rich.segment import Segment

from llamacli.ui.elements import THEME, Document, Prose
from llamacli.ui.sanitize import for_terminal

#: Levels of nesting (a list has two) and brackets of one block, beyond which it is shown as plain text.
DEEPEST, BRACKETS = 16, 1000
_MARK = re.compile(r"\\.|`+|\*\*|~~", re.DOTALL)
#: What quotes and lists put before a line of a table.
_OUTER = re.compile(r"(?:[>\s]|[-*+]\s|\d+[.)]\s)*")
_BREAK = re.compile(r"<br ?/?>", re.IGNORECASE)


@dataclasses.dataclass
class Block:
    """A top-level block of a document, or an item of a top-level list: its lines from `start` up to before `end`."""

    kind: str  # of its first token
    start: int
    end: int
    tokens: list[Token]
    source: str


class Blocks:
    """Reads Markdown and lays it out."""

    def __init__(self, coloured: bool) -> None:
        self._coloured = coloured
        # What has no place on a terminal stays text: HTML, definitions of references. Addresses are shown as written.
        self._parser = MarkdownIt("commonmark", {"html": False, "maxNesting": DEEPEST + 4})
        self._parser.enable("strikethrough").disable("reference")
        # Not at markdown-it's own place before all others: there the line after a fence or an item, which may be on the
        # screen already, could turn it into the head of a table.
        self._parser.block.ruler.after("heading", "tables", table, {"alt": ["paragraph"]})
        self._parser.normalizeLink = lambda url: url  # type: ignore[method-assign]
        self._parser.validateLink = lambda url: True  # type: ignore[method-assign]
        self._console = Console(
            file=io.StringIO(), force_terminal=True, color_system="standard", theme=THEME, legacy_windows=False
        )

    def read(self, source: str) -> list[Block]:
        """The top-level blocks of a document."""
        tokens: list[Token] = []
        self._parser.block.parse(source, self._parser, {}, tokens)
        return list(_grouped(tokens, source.split("\n"), 0))

    @staticmethod
    def items(block: Block, number: int | None) -> list[Block]:
        """The items of a list, each as a list of its own, which go on from `number` if that is given."""
        first, *inner, last = block.tokens
        start = number if number is not None else int(first.attrs.get("start", 1))
        items = []
        for index, item in enumerate(_grouped(inner, block.source.split("\n"), 1, block.start)):
            opening = first.copy(attrs={"start": start + index})
            items.append(dataclasses.replace(item, tokens=[opening, *item.tokens, last]))
        return items

    def lines(self, block: Block, width: int, *, unfinished: bool = False) -> list[str]:
        """A block as lines of a terminal, each at most `width` cells; `unfinished`: marks at its end may be open."""
        tokens = _closed(block.tokens) if unfinished else block.tokens
        if not _needs_plain(block):
            try:
                return self._rendered(Document(list(self._inlined(tokens))), width)
            except Exception:  # hostile text may find a fault of a library: that costs the layout, not the answer
                pass
        return self._rendered(Prose(block.source.rstrip("\n")), width)

    def _rendered(self, renderable: RenderableType, width: int) -> list[str]:
        console = self._console
        options = console.options.update(width=width)
        lines = [self._line(line) for line in console.render_lines(renderable, options, pad=False)]
        while lines and not lines[0]:
            lines.pop(0)  # rich sets some blocks apart by itself
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def _line(self, segments: list[Segment]) -> str:
        while segments and not segments[-1].text.strip():
            segments.pop()  # padding is no text: it would be copied, and reflowed into rows of its own
        if not segments:
            return ""
        segments[-1] = segments[-1]._replace(text=segments[-1].text.rstrip())
        if not self._coloured:
            return "".join(segment.text for segment in segments)
        return "".join(
            segment.style.render(segment.text, color_system=ColorSystem.STANDARD) if segment.style else segment.text
            for segment in Segment.simplify(segments)
        )

    def _inlined(self, tokens: Iterable[Token]) -> Iterator[Token]:
        """The tokens of a block with what is inside their texts."""
        heading = ""
        for token in tokens:
            if token.type == "heading_open" and not self._coloured:
                heading = "#" * int(token.tag[1:]) + " "
            if token.type == "inline":
                children: list[Token] = []
                self._parser.inline.parse(token.content, self._parser, {}, children)
                marks = [_text(heading)] if heading else []
                yield token.copy(children=[*marks, *self._shown(children)])
                heading = ""
            else:
                yield token.copy(content=for_terminal(token.content)) if token.content else token

    def _shown(self, children: Iterable[Token]) -> Iterator[Token]:
        links: list[tuple[Token, str]] = []
        for token in children:
            content = for_terminal(token.content)  # once more: entities have become characters
            links = [(link, text + content) for link, text in links]
            if token.type in ("text", "text_special"):
                yield _text(_BREAK.sub("\n", content))
            elif token.type in ("softbreak", "hardbreak"):
                yield token.copy(type="hardbreak")  # a model breaks lines where it means to
            elif token.type == "image":
                yield _text(content)
                yield _address(token, "src", content)
            elif token.type == "link_open":
                links.append((token, ""))
            elif token.type == "link_close":
                link, text = links.pop()
                yield _address(link, "href", text)
            elif not self._coloured and token.type in ("code_inline", "s_open", "s_close"):
                content = f"{token.markup}{content}{token.markup}" if content else token.markup
                yield _text(content)  # its mark is all that is left to tell it from other text
            else:
                yield token.copy(content=content)


def _needs_plain(block: Block) -> bool:
    """Whether a block is shown as it is written: what nests too deep, and tables that would lose cells."""
    if any(token.level >= DEEPEST for token in block.tokens) or block.source.count("[") > BRACKETS:
        return True
    lines = block.source.split("\n")
    for index, token in enumerate(block.tokens):
        if token.type == "table_open" and token.map:
            start, end = (line - block.start for line in token.map)
            columns = next(i for i, other in enumerate(block.tokens[index + 2 :]) if other.type == "tr_close") // 3
            for line in lines[start:end]:
                cells = escapedSplit((_OUTER.sub("", line) if token.level else line).strip())
                if len(cells) - (not cells[0]) - (not cells[-1]) > columns:
                    return True
    return False


def _closed(tokens: Sequence[Token]) -> list[Token]:
    """The tokens of a growing block: what is bold or code in its last text shows so before the closing mark comes."""
    last = max((index for index, token in enumerate(tokens) if token.type == "inline"), default=None)
    if last is None:
        return list(tokens)
    return [*tokens[:last], tokens[last].copy(content=closed(tokens[last].content)), *tokens[last + 1 :]]


def closed(text: str) -> str:
    """Inline Markdown with its open `, ** and ~~ closed, without a mark at the end of which more may come.

    >>> closed("see **the `co")
    'see **the `co`**'
    """
    text = text.rstrip()
    body = text.rstrip("*`~")
    marks: list[str] = []
    position = 0
    while match := _MARK.search(body, position):
        mark, position = match[0], match.end()
        if mark.startswith("`"):
            end = re.compile(f"(?<!`){mark}(?!`)").search(body, position)
            if end is None:
                return body + mark + "".join(reversed(marks))
            position = end.end()
        elif mark in marks and not body[match.start() - 1].isspace():
            marks.remove(mark)
        elif mark in ("**", "~~") and mark not in marks and not body[position : position + 1].isspace():
            marks.append(mark)
    if marks:
        return body.rstrip() + "".join(reversed(marks))
    return body if body[-1:].isspace() else text


def _text(content: str) -> Token:
    return Token("text", "", 0, content=content)


def _address(token: Token, name: str, text: str) -> Token:
    """Where a link leads, unless its text says so."""
    address, title = (for_terminal(str(token.attrs.get(key, ""))) for key in (name, "title"))
    if address in (text, f"mailto:{text}") and not title:
        return _text("")
    shown = " ".join(filter(None, (address, f'"{title}"' if title else "")))
    return Token("code_inline", "link_url", 0, content=f" ({shown})")


def _grouped(tokens: Sequence[Token], lines: Sequence[str], level: int, offset: int = 0) -> Iterator[Block]:
    """The tokens of each block at this level; `lines` begins with line `offset` of the document."""
    group: list[Token] = []
    for token in tokens:
        group.append(token)
        if token.level == level and token.nesting <= 0:
            start, end = group[0].map or (0, 0)
            yield Block(group[0].type, start, end, group, "\n".join(lines[start - offset : end - offset]))
            group = []
