"""JSON Schema before it is compiled: which keywords hold here, and what is refused, by its name and its JSON pointer.

llguidance names the keywords that it knows and has not implemented; those that it never heard of (a slip such as
`maxlength`, OpenAPI's `nullable`) it passes over in silence. Here nothing is: a keyword is enforced, or it only
describes, or the schema is refused. Standard library only.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

Schema = Mapping[str, Any] | bool

#: They say nothing about what fits.
_DESCRIBING = frozenset(
    {
        "$anchor", "$comment", "title", "description", "default", "examples", "example", "deprecated", "readOnly",
        "writeOnly", "contentMediaType", "contentEncoding", "contentSchema",
    }
)  # fmt: skip
_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
#: They say what the whole is, and stand at the top only.
_AT_THE_TOP = ("$schema", "$id", "id")
_DRAFTS = ("2020-12", "2019-09", "draft-07", "draft-06", "draft-04")
#: With these an array in `items` has the sense of `prefixItems`.
_OLDER = _DRAFTS[1:]
#: Where schemas stand in a schema: alone, in a list, in an object.
_ONE = ("items", "additionalItems", "additionalProperties")
_LISTS = ("prefixItems", "allOf", "anyOf", "oneOf")
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
#: Deeper ones would end the parsers that call themselves.
_DEEPEST = 100


class SchemaError(ValueError):
    """What is wrong, and where."""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_type(value: Any) -> bool:
    kinds = value if isinstance(value, list) else [value]
    return bool(kinds) and all(kind in _TYPES for kind in kinds)


def is_expression(value: Any) -> bool:
    """A single backslash at the end escapes nothing, and llguidance lets it pass."""
    return isinstance(value, str) and (len(value) - len(value.rstrip("\\"))) % 2 == 0


#: keyword → (what its value must be, test). Those that hold schemas are tested by walking into them.
_KEYWORDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "type": (f"one of {', '.join(_TYPES)}, or a list of these", _is_type),
    "enum": ("a list of at least one value", lambda value: isinstance(value, list) and bool(value)),
    "const": ("any value", lambda value: True),
    "$ref": ('a pointer into this schema, such as "#/$defs/name"', lambda value: isinstance(value, str)),
    "required": (
        "a list of names",
        lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
    ),
    "pattern": ("a regular expression", is_expression),
    "format": ("a name", lambda value: isinstance(value, str)),
    "multipleOf": ("a number above 0", lambda value: _is_number(value) and value > 0),
    **dict.fromkeys(
        ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
        ("a whole number from 0 on", _is_count),
    ),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), ("a number", _is_number)),
}

#: What may be written instead of a keyword that is refused.
_INSTEAD = {
    "nullable": 'a list of types says it: "type": ["string", "null"]',
    "dependencies": None,
    "not": None,
}


def parse(text: str) -> Schema:
    """JSON text → a schema that `check` accepts. Raises SchemaError."""
    try:
        schema = json.loads(text, object_pairs_hook=_no_repeats, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise SchemaError(f"it is no JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise SchemaError("its objects and lists are too deep within each other") from None
    check(schema)
    return schema  # type: ignore[no-any-return]


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise SchemaError(f'"{next(name for name in names if names.count(name) > 1)}" stands twice in one object')
    return found


def _no_constant(name: str) -> None:
    raise SchemaError(f"it is no JSON: {name} is no number there")


def check(schema: Any) -> None:
    """Raises SchemaError for the first keyword that is not supported, or whose value makes no sense."""
    older = isinstance(schema, dict) and any(draft in str(schema.get("$schema", "")) for draft in _OLDER)
    places = {place for place, _ in subschemas(schema)}
    for pointer, inner in subschemas(schema):
        if pointer.count("/") > _DEEPEST:
            raise SchemaError(f"at {pointer[:60]}…: it is deeper than {_DEEPEST} levels")
        _check_one(inner, pointer or "the top", top=not pointer, older=older)
        if isinstance(inner, dict) and "$ref" in inner:
            _check_reference(inner["$ref"], pointer or "the top", places)


def subschemas(schema: Any, pointer: str = "") -> Iterator[tuple[str, Any]]:
    """(JSON pointer, schema) of the schema and of each one in it, the outer first."""
    stack = [(pointer, schema)]
    while stack:
        pointer, schema = stack.pop()
        yield pointer, schema
        if isinstance(schema, dict):
            stack += reversed(list(_children(schema, pointer)))


def _children(schema: Mapping[str, Any], pointer: str) -> Iterator[tuple[str, Any]]:
    for key, value in schema.items():
        if key in _ONE and not isinstance(value, list):
            yield f"{pointer}/{key}", value
        elif key in (*_LISTS, *_ONE) and isinstance(value, list):
            yield from ((f"{pointer}/{key}/{i}", inner) for i, inner in enumerate(value))
        elif key in _MAPS and isinstance(value, dict):
            yield from ((f"{pointer}/{key}/{_escaped(name)}", inner) for name, inner in value.items())


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _check_one(schema: Any, pointer: str, *, top: bool, older: bool) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise SchemaError(f"at {pointer}: a schema is an object, true or false, not {_shown(schema)}")
    for key, value in schema.items():
        if key in _DESCRIBING or (key.startswith("x-") and key != "x-guidance"):
            continue
        if key in _AT_THE_TOP and top:
            if key == "$schema" and not any(draft in str(value) for draft in _DRAFTS):
                raise SchemaError(f'"$schema" {_shown(value)} is not supported; there are {", ".join(_DRAFTS)}')
            continue
        if key == "uniqueItems" and value is False:
            continue
        if key in _KEYWORDS:
            meaning, test = _KEYWORDS[key]
            if not test(value):
                raise SchemaError(f'at {pointer}: "{key}" is {_shown(value)}; it must be {meaning}')
        elif key in (*_ONE, *_LISTS, *_MAPS):
            _check_shelf(key, value, pointer, older)
        else:
            instead = _INSTEAD.get(key)
            raise SchemaError(f"at {pointer}: {_shown(key)} is not supported" + (f"; {instead}" if instead else ""))
    # A map's names are not kept from repeating, and repeated ones count once.
    if schema.get("minProperties", 0) > max(1, len(set(schema.get("required", ())))):
        raise SchemaError(
            f'at {pointer}: "minProperties" above 1 is not supported beyond the names in "required": '
            "a name could come twice"
        )


def _check_shelf(key: str, value: Any, pointer: str, older: bool) -> None:
    if key in _MAPS and not isinstance(value, dict):
        raise SchemaError(f'at {pointer}: "{key}" is {_shown(value)}; it must be an object of schemas')
    if key in _LISTS and not (isinstance(value, list) and value):
        raise SchemaError(f'at {pointer}: "{key}" is {_shown(value)}; it must be a list of schemas')
    if not older and (key == "additionalItems" or (key == "items" and isinstance(value, list))):
        raise SchemaError(
            f'at {pointer}: "{key}"{" as a list" if key == "items" else ""} is of drafts before 2020-12; '
            'write "prefixItems" and "items", or name the draft in "$schema"'
        )


def _check_reference(reference: str, pointer: str, places: set[str]) -> None:
    if reference != "#" and not reference.startswith("#/"):
        raise SchemaError(
            f'at {pointer}: "$ref" {_shown(reference)} is not supported; it must be {_KEYWORDS["$ref"][0]}'
        )
    if unquote(reference[1:]) not in places:
        raise SchemaError(f'at {pointer}: "$ref" {_shown(reference)} points at no schema')


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"


def alone(schema: Schema, pointer: str) -> dict[str, Any]:
    """A schema for what stands at `pointer` only, with all that it refers to: to find out whose fault an error is."""
    inside = copy.deepcopy(schema)
    for _, inner in subschemas(inside):
        if isinstance(inner, dict) and isinstance(inner.get("$ref"), str):
            inner["$ref"] = "#/$defs/whole" + inner["$ref"][1:]
    draft = {key: inside.pop(key) for key in _AT_THE_TOP if key in inside} if isinstance(inside, dict) else {}
    return {**draft, "$defs": {"whole": inside}, "$ref": f"#/$defs/whole{pointer}"}
