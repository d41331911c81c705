"""What people write → a shape: a schema in a file, as JSON or in short, choices by comma, a grammar in a file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from llamacli.engine.types import Shape
from llamacli.errors import UsageError
from llamacli.tasks import schema_dsl
from llamacli.tasks.prompt import decode, read_file

#: What a line of a batch may say; the last is OpenAI's.
KEYS = ("schema", "choices", "regex", "grammar", "response_format")


def read(option: str, value: str | Path) -> Shape:
    """The shape that an option of the command line, such as `--schema`, gives. Raises UsageError, StorageError.

    Whether it can be used is for `engine.shape.check` to say.
    """
    text = str(value)
    match option:
        case "--schema":
            return schema(text)
        case "--schema-multi":
            return _many(schema(text, option))
        case "--choices":
            return Shape("choices", json.dumps(labels(text), ensure_ascii=False), option)
        case "--grammar-file":
            path = Path(value)
            return Shape("grammar", decode(read_file(path, f"{option} {path}"), str(path), False), f"{option} {path}")
        case "--regex":
            return Shape("regex", text, option)
    return Shape("grammar", text, option)


def schema(text: str, option: str = "--schema") -> Shape:
    """JSON begins with {; what is a file, or looks like one, is read; all else are fields in short."""
    name = option
    if not text.lstrip().startswith("{"):
        path = Path(text)
        try:
            is_file = path.is_file() or path.suffix == ".json" or "/" in text.partition(":")[0]
        except (OSError, ValueError):  # too long for a name, or with a NUL
            is_file = False
        if is_file:
            name = f"{option} {path}"
            text = decode(read_file(path, name), str(path), False)
    return _schema(text, name)


def _schema(text: str, name: str) -> Shape:
    """JSON, or fields in short."""
    if not re.match(r"\s*(\{|(true|false)\s*$)", text):
        text = json.dumps(schema_dsl.parse(text, name), ensure_ascii=False)
    return Shape("schema", text, name)


def of_line(key: str, value: object) -> Shape:
    """The shape that a line of a batch gives by one of KEYS, never from a file. Raises UsageError."""
    if key == "response_format":
        return _response_format(key, value)
    if key == "schema" and isinstance(value, (dict, bool)):
        return Shape("schema", json.dumps(value, ensure_ascii=False), key)
    if key == "choices":
        named = labels(value, key) if isinstance(value, str) else value
        if not isinstance(named, list) or not named or not all(isinstance(label, str) and label for label in named):
            raise UsageError(f"{key}: a list of texts is wanted")
        if len(set(named)) < len(named):
            raise UsageError(f"{key}: one stands there twice")
        return Shape("choices", json.dumps(named, ensure_ascii=False), key)
    if not isinstance(value, str):
        raise UsageError(f"{key}: a text is wanted" + (", or a JSON Schema" if key == "schema" else ""))
    if key == "schema":
        return _schema(value, key)
    return Shape("regex" if key == "regex" else "grammar", value, key)


def _response_format(key: str, value: object) -> Shape:
    """{"type": "json_schema", "json_schema": {"schema": {…}}}, or {"type": "json_object"}"""
    match value:
        case {"type": "json_object"}:
            return Shape("schema", '{"type": "object"}', key)
        case {"type": "json_schema", "json_schema": {"schema": dict() as schema}}:
            return Shape("schema", json.dumps(schema, ensure_ascii=False), key)
    raise UsageError(f"{key}: json_schema with its schema, or json_object, is wanted")


def _many(one: Shape) -> Shape:
    """A list of what fits the schema, as llm has it."""
    from llamacli.engine import json_schema

    try:
        inner: Any = json_schema.parse(one.source)
    except json_schema.SchemaError as error:
        raise UsageError(f"{one.name}: {error}") from None
    root: dict[str, Any] = {}
    if isinstance(inner, dict):  # what is pointed at from the top stays there
        root = {key: inner[key] for key in ("$schema", "$defs", "definitions") if key in inner}
        inner = {key: value for key, value in inner.items() if key not in root}
    root |= {"type": "object", "properties": {"items": {"type": "array", "items": inner}}}
    root |= {"required": ["items"], "additionalProperties": False}
    return Shape("schema", json.dumps(root, ensure_ascii=False), one.name)


def labels(text: str, called: str = "--choices") -> list[str]:
    """Choices by comma, without the white space around them; in double quotes a choice is kept as it is.

    A doubled quote inside quotes is one. Raises UsageError where one is empty or comes twice.
    """
    found: list[str] = []
    rest = text
    while True:
        quoted = re.match(r'\s*"((?:[^"]|"")*)"\s*(,|$)', rest)
        plain = quoted or re.match(r'\s*([^",]*?)\s*(,|$)', rest)
        if plain is None:
            raise UsageError(
                f"{called}: {rest.strip()[:40]!r} cannot be read",
                hint='a choice with a comma or a quote: "so, ""here"""',
            )
        label = plain[1].replace('""', '"') if quoted else plain[1]
        if not label:
            raise UsageError(f"{called} {text}: a choice is empty", hint="such as --choices yes,no")
        if label in found:
            raise UsageError(f"{called} {text}: {label} stands there twice")
        found.append(label)
        rest = rest[plain.end() :]
        if not plain[2]:
            return found
