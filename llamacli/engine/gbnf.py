"""llama.cpp's grammars (GBNF, `grammars/README.md` there), read. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

#: Parentheses within parentheses; the parser calls itself for each.
_DEEPEST = 100
#: What one repetition may ask for, as in llama.cpp.
_MOST_REPEATS = 2000
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"} | {c: c for c in '\\"[]-'}
_HEX = {"x": 2, "u": 4, "U": 8}


class GrammarError(ValueError):
    """What is wrong, and where."""


@dataclass(frozen=True)
class Literal:
    text: str


@dataclass(frozen=True)
class Class:
    """One character: of these ranges, or of none of them; without ranges any."""

    ranges: tuple[tuple[int, int], ...]
    negated: bool


@dataclass(frozen=True)
class Rule:
    name: str


@dataclass(frozen=True)
class Sequence:
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Alternatives:
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    node: Node
    least: int
    most: int | None


Node = Literal | Class | Rule | Sequence | Alternatives | Repeat


def parse(source: str) -> dict[str, Node]:
    """Every rule by its name; `root` is among them, and so is all that is referred to. Raises GrammarError."""
    return _Parser(source).rules()


class _Parser:
    """Recursive descent over GBNF, as `llama_grammar_parser` in src/llama-grammar.cpp reads it."""

    def __init__(self, source: str) -> None:
        self._text = source
        self._at = 0
        self._depth = 0
        self._used: dict[str, int] = {}  # rules that are referred to, and where first

    def rules(self) -> dict[str, Node]:
        """Every rule by its name; `root` is among them, and so is all that is referred to."""
        rules: dict[str, Node] = {}
        self._skip(lines=True)
        while self._at < len(self._text):
            at, name = self._at, self._name()
            if name in rules:
                raise self._error(f"a second rule {name}", at)
            self._skip(lines=False)
            self._expect("::=")
            self._skip(lines=True)
            rules[name] = self._alternatives(inside=False)
            if self._at < len(self._text) and self._text[self._at] not in "\r\n":
                raise self._error("the end of the rule is wanted")
            self._skip(lines=True)
        for name, at in self._used.items():
            if name not in rules:
                raise self._error(f"there is no rule {name}", at)
        if "root" not in rules:
            raise GrammarError("it has no rule root, with which every answer begins")
        return rules

    def _error(self, message: str, at: int | None = None) -> GrammarError:
        at = self._at if at is None else at
        line = self._text.count("\n", 0, at) + 1
        column = at - (self._text.rfind("\n", 0, at) + 1) + 1
        if at >= len(self._text):
            return GrammarError(f"line {line}, column {column}: {message}, and the grammar ends")
        rest = self._text[at : at + 20].splitlines()
        found = f"at: {rest[0]}" if rest and rest[0] else "at the end of the line"
        return GrammarError(f"line {line}, column {column}: {message}, {found}")

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _expect(self, text: str) -> None:
        if not self._text.startswith(text, self._at):
            raise self._error(f"{text} is wanted")
        self._at += len(text)

    def _skip(self, *, lines: bool) -> None:
        """Over white space and comments, and line breaks where `lines` allows."""
        while (c := self._peek()) and (c in " \t" or c == "#" or (lines and c in "\r\n")):
            if c == "#":
                while self._peek() and self._peek() not in "\r\n":
                    self._at += 1
            else:
                self._at += 1

    def _name(self) -> str:
        start = self._at
        while (c := self._peek()) and c.isascii() and (c.isalnum() or c in "-_"):
            self._at += 1
        if self._at == start:
            raise self._error("the name of a rule is wanted")
        return self._text[start : self._at]

    def _alternatives(self, *, inside: bool) -> Node:
        nodes = [self._sequence(inside=inside)]
        while self._peek() == "|":
            self._at += 1
            self._skip(lines=True)
            nodes.append(self._sequence(inside=inside))
        return nodes[0] if len(nodes) == 1 else Alternatives(tuple(nodes))

    def _sequence(self, *, inside: bool) -> Node:
        nodes: list[Node] = []
        while (c := self._peek()) and c not in "|)" and c not in "\r\n":
            if c in "*+?{":
                if not nodes:
                    raise self._error(f"nothing stands before {c}")
                nodes[-1] = self._repeat(nodes[-1])
            else:
                nodes.append(self._item(c))
            self._skip(lines=inside)
        return nodes[0] if len(nodes) == 1 else Sequence(tuple(nodes))

    def _item(self, c: str) -> Node:
        if c == '"':
            return self._literal()
        if c == "[":
            return self._class()
        if c == "(":
            return self._group()
        if c == ".":
            self._at += 1
            return Class((), negated=False)
        if c in "<!":
            raise self._error("tokens in a grammar are not supported; a shape is made of characters")
        if c.isascii() and (c.isalnum() or c in "-_"):
            at, name = self._at, self._name()
            self._used.setdefault(name, at)
            return Rule(name)
        raise self._error("a literal, a class, a group or the name of a rule is wanted")

    def _group(self) -> Node:
        opened = self._at
        if self._depth == _DEEPEST:
            raise self._error(f"more than {_DEEPEST} parentheses within each other")
        self._depth += 1
        self._at += 1
        self._skip(lines=True)
        node = self._alternatives(inside=True)
        if self._peek() != ")":
            raise self._error("this parenthesis is not closed", opened)
        self._at += 1
        self._depth -= 1
        return node

    def _repeat(self, node: Node) -> Node:
        c = self._peek()
        if c != "{":
            self._at += 1
            return Repeat(node, 1 if c == "+" else 0, 1 if c == "?" else None)
        opened = self._at
        self._at += 1
        self._skip(lines=True)
        least: int = self._number()
        most: int | None = least
        self._skip(lines=True)
        if self._peek() == ",":
            self._at += 1
            self._skip(lines=True)
            most = self._number() if self._peek().isdecimal() else None
            self._skip(lines=True)
        self._expect("}")
        if most is not None and most < least:
            raise self._error(f"at least {least} and at most {most} times", opened)
        return Repeat(node, least, most)

    def _number(self) -> int:
        start = self._at
        while (c := self._peek()) and c in "0123456789":
            self._at += 1
        if self._at == start:
            raise self._error("a number is wanted")
        digits = self._text[start : self._at]
        if len(digits) > 9 or int(digits) > _MOST_REPEATS:
            raise self._error(f"more than {_MOST_REPEATS} repetitions", start)
        return int(digits)

    def _literal(self) -> Node:
        opened = self._at
        self._at += 1
        text = ""
        while (c := self._peek()) != '"':
            if not c:
                raise self._error("this literal is not closed", opened)
            text += chr(self._character())
        self._at += 1
        return Literal(text)

    def _class(self) -> Node:
        opened = self._at
        self._at += 1
        negated = self._peek() == "^"
        self._at += negated
        ranges: list[tuple[int, int]] = []
        while (c := self._peek()) != "]":
            if not c:
                raise self._error("this class is not closed", opened)
            at, low = self._at, self._character()
            high = low
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                high = self._character()
            if high < low:
                raise self._error("a range that ends before it begins", at)
            ranges.append((low, high))
        self._at += 1
        if not ranges:
            raise self._error("a class of no characters", opened)
        return Class(tuple(ranges), negated)

    def _character(self) -> int:
        """The code point of one character, or of one escape."""
        at, c = self._at, self._peek()
        self._at += 1
        if c != "\\":
            return ord(c)
        kind = self._peek()
        self._at += 1
        if kind in _HEX:
            digits = self._text[self._at : self._at + _HEX[kind]]
            if len(digits) < _HEX[kind] or not all(digit in "0123456789abcdefABCDEF" for digit in digits):
                raise self._error(f"\\{kind} is followed by {_HEX[kind]} hexadecimal digits", at)
            self._at += _HEX[kind]
            code = int(digits, 16)
            if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
                raise self._error("no such character", at)
            return code
        if kind not in _ESCAPES or not kind:
            raise self._error('an unknown escape; there are \\n \\r \\t \\\\ \\" \\[ \\] \\- \\x \\u \\U', at)
        return ord(_ESCAPES[kind])
