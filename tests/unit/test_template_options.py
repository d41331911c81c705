"""--chat-template and --template-arg: what they read, and what they refuse in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from llamacli.commands.template_options import RESERVED, TemplateFlags
from llamacli.engine import template_names
from llamacli.errors import LlamacliError, StorageError, UsageError

CHATML = template_names.source("chatml")
SOURCE = "{{ messages[0].content }}"


def source(text: object) -> str | None:
    return TemplateFlags(chat_template=str(text)).given()[0]


def variables(*texts: str) -> dict[str, object]:
    return TemplateFlags(template_arg=list(texts)).given()[1]


def refused(kind: type[LlamacliError] = UsageError, **flags: Any) -> str:
    with pytest.raises(kind) as caught:
        TemplateFlags(**flags).given()
    assert type(caught.value) is kind
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300
    return caught.value.message


def test_typer_takes_the_group() -> None:
    import typer
    from typer.testing import CliRunner

    from llamacli.commands.options import grouped

    seen: list[Any] = []

    def command(template: TemplateFlags) -> None:
        seen.append(template.given())

    command.__annotations__ = {"template": TemplateFlags, "return": None}  # annotations here are strings
    app = typer.Typer()
    app.command()(grouped(command))
    arguments = ["--chat-template", "chatml", "--template-arg", "a=1", "--template-arg", "b=x=y"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert CliRunner().invoke(app, []).exit_code == 0
    assert seen == [(CHATML, {"a": 1, "b": "x=y"}), (None, {})]


# --- --chat-template --------------------------------------------------------------------------------------------------


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "é.jinja"
    path.write_bytes(b"\xef\xbb\xbf" + f"{SOURCE}é\r\n".encode())  # as an editor on Windows writes it
    assert source(path) == f"{SOURCE}é\r\n"
    assert source(Path(os.devnull).parent / f"..{path}") == f"{SOURCE}é\r\n"


def test_a_name_wins_over_a_file_unless_it_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("chatml", "chatml.jinja", "mine"):
        Path(name).write_text(f"{SOURCE}{name}")
    assert source("chatml") == source("ChatML") == CHATML
    assert source("./chatml") == f"{SOURCE}chatml"
    assert source("chatml.jinja") == f"{SOURCE}chatml.jinja"
    assert source("mine") == f"{SOURCE}mine"


@pytest.mark.parametrize(
    ("typed", "meant"), [("chat-ml", "chatml"), ("mistral", "mistral-v1"), ("Llama-3", "llama3"), ("phi-4", "phi4")]
)
def test_an_unknown_name(typed: str, meant: str) -> None:
    message = refused(chat_template=typed)
    assert message == f"--chat-template {typed}: no file and no format of that name; did you mean {meant}?"


def test_the_hint_lists_the_names() -> None:
    with pytest.raises(UsageError) as caught:
        source("zzzzzzzz")
    assert caught.value.message == "--chat-template zzzzzzzz: no file and no format of that name"
    assert caught.value.hint == "the formats are " + ", ".join(template_names.names())


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    def wrong(data: bytes) -> str:
        (tmp_path / "x").write_bytes(data)
        return refused(chat_template=str(tmp_path / "x")).removeprefix(f"--chat-template {tmp_path / 'x'}: ")

    assert wrong(b"{{ 1 }}\n\xff") == "it is no UTF-8: byte 0xff at offset 8"
    assert wrong(b" \n") == "the file is empty"
    assert wrong(b"x" * ((1 << 20) + 1)) == "it is larger than 1 MiB, so it is no chat template"
    assert source_of_size(tmp_path / "y", 1 << 20) == "x" * (1 << 20)
    assert refused(chat_template=str(tmp_path)).endswith(": it is a folder")
    assert refused(chat_template=f"{tmp_path}/none").endswith("/none: no such file")
    assert refused(chat_template=f"{tmp_path}/x/none").endswith("/none: no such file")
    assert refused(chat_template="none.jinja") == "--chat-template none.jinja: no such file"
    assert refused(chat_template="n" * 5000).endswith(": File name too long")


def source_of_size(path: Path, size: int) -> str | None:
    path.write_text("x" * size)
    return source(path)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero")
def test_an_endless_file() -> None:
    assert "larger than 1 MiB" in refused(chat_template="/dev/zero")


@pytest.mark.skipif(os.name != "posix", reason="permissions are others elsewhere")
def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jinja"
    path.touch(mode=0)
    if os.geteuid() == 0:  # root may read anything

        def denied(*_: object) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "open", denied)
    assert refused(StorageError, chat_template=str(path)) == f"--chat-template {path}: Permission denied"


def test_no_template_itself_and_no_empty_name() -> None:
    assert "not the template itself" in refused(chat_template="{% for m in messages %}{{ m.content }}{% endfor %}")
    assert refused(chat_template="") == "--chat-template is empty"


def test_what_is_shown_does_nothing_to_a_terminal() -> None:
    assert r"\x1b" in refused(chat_template="\x1b[2J\udcff")
    assert r"\x1b" in refused(template_arg=["\x1b[2J"])
    assert r"\x1b" in refused(template_arg=["\x1b[2J=1"])


# --- --template-arg ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("null", None),
        ("3", 3),
        (" -1.5e3", -1500.0),
        ("[1, {}]", [1, {}]),
        ('{"a": {"b": []}}', {"a": {"b": []}}),
        ('"3"', "3"),
        ("", ""),
        ("high", "high"),
        ("True", "True"),
        ("{", "{"),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("1 Jan 2026", "1 Jan 2026"),
        ("a=b", "a=b"),
        ("é\n", "é\n"),
        ("9" * 5000, "9" * 5000),  # more digits than Python turns into a number
        ("[" * 64 + "]" * 64, None),
    ],
)
def test_values(text: str, value: object) -> None:
    given = variables(f"x={text}")["x"]
    if text.startswith("[["):
        assert isinstance(given, list)
    else:
        assert given == value
        assert type(given) is type(value)


def test_the_last_of_a_name_counts() -> None:
    assert variables("x=1", "y=2", "x=3") == {"x": 3, "y": 2}


@pytest.mark.parametrize("text", ["enable_thinking", "", "=1", "a b=1", "a-b=1", "1a=1", "a.b=1", " a=1"])
def test_no_name_or_no_value(text: str) -> None:
    message = refused(template_arg=[text])
    assert ("NAME=VALUE is wanted" in message) == ("=" not in text)


@pytest.mark.parametrize("name", RESERVED)
def test_names_that_are_not_free(name: str) -> None:
    assert f"{name} is not free" in refused(template_arg=[f"{name}=1"])


@pytest.mark.parametrize("n", [65, 1000, 100_000])
@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a":', "}")])
def test_deep_json_is_refused(n: int, opens: str, closes: str) -> None:
    assert "nested deeper than 64 levels" in refused(template_arg=[f"x={opens * n}1{closes * n}"])


def test_the_deepest_value_reaches_a_template() -> None:
    """64 levels are no trouble for what hides control tokens in them, the child's JSON, or `tojson`."""
    from llamacli.engine.template import Template
    from llamacli.engine.types import Message, SpecialToken

    deep = "[" * 63 + '["<s>"]' + "]" * 63
    prompt = Template("<s>{{ x | tojson }}", special=[SpecialToken(1, "<s>")]).render(
        [Message("user", "hi")], variables=variables(f"x={deep}")
    )
    assert prompt.fragments == (1, deep)


def test_no_utf_8() -> None:
    assert refused(template_arg=["x=\udcff"]) == r"--template-arg x=\udcff: it is no UTF-8"
