"""200 JSON schemas: every keyword that `--schema` claims to enforce, alone and together."""

from __future__ import annotations

import itertools
from typing import Any

Schema = dict[str, Any]

KEYWORDS = frozenset(
    {
        "type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf", "items", "prefixItems", "minItems", "maxItems",
        "properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties",
        "minLength", "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
        "multipleOf",
    }
)  # fmt: skip
FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")


def closed(required: tuple[str, ...] | None = None, /, **properties: Any) -> Schema:
    names = [*properties] if required is None else [*required]
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def text(most: int = 12, **more: Any) -> Schema:
    return {"type": "string", "maxLength": most, **more}


INTEGER = {"type": "integer", "minimum": 0, "maximum": 999}


def plain() -> list[Schema]:
    bounded: list[Schema] = [text(), text(0), text(30, minLength=5), text(4, minLength=4), {"type": "null"}]
    bounded += [{"type": "boolean"}, {"type": ["null", "boolean"]}, {"type": ["integer", "null"], "maximum": 3}]
    bounded += [{"type": ["string", "integer"], "maxLength": 5, "minimum": 0, "maximum": 9}]
    return bounded


def numbers() -> list[Schema]:
    found: list[Schema] = []
    for low, high in ((0, 9), (-5, 5), (10, 120), (-300, -7), (999, 1001), (0, 0), (-1, 100000)):
        found.append({"type": "integer", "minimum": low, "maximum": high})
        found.append({"type": "number", "minimum": low, "maximum": high})
    for low, high in ((0, 10), (-1.5, 2.25), (0.1, 0.2), (-100, -99.5), (3, 4)):
        found.append({"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": high})
    found += [{"type": "integer", "exclusiveMinimum": low, "maximum": low + 7} for low in (-4, 0, 95)]
    found += [{"type": "integer", "multipleOf": m, "minimum": 0, "maximum": 500} for m in (2, 5, 7, 25, 100)]
    found += [{"type": "number", "multipleOf": m, "minimum": 0, "maximum": 5} for m in (0.5, 0.25, 2)]
    found += [{"minimum": 1, "maximum": 2, "type": ["integer", "boolean"]}]
    found += [
        {"type": "number", "minimum": low, "exclusiveMaximum": low + size} for low in (-2, 0, 7) for size in (1, 3)
    ]
    found += [{"type": "integer", "minimum": 0, "maximum": 10**n} for n in (1, 3, 6, 9)]
    return found


def strings() -> list[Schema]:
    patterns = (
        "^[a-z]{3,8}$", "^(red|green|blue)$", "^[A-Z][a-z]+ [A-Z]\\.$", "^\\d{4}-\\d{2}$", "^\\w{2,5}$", "^a|b$",
        "^[^aeiou]{4}$", "^(ab)*c?$", "^#[0-9a-fA-F]{6}$", "^x{2,}y$", "^[\\u00e9\\u00fc\\u4e2d]+$", "^.{3}$", "^$",
        "^\\S+@\\S+$", "^[-+]?[0-9]+(\\.[0-9]+)?$", "^\"q\"$", "^a\\\\b/c$", "^[\\t ]*z$",
    )  # fmt: skip
    found = [{"type": "string", "pattern": pattern, "maxLength": 20} for pattern in patterns]
    found += [{"type": "string", "format": name} for name in FORMATS]
    found += [{"type": "string", "pattern": "^[a-f]*$", "minLength": 3, "maxLength": 6}]
    return found


def enums() -> list[Schema]:
    found: list[Schema] = [
        {"enum": ["red", "green", "blue"]},
        {"enum": [1, 2, 3]},
        {"enum": [None, True, 0, "0", [], {}]},
        {"enum": ["", " ", "\n", "\t", "\\", '"', "/"]},
        {"enum": ["é", "日本語", "Ωmega", "😀", "a\u0301", "\u2028"]},
        {"enum": ["yes", "yes, sure", "yesterday"]},
        {"enum": [1.5, -2.25, 1e3]},
        {"enum": [{"a": 1, "b": [1, 2]}, ["x", {"y": None}]]},
        {"type": "string", "enum": ["a", "b"]},
        {"type": "integer", "enum": [1, "a", 2]},
        {"enum": ["abc", "abd", "x"], "minLength": 3},
        {"const": "always"}, {"const": 42}, {"const": None}, {"const": False}, {"const": [1, "two", None]},
        {"const": {"k": "v", "n": {"m": []}}}, {"const": "ünï \"q\" \\ /"}, {"const": ""}, {"const": -0.5},
    ]  # fmt: skip
    return found


