"""A grammar of llama.cpp's → llguidance's dialect of Lark, of exactly the same language.

llguidance cuts a text into lexemes, and a lexeme takes as much as it can: `root ::= word word` with `word ::= [a-z]+`
would find nothing left for the second word. So a grammar without recursion becomes one single lexeme. In one with
recursion every character is a lexeme of its own, which is slower and just as right, but for parts that can be shown to
end where they must (`_follow`) and to be met by nothing else (`_Lexemes`): strings of JSON, most of all.
Standard library only.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, takewhile
from typing import Any

from llamacli.engine import gbnf
from llamacli.engine.gbnf import Alternatives, Class, Literal, Repeat, Rule, Sequence

#: Sets of characters: (first, last) of each range.
_Ranges = tuple[tuple[int, int], ...]
_LAST = 0x10FFFF
#: Nodes that are looked at in search of lexemes, at most: a tenth of a second. No grammar of a person's needs so many.
_MOST_STEPS = 100_000


@dataclass(frozen=True)
class _Lexeme:
    """A part without recursion that is one lexeme."""

    node: gbnf.Node


_Node = gbnf.Node | _Lexeme


def to_lark(source: str) -> str:
    """The same grammar in llguidance's Lark. Raises GrammarError with line and column."""
    rules = gbnf.parse(source)
    regular = _regular(rules)
    terminals = {name: f"T{i}" for i, name in enumerate(regular)}
    if "root" in regular:
        return "\n".join([f"start: {terminals['root']}", *_terminals(rules, ["root"], terminals)])
    try:
        found = _Lexemes(rules, regular).rules()
    except (_TooMuch, RecursionError):
        found = dict(rules)
    names = {name: f"r{i}" for i, name in enumerate(found)}
    lexemes: dict[_Lexeme, str] = {}
    for node in found.values():
        for leaf in _leaves(node):
            if isinstance(leaf, _Lexeme):
                lexemes.setdefault(leaf, f"L{len(lexemes)}")
    lines = [f"start: {names['root']}"]
    lines += [f"{names[name]}: {_lark(node, names, lexemes)}" for name, node in found.items()]
    lines += [f"{name}: {_lark(lexeme.node, terminals)}" for lexeme, name in lexemes.items()]
    needed = [leaf.name for lexeme in lexemes for leaf in _leaves(lexeme.node) if isinstance(leaf, Rule)]
    return "\n".join([*lines, *_terminals(rules, needed, terminals)])


def _terminals(rules: Mapping[str, gbnf.Node], needed: list[str], names: dict[str, str]) -> Iterator[str]:
    """Rules without recursion, and what they need."""
    found = set(_reached(rules, needed))
    yield from [f"{name}: {_lark(rules[rule], names)}" for rule, name in names.items() if rule in found]


def _leaves(node: _Node) -> Iterator[Literal | Class | Rule | _Lexeme]:
    """What a node is made of, as often as it stands there."""
    match node:
        case Sequence(nodes) | Alternatives(nodes):
            for inner in nodes:
                yield from _leaves(inner)
        case Repeat(inner):
            yield from _leaves(inner)
        case Literal() | Class() | Rule() | _Lexeme():
            yield node


def _needs(node: _Node) -> set[str]:
    return {leaf.name for leaf in _leaves(node) if isinstance(leaf, Rule)}


def _reached(rules: Mapping[str, _Node], names: list[str]) -> list[str]:
    """These rules and all that they need."""
    found: dict[str, None] = {}
    waiting = [*names]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = None
            waiting += sorted(_needs(rules[name]))
    return [*found]


def _regular(rules: Mapping[str, gbnf.Node]) -> list[str]:
    """The rules without recursion, each after what it needs (Kahn's algorithm)."""
    missing = {name: _needs(node) for name, node in rules.items()}
    users: dict[str, list[str]] = {name: [] for name in rules}
    for name, needed in missing.items():
        for other in needed:
            users[other].append(name)
    ready = deque(name for name, needed in missing.items() if not needed)
    order = []
    while ready:
        name = ready.popleft()
        order.append(name)
        for user in users[name]:
            missing[user].remove(name)
            if not missing[user]:
                ready.append(user)
    return order


