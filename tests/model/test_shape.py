"""Shapes on a real model: what `--schema` wrote is validated by jsonschema, and nothing that is fed in crashes."""

from __future__ import annotations

import itertools
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from schemas import KEYWORDS, REFUSED, schemas

from llamacli.builtin import TINY
from llamacli.engine import json_schema
from llamacli.engine.context import Context
from llamacli.engine.generate import Limits, generate, generate_many
from llamacli.engine.logits import rows
from llamacli.engine.model import Model
from llamacli.engine.sampling import Sampler
from llamacli.engine.shape import Shapes, check
from llamacli.engine.text import Reasoning
from llamacli.engine.types import Chunk, ContextOptions, Finish, ModelOptions, Sampling, Shape
from llamacli.errors import UsageError

ALL = schemas()


class Writer:
    """A model that writes answers of a shape, one after the other in one context."""

    def __init__(self, path: Path) -> None:
        self.model = Model(ModelOptions(path))
        self.context = Context(self.model, ContextOptions(n_ctx=1024, n_threads=1))
        self.shapes = Shapes(self.model)
        self.prompt = self.model.tokenize(
            "<|im_start|>user\nWrite JSON.<|im_end|>\n<|im_start|>assistant\n", parse_special=True
        )

    def write(self, shape: Shape, sampling: Sampling, n: int = 400, **more: Any) -> tuple[bytes, Finish]:
        items = list(
            generate(self.context, self.prompt, sampling, Limits(n, 1024), matcher=self.shapes.matcher(shape), **more)
        )
        assert isinstance(items[-1], Finish)
        return b"".join(item.data for item in items if isinstance(item, Chunk)), items[-1]

    def close(self) -> None:
        self.context.close()
        self.model.close()


@pytest.fixture(scope="module")
def writer() -> Iterator[Writer]:
    writer = Writer(TINY)
    yield writer
    writer.close()


def of(schema: Any) -> Shape:
    return Shape("schema", json.dumps(schema, ensure_ascii=False), "--schema")


def keywords(schema: Any) -> set[str]:
    return {key for _, inner in json_schema.subschemas(schema) if isinstance(inner, dict) for key in inner}


def validates(schema: Any, data: bytes) -> bool:
    """Whether the answer is JSON that fits, `format` included where jsonschema can check it by itself."""
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    kind(schema, format_checker=kind.FORMAT_CHECKER).validate(json.loads(data))
    return True


def test_the_schemas_have_every_keyword_that_is_claimed() -> None:
    assert len(ALL) == 200
    claimed = {*json_schema._KEYWORDS, *json_schema._ONE, *json_schema._LISTS, *json_schema._MAPS}
    assert claimed - {"$defs", "definitions", "additionalItems"} == KEYWORDS
    assert set().union(*map(keywords, ALL)) >= claimed


def ended(writer: Writer, chosen: list[Any], temperatures: tuple[float, ...]) -> float:
    """The share of answers that ended by themselves; each of them validates, and so does each that is whole."""
    n_ended = n_all = 0
    for (number, schema), temp in itertools.product(enumerate(chosen), temperatures):
        data, finish = writer.write(of(schema), Sampling(temp=temp, top_k=0, top_p=1.0, min_p=0.0, seed=number))
        n_all += 1
        if finish.reason == "stop":
            assert finish.whole
            n_ended += 1
        if finish.whole:
            assert validates(schema, data), (schema, data)
    return n_ended / n_all


def test_a_sample_of_schemas(writer: Writer) -> None:
    assert ended(writer, ALL[::8], (0.0, 1.5)) > 0.9


@pytest.mark.slow
def test_all_schemas(writer: Writer) -> None:
    share = ended(writer, ALL, (0.0, 0.8, 1.5, 3.0))
    print(f"ended by themselves: {share:.1%}")
    assert share > 0.9


@pytest.mark.parametrize(("schema", "wanted"), REFUSED, ids=[wanted for _, wanted in REFUSED])
def test_refused_by_name(schema: Any, wanted: str) -> None:
    with pytest.raises(UsageError, match=re.escape(wanted)):
        check(of(schema))


# --- exactly the grammar's texts ----------------------------------------------------------------------------------

