"""llama.cpp's grammars (GBNF, `grammars/README.md` there) → llguidance's dialect of Lark, of exactly the same language.

llguidance cuts a text into lexemes, and a lexeme takes as much as it can: `root ::= word word` with `word ::= [a-z]+`
would find nothing left for the second word. So a grammar without recursion becomes one single lexeme; in one with
recursion every character is a lexeme of its own, which is slower and just as right. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
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
class _Literal:
    text: str


@dataclass(frozen=True)
class _Class:
    """One character: of these ranges, or of none of them."""

    ranges: tuple[tuple[int, int], ...]
    negated: bool


@dataclass(frozen=True)
class _Rule:
    name: str


@dataclass(frozen=True)
class _Sequence:
    nodes: tuple[_Node, ...]


@dataclass(frozen=True)
class _Alternatives:
    nodes: tuple[_Node, ...]


@dataclass(frozen=True)
class _Repeat:
    node: _Node
    least: int
    most: int | None


_Node = _Literal | _Class | _Rule | _Sequence | _Alternatives | _Repeat


def to_lark(source: str) -> str:
    """The same grammar in llguidance's Lark. Raises GrammarError with line and column."""
    rules = _Parser(source).rules()
    if _is_regular(rules):
        names = {name: f"T{i}" for i, name in enumerate(_needed_first(rules))}
        lines = [f"{names[name]}: {_lark(rules[name], names, apart=False)}" for name in names]
        return "\n".join([f"start: {names['root']}", *lines])
    names = {name: f"r{i}" for i, name in enumerate(rules)}
    lines = [f"{names[name]}: {_lark(node, names, apart=True)}" for name, node in rules.items()]
    return "\n".join([f"start: {names['root']}", *lines])


def _rules_in(node: _Node) -> Iterator[str]:
    """The rules that a node refers to."""
    match node:
        case _Rule(name):
            yield name
        case _Sequence(nodes) | _Alternatives(nodes):
            for inner in nodes:
                yield from _rules_in(inner)
        case _Repeat(inner):
            yield from _rules_in(inner)


def _needed_first(rules: dict[str, _Node]) -> list[str]:
    """What `root` needs and itself, each after what it needs. Raises RecursionError where a rule needs itself."""
    order: list[str] = []
    open_rules: set[str] = set()
    stack: list[tuple[str, Iterator[str]]] = [("root", _rules_in(rules["root"]))]
    open_rules.add("root")
    while stack:
        name, needed = stack[-1]
        other = next((rule for rule in needed if rule not in order), None)
        if other is None:
            stack.pop()
            open_rules.remove(name)
            order.append(name)
        elif other in open_rules:
            raise RecursionError(other)
        else:
            open_rules.add(other)
            stack.append((other, _rules_in(rules[other])))
    return order


def _is_regular(rules: dict[str, _Node]) -> bool:
    try:
        _needed_first(rules)
    except RecursionError:
        return False
    return True


def _lark(node: _Node, names: dict[str, str], *, apart: bool) -> str:
    """`apart`: each character of a literal is a lexeme."""
    match node:
        case _Literal(text):
            return " ".join(map(_quoted, text)) if apart and len(text) > 1 else _quoted(text)
        case _Class(ranges, negated):
            inside = "".join(f"\\x{{{low:x}}}-\\x{{{high:x}}}" for low, high in ranges)
            return f"/[{'^' if negated else ''}{inside}]/" if ranges else "/(?s:.)/"
        case _Rule(name):
            return names[name]
        case _Sequence(nodes):
            return " ".join(_atom(inner, names, apart=apart) for inner in nodes) or '""'
        case _Alternatives(nodes):
            return " | ".join(_lark(inner, names, apart=apart) for inner in nodes)
        case _Repeat(inner, least, most):
            bounds = f"{{{least},{'' if most is None else most}}}"
            return f"({_lark(inner, names, apart=apart)}){bounds}"


def _atom(node: _Node, names: dict[str, str], *, apart: bool) -> str:
    text = _lark(node, names, apart=apart)
    return f"({text})" if isinstance(node, _Alternatives) else text


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


class _Parser:
    """Recursive descent over GBNF, as `llama_grammar_parser` in src/llama-grammar.cpp reads it."""

    def __init__(self, source: str) -> None:
        self._text = source
        self._at = 0
        self._depth = 0
        self._used: dict[str, int] = {}  # rules that are referred to, and where first

    def rules(self) -> dict[str, _Node]:
        """Every rule by its name; `root` is among them, and so is all that is referred to."""
        rules: dict[str, _Node] = {}
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

    def _alternatives(self, *, inside: bool) -> _Node:
        nodes = [self._sequence(inside=inside)]
        while self._peek() == "|":
            self._at += 1
            self._skip(lines=True)
            nodes.append(self._sequence(inside=inside))
        return nodes[0] if len(nodes) == 1 else _Alternatives(tuple(nodes))

    def _sequence(self, *, inside: bool) -> _Node:
        nodes: list[_Node] = []
        while (c := self._peek()) and c not in "|)" and c not in "\r\n":
            if c in "*+?{":
                if not nodes:
                    raise self._error(f"nothing stands before {c}")
                nodes[-1] = self._repeat(nodes[-1])
            else:
                nodes.append(self._item(c))
            self._skip(lines=inside)
        return nodes[0] if len(nodes) == 1 else _Sequence(tuple(nodes))

    def _item(self, c: str) -> _Node:
        if c == '"':
            return self._literal()
        if c == "[":
            return self._class()
        if c == "(":
            return self._group()
        if c == ".":
            self._at += 1
            return _Class((), negated=False)
        if c in "<!":
            raise self._error("tokens in a grammar are not supported; a shape is made of characters")
        if c.isascii() and (c.isalnum() or c in "-_"):
            at, name = self._at, self._name()
            self._used.setdefault(name, at)
            return _Rule(name)
        raise self._error("a literal, a class, a group or the name of a rule is wanted")

    def _group(self) -> _Node:
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

    def _repeat(self, node: _Node) -> _Node:
        c = self._peek()
        if c != "{":
            self._at += 1
            return _Repeat(node, 1 if c == "+" else 0, 1 if c == "?" else None)
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
        return _Repeat(node, least, most)

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

    def _literal(self) -> _Node:
        opened = self._at
        self._at += 1
        text = ""
        while (c := self._peek()) != '"':
            if not c:
                raise self._error("this literal is not closed", opened)
            text += chr(self._character())
        self._at += 1
        return _Literal(text)

    def _class(self) -> _Node:
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
        return _Class(tuple(ranges), negated)

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
