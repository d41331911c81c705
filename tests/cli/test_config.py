"""llamacli config, and settings as the commands use them: which wins, which give way, what is written."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAMACLI_HOME", str(tmp_path / "own"))
    path = tmp_path / "own/config/config.toml"
    path.parent.mkdir(parents=True)
    return path


def ok(done: subprocess.CompletedProcess[bytes]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def refused(done: subprocess.CompletedProcess[bytes]) -> str:
    assert (done.returncode, done.stdout) == (2, b""), done
    return done.stderr.decode()


def editor(tmp_path: Path, script: str) -> dict[str, str]:
    """An environment whose editor runs a line of Python; the file's path is `path`."""
    program = tmp_path / "edit.py"
    program.write_text(f"import pathlib, sys\npath = pathlib.Path(sys.argv[1])\n{script}\n")
    return {"VISUAL": f"{sys.executable} {program}", "EDITOR": "false"}


# ---- looking ---------------------------------------------------------------------------------------------------------


def test_get_says_what_holds_and_why(cli: Cli, config: Path) -> None:
    assert ok(cli("config", "get", "on_overflow")) == "shift\n"
    assert ok(cli("config", "get", "temp")) == "\n"
    config.write_text('# mine\ntemp = 0.2\nstop = ["a", "b c"]\n')
    assert ok(cli("config", "get", "--", "--temp")) == "0.2\n"
    assert ok(cli("config", "get", "stop")) == "a\nb c\n"
    assert ok(cli("config", "get", "temp", "--origin")) == f"0.2\tfile\t{config}, line 2\n"
    env = {"LLAMACLI_TEMP": "0.9"}
    assert ok(cli("config", "get", "temp", "--origin", env=env)) == "0.9\tenvironment\tLLAMACLI_TEMP\n"
    assert ok(cli("config", "get", "markdown", "--origin")) == "true\tdefault\n"
    assert json.loads(ok(cli("config", "get", "stop", "--json"))) == {
        "key": "stop",
        "value": ["a", "b c"],
        "origin": "file",
        "place": f"{config}, line 3",
        "help": "End before this text; repeatable.",
    }


def test_ls_shows_all_with_their_origin(cli: Cli, config: Path) -> None:
    config.write_text("temp = 0.5\n")
    done = cli("config", env={"LLAMACLI_MODEL": "tiny", "LLAMACLI_MINE": "1"})
    lines = ok(done).splitlines()
    assert lines[0] == "key\tvalue\torigin\tplace"
    assert "model\ttiny\tenvironment\tLLAMACLI_MODEL" in lines
    assert f"temp\t0.5\tfile\t{config}, line 1" in lines
    assert "cache_type_k\tf16\tdefault\t" in lines
    assert done.stderr.decode() == "warning: the variable LLAMACLI_MINE is no setting's\n"
    assert ok(cli("config", "ls", env={"LLAMACLI_MODEL": "tiny"})).splitlines() == lines
    rows = json.loads(ok(cli("config", "ls", "--json")))
    assert {"key": "log", "value": False, "origin": "default", "place": "", "help": rows[1]["help"]} == rows[1]
    assert len(rows) == len(lines) - 1


def test_path(cli: Cli, config: Path) -> None:
    assert ok(cli("config", "path")) == f"{config}\n"


def test_an_unknown_key(cli: Cli, config: Path) -> None:
    for verb in ("get", "unset"):
        assert "no such setting: tmep; did you mean temp?" in refused(cli("config", verb, "tmep"))
    assert "no such setting: tmep; did you mean temp?" in refused(cli("config", "set", "tmep", "1"))
    assert not config.exists()


# ---- which wins ------------------------------------------------------------------------------------------------------


def sampling(cli: Cli, *arguments: str, env: dict[str, str] | None = None) -> dict[str, object]:
    done = cli("complete", "-m", "tiny", "-n", "1", "--json", *arguments, "Hello", env=env)
    assert done.returncode in (0, 8), done.stderr
    values: dict[str, object] = json.loads(done.stdout)["sampling"]
    return values


def test_option_then_environment_then_file_then_default(cli: Cli, config: Path) -> None:
    assert sampling(cli)["top_k"] == 40
    config.write_text("top_k = 7\n")
    assert sampling(cli)["top_k"] == 7
    env = {"LLAMACLI_TOP_K": "8"}
    assert sampling(cli, env=env)["top_k"] == 8
    assert sampling(cli, "--top-k", "9", env=env)["top_k"] == 9
    preset = config.parent / "presets/p.toml"
    preset.parent.mkdir()
    preset.write_text("top_k = 6\n")
    assert sampling(cli, "--preset", "p", env=env)["top_k"] == 6
    assert sampling(cli, "--preset", "p", "--top-k", "9", env=env)["top_k"] == 9


