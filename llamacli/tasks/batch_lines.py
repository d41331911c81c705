"""A line of a batch → a request: a prompt or messages, with its own options and an id.

"Tell me a story."                                          a prompt alone
{"prompt": "…", "id": "a1", "max_tokens": 50}               with options
{"messages": [{"role": "user", "content": "…"}], …}         a conversation
{"custom_id": "a1", "url": "/v1/chat/completions", "body": {"messages": […], …}}     OpenAI's form of batches
"""

from __future__ import annotations

import contextlib
import difflib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

from llamacli.engine.types import Message, Sampling, Shape
from llamacli.errors import StorageError, UsageError, printable
from llamacli.tasks import shapes
from llamacli.tasks.complete import Request

#: A line's own name, as it was given.
Id = str | int
#: Bytes of a line.
_MOST = 1 << 30


@dataclass(frozen=True)
class Line:
    """What a line asks for. `model`: one that it names; there is only the one that was loaded."""

    id: Id
    request: Request
    model: str | None = None


class LineError(UsageError):
    """A line that cannot be read. `id`: as far as it could be read, else None."""

    def __init__(self, message: str, id: Id | None = None) -> None:
        super().__init__(message)
        self.id = id


def lines_of(path: Path, *, unlike: Path | None) -> tuple[Iterable[bytes], int | None]:
    """A file's lines, read when they are wanted, and how many of them are not empty; None for a pipe.

    Raises UsageError where there is no such file, or it is the same as `unlike`; StorageError.
    """
    with _errors_of(path):
        file = path.open("rb")
        if unlike is not None and unlike.exists() and path.samefile(unlike):
            raise UsageError(f"{path} is both input and output", hint="name another file for the answers")
        if not path.is_file():
            return _each(path, file), None
        n = sum(1 for line in _each(path, path.open("rb")) if line.strip())
    return _each(path, file), n


def _each(path: Path, file: BinaryIO) -> Iterator[bytes]:
    with file, _errors_of(path):
        while line := file.readline(_MOST):
            if len(line) == _MOST:
                raise UsageError(f"{path}: a line is larger than {_MOST >> 30} GiB; no context holds that")
            yield line


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    try:
        yield
    except IsADirectoryError as error:
        raise UsageError(f"{path}: it is a folder") from error
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error


def parse(data: bytes, number: int, usual: Request) -> Line:
    """Line `number` of a batch; what it does not say is as in `usual`. Raises LineError."""
    found = _json(data)
    if isinstance(found, str):
        found = {"prompt": found}
    if not isinstance(found, dict):
        raise LineError("a text, or an object with a prompt or messages is wanted")
    id: Id | None = None
    try:
        id = _id(found)
        if "body" in found:
            found = _unwrapped(found)
        return _line(found, number if id is None else id, usual)
    except LineError:
        raise
    except UsageError as error:
        raise LineError(error.message, id) from error


def _json(data: bytes) -> Any:
    try:
        found = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise LineError(f"no UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}") from None
    except json.JSONDecodeError as error:
        raise LineError(f"no JSON: {error.msg}, column {error.colno}") from None
    except RecursionError:
        raise LineError("no JSON that could be read: it is nested too deeply") from None
    except ValueError as error:  # NaN, numbers of thousands of digits
        raise LineError(f"no JSON: {printable(str(error), 100)}") from None
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON's")


def _id(found: dict[str, Any]) -> Id | None:
    for name in ("id", "custom_id"):
        if name in found:
            value = found.pop(name)
            if type(value) is int:
                return value
            return _text(name, value)
    return None


def _unwrapped(found: dict[str, Any]) -> dict[str, Any]:
    """The body of OpenAI's form."""
    body = found.pop("body")
    if not isinstance(body, dict):
        raise UsageError("body: an object is wanted")
    if found.pop("method", "POST") != "POST":
        raise UsageError("method: POST is wanted")
    url = _text("url", found.pop("url", "/v1/chat/completions"))
    if body.get("logprobs") is True and "top_logprobs" in body:
        body["logprobs"] = body.pop("top_logprobs")
    if not url.endswith("/completions"):
        raise UsageError(f"url: {printable(url, 80)} is not for completions")
    _refuse_unknown(found, ("custom_id", "method", "url", "body"))
    return body


def _line(found: dict[str, Any], id: Id, usual: Request) -> Line:
    model = _text("model", found.pop("model")) if "model" in found else None
    _refuse_unknown(found, (*_TABLE, "prompt", "messages", "id", "model"))
    if ("prompt" in found) == ("messages" in found):
        raise UsageError("either a prompt or messages are wanted" + (", not both" if "prompt" in found else ""))
    changes: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    for name, value in found.items():
        if name in _TABLE and value is not None:  # null: not said
            kind, target, read = _TABLE[name]
            wanted = sampling if kind == "sampling" else changes
            if target in wanted:
                said = "an answer has one shape" if target == "shape" else "said twice"
                raise UsageError(f"{name}: {said}")
            wanted[target] = read(name, value)
    if "prompt" in found:
        changes["prompt"] = _text("prompt", found["prompt"])
    else:
        if usual.raw:
            raise UsageError("messages need the chat template, which --raw does without")
        changes = {**_conversation(found["messages"]), **changes}
        changes["chat"] = True
    if "system" in changes and usual.raw:
        raise UsageError("a system message needs the chat template, which --raw does without")
    if not changes["prompt"] and not usual.raw:
        raise UsageError("there is no text")
    if changes.get("stops") and (changes.get("shape") or usual.shape) is not None:
        raise UsageError("stop: the shape says where the answer ends")
    if "shape" in changes:
        changes["stops"] = ()
    changes["unasked"] = usual.unasked - changes.keys()  # what a line says does not give way
    return Line(id, replace(usual, **changes, sampling={**usual.sampling, **sampling}), model)


