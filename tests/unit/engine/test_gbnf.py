"""llama.cpp's grammars, read. What they take is tested in model/test_shape.py."""

from __future__ import annotations

import random
from collections.abc import Iterator

import llguidance
import pytest

from llamacli.engine import gbnf, gbnf_lark, shape
from llamacli.engine.gbnf import GrammarError
from llamacli.engine.gbnf_lark import to_lark


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("", "no rule root"),
        ('a ::= "b"', "no rule root"),
        ('root = "a"', "line 1, column 6: ::= is wanted"),
        ('root ::= "a', "line 1, column 10: this literal is not closed"),
        ("root ::= [ab", "line 1, column 10: this class is not closed"),
        ('root ::= ("a"\n | "b"', "line 1, column 10: this parenthesis is not closed"),
        ('x ::= "a"\nroot ::= x y', "line 2, column 12: there is no rule y"),
        ('root ::= "a"\nroot ::= "b"', "line 2, column 1: a second rule root"),
        ("root ::= [z-a]", "ends before it begins"),
        ("root ::= []", "a class of no characters"),
        ("root ::= [^]", "a class of no characters"),
        ("root ::= <think>", "tokens in a grammar are not supported"),
        ("root ::= !<[12]>", "tokens in a grammar are not supported"),
        ('root ::= "a"{3,2}', "at least 3 and at most 2"),
        ('root ::= "a"{9999999999}', "more than 2000"),
        ('root ::= "a"{,3}', "a number is wanted"),
        ('root ::= "a"{3', "} is wanted"),
        ("root ::= *", "nothing stands before *"),
        ("root ::= " + "(" * 200_000, "more than 100 parentheses"),
        (r'root ::= "\q"', "an unknown escape"),
        (r'root ::= "\x4"', r"\x is followed by 2"),
        (r'root ::= "\uD800"', "no such character"),
        ('root ::= "a" ::= "b"', "column 14"),
        ("root ::= )", "the end of the rule is wanted"),
    ],
)
def test_an_error_names_its_place(source: str, wanted: str) -> None:
    with pytest.raises(GrammarError) as error:
        to_lark(source)
    assert wanted in str(error.value)
    assert len(str(error.value)) < 300


def test_without_recursion_it_is_one_lexeme() -> None:
    assert to_lark('root ::= a a\na ::= "x" b?\nb ::= [0-9]').splitlines()[0] == "start: T2"
    deep = "\n".join(["root ::= r0", *(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(3000)), 'r3000 ::= "x"'])
    assert to_lark(deep).startswith("start: T")


def test_with_recursion_every_character_is_one() -> None:
    assert 'r0: "(" r0 ")" | "a" "b"' in to_lark('root ::= "(" root ")" | "ab"')


JSON = r"""root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws
array  ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
number ::= "-"? ([0-9] | [1-9] [0-9]{0,15}) ("." [0-9]+)? ws
ws     ::= | " " | "\n" [ \t]{0,20}"""


def test_strings_of_json_are_lexemes_in_a_grammar_with_recursion() -> None:
    lexemes = [line for line in to_lark(JSON).splitlines() if line.startswith("L")]
    assert len(lexemes) == 1
    assert lexemes[0].startswith('L0: "\\"" ')
    assert lexemes[0].endswith(' "\\""')


@pytest.mark.parametrize(
    "rules",
    [
        's ::= "a" "a"*',  # where it ends cannot be seen
        's ::= "a" ("b" "a")* "b" "a"',  # nor here
        's ::= "\\"" [^"]* "\\"" | "\\"" "x"',  # another text begins like it
        's ::= "(" [^)]* ")"',  # and here it is the rule with recursion that does
    ],
)
def test_what_the_next_character_does_not_decide_is_no_lexeme(rules: str) -> None:
    assert "\nL0" not in to_lark(f'root ::= "(" root ")" | s\n{rules}')


def random_grammars(seed: int, n: int) -> Iterator[str]:
    """With recursion, and with something in them that repeats."""
    draw = random.Random(seed)
    characters = 'ab"\\[],: x'

    def escaped(texts: list[str], of: str) -> str:
        return "".join(f"\\{c}" if c in of else c for c in texts)

    def expression(depth: int, rules: list[str]) -> str:
        kind = draw.random()
        if depth == 0 or kind < 0.2:
            text = escaped(draw.choices(characters, k=draw.randint(1, 2)), '"\\')
            return f'"{text}"'
        if kind < 0.3:
            text = escaped(draw.sample(characters, 2), "[]\\")
            return f"[{'^' * draw.randint(0, 1)}{text}]"
        if kind < 0.5:
            return draw.choice(rules)
        if kind < 0.75:
            return " ".join(expression(depth - 1, rules) for _ in range(draw.randint(2, 3)))
        if kind < 0.87:
            return f"({expression(depth - 1, rules)} | {expression(depth - 1, rules)})"
        return f"({expression(depth - 1, rules)}){draw.choice(['*', '+', '?', '{2}', '{1,3}'])}"

    strings = [
        r'"\"" [^"]* "\""',
        r'"\"" ([^"\\] | "\\" .)* "\""',
        r'"[" [^\]]+ "]"',
        '[ab]+ ":"',
        '("a" | "b" "x")* ","',
    ]
    for _ in range(n):
        yield (
            f'root ::= "(" root ")" | {expression(3, ["root", "p", "s"])}\np ::= {expression(2, ["s"])}\n'
            f"s ::= {draw.choice(strings)}"
        )


def test_with_lexemes_and_without_a_grammar_takes_the_same() -> None:
    """Where every next byte that fits is the same all along random texts, the languages are the same."""
    draw, n_merged = random.Random(1), 0
    for source in [JSON, *random_grammars(1, 250)]:
        merged = to_lark(source)
        if "\nL0" not in merged:
            continue
        rules = gbnf.parse(source)
        names = {name: f"r{i}" for i, name in enumerate(rules)}
        apart = "\n".join(
            [f"start: {names['root']}", *(f"{names[r]}: {gbnf_lark._lark(rules[r], names, {})}" for r in rules)]
        )
        both = [
            llguidance.LLMatcher(shape._bytes_vocabulary(), shape._HEAD + lark, log_level=0) for lark in (merged, apart)
        ]
        assert both[0].is_error() == both[1].is_error(), source
        n_merged += not both[0].is_error()
        for _ in range(4 if not both[0].is_error() else 0):
            text, one, other = b"", both[0].deep_copy(), both[1].deep_copy()
            for _ in range(20):
                mask = bytes(one.compute_bitmask())
                assert mask == bytes(other.compute_bitmask()), (source, text)
                fitting = [byte for byte in range(255) if mask[byte // 8] >> byte % 8 & 1]
                if not fitting:
                    break
                byte = draw.choice([b for b in fitting if chr(b) in 'ab"\\[],: x()'] or fitting)
                assert one.consume_token(byte)
                assert other.consume_token(byte)
                text += bytes([byte])
    assert n_merged > 20


@pytest.mark.parametrize(
    "rules",
    [
        "s ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(60)) + '\nr60 ::= "x"',
        "s ::= " + "(" * 90 + '"x" [a]* "y"' + "){2}" * 90,
        "s ::= " + " ".join(["[a-c]* [b-d]"] * 1000),
        "s ::= " + " | ".join(f'"{i}"' for i in range(3000)),
    ],
    ids=["doubled 60 times", "nested", "long", "wide"],
)
def test_the_search_for_lexemes_ends(rules: str) -> None:
    """Without a bound, the first of them would take hours."""
    assert to_lark(f'root ::= "(" root ")" | s\n{rules}').startswith("start: r0\n")