# --- lexemes in a grammar with recursion ------------------------------------------------------------------------------


class _TooMuch(Exception):
    """The grammar is so large, or so entangled, that it is left as it is."""


class _Lexemes:
    """Which parts may be one lexeme.

    Two conditions. No text of the part is the beginning of another one: then "as much as it can" is the only way to
    read it. And no other lexeme can begin with a character that it begins with: the lexer would follow both and, where
    the longer one fails, not go back. What cannot be shown to be so stays character by character.
    """

    def __init__(self, rules: Mapping[str, gbnf.Node], regular: Iterable[str]) -> None:
        """`regular`: those without recursion, each after what it needs."""
        self._source = rules
        self._regular = dict.fromkeys(regular)
        self._holding: set[str] = set()  # rules with a lexeme in them, or in what they need
        self._refused: set[gbnf.Node] = set()
        self._known: dict[tuple[str, _Ranges], _Ranges | None] = {}  # of rules
        self._steps = 0
        self._long: set[str] = set()  # rules that repeat something without a limit
        for name in self._regular:
            if self._is_long(rules[name]):
                self._long.add(name)

    def rules(self) -> dict[str, _Node]:
        """Those that a parser needs from `root` on, with lexemes in them. Raises _TooMuch, RecursionError."""
        while True:
            self._holding.clear()
            found: dict[str, _Node] = {}
            for name in {**self._regular, **self._source}:
                found[name] = self._rewrite(self._source[name])
                if self._holds(found[name]):
                    self._holding.add(name)
            found = {name: found[name] for name in _reached(found, ["root"])}
            begins = {leaf: self._begins(leaf) for node in found.values() for leaf in _leaves(node)}
            clashes = {lexeme.node for lexeme in begins if isinstance(lexeme, _Lexeme) and self._clash(lexeme, begins)}
            if not clashes:
                return found
            self._refused |= clashes

    def _clash(self, lexeme: _Lexeme, begins: Mapping[Any, _Ranges]) -> bool:
        self._count(len(begins))
        return any(other != lexeme and _overlap(ranges, begins[lexeme]) for other, ranges in begins.items())

    def _begins(self, leaf: Literal | Class | Rule | _Lexeme) -> _Ranges:
        """The characters that lexemes of it begin with."""
        match leaf:
            case _Lexeme(node):
                return self._follow(node, ()) or ()
            case Literal(text):  # each character is one
                return tuple((ord(c), ord(c)) for c in text)
            case Class():
                return _characters(leaf)
        return ()

    def _rewrite(self, node: gbnf.Node) -> _Node:
        match node:
            case Sequence(nodes):
                return Sequence(tuple(self._runs([self._rewrite(inner) for inner in nodes])))  # type: ignore[arg-type]
            case Alternatives(nodes):
                return Alternatives(tuple(map(self._rewrite, nodes)))  # type: ignore[arg-type]
            case Repeat(inner, least, most):
                return Repeat(self._rewrite(inner), least, most)  # type: ignore[arg-type]
        return node

    def _runs(self, nodes: list[Any]) -> Iterator[_Node]:
        """The smallest runs of nodes that are a lexeme together, and the nodes between them."""
        start = 0
        while start < len(nodes):
            rest = [*takewhile(lambda node: not self._holds(node), nodes[start:])]
            runs = (Sequence(tuple(rest[:end])) for end in range(2, len(rest) + 1))
            run = next((run for run in runs if self._fits(run)), None)
            yield _Lexeme(run) if run is not None else nodes[start]
            start += len(run.nodes) if run is not None else 1

    def _holds(self, node: _Node) -> bool:
        """Whether there is a lexeme in it."""
        return any(
            isinstance(leaf, _Lexeme) or (isinstance(leaf, Rule) and leaf.name in self._holding)
            for leaf in _leaves(node)
        )

    def _fits(self, node: gbnf.Node) -> bool:
        """Only what repeats something without a limit is worth it."""
        return self._is_long(node) and bool(self._follow(node, ())) and node not in self._refused

    def _count(self, n: int = 1) -> None:
        self._steps += n
        if self._steps > _MOST_STEPS:
            raise _TooMuch

    def _is_long(self, node: gbnf.Node) -> bool:
        self._count()
        match node:
            case Repeat(inner, _, most):
                return most is None or self._is_long(inner)
            case Sequence(nodes) | Alternatives(nodes):
                return any(map(self._is_long, nodes))
            case Rule(name):
                return name in self._long
        return False

    def _follow(self, node: gbnf.Node, rest: _Ranges) -> _Ranges | None:
        """The characters that begin a text of `node` and what comes after it, which begins with those of `rest`.

        None where one such text may be the beginning of another, or that cannot be seen from the next character. After
        an empty `rest` comes nothing.
        """
        self._count()
        match node:
            case Literal(text):
                return ((ord(text[0]), ord(text[0])),) if text else rest
            case Class():
                return _characters(node)
            case Rule(name):
                if (name, rest) not in self._known:
                    regular = name in self._regular
                    self._known[name, rest] = self._follow(self._source[name], rest) if regular else None
                return self._known[name, rest]
            case Sequence(nodes):
                begins: _Ranges | None = rest
                for inner in reversed(nodes):
                    begins = self._follow(inner, begins) if begins is not None else None
                return begins
            case Alternatives(nodes):
                return self._one_of([self._follow(inner, rest) for inner in nodes])
            case Repeat(inner, least, most):
                if least == most:
                    begins = rest
                    for _ in range(min(least, 3)):  # further ones change nothing
                        begins = self._follow(inner, begins) if begins is not None else None
                    return begins
                again = self._follow(inner, ())
                # Once more, or on: the next character says which.
                both = self._one_of([again, rest])
                return both if least == 0 or both is None else again
        return None

    def _one_of(self, choices: list[_Ranges | None]) -> _Ranges | None:
        if any(not begins for begins in choices) or any(_overlap(a, b) for a, b in combinations(choices, 2) if a and b):
            return None
        return tuple(pair for begins in choices if begins for pair in begins)


