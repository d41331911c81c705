"""llama.cpp's grammars, read. What they take is tested in model/test_shape.py."""

from __future__ import annotations

import pytest

from llamacli.engine.gbnf import GrammarError, to_lark


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