def test_a_switch_and_its_option(cli: Cli, config: Path, tmp_path: Path) -> None:
    config.write_text("log = true\n")
    ok(cli("complete", "-m", "tiny", "--no-log", "What is 7 plus 8?"))
    assert not (tmp_path / "own/data").exists()
    ok(cli("complete", "-m", "tiny", "What is 7 plus 8?"))
    assert "What is 7 plus 8?" in ok(cli("history", "ls"))
    config.write_text("history = false\n")
    ok(cli("chat", "tiny", "--temp", "0", stdin=b"What is 1 plus 1?\n"))
    ok(cli("chat", "tiny", "--temp", "0", "--history", stdin=b"What is 2 plus 2?\n"))
    assert "1 plus 1" not in ok(cli("history", "ls"))
    assert "2 plus 2" in ok(cli("history", "ls"))


def test_offline_can_be_taken_back(cli: Cli, config: Path) -> None:
    config.write_text("offline = true\n")
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": ""}
    assert "offline" in cli("search", "llama", env=env).stderr.decode().lower()
    said = cli("search", "llama", "--no-offline", env=env).stderr.decode().lower()
    assert "connection refused" in said
    assert "offline" not in said


def test_nothing_of_the_current_folder_is_read(cli: Cli, config: Path, tmp_path: Path) -> None:
    """A repository that somebody cloned must not choose a model."""
    here = tmp_path / "cloned"
    for name in (
        "config.toml",
        "llamacli.toml",
        ".llamacli.toml",
        ".llamacli/config.toml",
        "config/config.toml",
        ".env",
    ):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text('model = "evil"\n')
    (here / "presets").mkdir()
    (here / "presets/p.toml").write_text('model = "evil"\n')
    done = cli("tokens", "--json", "Hello", cwd=here)
    assert json.loads(ok(done))["model"] == "tiny"
    assert "there is no preset p" in refused(cli("complete", "--preset", "p", "x", cwd=here))


def test_what_a_setting_says_gives_way(cli: Cli, config: Path, bare: Path) -> None:
    """A system message is for a chat template; where none is used, only one that was typed is an error."""
    config.write_text('system = "You are Lumi."\nthink = "off"\nchat_template = "chatml"\n')
    assert cli("complete", "-m", "tiny", "--raw", "-n", "2", "Once").returncode in (0, 8)
    assert "--raw has no system message" in refused(cli("complete", "-m", "tiny", "--raw", "-s", "x", "Once"))
    config.write_text('system = "You are Lumi."\nthink = "off"\n')
    assert cli("complete", "-m", bare, "-n", "2", "Once").returncode in (0, 8)
    assert "knows no system message" in refused(cli("complete", "-m", bare, "-s", "x", "-n", "2", "Once"))
    assert cli("complete", "-m", "tiny", "--think", "-n", "2", "Hello").returncode in (0, 8)


def test_a_conversation_keeps_its_own_system_message(cli: Cli, config: Path) -> None:
    ok(cli("chat", "tiny", "--session", "a", "-s", "first", "--temp", "0", stdin=b"Hello\n"))
    config.write_text('system = "of the settings"\n')
    ok(cli("chat", "tiny", "--session", "a", "--temp", "0", stdin=b"Hello\n"))
    ok(cli("chat", "tiny", "--session", "b", "--temp", "0", stdin=b"Hello\n"))
    systems = {each["name"]: each["system"] for each in json.loads(ok(cli("history", "ls", "--json")))}
    assert systems == {"a": "first", "b": "of the settings"}


def test_measures_have_their_own_context_and_seed(cli: Cli, config: Path, tmp_path: Path) -> None:
    """-c of perplexity is the length of a chunk, --seed of eval draws questions: a chat's settings are others."""
    config.write_text("ctx_size = 64\nseed = 5\nmodel = 'tiny'\n")
    (tmp_path / "text").write_text("Once upon a time there was a little cat. " * 150)
    results = json.loads(ok(cli("perplexity", "--json", "--chunks", 1, tmp_path / "text")))["results"]
    assert [(each["model"], each["n_ctx"]) for each in results] == [("tiny", 512)]
    question = b'{"query": "Once upon a", "choices": ["lion", "time"], "gold": 1}\n'
    assert json.loads(ok(cli("eval", "choice", "-", "--json", stdin=question)))["seed"] == 1


