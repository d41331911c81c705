"""How the parts of Markdown look: rich's elements, but for what reads better otherwise on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from markdown_it.token import Token
from rich import box, markdown
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, OverflowMethod, RenderableType, RenderResult
from rich.containers import Lines, Renderables
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from llamacli.ui import code, wrap
from llamacli.ui.sanitize import for_terminal

THEME = Theme(
    {
        "markdown.h1": "bold underline",
        "markdown.h2": "bold",
        "markdown.h3": "bold",
        "markdown.h4": "italic",
        "markdown.h5": "italic",
        "markdown.h6": "italic",
        "markdown.code": "cyan",
        "markdown.block_quote": "none",
        "markdown.item.bullet": "cyan",
        "markdown.link_url": "dim",
        "markdown.table.header": "bold",
        "markdown.table.border": "dim",
    }
)


class Prose(Text):
    """Text that wraps as `wrap.divide` says."""

    def wrap(
        self,
        console: Console,
        width: int,
        *,
        justify: JustifyMethod | None = None,
        overflow: OverflowMethod | None = None,
        tab_size: int = 8,
        no_wrap: bool | None = None,
    ) -> Lines:
        lines = Lines()
        for line in self.split(allow_blank=True):
            if "\t" in line:
                line.expand_tabs(tab_size)
            new = line.divide(wrap.divide(line.plain, width))
            for part in new:
                part.rstrip_end(width)
            new.justify(console, width, justify=justify or self.justify or "left", overflow="fold")
            lines.extend(new)
        return lines


class _Paragraph(markdown.Paragraph):
    def on_enter(self, context: markdown.MarkdownContext) -> None:
        super().on_enter(context)
        self.text = Prose()


class _Heading(markdown.Heading):
    """Left-aligned, whatever its level."""

    def on_enter(self, context: markdown.MarkdownContext) -> None:
        super().on_enter(context)
        self.text = Prose()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.text


class _Code(markdown.CodeBlock):
    """Code inside of a list or a quote, or code by indentation; see `code.Code` for the rest."""

    @classmethod
    def create(cls, markdown: markdown.Markdown, token: Token) -> _Code:
        return cls(for_terminal(token.info), "")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [line.expandtabs(4) for line in self.text.plain.removesuffix("\n").split("\n")]
        dim = console.get_style("dim")
        for pieces in [
            [(code.rule(self.lexer_name), dim)],
            *code.highlight(lines, self.lexer_name),
            [(code.rule(), dim)],
        ]:
            for line in code.fold(pieces, options.max_width):
                yield from (Segment(text, style) for text, style in line)
                yield Segment.line()


def _prefixed(
    first: str,
    elements: Renderables,
    style: str,
    console: Console,
    options: ConsoleOptions,
    rest: str = "",
) -> RenderResult:
    """Elements behind `first` on their first line and `rest` on the others; where that is too narrow, below it."""
    indent = cell_len(first)
    if options.max_width < indent + 2:
        first, rest, indent = first.strip(), "", 0
        yield Segment(f"{first}\n", console.get_style(style))
        first = ""
    inner: list[RenderableType] = []
    for element in elements:  # type: ignore[attr-defined]  # rich declares an Iterable where it gives an Iterator
        if inner and isinstance(inner[-1], _Paragraph) and isinstance(element, _Paragraph):
            inner.append(Text(""))
        inner.append(element)
    prefix = first
    for element in inner:
        for line in console.render_lines(element, options.update(width=max(options.max_width - indent, 1)), pad=False):
            yield Segment(prefix, console.get_style(style))
            yield from line
            yield Segment.line()
            prefix = (rest or " " * indent) if indent else ""
    if not inner:
        yield Segment(f"{prefix}\n", console.get_style(style))


class _Quote(markdown.BlockQuote):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from _prefixed("│ ", self.elements, "dim", console, options, "│ ")


class _Item(markdown.ListItem):
    def render_bullet(self, console: Console, options: ConsoleOptions) -> RenderResult:
        first = " • " if options.max_width >= 12 else "• "
        yield from _prefixed(first, self.elements, "markdown.item.bullet", console, options)

    def render_number(self, console: Console, options: ConsoleOptions, number: int, last_number: int) -> RenderResult:
        # The last number is not known while items are coming: up to 99 they are aligned.
        first = f"{number:>2}. " if options.max_width >= 12 else f"{number}. "
        yield from _prefixed(first, self.elements, "markdown.item.number", console, options)


class _Rule(markdown.HorizontalRule):
    new_line = True

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("─" * min(options.max_width, 40), style="dim")


class _Cell(markdown.TableDataElement):
    def __init__(self, justify: JustifyMethod) -> None:
        super().__init__(justify)
        self.content = Prose("", justify=justify)


class _Table(markdown.TableElement):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        header = [cell.content for cell in self.header.row.cells] if self.header and self.header.row else []
        rows = [[cell.content for cell in row.cells] for row in self.body.rows] if self.body else []
        for heading in header:
            heading.stylize("markdown.table.header")
        words = [
            max((cell_len(word) for row in column for word in row.plain.split()), default=1)
            for column in zip(header, *rows, strict=False)
        ]
        if sum(min(word, 12) + 2 for word in words) - 2 > options.max_width:
            yield from _records(header, rows)
            return
        table = Table(
            box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, style="markdown.table.border", collapse_padding=True
        )
        for heading in header:
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*row)
        yield table


def _records(header: Sequence[Text], rows: Sequence[Sequence[Text]]) -> RenderResult:
    """A table that is too wide: each row as lines of "heading: cell"."""
    if not rows:
        yield Prose(" | ").join(header)
    for index, row in enumerate(rows):
        if index:
            yield Text("")
        for heading, cell in zip(header, row, strict=False):
            text = Prose(justify="left")
            if heading.plain:
                text.append_text(heading).append(": ")
            yield text.append_text(cell)


class Document(markdown.Markdown):
    """Tokens that are parsed already."""

    elements: ClassVar[dict[str, type[markdown.MarkdownElement]]] = {
        **markdown.Markdown.elements,
        "paragraph_open": _Paragraph,
        "heading_open": _Heading,
        "fence": _Code,
        "code_block": _Code,
        "blockquote_open": _Quote,
        "hr": _Rule,
        "list_item_open": _Item,
        "table_open": _Table,
        "td_open": _Cell,
        "th_open": _Cell,
    }
    inlines = markdown.Markdown.inlines | {"link_url"}

    def __init__(self, tokens: list[Token]) -> None:
        super().__init__("", hyperlinks=False)
        self.parsed = tokens