def _characters(node: Class) -> _Ranges:
    if not node.negated:
        return node.ranges or ((0, _LAST),)
    found, next_ = [], 0
    for low, high in sorted(node.ranges):
        if low > next_:
            found.append((next_, low - 1))
        next_ = max(next_, high + 1)
    return (*found, (next_, _LAST)) if next_ <= _LAST else tuple(found)


def _overlap(a: _Ranges, b: _Ranges) -> bool:
    return any(low <= last and first <= high for low, high in a for first, last in b)


# --- Lark -------------------------------------------------------------------------------------------------------------


def _lark(node: _Node, names: Mapping[str, str], lexemes: Mapping[_Lexeme, str] | None = None) -> str:
    """With `lexemes`, every character beside them is a lexeme of its own."""
    match node:
        case _Lexeme():
            assert lexemes is not None
            return lexemes[node]
        case Literal(text):
            return " ".join(map(_quoted, text)) if lexemes is not None and len(text) > 1 else _quoted(text)
        case Class(ranges, negated):
            inside = "".join(f"\\x{{{low:x}}}-\\x{{{high:x}}}" for low, high in ranges)
            return f"/[{'^' if negated else ''}{inside}]/" if ranges else "/(?s:.)/"
        case Rule(name):
            return names[name]
        case Sequence(nodes):
            return " ".join(_atom(inner, names, lexemes) for inner in nodes) or '""'
        case Alternatives(nodes):
            return " | ".join(_lark(inner, names, lexemes) for inner in nodes)
        case Repeat(inner, least, most):
            bounds = f"{{{least},{'' if most is None else most}}}"
            return f"({_lark(inner, names, lexemes)}){bounds}"


def _atom(node: _Node, names: Mapping[str, str], lexemes: Mapping[_Lexeme, str] | None) -> str:
    text = _lark(node, names, lexemes)
    return f"({text})" if isinstance(node, Alternatives) else text


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
