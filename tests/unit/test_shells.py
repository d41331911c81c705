"""A command line as bash reads it, and what a Tab is answered with."""

from __future__ import annotations

import pytest

from llamacli.ui import shells


@pytest.mark.parametrize(
    ("line", "words", "quote"),
    [
        ("llamacli ", [""], ""),
        ("llamacli complete -m ti", ["complete", "-m", "ti"], ""),
        ("A=1 B='x y' /opt/llamacli tok", ["tok"], ""),
        (r"llamacli -p 'it is' \"a\ b ", ["-p", "it is", '"a b', ""], ""),
        ('llamacli -p "a $x \\" b', ["-p", 'a $x " b'], '"'),
        ("llamacli -m 'a b", ["-m", "a b"], "'"),
    ],
)
def test_split(line: str, words: list[str], quote: str) -> None:
    typed = shells.split(line)
    assert (typed.words, typed.quote) == (words, quote)


def answered(line: str, *values: str, shell: str = "bash", prefix: str = "", breaks: str = shells.BREAKS) -> list[str]:
    text = shells.answer(shell, shells.split(line, breaks), [(v, "what") for v in values], files=False, prefix=prefix)
    return text.splitlines()[1:]


def test_bash_gets_what_stands_behind_the_last_break() -> None:
    assert answered("llamacli -m qwen3.5:", "qwen3.5:0.8b", "qwen3.5:4b") == ["0.8b", "4b"]
    assert answered("llamacli --model=q", "qwen3.5:4b", prefix="--model=") == ["qwen3.5:4b"]
    assert answered("llamacli --model=q", "qwen3.5:4b", prefix="--model=", breaks=":") == ["--model=qwen3.5:4b"]
    assert answered("llamacli -m qwen3.5\\:", "qwen3.5:4b") == ["qwen3.5:4b"]
    assert answered('llamacli --model="qwen3.5:', "qwen3.5:4b", prefix="--model=") == ["qwen3.5:4b"]


@pytest.mark.parametrize(
    ("line", "words", "redirected"),
    [
        ("llamacli tokens hi > o", ["tokens", "hi", "o"], True),
        ("llamacli tokens < in >", ["tokens", ""], True),
        ("llamacli tokens hi 2>err >out --js", ["tokens", "hi", "--js"], False),
        ("llamacli tokens hi 2>&1 ", ["tokens", "hi", ""], False),
        ("llamacli tokens 'a > b' c", ["tokens", "a > b", "c"], False),
    ],
)
def test_a_redirection_is_no_argument(line: str, words: list[str], redirected: bool) -> None:
    typed = shells.split(line)
    assert (typed.words, typed.redirected) == (words, redirected)


def test_foreign_names_do_nothing_to_a_shell() -> None:
    assert answered("llamacli -m a", "a$(x) `y`;z&'\"") == ["a\\$\\(x\\)\\ \\`y\\`\\;z\\&\\'\\\""]
    assert answered('llamacli -m "a', "a$(x)", "a b", "a`y`", 'a"', "a!x") == ["a b"]
    assert answered("llamacli -m 'a", "a$(x)", "a'b") == ["a$(x)"]
    for shell in ("bash", "zsh", "fish"):
        assert answered("llamacli -m a", "a\x1b[2J", "a\nb", "a\tb", "a\u202eb", shell=shell) == []


def test_a_description_is_one_harmless_line() -> None:
    text = shells.answer("fish", shells.Typed(["-m", ""]), [("tiny", "a\n\tb\x1b]0;x\x07")], files=True, prefix="")
    kind, line = text.splitlines()
    assert kind == "files"
    assert line.startswith("tiny\ta b")
    assert line.isprintable() or line.replace("\t", "").isprintable()
