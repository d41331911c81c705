"""llm's short form of a schema: `name, age int, bio: what they are known for, tags [str]`."""

from __future__ import annotations

import re
from typing import Any

from llamacli.errors import UsageError

_TYPES = {"int": "integer", "float": "number", "bool": "boolean", "str": "string"}


def parse(text: str, called: str = "--schema") -> dict[str, Any]:
    """Fields by comma, or by line where there are several lines: NAME [TYPE][: description]. Raises UsageError.

    As in llm, except that a type may be a list, that an unknown one is refused, and that nothing but the fields fits.
    """
    properties: dict[str, Any] = {}
    for field in re.split(r"\n" if "\n" in text.strip() else ",", text.strip()):
        if not field.strip():
            continue
        head, colon, description = field.partition(":")
        name, *types = head.split() or [""]
        if not re.fullmatch(r"[\w$@.-]+", name) or len(types) > 1:
            raise UsageError(
                f"{called}: {field.strip()!r} is no field", hint="NAME TYPE: DESCRIPTION, such as: age int"
            )
        if name in properties:
            raise UsageError(f"{called}: two fields {name}")
        schema = _type(types[0] if types else "str", name, called)
        if colon and description.strip():
            schema["description"] = description.strip()
        properties[name] = schema
    if not properties:
        raise UsageError(f"{called}: there are no fields in it", hint="such as: name, age int, tags [str]")
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def _type(text: str, name: str, called: str) -> dict[str, Any]:
    inner = re.fullmatch(r"\[(\w*)\]", text)
    plain = inner[1] or "str" if inner else text
    if plain not in _TYPES:
        raise UsageError(
            f"{called}: {name} has the type {text}; there are {', '.join(_TYPES)}, and lists of them such as [str]",
            hint="a file of this name was not found, and JSON begins with {" if "." in text or "/" in text else None,
        )
    return {"type": "array", "items": {"type": _TYPES[plain]}} if inner else {"type": _TYPES[plain]}
