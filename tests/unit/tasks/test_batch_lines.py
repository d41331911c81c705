"""A line of a batch: what it may say, and what is wrong with one that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llamacli.engine.types import Message, ModelOptions
from llamacli.tasks.batch_lines import LineError, parse
from llamacli.tasks.complete import Request

USUAL = Request(ModelOptions(Path("x.gguf")), "", system="Be brief.", sampling={"temp": 0.5}, max_tokens=9)


def read(line: Any, usual: Request = USUAL) -> Any:
    return parse(line if isinstance(line, bytes) else json.dumps(line).encode(), 7, usual)


def test_a_text_is_a_prompt() -> None:
    line = read("Hello")
    assert (line.id, line.request.prompt, line.request.system, line.request.max_tokens) == (7, "Hello", "Be brief.", 9)


def test_options_of_a_line_win() -> None:
    line = read(
        {"prompt": "p", "id": "a", "system": "S", "temperature": 0, "top_k": 3, "stop": "x", "n_predict": 4, "seed": 5}
    )
    assert (line.id, line.request.system, line.request.stops, line.request.max_tokens) == ("a", "S", ("x",), 4)
    assert line.request.sampling == {"temp": 0.0, "top_k": 3, "seed": 5}


def test_null_says_nothing() -> None:
    assert read({"prompt": "p", "max_tokens": None, "temperature": None}).request.sampling == {"temp": 0.5}


def test_messages() -> None:
    turns = [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", [{"type": "text", "text": "c"}])]
    request = read({"messages": [{"role": role, "content": content} for role, content in turns]}).request
    assert (request.system, request.prompt, request.chat) == ("S", "c", True)
    assert request.earlier == (Message("user", "a"), Message("assistant", "b"))


def test_openai_form() -> None:
    body = {"model": "gpt", "messages": [{"role": "user", "content": "a"}], "max_completion_tokens": 3}
    line = read({"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": body})
    assert (line.id, line.model, line.request.prompt, line.request.max_tokens) == ("r-1", "gpt", "a", 3)
    assert read({"custom_id": "r", "body": {"prompt": "a", "logit_bias": {"5": -100}}}).request.sampling[
        "logit_bias"
    ] == ((5, -100.0),)


def test_the_formats_of_openai_are_shapes() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    assert json.loads(read({"prompt": "a", "response_format": form}).request.shape.source) == schema
    form = {"type": "json_object"}
    assert read({"prompt": "a", "response_format": form}).request.shape.source == '{"type": "object"}'


def test_logprobs_in_both_of_openais_ways() -> None:
    assert read({"prompt": "a", "logprobs": True}).request.logprobs == 0
    assert read({"prompt": "a", "logprobs": False}).request.logprobs is None
    assert read({"prompt": "a", "logprobs": 3}).request.logprobs == 3
    assert read({"body": {"prompt": "a", "logprobs": True, "top_logprobs": 3}}).request.logprobs == 3


def test_a_seed_of_minus_one_is_to_be_drawn() -> None:
    assert read({"prompt": "a", "seed": -1}).request.sampling == {"temp": 0.5, "seed": None}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", r"no JSON: .*column"),
        (b'"\xff"', r"no UTF-8: byte 0xff at offset 1"),
        (b'{"prompt": "a", "temperature": NaN}', r"NaN is no number of JSON's"),
        (b"[" * 100_000, r"nested too deeply"),
        (b"9" * 10_000, r"no JSON"),
        (12, r"a text, or an object"),
        ({}, r"either a prompt or messages are wanted$"),
        ({"prompt": "a", "messages": []}, r"not both"),
        ({"prompt": ""}, r"there is no text"),
        ({"prompt": ["a"]}, r'prompt: a text is wanted, not \["a"\]'),
        ({"prompt": "a", "tempurature": 1}, r"unknown key tempurature; did you mean temperature\?"),
        ({"prompt": "a", "temp": 1, "temperature": 1}, r"temperature: said twice"),
        ({"prompt": "a", "max_tokens": 1.5}, r"max_tokens: a whole number is wanted, not 1.5"),
        ({"prompt": "a", "max_tokens": True}, r"max_tokens: a number is wanted, not true"),
        ({"prompt": "a", "max_tokens": -5}, r"max_tokens: 0 or more"),
        ({"prompt": "a", "seed": 1e300}, r"seed: a whole number"),
        ({"prompt": "a", "logprobs": -1}, r"logprobs: between 0 and 1000"),
        ({"prompt": "a", "response_format": {"type": "xml"}}, r"response_format: json_schema with its schema, or"),
        ({"prompt": "a", "stop": 3}, r"stop: a text is wanted, not 3"),
        ({"prompt": "a", "samplers": "top_k;nonsense"}, r"no sampler nonsense"),
        ({"prompt": "a", "logit_bias": [1, 2]}, r"logit_bias: an object"),
        ({"prompt": "a", "logit_bias": {"x": 2}}, r"logit_bias: an object"),
        ({"prompt": "\ud800"}, r"half of a surrogate pair"),
        ({"prompt": "a", "id": 1.5}, r"id: a text is wanted, not 1.5"),
        ({"messages": "a"}, r"a list of messages"),
        ({"messages": [{"role": "user"}]}, r"message 1: no content"),
        ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, r"message 1: unknown key name"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, r"the last one must be the user's"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, r"message 1: only text is read"),
        ({"body": {"prompt": "a"}, "url": "/v1/embeddings"}, r"url: /v1/embeddings is not for completions"),
        ({"body": {"prompt": "a"}, "other": 1}, r"unknown key other"),
    ],
)
def test_what_is_wrong_is_named(line: Any, message: str) -> None:
    with pytest.raises(LineError, match=message):
        read(line)


def test_an_error_keeps_the_id() -> None:
    with pytest.raises(LineError) as caught:
        read({"id": "a", "promt": "x"})
    assert caught.value.id == "a"


def test_raw_knows_no_messages() -> None:
    raw = Request(ModelOptions(Path("x.gguf")), "", raw=True)
    assert read({"prompt": ""}, raw).request.prompt == ""
    with pytest.raises(LineError, match="--raw"):
        read({"messages": [{"role": "user", "content": "a"}]}, raw)