GRAMMARS = {
    "repetition after repetition": ("root ::= word word\nword ::= [a-c]+", ["ab", "abcabc"], ["a", "abd"]),
    "a literal that begins another": ('root ::= ("a" | "ab") "b"', ["ab", "abb"], ["a", "abbb"]),
    "the same, with recursion": ('root ::= "(" root ")" | ("a" | "ab") "b"', ["ab", "((abb))"], ["(ab", "(abbb)"]),
    "any character": ("root ::= . .", ["a\n", "é日"], ["a", "abc"]),
    "escapes": (r'root ::= "\x41\u00e9\U0001F600" [\]\-\\"]', ['Aé😀"', "Aé😀]", "Aé😀\\"], ["Aé😀"]),
    "bounds": ('root ::= "a"{2,3} "b"? ("c" |\n "d"){2}', ["aacc", "aaabdc"], ["acc", "aaaacc", "aac"]),
    "left recursion": ('root ::= root "," [0-9] | [0-9]', ["1", "1,2,3"], ["1,", ",1"]),
    "rules like keywords": ('start ::= "x"\nroot ::= start rule-A\nrule-A ::= "y" # and\n', ["xy"], ["x"]),
    "negated": (r'root ::= [^a-y\n]+ "."', ["zA.", "é.."], ["a.", "z"]),
    "nothing": ("root ::= ", [""], ["a"]),
}


@pytest.mark.parametrize("name", list(GRAMMARS))
def test_a_grammar_takes_its_texts_and_no_others(writer: Writer, name: str) -> None:
    """Each way to cut a text into tokens is taken, token by token as `allows` and `allowed` say."""
    source, inside, outside = GRAMMARS[name]
    for text in [*inside, *outside]:
        for tokens in (writer.model.tokenize_more(text), [byte_token(writer.model, byte) for byte in text.encode()]):
            matcher = writer.shapes.matcher(Shape("grammar", source, "--grammar"))
            fits = True
            for token in tokens:
                assert matcher.allows(token) == (token in matcher.allowed() if fits else False)
                fits = fits and matcher.allows(token)
                if not fits:
                    break
                matcher.accept(token)
            assert (fits and matcher.whole) == (text in inside), text


def byte_token(model: Model, byte: int) -> int:
    """LLaMA's first tokens: unknown, begin, end, and the bytes."""
    token = 3 + byte
    assert model.piece(token) == bytes([byte])
    return token


def test_control_tokens_never_fit_but_for_the_end(writer: Writer) -> None:
    matcher = writer.shapes.matcher(Shape("regex", r"(?s:.)*", "--regex"))
    allowed = set(matcher.allowed().tolist())
    control = {token.id for token in writer.model.special_tokens}
    assert allowed & control == set(writer.model.end_tokens)
    assert set(range(3, 259)) - allowed <= {3 + byte for byte in range(0x80, 0x100)}  # no character begins so


def test_several_samples_have_their_own_place_in_the_shape(writer: Writer) -> None:
    shape = Shape("regex", "[ab]{2,9}!", "--regex")
    with Context(writer.model, ContextOptions(n_ctx=1024, n_threads=1, n_sequences=4)) as context:
        found = list(
            generate_many(
                context,
                writer.prompt,
                Sampling(seed=1, temp=2.0, top_k=0, min_p=0.0, top_p=1.0),
                Limits(30, 256),
                4,
                matcher=writer.shapes.matcher(shape),
                logprobs=0,
            )
        )
    for _, chunks, finish in found:
        assert finish.whole
        assert len(finish.logprobs) == finish.stats.completion_tokens
        assert re.fullmatch(rb"[ab]{2,9}!", b"".join(chunk.data for chunk in chunks))


def test_with_temperature_alone_it_is_the_models_distribution_over_what_fits(writer: Writer) -> None:
    """Drawing again after a misfit must not favour anything: 4000 first tokens against the masked softmax."""
    shape = Shape("regex", "[a-f].*", "--regex")
    context = writer.context
    context.keep(0)
    context.evaluate(writer.prompt)
    logits = rows(context, -1, 1)[0].astype(np.float64)
    allowed = writer.shapes.matcher(shape).allowed()
    temp = 3.0
    wanted = np.exp(logits[allowed] / temp - np.logaddexp.reduce(logits[allowed] / temp))
    counts = np.zeros(len(allowed))
    matcher = writer.shapes.matcher(shape)
    sampling = Sampling(temp=temp, top_k=0, top_p=1.0, min_p=0.0, seed=7)
    n = 4000
    with Sampler(writer.model, sampling, 7, 1024) as sampler:
        for _ in range(n):
            token = sampler.sample_within(context, -1, matcher.allows, matcher.allowed)
            counts[np.searchsorted(allowed, token)] += 1
    common = wanted * n > 20
    assert common.sum() > 5
    chi = ((counts - wanted * n) ** 2 / (wanted * n))[common].sum()
    assert chi < common.sum() + 5 * (2 * common.sum()) ** 0.5


# --- reasoning ----------------------------------------------------------------------------------------------------


