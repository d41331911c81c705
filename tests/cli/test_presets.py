"""Presets: prompts with variables and their options; made, used, shown, edited, removed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llamacli.commands.setting_table import preset_table
from llamacli.errors import UsageError
from llamacli.tasks import presets

Cli = Callable[..., subprocess.CompletedProcess[bytes]]

HOTEL = b"The hotel was old and cold, but we had a great time.\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAMACLI_HOME", str(tmp_path / "own"))
    path = tmp_path / "own/config/presets"
    path.mkdir(parents=True)
    return path


def ok(done: subprocess.CompletedProcess[bytes]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def refused(done: subprocess.CompletedProcess[bytes]) -> str:
    assert (done.returncode, done.stdout) == (2, b""), done
    return done.stderr.decode()


def echoed(cli: Cli, *arguments: str, stdin: bytes = b"") -> str:
    """The prompt as the model sees it."""
    done = cli("complete", "-m", "tiny", "--raw", "--echo", "-n", "1", "--temp", "0", *arguments, stdin=stdin)
    assert done.returncode in (0, 8), done.stderr
    return done.stdout.decode()


# ---- what is asked ---------------------------------------------------------------------------------------------------


def filled(prompt: str | None, text: str | None, **given: str) -> str | None:
    preset = presets.Preset("p", Path("p.toml"), prompt=prompt, defaults={"lang": "Python"})
    return presets.fill(preset, None, given, text, join="\n\n").prompt


def test_variables() -> None:
    assert filled("In $lang: ${input}!", "x = 1") == "In Python: x = 1!"
    assert filled("In $lang: $input", "x", lang="Go") == "In Go: x"
    assert filled("$$5, $5, $ and $$input: $input", "x") == "$5, $5, $ and $input: x"
    assert filled("${lang}s and $language", None, language="C") == "Pythons and C"
    assert filled("$input$input", "$lang $input") == "$lang $input$lang $input"  # not looked through again


def test_input_that_no_variable_takes_stands_before_the_prompt() -> None:
    assert filled("Summarise this.", "A text.") == "A text.\n\nSummarise this."
    assert filled("Tell a story.", None) == "Tell a story."
    assert filled(None, "only this") == "only this"


@pytest.mark.parametrize(
    ("prompt", "text", "given", "said"),
    [
        ("In $tongue, $style: x", None, {}, "wants $tongue, $style"),
        ("$input", None, {}, "wants $input"),
        ("$lang", None, {"lagn": "x"}, "--var lagn: the preset p has no $lagn"),
        ("$input", "x", {"input": "y"}, "--var input"),
    ],
)
def test_variables_that_do_not_fit(prompt: str, text: str | None, given: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        filled(prompt, text, **given)
    assert said in caught.value.message


def test_a_preset_in_a_pipe(cli: Cli, folder: Path) -> None:
    (folder / "review.toml").write_text(
        'model = "tiny"\ntemp = 0.0\nprompt = """\n$input\n\nIs this review $a or $b?\n"""\n'
        '[defaults]\na = "positive"\nb = "negative"\n'
    )
    assert ok(cli("complete", "--preset", "review", stdin=HOTEL)) == "positive\n"
    (folder / "text.toml").write_text('prompt = "Once upon a $what"\n')
    assert echoed(cli, "--preset", "text", "--var", "what=time").startswith("Once upon a time")
    assert echoed(cli, "--preset", "text", "--var", "what=y", "X").startswith("XOnce upon a y")


def test_typed_options_win_over_a_preset(cli: Cli, folder: Path) -> None:
    (folder / "p.toml").write_text('model = "nowhere.gguf"\nsystem = "$who"\nmax_tokens = 1\nstop = ["x"]\n')
    done = cli("complete", "--preset", "p", "-m", "tiny", "-n", "3", "-s", "costs $5", "--json", "Hello")
    assert json.loads(done.stdout)["model"] == "tiny"
    assert "wants $who" in refused(cli("complete", "--preset", "p", "-m", "tiny", "Hello"))
    assert "no such file: nowhere.gguf" in cli("complete", "--preset", "p", "--var", "who=x", "Hello").stderr.decode()


def test_typed_options_win_over_what_excludes_them(cli: Cli, folder: Path) -> None:
    (folder / "p.toml").write_text('model = "tiny"\nschema = "a int"\nstop = ["x"]\nmax_tokens = 9\ntemp = 0.0\n')
    assert "--stop and a shape exclude each other" in refused(cli("complete", "--preset", "p", "What is 7 plus 8?"))
    assert ok(cli("complete", "--preset", "p", "--regex", "[0-9]{2}", "What is 7 plus 8?")) == "15\n"
    (folder / "x.toml").write_text('model = "tiny"\nextract = true\nraw = true\nmax_tokens = 9\n')
    found = json.loads(ok(cli("complete", "--preset", "x", "--chat", "--json", "What is 7 plus 8?")))
    assert (found["mode"], found["text"]) == ("chat", "15")
    assert "--raw and --chat exclude" in refused(cli("complete", "--preset", "x", "--raw", "--chat", "hi"))
    assert "no code block" in cli("complete", "--preset", "x", "--extract-last", "hi").stderr.decode()


def test_raw_and_schema_of_a_preset(cli: Cli, folder: Path) -> None:
    (folder / "raw.toml").write_text('raw = true\nmodel = "tiny"\nmax_tokens = 2\n')
    assert json.loads(cli("complete", "--preset", "raw", "--json", "Once").stdout)["mode"] == "text"
    (folder / "a.toml").write_text('schema = "name, age int"\n')
    (folder / "b.toml").write_text('[schema]\ntype = "object"\nrequired = ["name"]\n')
    assert presets.read("a", preset_table).schema == "name, age int"
    assert json.loads(presets.read("b", preset_table).schema or "") == {"type": "object", "required": ["name"]}


def test_a_chat_takes_a_preset_without_a_prompt(cli: Cli, folder: Path) -> None:
    (folder / "lumi.toml").write_text('system = "You are $who."\nmodel = "tiny"\ntemp = 0.0\n')
    chat = ("chat", "--preset", "lumi", "--var", "who=Lumi", "--session", "s")
    assert ok(cli(*chat, stdin=b"What is 7 plus 8?\n")) == "15\n"
    assert json.loads(ok(cli("history", "ls", "--json")))[0]["system"] == "You are Lumi."
    assert ok(cli("run", "tiny", "--preset", "lumi", "--var", "who=x", "What is 7 plus 8?")) == "15\n"
    (folder / "p.toml").write_text('prompt = "$input"\n')
    assert "so it is for complete" in refused(cli("chat", "tiny", "--preset", "p", stdin=b"x"))
    (folder / "log.toml").write_text("log = true\n")
    assert "chat has no --log" in refused(cli("chat", "tiny", "--preset", "log", stdin=b"x"))


# ---- made, shown, removed --------------------------------------------------------------------------------------------


def test_save_keeps_what_was_typed(cli: Cli, folder: Path) -> None:
    text = 'In $lang: "$input"\nand \\'
    options = ("-m", "tiny", "--temp", "0", "--stop", "a", "--stop", "b", "--no-think", "--var", "lang=C")
    done = cli("complete", *options, "-p", text, "--save", "new", env={"LLAMACLI_TOP_K": "3"})
    assert ok(done) == ""
    assert "kept in" in done.stderr.decode()
    preset = presets.read("new", preset_table)
    assert preset.prompt == text
    values = {key: value.value for key, value in preset.values.items()}
    assert values == {"model": "tiny", "temp": 0.0, "stop": ["a", "b"], "think": "off"}
    assert preset.defaults == {"lang": "C"}
    assert "there is a preset new already" in refused(cli("complete", "x", "--save", "new"))
    ok(cli("complete", "--preset", "new", "--temp", "1", "--save", "newer"))
    newer = presets.read("newer", preset_table)
    assert (newer.prompt, newer.values["temp"].value, newer.values["model"].value) == (text, 1.0, "tiny")
    assert "--json is of one call" in refused(cli("complete", "x", "--json", "--save", "other"))
    assert "nothing to keep" in refused(cli("complete", "--save", "other"))
    assert presets.names() == ["new", "newer"]


def test_save_keeps_files_by_their_whole_paths(cli: Cli, folder: Path, tmp_path: Path) -> None:
    """A preset holds in every folder."""
    (tmp_path / "g.gbnf").write_text('root ::= "<" [0-9]{2} ">"')
    ok(cli("complete", "-m", "tiny", "--grammar-file", "g.gbnf", "What is 7 plus 8?", "--save", "two", cwd=tmp_path))
    assert re.fullmatch(r"<\d\d>\n", ok(cli("complete", "--preset", "two", cwd=folder)))
    (tmp_path / "s.json").write_text('{"uniqueItems": true}')
    ok(cli("complete", "-m", "tiny", "--schema", "s.json", "--save", "one", cwd=tmp_path))
    said = refused(cli("complete", "--preset", "one", "hi", cwd=folder))
    assert f'--schema {tmp_path / "s.json"} of the preset: at the top: "uniqueItems"' in said


def test_ls_show_rm(cli: Cli, folder: Path, tmp_path: Path) -> None:
    assert ok(cli("presets", "ls")) == "name\tmodel\tvariables\tprompt\tremark\n"
    source = '# mine\nprompt = "$input in $lang"\nmodel = "tiny"\n'
    (folder / "good.toml").write_text(source)
    (folder / "bad.toml").write_text('temp = "hot"\n')
    rows = ok(cli("presets", "ls")).splitlines()[1:]
    assert rows == [
        "bad\t\t\t\tline 1: temp must be a number, not the text 'hot'",
        "good\ttiny\tinput lang\t$input in $lang\t",
    ]
    assert [row["name"] for row in json.loads(ok(cli("presets", "ls", "--json")))] == ["bad", "good"]
    assert ok(cli("presets", "show", "good")) == source
    document = json.loads(ok(cli("presets", "show", "good", "--json")))
    assert (document["prompt"], document["options"]) == ("$input in $lang", {"model": "tiny"})
    assert "--yes" in refused(cli("presets", "rm", "good"))
    assert "there is no preset nothing" in refused(cli("presets", "rm", "-y", "good", "nothing"))
    (folder / "garbage.toml").write_bytes(b"\xff")
    (folder / "nowhere.toml").symlink_to(tmp_path / "nothing")
    assert "its file is a link to nothing" in refused(cli("complete", "--preset", "nowhere", "hi"))
    assert ok(cli("presets", "rm", "-y", "good", "garbage", "nowhere")) == ""
    assert presets.names() == ["bad"]
    assert "did you mean bad?" in refused(cli("presets", "show", "badd"))


def test_edit(cli: Cli, folder: Path, tmp_path: Path) -> None:
    program = tmp_path / "edit.py"
    program.write_text("import pathlib, sys\npath = pathlib.Path(sys.argv[1])\nassert '$input' in path.read_text()\n")
    env = {"VISUAL": "", "EDITOR": f"{sys.executable} {program}"}
    assert b"nothing was written, so there is no preset new" in cli("presets", "edit", "new", env=env).stderr
    assert "the editor false ended with code 1" in refused(cli("presets", "edit", "new", env={"VISUAL": "false"}))
    assert presets.names() == []
    with program.open("a") as file:
        file.write("path.write_text(path.read_text() + '# mine\\n')\n")
    ok(cli("presets", "edit", "new", env=env))
    assert presets.read("new", preset_table).prompt == "$input"
    program.write_text("import pathlib, sys\npathlib.Path(sys.argv[1]).write_text('prompt = 1\\n')\n")
    assert "new.toml, line 1: prompt must be a text, not the number 1" in refused(
        cli("presets", "edit", "new", env=env)
    )
    assert (folder / "new.toml").read_text() == "prompt = 1\n"


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "-x", ".hidden", "a.", "C:x", "x" * 65, "a b", "a\n"]
)
def test_a_name_that_is_a_path_is_refused(cli: Cli, folder: Path, tmp_path: Path, name: str) -> None:
    (folder.parent / "x.toml").write_text('model = "evil"\n')
    with pytest.raises(UsageError, match="cannot name a preset"):
        presets.path(name)


def test_commands_refuse_a_path_for_a_name(cli: Cli, folder: Path) -> None:
    (folder.parent / "x.toml").write_text('prompt = "evil"\n')
    for command in ("complete --preset ../x", "complete hi --save ../y", "presets show ../x", "presets rm -y ../x"):
        assert "cannot name a preset" in refused(cli(*command.split()))
    assert "cannot name a preset" in refused(cli("presets", "edit", "../x"))
    assert (folder.parent / "x.toml").exists()
    assert not (folder.parent / "y.toml").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("temprature = 1", "line 1: a preset has no temprature; did you mean temp?"),
        ("\nprompt = 3", "line 2: prompt must be a text, not the number 3"),
        ("schema = 3", "schema must be a text or a table, not the number 3"),
        ("[schema]\nx = 2024-01-01", "which JSON does not have"),
        ("prompt = 'x'\n[defaults]\nlang = 'C'", "line 3: neither prompt nor system holds $lang"),
        ("prompt = '$lang'\n[defaults]\nlang = 3", "line 3: defaults.lang must be a text"),
        ("defaults = 3", "defaults must be a table"),
        ("top_p = 7", "line 1: top_p = 7.0: it must be between 0 and 1"),
        ("prompt = ", "line 1"),
    ],
)
def test_mistakes_in_a_preset(cli: Cli, folder: Path, text: str, said: str) -> None:
    (folder / "p.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        presets.read("p", preset_table)
    assert str(folder / "p.toml") in caught.value.message
    assert said in caught.value.message


def test_mistakes_on_the_command_line(cli: Cli) -> None:
    assert "--var is for a preset" in refused(cli("complete", "-m", "tiny", "--var", "a=b", "x"))
    assert "--var a: NAME=TEXT is wanted" in refused(cli("complete", "-m", "tiny", "--var", "a", "x"))