def test_help_is_there_whatever_the_settings_say(cli: Cli, config: Path) -> None:
    config.write_text("nonsense")
    assert "Usage" in ok(cli("complete", "--help"))
    assert "config.toml, line 1" in refused(cli("complete", "-s", "-h", "hi"))
    assert ok(cli("config", "path")) == f"{config}\n"
    assert cli("rm", "-n", "tiny").returncode == 2
    assert "config.toml, line 1" in refused(cli("tokens", "hi"))


# ---- writing ---------------------------------------------------------------------------------------------------------

MINE = """\
# my settings

model = "tiny"   # small
temp = 1.0
# what ends an answer
stop = [
    "a",  # first
]
"""


def test_set_keeps_comments_and_order(cli: Cli, config: Path) -> None:
    config.write_text(MINE)
    assert ok(cli("config", "set", "temp", "0.2")) == ""
    assert config.read_text() == MINE.replace("temp = 1.0", "temp = 0.2")
    ok(cli("config", "set", "model", "qwen3.5:0.8b"))
    ok(cli("config", "set", "log", "yes"))
    expected = MINE.replace("temp = 1.0", "temp = 0.2").replace('"tiny"', '"qwen3.5:0.8b"') + "log = true\n"
    assert config.read_text() == expected
    ok(cli("config", "set", "stop", "x", "y z"))
    assert json.loads(ok(cli("config", "get", "stop", "--json")))["value"] == ["x", "y z"]
    ok(cli("config", "unset", "stop"))
    assert "stop" not in config.read_text()
    assert "# my settings" in config.read_text()


def test_what_is_set_is_read_back(cli: Cli, config: Path) -> None:
    for key, given, read in [
        ("system", 'a "b"\nc\t\\', 'a "b"\nc\t\\'),
        ("gpu_layers", "12", "12"),
        ("stop", '["[x"]', "[x"),
        ("seed", "-1", "-1"),
        ("temp", "0.123456789", "0.123456789"),
        ("min_p", "1", "1"),
        ("think", "LOW", "low"),
    ]:
        ok(cli("config", "set", "--", key, given))
        assert ok(cli("config", "get", key)) == f"{read}\n"


def test_set_takes_a_dash(cli: Cli, config: Path) -> None:
    ok(cli("config", "set", "seed", "-1"))
    ok(cli("config", "set", "--top-k", "7"))
    assert config.read_text() == "seed = -1\ntop_k = 7\n"
    assert "no such setting: --topk; did you mean top_k?" in refused(cli("config", "set", "--topk", "7"))


@pytest.mark.parametrize("text", ["temp = 1.0", "# mine", "temp = 1.0 # hot", "stop = [\n]"])
def test_set_into_a_file_without_a_final_line_break(cli: Cli, config: Path, text: str) -> None:
    config.write_text(text)
    ok(cli("config", "set", "top_k", "7"))
    assert config.read_text() == f"{text}\ntop_k = 7\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("temp", "hot"), "temp = hot: a number is wanted"),
        (("temp", "-1"), "temp = -1.0: it must be 0 or more"),
        (("temp", "1", "2"), "temp takes one value, not 2"),
        (("markdown", "perhaps"), "markdown = perhaps: not 1 and not 0"),
        (("cache_type_k", "q9"), "cache_type_k = q9: it must be one of"),
    ],
)
def test_set_refuses(cli: Cli, config: Path, arguments: tuple[str, ...], said: str) -> None:
    config.write_text(MINE)
    assert said in refused(cli("config", "set", "--", *arguments))
    assert config.read_text() == MINE


def test_a_file_is_kept_by_its_whole_path(cli: Cli, config: Path, tmp_path: Path) -> None:
    """A setting holds in every folder."""
    (tmp_path / "user").mkdir()
    for name in ("m.gguf", "tiny", "qwen3.5:0.8b", "user/repo"):
        (tmp_path / name).write_text("")
    names = ("tiny", "other.gguf", "qwen3.5:0.8b", "user/repo")  # what would mean no file as -m either
    for given, kept in [("m.gguf", str(tmp_path / "m.gguf")), *((name, name) for name in names)]:
        ok(cli("config", "set", "model", given, cwd=tmp_path))
        assert ok(cli("config", "get", "model")) == f"{kept}\n"
    ok(cli("config", "set", "lora", "m.gguf", "x:2", cwd=tmp_path))
    assert ok(cli("config", "get", "lora")) == f"{tmp_path / 'm.gguf'}\nx:2\n"