def arrays() -> list[Schema]:
    found: list[Schema] = []
    items: tuple[Schema, ...] = (INTEGER, text(6), {"type": "boolean"}, {"enum": ["a", "b"]})
    for item, (low, high) in itertools.product(items, ((0, 3), (1, 1), (2, 5), (0, 0))):
        found.append({"type": "array", "items": item, "minItems": low, "maxItems": high})
    found += [
        {"type": "array", "prefixItems": [INTEGER, text(5)], "items": False},
        {"type": "array", "prefixItems": [INTEGER, text(5)], "items": False, "minItems": 2},
        {"type": "array", "prefixItems": [{"const": "head"}], "items": INTEGER, "minItems": 2, "maxItems": 4},
        {"type": "array", "items": {"type": "array", "items": INTEGER, "maxItems": 2}, "maxItems": 3},
        {"type": "array", "items": closed(x=INTEGER), "minItems": 1, "maxItems": 2},
        {"type": "array", "maxItems": 0},
        {"type": "array", "items": {"anyOf": [INTEGER, {"type": "null"}]}, "minItems": 3, "maxItems": 3},
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [INTEGER, text(3)],
         "additionalItems": False, "minItems": 2},
    ]  # fmt: skip
    return found


def objects() -> list[Schema]:
    found: list[Schema] = [
        closed(name=text(), age=INTEGER),
        closed((), name=text(), age=INTEGER),
        closed(("b",), a=text(), b=INTEGER, c={"type": "boolean"}),
        closed(),
        {"type": "object", "additionalProperties": False},
        {"type": "object", "properties": {"a": INTEGER}, "required": ["a"], "additionalProperties": INTEGER,
         "maxProperties": 3},
        {"type": "object", "additionalProperties": text(4), "maxProperties": 2},
        {"type": "object", "additionalProperties": INTEGER, "minProperties": 1, "maxProperties": 1},
        {"type": "object", "additionalProperties": INTEGER, "minProperties": 1, "maxProperties": 4},
        {"type": "object", "patternProperties": {"^[a-z]{1,3}$": INTEGER}, "additionalProperties": False,
         "maxProperties": 3},
        {"type": "object", "patternProperties": {"^s_": text(4), "^n_": INTEGER}, "additionalProperties": False,
         "maxProperties": 2, "minProperties": 1},
        {"type": "object", "properties": {"id": INTEGER}, "required": ["id"],
         "patternProperties": {"^x-[a-z]{1,4}$": text(4)}, "additionalProperties": False, "maxProperties": 3},
        {"type": "object", "properties": {"a": INTEGER}, "required": ["a", "b"], "additionalProperties": text(3)},
        {"type": "object", "properties": {"a": {}, "b": True}, "required": ["a"], "maxProperties": 2,
         "additionalProperties": False},
        {"properties": {"never": False, "always": INTEGER}, "type": "object", "required": ["always"],
         "additionalProperties": False},
        closed(**{"naïve key": text(5), "日本": INTEGER, 'a"b': {"type": "null"}, "back\\slash": {"const": 1}}),
        closed(**{"": INTEGER, " ": INTEGER, "a/b~c": INTEGER}),
        {"type": "object", "properties": {"a": INTEGER, "b": INTEGER}, "required": ["a", "b"], "minProperties": 2,
         "additionalProperties": False},
    ]  # fmt: skip
    inner: Schema = closed(leaf=INTEGER)
    for depth in range(1, 9):
        inner = closed(level={"const": depth}, inner=inner)
        found.append(inner)
    found += [closed((), **{f"f{i}": {"type": "boolean"} for i in range(n)}) for n in (1, 5, 12)]
    maybe = {"anyOf": [{"type": "null"}, closed(e={"type": "boolean"})]}
    for required in itertools.product((False, True), repeat=4):
        names = tuple(name for name, wanted in zip("abcd", required, strict=True) if wanted)
        found.append(closed(names, a=INTEGER, b=text(4), c={"type": "array", "items": INTEGER, "maxItems": 2}, d=maybe))
    return found


