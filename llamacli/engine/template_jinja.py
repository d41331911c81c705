"""Chat messages → text, with jinja2 set up as transformers does, which is what model makers test against.

Knows no tokens and no processes. Importing it imports jinja2 (40 ms): only rendering does.

What transformers leaves to its callers is settled here: a template that refuses or ignores the system role gets the
system text in the user's turn, and one that cannot do without tools gets an empty list of them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from llamacli.engine.template_child import TOO_MUCH_MEMORY, TOO_MUCH_OUTPUT, Job, RenderFailed

Messages = list[dict[str, str]]


class Refusal(TemplateError):
    """The template called `raise_exception`."""


def render(job: Job) -> str:
    """The text of a conversation. Raises RenderFailed."""
    try:
        return _Rendering(job).with_system_text()
    except RenderFailed:
        raise
    except Exception as error:
        raise _failure(error) from error


class _Rendering:
    """One job's compiled template and variables; the messages vary from attempt to attempt."""

    def __init__(self, job: Job) -> None:
        self.template = _compile(job.source)
        self.messages = job.messages
        self.output_limit = job.output_limit
        now = datetime.fromisoformat(job.now)
        self.variables: dict[str, Any] = {
            "tools": None,
            "documents": None,
            "bos_token": job.bos,
            "eos_token": job.eos,
            "strftime_now": now.strftime,
            **job.variables,
            "add_generation_prompt": job.add_generation_prompt,
        }
        # Templates made for calling tools fail on tools=None; Firefunction's asks for these two by name.
        self.no_tools: dict[str, Any] = {
            "tools": [],
            "functions": "",
            "datetime": now.strftime("%b %d %Y %H:%M:%S GMT"),
            **job.variables,
        }

    def with_system_text(self) -> str:
        systems = [i for i, message in enumerate(self.messages) if message["role"] == "system"]
        try:
            text = self.attempt(self.messages)
        except Exception as error:
            if not systems or not _worth_a_retry(error):
                raise
            return self.attempt(merge_system(self.messages, systems))
        ignored = [i for i in systems if self.ignores(i, text)]
        return self.attempt(merge_system(self.messages, ignored)) if ignored else text

    def ignores(self, index: int, text: str) -> bool:
        """Whether another system text would have rendered to the same `text`.

        Looking for the system text in the output would not do: templates trim and edit it, and a short one may stand
        there by chance.
        """
        message = self.messages[index]
        probe = {**message, "content": f"x{message['content']}x"}
        try:
            return self.attempt([*self.messages[:index], probe, *self.messages[index + 1 :]]) == text
        except Exception as error:
            if not _worth_a_retry(error):
                raise
            return False

    def attempt(self, messages: Messages) -> str:
        try:
            return self.once(messages, self.variables)
        except Exception as error:
            if not _worth_a_retry(error):
                raise
            with contextlib.suppress(Exception):
                return self.once(messages, {**self.variables, **self.no_tools})
            raise

    def once(self, messages: Messages, variables: Mapping[str, Any]) -> str:
        pieces = []
        size = 0
        for piece in self.template.generate(variables, messages=messages):
            size += len(piece)
            if size > self.output_limit:
                raise RenderFailed(TOO_MUCH_OUTPUT)
            pieces.append(piece)
        return "".join(pieces)


def merge_system(messages: Messages, systems: list[int]) -> Messages:
    """Each system message of these positions put in front of the next user message, a blank line between them.

    With no user message after it, it becomes one.
    """
    merged: Messages = []
    waiting: list[str] = []
    for position, message in enumerate(messages):
        if position in systems:
            waiting.append(message["content"])
        elif message["role"] == "user" and waiting:
            merged.append({**message, "content": _paragraphs([*waiting, message["content"]])})
            waiting = []
        else:
            merged.append(message)
    if waiting:
        merged.append({"role": "user", "content": _paragraphs(waiting)})
    return merged


def _paragraphs(texts: list[str]) -> str:
    return "\n\n".join(text for text in texts if text)


def _worth_a_retry(error: Exception) -> bool:
    return not isinstance(error, (RenderFailed, SecurityError, MemoryError, RecursionError))


def _failure(error: Exception) -> RenderFailed:
    match error:
        case TemplateSyntaxError():
            return RenderFailed(f"the chat template has a syntax error in line {error.lineno}", error.message or "")
        case Refusal():
            return RenderFailed("the chat template refuses this conversation", str(error))
        case SecurityError():
            return RenderFailed("the chat template tries something that its sandbox forbids", str(error))
        case MemoryError():
            return RenderFailed(TOO_MUCH_MEMORY)
        case RecursionError():
            return RenderFailed("the chat template is nested too deeply, or calls itself without end")
        case SyntaxError():  # of the Python code that jinja2 made of it, whose lines mean nothing
            return RenderFailed("the chat template cannot be compiled", error.msg)
        case _:
            line = _line(error)
            where = f" in line {line}" if line else ""
            return RenderFailed(f"the chat template failed{where}", str(error) or type(error).__name__)


def _line(error: Exception) -> int | None:
    """The template's line, which jinja2 puts into the traceback."""
    line = None
    trace = error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


@lru_cache(maxsize=4)
def _compile(source: str) -> jinja2.Template:
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["namespace"] = _Namespace
    return environment.from_string(source)


class _Sandbox(ImmutableSandboxedEnvironment):
    def unsafe_undefined(self, obj: object, attribute: str) -> NoReturn:
        # jinja2 returns an undefined value here, which prints as nothing: a violation should be seen.
        raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r} object is unsafe")


class _Namespace(Namespace):
    """`namespace()` whose attributes cannot pose as Python's own: `ns.__html__` and the like."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        values = dict(*args, **kwargs)
        for name in values:
            _check_name(name)
        super().__init__(values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace must not have the attribute {name!r}")


class GenerationBlock(Extension):
    """`{% generation %} … {% endgeneration %}` marks the assistant's text for training; here it is only a scope."""

    tags = {"generation"}  # noqa: RUF012 - declared so by jinja2

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """transformers' filter: jinja2's own escapes HTML and sorts the keys."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message: object) -> NoReturn:
    raise Refusal(str(message))
