"""The check of a schema before it is compiled."""

from __future__ import annotations

import pytest

from llamacli.engine.json_schema import SchemaError, alone, check, parse, subschemas


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"a" 1}', "line 1, column 6"),
        ("", "no JSON"),
        ('{"type": "object",\n "type": "array"}', '"type" stands twice'),
        ('{"minimum": NaN}', "NaN"),
        ("[" * 100_000, "too deep"),
        ('{"allOf": [' * 200 + "{}" + "]}" * 200, "deeper than 100"),
        ("3", "a schema is an object"),
        ('{"properties": {"a": 3}}', "at /properties/a: a schema is an object"),
        ('{"properties": [1]}', '"properties" is [1]'),
        ('{"anyOf": []}', '"anyOf" is []'),
        ('{"minLength": true}', '"minLength" is true'),
        ('{"maxItems": 2.5}', '"maxItems" is 2.5'),
        ('{"required": "a"}', '"required" is "a"'),
        ('{"type": "strng"}', '"type" is "strng"'),
        ('{"type": []}', '"type" is []'),
        ('{"multipleOf": 0}', '"multipleOf" is 0'),
        ('{"properties": {"a/b~": {"nope": 1}}}', 'at /properties/a~1b~0: "nope"'),
        ('{"$ref": "#/required", "required": ["a"]}', "points at no schema"),
        ('{"pattern": "x\\\\"}', '"pattern" is "x'),
        ('{"nullable": true}', '"type": ["string", "null"]'),
    ],
)
def test_refused_with_the_place(text: str, wanted: str) -> None:
    with pytest.raises(SchemaError) as error:
        parse(text)
    assert wanted in str(error.value)


def test_what_only_describes_is_let_pass() -> None:
    check({"title": "t", "description": "d", "x-own": 1, "uniqueItems": False, "$comment": "c", "default": 3})
    check(True)


def test_every_schema_is_found_with_its_pointer() -> None:
    schema = {"properties": {"a": {"items": True}}, "anyOf": [{}, {"$defs": {"x/y": {}}}], "enum": [{"not": 1}]}
    assert [pointer for pointer, _ in subschemas(schema)] == [
        "",
        "/properties/a",
        "/properties/a/items",
        "/anyOf/0",
        "/anyOf/1",
        "/anyOf/1/$defs/x~1y",
    ]


def test_alone_keeps_what_is_referred_to() -> None:
    schema = {"properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"type": "null"}}}
    made = alone(schema, "/properties/a")
    assert made["$ref"] == "#/$defs/whole/properties/a"
    assert made["$defs"]["whole"]["properties"]["a"] == {"$ref": "#/$defs/whole/$defs/b"}
    check(made)
    assert schema["properties"]["a"] == {"$ref": "#/$defs/b"}  # not changed