def combined() -> list[Schema]:
    dog, cat = closed(kind={"const": "dog"}, barks=INTEGER), closed(kind={"const": "cat"}, lives=INTEGER)
    found: list[Schema] = [
        {"anyOf": [INTEGER, text(5)]},
        {"anyOf": [dog, cat]},
        {"anyOf": [{"type": "array", "items": INTEGER, "maxItems": 2}, {"type": "null"}]},
        {"anyOf": [{"const": "a"}, {"const": "ab"}, {"const": "abc"}]},
        {"oneOf": [INTEGER, {"type": "null"}]},
        {"oneOf": [dog, cat]},
        {"oneOf": [{"const": "one"}, {"const": "two"}, {"type": "integer", "maximum": 2}]},
        {"oneOf": [{"type": "boolean"}, {"type": "array", "items": INTEGER, "maxItems": 1}]},
        {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 8}]},
        {"allOf": [{"type": "string", "minLength": 2}, {"maxLength": 6}, {"pattern": "^[a-z]*$"}]},
        {"allOf": [{"type": "object", "properties": {"a": INTEGER}, "required": ["a"]},
                   {"properties": {"b": text(3)}, "required": ["b"]}], "maxProperties": 2},
        {"allOf": [{"type": "number", "multipleOf": 2}, {"multipleOf": 3}, {"minimum": 0, "maximum": 60}]},
        {"allOf": [{"enum": [1, 2, 3]}, {"enum": [2, 3, 4]}]},
        {"type": "integer", "anyOf": [{"minimum": 1, "maximum": 3}, {"minimum": 10, "maximum": 12}]},
        {"anyOf": [{"allOf": [INTEGER, {"minimum": 900}]}, {"const": "none"}]},
        {"type": "array", "items": {"oneOf": [dog, cat]}, "minItems": 1, "maxItems": 2},
    ]  # fmt: skip
    return found


def references() -> list[Schema]:
    tree: Schema = closed(("value",), value=INTEGER, children={"type": "array", "items": {"$ref": "#/$defs/node"}})
    tree["properties"]["children"]["maxItems"] = 2
    linked: Schema = closed(("value",), value=INTEGER, next={"$ref": "#"})
    person = closed(name=text(), home={"$ref": "#/$defs/address"}, work={"$ref": "#/$defs/address"})
    found: list[Schema] = [
        {"$ref": "#/$defs/a", "$defs": {"a": INTEGER}},
        {"$ref": "#/definitions/a", "definitions": {"a": text(4)}},
        {"$ref": "#/$defs/node", "$defs": {"node": tree}},
        linked,
        {**person, "$defs": {"address": closed(street=text(), zip={"type": "string", "pattern": "^[0-9]{5}$"})}},
        {"$ref": "#/$defs/a~1b~0c", "$defs": {"a/b~c": {"const": "slash"}}},
        {"$ref": "#/$defs/%C3%A9", "$defs": {"é": {"const": "é"}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"enum": ["x", "y"]}}},
        {"$ref": "#/$defs/n", "minimum": 5, "$defs": {"n": {"type": "integer", "maximum": 20}}},
        closed(first=INTEGER, second={"$ref": "#/properties/first"}),
        {"type": "array", "prefixItems": [text(3), {"$ref": "#/prefixItems/0"}], "items": False, "minItems": 2},
        {"anyOf": [{"$ref": "#/$defs/leaf"}, closed(left={"$ref": "#/$defs/leaf"}, right={"$ref": "#/$defs/leaf"})],
         "$defs": {"leaf": {"type": "boolean"}}},
    ]  # fmt: skip
    return found