def test_the_shape_is_that_of_the_answer_after_the_reasoning(chat: Path) -> None:
    """A random model with <think> tokens, whose template opened the reasoning: nothing there is shaped."""
    model = Model(ModelOptions(chat))
    with model, Context(model, ContextOptions(n_ctx=512, n_threads=1)) as context:
        model.show_tokens(("<think>", "</think>"))
        (closing,) = model.tokenize("</think>", add_special=False, parse_special=True)
        prompt = model.tokenize("x", parse_special=True)
        shape = Shape("regex", "[0-9]{6}", "--regex")
        # The closing marker gets a bias, so that it comes after a while.
        sampling = Sampling(seed=4, temp=1.0, top_k=0, top_p=1.0, min_p=0.0, logit_bias=((closing, 3.0),))
        items = list(
            generate(
                context,
                prompt,
                sampling,
                Limits(200, 512),
                reasoning=Reasoning("x<think>"),
                matcher=Shapes(model).matcher(shape),
            )
        )
        finish = items[-1]
        assert isinstance(finish, Finish)
        chunks = [item for item in items if isinstance(item, Chunk)]
        thoughts = b"".join(item.data for item in chunks if item.reasoning)
        answer = b"".join(item.data for item in chunks if not item.reasoning)
        assert re.fullmatch(rb"[0-9]{6}", answer)
        assert thoughts
        assert not re.fullmatch(rb"[0-9]*", thoughts)
        assert finish.whole
        assert closing in finish.tokens[: finish.n_before]
        assert b"".join(map(model.piece, finish.tokens[finish.n_before :])) == answer


# --- mutants ------------------------------------------------------------------------------------------------------

SEEDS = {
    "grammar": [
        'root ::= object\nvalue ::= object | string | number | "true"\nobject ::= "{" ws (string ":" ws value '
        '("," ws string ":" ws value)*)? "}" ws\nstring ::= "\\"" ([^"\\\\\\x00-\\x1F] | "\\\\" ["\\\\bfnrt])* "\\""'
        ' ws\nnumber ::= "-"? [0-9]{1,5} ws\nws ::= | " " | "\\n" [ \\t]{0,20}',
        'root ::= ("- " item)+\nitem ::= [^\\n\\x0b\\x0c]+ "\\n" # lines',
        'root ::= expr\nexpr ::= term ([-+*/] term)*\nterm ::= num | "(" expr ")"\n'
        "num ::= [0-9]+ [\\u00e9-\\U0001F600]?",
    ],
    "schema": [json.dumps(schema, ensure_ascii=False) for schema in ALL[::9]],
    "regex": ["^(red|green)[0-9]{2,4}\\.(?i:x)?$", "[^\\s\\d]+@\\w{1,9}(\\.[a-z]{2,3}){1,2}", "(a*b+){2,}|\\p{L}.*"],
}  # fmt: skip
CHARACTERS = "(){}[]|*+?\\\"'^$.,:;<>!#-_=/ \n\t\0abzAZ019é日😀\u202e"


def mutants(n: int) -> Iterator[Shape]:
    rng = random.Random(5)
    for kind in itertools.islice(itertools.cycle(("grammar", "grammar", "schema", "regex")), n):
        text = rng.choice(SEEDS[kind])
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            at, size = rng.randrange(len(text) + 1), rng.randint(1, 3)
            match rng.randrange(10):
                case 0:
                    text = text[:at] + text[at + size :]
                case 1:
                    text = text[:at] + "".join(rng.choices(text, k=size)) + text[at + size :]
                case 2:
                    text = text[:at] + text[at : at + 9 * size] * 2 + text[at + 9 * size :]
                case 3:
                    text = text[:at] + rng.choice(CHARACTERS) * rng.choice((1, 1, 1, 1, 300)) + text[at:]
                case _:  # where it is most often still one
                    places = [match.start() for match in re.finditer(r"\d|(?<=\")[^\"\\](?=\")|(?<=\[)[^]\\]", text)]
                    at = rng.choice(places or [0])
                    text = text[:at] + rng.choice("0123456789abc") + text[at + 1 :]
        yield Shape(kind, text, kind)  # type: ignore[arg-type]


def write_mutants(start: int, n: int) -> None:
    """In a process of its own: a line for each, with the exit code that its answer would mean."""
    writer = Writer(TINY)
    for number, shape in enumerate(itertools.islice(mutants(n), start, n), start):
        try:
            _, finish = writer.write(shape, Sampling(seed=number, temp=1.5), n=24)
            code = 0 if finish.whole else 8
        except UsageError as error:
            code = error.exit_code if "\n" not in error.message else 1
        print(number, code, flush=True)


def codes_of_mutants(n: int) -> list[int]:
    script = f"import sys; sys.path[:0] = {sys.path!r}; import test_shape; test_shape.write_mutants(0, {n})"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-100:] + done.stderr[-2000:]
    codes = [int(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(codes) == n
    return codes


def test_mutants_end_with_0_2_or_8() -> None:
    codes = codes_of_mutants(100)
    assert set(codes) == {0, 2, 8}


@pytest.mark.slow
def test_500_mutants_end_with_0_2_or_8() -> None:
    codes = codes_of_mutants(500)
    assert set(codes) == {0, 2, 8}
    print({code: codes.count(code) for code in (0, 2, 8)})
