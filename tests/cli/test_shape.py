"""`llamacli complete` with a shape, with probabilities, into a gap, and one code block of an answer."""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., subprocess.CompletedProcess[bytes]]
GREEDY = ("--temp", "0", "-t", "1")
PEOPLE = "Anna went from Oakdale to Berlin. Give the people and places as JSON."
REVIEW = "The hotel was old and cold, but we had a great time. Is this review positive or negative?"


def document(done: subprocess.CompletedProcess[bytes]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- shapes -------------------------------------------------------------------------------------------------------


def test_a_schema_in_short_inline_and_from_a_file(cli: Cli, tmp_path: Path) -> None:
    short = cli("complete", "-m", "tiny", *GREEDY, "--schema", "people [str], places [str]", PEOPLE)
    assert document(short) == {"people": ["Anna"], "places": ["Oakdale", "Berlin"]}
    schema = {"type": "object", "properties": {"people": {"type": "array", "items": {"type": "string"}, "maxItems": 1}}}
    schema |= {"required": ["people"], "additionalProperties": False}
    (tmp_path / "s.json").write_text(json.dumps(schema))
    for given in (json.dumps(schema), "s.json"):
        done = cli("complete", "-m", "tiny", *GREEDY, "--schema", given, PEOPLE, cwd=tmp_path)
        assert document(done) == {"people": ["Anna"]}
    many = cli("complete", "-m", "tiny", *GREEDY, "--schema-multi", "n int", "-n", 60, "--partial", "What is 7 plus 8?")
    assert many.stdout.startswith(b'{"items": [')


def test_grammar_and_expression(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "g.gbnf").write_text('root ::= "<" [0-9]{2} ">" # two digits\n')
    done = cli("complete", "-m", "tiny", "--grammar-file", "g.gbnf", "What is 7 plus 8?", cwd=tmp_path)
    assert re.fullmatch(rb"<\d\d>\n", done.stdout)
    done = cli("complete", "-m", "tiny", *GREEDY, "--regex", r"(1|2)\d\.", "What is 7 plus 8?")
    assert done.stdout == b"15.\n"


def test_what_ends_inside_its_shape(cli: Cli) -> None:
    options = ("complete", "-m", "tiny", *GREEDY, "--schema", "people [str]", "-n", 5)
    done = cli(*options, PEOPLE)
    assert (done.returncode, done.stdout) == (8, b"")
    assert done.stderr.startswith(b"error: after 5 tokens the answer has not its whole shape\nhint: ")
    part = cli(*options, "--partial", PEOPLE)
    assert (part.returncode, part.stdout[:8]) == (8, b'{"people')
    told = cli(*options, "--json", "--logprobs", PEOPLE)
    result = json.loads(told.stdout)
    assert told.returncode == 8
    assert (result["text"], result["logprobs"], result["whole"], result["finish_reason"]) == (
        None,
        None,
        False,
        "length",
    )
    both = cli(*options, "--json", "--partial", PEOPLE)
    assert (both.returncode, json.loads(both.stdout)["text"][:8]) == (8, '{"people')


def test_a_limit_after_a_whole_is_no_error(cli: Cli) -> None:
    """A number could go on, and need not."""
    done = cli("complete", "-m", "tiny", *GREEDY, "--regex", "[0-9]+", "-n", 2, "--json", "What is 7 plus 8?")
    result = document(done)
    assert result["whole"]
    assert result["text"]


def test_samples_of_a_shape(cli: Cli) -> None:
    options = ("complete", "-m", "tiny", "--seed", 3, "-t", 1, "--temp", 3, "--top-k", 0, "--min-p", 0, "--samples", 4)
    done = cli(*options, "--choices", "a,bb,ccc", "-0", "Say it.")
    assert done.returncode == 0
    assert set(done.stdout.split(b"\0")[:-1]) <= {b"a", b"bb", b"ccc"}
    assert done.stdout.count(b"\0") == 4
    some = cli(*options, "--regex", "a|b{30}", "-n", 3, "-0", "Say it.")
    texts = some.stdout.split(b"\0")[:-1]
    assert len(texts) == 4
    assert set(texts) <= {b"a", b""}
    assert some.returncode == (8 if b"" in texts else 0)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (
            ("--schema", '{"type": "array", "uniqueItems": true}'),
            b'--schema: at the top: "uniqueItems" is not supported',
        ),
        (("--schema", '{"type": "array"'), b"no JSON: line 1, column 17"),
        (("--schema", "none.json"), b"none.json: no such file"),
        (("--schema", "age years"), b"age has the type years"),
        (("--grammar", 'root ::= "a'), b"--grammar: line 1, column 10: this literal is not closed"),
        (("--grammar-file", "none.gbnf"), b"none.gbnf: no such file"),
        (("--regex", "a(b"), b"--regex: character 2: unclosed group"),
        (("--regex", "a/(b"), b"--regex: unclosed group"),
        (("--regex", r"\d+["), b"--regex: character 4: unclosed character class"),
        (("--regex", r"a\b"), b"--regex: \\b, \\B, and ^ or $ in the middle of an expression are not supported"),
        (("--regex", "a\\"), b"--regex: the expression ends with half an escape"),
        (("--schema", "[1]"), b"'[1]' is no field"),
        (("--regex", ""), b"an empty expression"),
        (("--choices", "a,,b"), b"a choice is empty"),
        (("--choices", "a", "--regex", "b"), b"one shape"),
        (("--choices", "a", "--stop", "b"), b"--stop and a shape"),
        (("--partial",), b"--partial needs a shape"),
        (("--logprobs",), b"--logprobs needs --json"),
        (("--logprobs", "2000", "--json"), b"between 0 and 1000"),
        (("--confidence", "--json"), b"--confidence colours a text"),
        (("-x", "--extract-last"), b"give one of them"),
        (("-x", "--json"), b"--extract prints a code block alone"),
        (("--suffix", "b", "-s", "system"), b"--suffix fills a gap"),
        (("--suffix", "b", "--chat-template", "chatml"), b"no chat template"),
        (("--infill", "a.py:1"), b"it excludes a prompt"),
    ],
)
def test_refused_in_one_line(cli: Cli, tmp_path: Path, arguments: tuple[str, ...], wanted: bytes) -> None:
    done = cli("complete", "-m", "tiny", *arguments, "hi", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    lines = done.stderr.splitlines()
    assert lines[0].startswith(b"error: ")
    assert wanted in lines[0]
    assert len(lines) == 1 or lines[1].startswith(b"hint: ")


def test_a_bad_shape_is_told_before_the_model_is_loaded(cli: Cli, tmp_path: Path) -> None:
    """The file is no model: whoever opened it would say so."""
    (tmp_path / "m.gguf").write_bytes(b"no model")
    assert cli("complete", "-m", tmp_path / "m.gguf", "hi").returncode == 6
    assert cli("complete", "-m", tmp_path / "m.gguf", "--grammar", "x", "hi").returncode == 2


#: What llama-completion 0.3.36 wrote after "Once upon a time" with stories260K, seed 7, 24 tokens, one thread.
WORDS, RECURSION = 'root ::= ([a-m]+ " "){3,} "."?', 'root ::= "(" root ")" | " " [a-z]+ root | "!"'
PENALTIES = ("--repeat-penalty", "1.3", "--frequency-penalty", "0.2")
HOT = ("--temp", "1.5", "--top-k", "0", "--top-p", "1", "--min-p", "0")


@pytest.mark.parametrize(
    ("grammar", "options", "text"),
    [
        (WORDS, (), "ce kid came jeech jellie all blackl"),
        (WORDS, PENALTIES, "ce kid came jackie high eleggelllic"),
        (WORDS, ("--dry-multiplier", "0.8"), "ce kid came jeech jam elecidile jam "),
        (RECURSION, HOT, " there loved to l mend with happeners with proud pieces for"),
        (RECURSION, ("--mirostat", "2"), " there were two friends named visit and dady and van up their"),
        ('root ::= " the" | " a cat" | " dog" [s]?', ("--temp", "0"), " a cat"),
    ],
)
def test_the_same_text_as_llama_completions(
    cli: Cli, stories: Path, grammar: str, options: tuple[str, ...], text: str
) -> None:
    """So a token that does not fit is drawn again as llama.cpp does it, and the penalties never hear of it."""
    fixed = ("--seed", 7, "-n", 24, "-t", 1, "-c", 256, "--partial")
    done = cli("complete", "-m", stories, *fixed, *options, "--grammar", grammar, "Once upon a time")
    assert done.stdout.decode().removesuffix("\n") == text


# --- probabilities ------------------------------------------------------------------------------------------------


def test_choices_and_how_probable_they_are(cli: Cli) -> None:
    assert cli("complete", "-m", "tiny", *GREEDY, "--choices", "positive,negative", REVIEW).stdout == b"positive\n"
    result = document(cli("complete", "-m", "tiny", *GREEDY, "--choices", "positive, negative", "--json", REVIEW))
    assert [weight["choice"] for weight in result["probabilities"]] == ["positive", "negative"]
    assert sum(weight["probability"] for weight in result["probabilities"]) == pytest.approx(1)
    assert result["probabilities"][0]["probability"] > 0.9
    first = result["probabilities"][0]
    both = [math.exp(weight["logprob"]) for weight in result["probabilities"]]
    assert first["probability"] == pytest.approx(both[0] / sum(both))


def test_logprobs(cli: Cli, bare: Path) -> None:
    options = ("complete", "-m", bare, "-n", 8, *GREEDY, "--json")
    result = document(cli(*options, "--logprobs", "3", "Once upon a time"))
    assert "".join(token["token"] for token in result["logprobs"]) == result["text"]
    for token in result["logprobs"]:
        assert list(token) == ["token", "logprob", "bytes", "top_logprobs"]
        assert len(token["top_logprobs"]) == 3
        assert token["top_logprobs"][0] == {name: token[name] for name in ("token", "logprob", "bytes")}  # greedy
        logprobs = [other["logprob"] for other in token["top_logprobs"]]
        assert logprobs == sorted(logprobs, reverse=True)
        assert sum(map(math.exp, logprobs)) <= 1 + 1e-6
    for given in (("--logprobs",), ("--logprobs=0",)):
        plain = document(cli(*options, *given, "Once upon a time"))
        assert [token["top_logprobs"] for token in plain["logprobs"]] == [[]] * 8
        assert [token["logprob"] for token in plain["logprobs"]] == [token["logprob"] for token in result["logprobs"]]
    assert document(cli(*options, "Once upon a time"))["logprobs"] is None


def test_logprobs_are_those_of_score(cli: Cli, bare: Path) -> None:
    """Neither temperature nor samplers nor a shape change what the model itself said."""
    shape = ("--regex", " [a-z ]+", "--temp", 2, "--seed", 5, "--top-k", 5, "-n", 6, "-t", 1)
    result = document(cli("complete", "-m", bare, *shape, "--json", "--logprobs", "Once upon a time"))
    scored = document(cli("score", "-m", bare, "-t", 1, "--json", "Once upon a time" + result["text"]))
    bits = [token["bits"] for token in scored["tokens"]][-len(result["logprobs"]) :]
    pieces = [token["piece"] for token in scored["tokens"]][-len(result["logprobs"]) :]
    if pieces != [token["token"] for token in result["logprobs"]]:
        pytest.skip("the text has other tokens when it is read than when it was written")
    assert [-token["logprob"] / math.log(2) for token in result["logprobs"]] == pytest.approx(bits, abs=0.05)


def test_bytes_of_tokens_that_are_no_utf8(cli: Cli, plain: Path) -> None:
    result = document(
        cli("complete", "-m", plain, "-n", 60, "--seed", 1, "--raw", "-t", 1, "--json", "--logprobs", "1", "x")
    )
    odd = [token for token in result["logprobs"] if token["bytes"] is not None]
    assert odd
    for token in odd:
        assert bytes(token["bytes"]).decode("utf-8", "replace") == token["token"]


def test_confidence_leaves_a_pipe_alone(cli: Cli, bare: Path) -> None:
    options = ("complete", "-m", bare, "-n", 8, *GREEDY, "Once upon a time")
    assert cli(*options, "--confidence").stdout == cli(*options).stdout


# --- infill and extract -------------------------------------------------------------------------------------------

STORY = "Once upon a time, there was a kind bird named Lily. One day Lily met Tom.\n\nLily went home. She was happy.\n"


def test_a_gap_in_a_file(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_text(STORY)
    done = cli("complete", "-m", "tiny", *GREEDY, "-n", 60, "--infill", f"{path}:2", stdin=b"not read")
    assert done.returncode == 0, done.stderr
    prefix, suffix = STORY.split("\n\n")
    same = cli("complete", "-m", "tiny", *GREEDY, "-n", 60, "--suffix", f"\n{suffix}", f"{prefix}\n")
    assert done.stdout == same.stdout
    assert done.stdout.strip()
    assert path.read_text() == STORY
    result = document(cli("complete", "-m", "tiny", *GREEDY, "-n", 9, "--json", "--infill", f"{path}:1:5"))
    assert result["mode"] == "infill"


def test_a_model_that_cannot(cli: Cli, plain: Path) -> None:
    done = cli("complete", "-m", plain, "--suffix", "b", "a")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"cannot fill in the middle" in done.stderr


BLOCKS = "(?s)Look:\\n```py\\none\\n```\\nor\\n```\\ntwo\\n```\\nDone"


def test_extract(cli: Cli) -> None:
    options = ("complete", "-m", "tiny", *GREEDY, "--regex", BLOCKS, "hi")
    assert cli(*options, "-x").stdout == b"one\n"
    assert cli(*options, "--extract-last").stdout == b"two\n"
    none = cli("complete", "-m", "tiny", *GREEDY, "--regex", "no code", "-x", "hi")
    assert (none.returncode, none.stdout) == (0, b"no code\n")
    assert none.stderr.startswith(b"warning: there is no code block")