def test_set_refuses_a_file_with_mistakes(cli: Cli, config: Path) -> None:
    config.write_text("temp = 1\nbroken\n")
    said = refused(cli("config", "set", "temp", "0.2"))
    assert "config.toml, line 2" in said
    assert said.endswith("\nhint: llamacli config edit opens it\n")
    assert config.read_text() == "temp = 1\nbroken\n"


def test_set_says_where_the_environment_wins(cli: Cli, config: Path) -> None:
    for value in ("1", "hot"):
        done = cli("config", "set", "temp", "0.2", env={"LLAMACLI_TEMP": value})
        assert done.returncode == 0
        assert "LLAMACLI_TEMP is set, and wins over" in done.stderr.decode()


@pytest.mark.skipif(os.name != "posix", reason="links and permissions of a POSIX system")
def test_a_link_stays_a_link_and_permissions_stay(cli: Cli, config: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles/llamacli.toml"
    real.parent.mkdir()
    real.write_text("temp = 1.0\n")
    real.chmod(0o600)
    config.symlink_to(real)
    ok(cli("config", "set", "temp", "0.2"))
    assert config.is_symlink()
    assert real.read_text() == "temp = 0.2\n"
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert [path.name for path in real.parent.iterdir()] == ["llamacli.toml"]


def test_writers_at_once_lose_nothing(cli: Cli, config: Path) -> None:
    config.write_text(MINE)
    keys = ["top_k", "seed", "threads", "max_tokens", "repeat_last_n", "ctx_size", "batch_size", "ubatch_size"]
    keys += [
        "n_cpu_moe",
        "main_gpu",
        "cache_size",
        "dry_allowed_length",
        "dry_penalty_last_n",
        "gpu_layers",
        "dry_base",
    ]
    keys += ["dynatemp_range"]
    assert len(keys) == 16
    command = [sys.executable, "-m", "llamacli", "config", "set"]
    for process in [subprocess.Popen([*command, key, "7"]) for key in keys]:
        assert process.wait(60) == 0
    rows = {row["key"]: row["value"] for row in json.loads(ok(cli("config", "ls", "--json")))}
    assert {float(rows[key]) for key in keys} == {7.0}


def test_edit(cli: Cli, config: Path, tmp_path: Path) -> None:
    env = editor(tmp_path, "assert '# model' in path.read_text(); path.write_text('temp = 0.3\\n')")
    assert ok(cli("config", "edit", env=env)) == ""
    assert ok(cli("config", "get", "temp")) == "0.3\n"
    env = editor(tmp_path, "path.write_text('temp = 0.3\\ntmep = 1\\n')")
    assert "config.toml, line 2: no such setting: tmep; did you mean temp?" in refused(cli("config", "edit", env=env))
    assert config.read_text() == "temp = 0.3\ntmep = 1\n"  # the person's text is kept
    env = editor(tmp_path, "path.write_text('temp = 0.4\\n')")
    assert cli("config", "edit", env=env).returncode == 0
    assert "no editor" in refused(cli("config", "edit", env={"VISUAL": "/nowhere/vi"}))


def test_an_editor_that_fails_leaves_all_as_it_was(cli: Cli, config: Path, tmp_path: Path) -> None:
    for command in ("false", "/nowhere/vi", "   "):
        env = {"VISUAL": command, "EDITOR": "false"}
        said = refused(cli("config", "edit", env=env))
        assert said.startswith(("error: no editor: /nowhere/vi", "error: the editor false ended with code 1"))
        assert not config.exists()
    program = tmp_path / "text"
    program.write_text("no program\n")
    program.chmod(0o755)
    assert "no editor: " in refused(cli("config", "edit", env={"VISUAL": str(program)}))
    config.write_bytes(b"temp = \xff\n")
    assert "the byte 0xff is no UTF-8" in refused(cli("config", "edit", env={"VISUAL": "true"}))
    assert config.read_bytes() == b"temp = \xff\n"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_file_that_is_read_only_stays(cli: Cli, config: Path) -> None:
    config.write_text("temp = 1.0\n")
    config.chmod(0o400)
    done = cli("config", "set", "temp", "0.2")
    assert (done.returncode, done.stderr) == (9, f"error: {config} is read-only\n".encode())
    assert config.read_text() == "temp = 1.0\n"


def test_edit_begins_with_an_example_that_is_valid(cli: Cli, config: Path, tmp_path: Path) -> None:
    env = editor(tmp_path, "path.write_text(path.read_text().replace('# model', 'model').replace('# stop', 'stop'))")
    ok(cli("config", "edit", env=env))
    assert ok(cli("config", "get", "model")) == "qwen3.5:0.8b\n"