def whole() -> list[Schema]:
    """As programs write them."""
    recipe = closed(
        title=text(20), minutes={"type": "integer", "minimum": 1, "maximum": 240},
        ingredients={"type": "array", "minItems": 1, "maxItems": 3,
                     "items": closed(name=text(10), amount={"type": "number", "exclusiveMinimum": 0, "maximum": 1000},
                                     unit={"enum": ["g", "ml", "piece", None]})},
        vegetarian={"type": "boolean"}, note={"anyOf": [text(10), {"type": "null"}]},
    )  # fmt: skip
    event = closed(
        ("id", "when"), id={"type": "string", "format": "uuid"}, when={"type": "string", "format": "date-time"},
        level={"enum": ["debug", "info", "warning", "error"]}, tags={"type": "array", "items": text(6), "maxItems": 3},
    )  # fmt: skip
    described = {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.org/x", "title": "A thing",
        "description": "d", "$comment": "c", **closed(n={**INTEGER, "default": 3, "examples": [1], "title": "N"}),
        "x-order": 3, "deprecated": False,
    }  # fmt: skip
    return [recipe, event, described, {"type": "array", "items": event, "minItems": 1, "maxItems": 1}]


def schemas() -> list[Schema]:
    parts = (plain, numbers, strings, enums, arrays, objects, combined, references, whole)
    return [schema for part in parts for schema in part()]


#: Each refused, with the name of what is not supported, and where it stands.
REFUSED: list[tuple[Any, str]] = [
    ({"type": "array", "uniqueItems": True}, '"uniqueItems"'),
    (closed(a={"type": "array", "contains": INTEGER}), 'at /properties/a: "contains"'),
    ({"not": INTEGER}, '"not"'),
    ({"if": INTEGER, "then": INTEGER}, '"if"'),
    ({"type": "object", "propertyNames": {"maxLength": 3}}, '"propertyNames"'),
    ({"dependentRequired": {"a": ["b"]}}, '"dependentRequired"'),
    ({"dependentSchemas": {}}, '"dependentSchemas"'),
    ({"unevaluatedProperties": False}, '"unevaluatedProperties"'),
    ({"unevaluatedItems": False}, '"unevaluatedItems"'),
    ({"minContains": 1}, '"minContains"'),
    ({"$dynamicRef": "#x"}, '"$dynamicRef"'),
    ({"type": "string", "nullable": True}, '"nullable"'),
    ({"type": "string", "maxlength": 3}, '"maxlength"'),
    ({"type": "string", "format": "zip-code"}, "zip-code"),
    (closed(a={"items": {"type": "string", "format": "phone"}}), "at /properties/a/items: Unknown format: phone"),
    ({"type": "object", "minProperties": 2}, '"minProperties"'),
    ({"properties": {"a": INTEGER}, "maxProperties": 1}, "min/maxProperties only supported when"),
    ({"$ref": "https://example.org/x.json"}, '"$ref"'),
    ({"$ref": "#/$defs/none"}, '"$ref"'),
    ({"$ref": "#x", "$defs": {"x": {"$anchor": "x"}}}, '"$ref"'),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, '"oneOf"'),
    (closed(a={"oneOf": [{"minimum": 1}, {"maximum": 5}]}), 'at /properties/a: this "oneOf"'),
    ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
    ({"type": "string", "pattern": "(a)\\1"}, "backreferences"),
    ({"items": [INTEGER]}, '"items" as a list'),
    ({"x-guidance": {"lenient": True}}, '"x-guidance"'),
    ({"$schema": "https://example.org/own"}, '"$schema"'),
    ({"$defs": {"a": {"$id": "https://example.org/a"}}}, '"$id"'),
    ({"type": "integer", "exclusiveMinimum": True}, '"exclusiveMinimum"'),
    ({"type": "integer", "minimum": 4, "maximum": 3}, "minimum (4)"),
    ({"$ref": "#"}, "no text fits it"),
    (False, "nothing fits false"),
]