def _refuse_unknown(found: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in found:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise UsageError(f"unknown key {printable(name, 80)}" + (f"; did you mean {near[0]}?" if near else ""))


def _conversation(messages: Any) -> dict[str, Any]:
    if not isinstance(messages, list) or not messages:
        raise UsageError("messages: a list of messages is wanted")
    turns = [_message(i, message) for i, message in enumerate(messages, 1)]
    changes: dict[str, Any] = {}
    if turns[0].role in ("system", "developer"):
        changes["system"] = turns.pop(0).content
    if not turns or turns[-1].role != "user":
        raise UsageError("messages: the last one must be the user's")
    return {**changes, "earlier": tuple(turns[:-1]), "prompt": turns[-1].content}


def _message(i: int, message: Any) -> Message:
    where = f"message {i}"
    if not isinstance(message, dict):
        raise UsageError(f"{where}: an object is wanted")
    for name in message:
        if name not in ("role", "content", "reasoning", "reasoning_content"):
            raise UsageError(f"{where}: unknown key {printable(name, 80)}")
    for name in ("role", "content"):
        if name not in message:
            raise UsageError(f"{where}: no {name}")
    content = message["content"]
    if isinstance(content, list):  # OpenAI's parts
        content = "".join(_part(where, part) for part in content)
    reasoning = message.get("reasoning", message.get("reasoning_content"))
    return Message(
        _text(f"{where}: role", message["role"]),
        _text(f"{where}: content", content),
        _text(f"{where}: reasoning", reasoning) if reasoning is not None else None,
    )


def _part(where: str, part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise UsageError(f"{where}: only text is read")
    return _text(f"{where}: text", part.get("text"))


# --- options ----------------------------------------------------------------------------------------------------------


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{name}: a text is wanted, not {_shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name}: half of a surrogate pair is no text") from None
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UsageError(f"{name}: a number is wanted, not {_shown(value)}")
    return float(value)


def _whole(name: str, value: Any) -> int:
    number = _number(name, value)
    if number != int(number) or not -(2**31) <= number < 2**32:
        raise UsageError(f"{name}: a whole number is wanted, not {_shown(value)}")
    return int(number)


def _seed(name: str, value: Any) -> int | None:
    number = _whole(name, value)
    return None if number == -1 else number


def _limit(name: str, value: Any) -> int | None:
    number = _whole(name, value)
    if number < -1:
        raise UsageError(f"{name}: 0 or more is wanted, or -1 for no limit, not {number}")
    return None if number == -1 else number


def _logprobs(name: str, value: Any) -> int | None:
    """How many tokens to name at each place. OpenAI's `true` asks for the answer's own."""
    if isinstance(value, bool):
        return 0 if value else None
    number = _whole(name, value)
    if not 0 <= number <= 1000:
        raise UsageError(f"{name}: between 0 and 1000 is wanted, not {number}")
    return number


def _texts(name: str, value: Any) -> tuple[str, ...]:
    return tuple(_text(name, item) for item in (value if isinstance(value, list) else [value]))


def _samplers(name: str, value: Any) -> tuple[str, ...]:
    from llamacli.engine.sampling_values import canonical

    names = _texts(name, value.split(";") if isinstance(value, str) else value)
    for each in names:
        if not canonical(each):
            raise UsageError(f"{name}: no sampler {printable(each, 40)}")
    return tuple(canonical(each) for each in names)


def _biases(name: str, value: Any) -> tuple[tuple[int, float], ...]:
    """{"15043": -100}, or llama.cpp's [[15043, -100.0], …]"""
    pairs = [*value.items()] if isinstance(value, dict) else value
    try:
        return tuple((int(token), -math.inf if bias is False else _number(name, bias)) for token, bias in pairs)
    except (TypeError, ValueError):
        raise UsageError(f"{name}: an object of token ids and biases is wanted, not {_shown(value)}") from None


def _effort(name: str, value: Any) -> str:
    if value not in ("low", "medium", "high"):
        raise UsageError(f"{name}: low, medium or high is wanted, not {_shown(value)}")
    return str(value)


def _shape(name: str, value: Any) -> Shape:
    shape = shapes.of_line(name, value)
    _text(name, shape.source)
    return shape


def _switch(name: str, value: Any) -> str:
    if not isinstance(value, bool):
        raise UsageError(f"{name}: true or false is wanted, not {_shown(value)}")
    return "on" if value else "off"


def _shown(value: Any) -> str:
    return printable(json.dumps(value, ensure_ascii=False), 40)


_Reader = Callable[[str, Any], Any]
_KINDS: dict[type, _Reader] = {float: _number, int: _whole, type(None): _whole, tuple: _texts}
#: Key → where it goes: a field of the request, or a sampling value; and how it is read. A further option is a row here.
_TABLE: dict[str, tuple[str, str, _Reader]] = {
    **{field.name: ("sampling", field.name, _KINDS[type(field.default)]) for field in fields(Sampling)},
    "seed": ("sampling", "seed", _seed),
    "samplers": ("sampling", "samplers", _samplers),
    "logit_bias": ("sampling", "logit_bias", _biases),
    "temperature": ("sampling", "temp", _number),
    "max_tokens": ("request", "max_tokens", _limit),
    "max_completion_tokens": ("request", "max_tokens", _limit),
    "n_predict": ("request", "max_tokens", _limit),
    "stop": ("request", "stops", _texts),
    **dict.fromkeys(shapes.KEYS, ("request", "shape", _shape)),
    "logprobs": ("request", "logprobs", _logprobs),
    "system": ("request", "system", _text),
    "think": ("request", "think", _switch),
    "reasoning_effort": ("request", "think", _effort),
}
