"""llm's short form of a schema."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamacli.errors import UsageError
from llamacli.tasks import schema_dsl, shapes


def test_fields_types_and_descriptions() -> None:
    schema = schema_dsl.parse("name, age int, bio: a short bio, height float, ok bool, tags [str], n [int], l []")
    assert schema["properties"] == {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "bio": {"type": "string", "description": "a short bio"},
        "height": {"type": "number"},
        "ok": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "n": {"type": "array", "items": {"type": "integer"}},
        "l": {"type": "array", "items": {"type": "string"}},
    }
    assert schema["required"] == [*schema["properties"]]
    assert schema["additionalProperties"] is False


def test_by_line_commas_belong_to_the_description() -> None:
    schema = schema_dsl.parse("\nname: first, then last\n\nage int: in years\n")
    assert schema["properties"]["name"]["description"] == "first, then last"
    assert schema["properties"]["age"] == {"type": "integer", "description": "in years"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "no fields"),
        (" , ", "no fields"),
        ("age integer", "has the type integer"),
        ("a, a", "two fields a"),
        ("a int b", "is no field"),
        (": text", "is no field"),
        ('["a"]', "is no field"),
        ("a [strs]", "has the type [strs]"),
    ],
)
def test_refused(text: str, wanted: str) -> None:
    with pytest.raises(UsageError) as error:
        schema_dsl.parse(text)
    assert wanted in error.value.message


def test_what_a_schema_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.json").write_text('\ufeff{"type": "integer"}')
    (tmp_path / "fields").write_text("name\nage int\n")
    assert shapes.schema("s.json").source == '{"type": "integer"}'
    assert shapes.schema("s.json").name == "--schema s.json"
    assert json.loads(shapes.schema("fields").source)["required"] == ["name", "age"]
    assert json.loads(shapes.schema("other").source)["required"] == ["other"]
    assert shapes.schema(' {"type": "null"}').source == ' {"type": "null"}'
    for missing in ("t.json", "./t", "a/b"):
        with pytest.raises(UsageError, match="no such file"):
            shapes.schema(missing)
    assert json.loads(shapes.schema("where: home/work").source)["required"] == ["where"]
    assert json.loads(shapes.schema("false_alarms int, truth").source)["required"] == ["false_alarms", "truth"]
    assert shapes.schema("true").source == "true"


def test_many_of_them_keep_their_references() -> None:
    one = '{"$defs": {"a": {"type": "null"}}, "properties": {"x": {"$ref": "#/$defs/a"}}}'
    made = json.loads(shapes.read("--schema-multi", one).source)
    assert made["$defs"] == {"a": {"type": "null"}}
    assert made["properties"]["items"]["items"] == {"properties": {"x": {"$ref": "#/$defs/a"}}}
    with pytest.raises(UsageError, match="nullable"):
        shapes.read("--schema-multi", '{"nullable": true}')
