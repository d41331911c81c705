"""Settings: of file and environment, of the options that they are, and what mistakes say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamacli import settings
from llamacli.cli import COMMANDS, load
from llamacli.commands.setting_table import OF_PRESETS, own, preset_table, table
from llamacli.errors import UsageError

#: Options of one call, which nobody would fix; each name with a reason or a place.
OF_ONE_CALL = {
    # which text, which conversation, which file
    "turns", "resume", "session", "prompt_option", "files", "file", "files_option", "no_stdin", "replace_invalid",
    "special", "samples", "null", "echo", "keep", "preset", "var", "chat", "suffix", "infill", "revision",
    "delimiter", "results", "output",
    # the form of the output
    "as_json", "verbose", "logprobs", "confidence", "form", "metadata", "tensors", "template", "count", "ids",
    "no_bos", "origin", "sort", "limit", "all_branches", "everything", "all_files", "top", "words", "as_completed",
    # what is to be done
    "force", "yes", "dry_run", "pick", "against", "kl_base", "save_logits", "per_chunk", "plot", "chunks", "n", "shots",
    "older_than", "parallel",
    # what is made, and of what
    "out", "types", "imatrix", "target_size", "target_bpw", "save_types", "calibrate", "report", "allow_requantize",
    "leave_output_tensor", "output_tensor_type", "token_embedding_type", "tensor_type", "tensor_type_file",
    "include_weights", "exclude_weights", "keep_split", "prune_layers", "override_kv", "max_buffer_size",
    "pure", "output_format", "add", "skipped", "no_ppl", "process_output", "parse_special", "save_every", "copy_every",
    "show_statistics",
    # what is measured
    "n_prompt", "n_gen", "pairs", "n_depth", "repetitions", "no_warmup", "delay",
    # the negative of think; a secret, which has its own place
    "no_think", "token",
}  # fmt: skip
#: Options of one command that only share a setting's name.
OTHERS = {
    *(("perplexity", "ctx_size"), ("imatrix", "ctx_size"), ("quantize", "ctx_size"), ("eval", "seed")),
    ("quantize", "threads"),
    *(("bench", name) for name in ("threads", "gpu_layers", "batch_size", "ubatch_size", "flash_attn")),
    *(("bench", name) for name in ("cache_type_k", "cache_type_v")),
}


def commands() -> dict[str, Any]:
    found = {}
    for name in COMMANDS:
        command = load(name)
        inner = getattr(command, "commands", None)
        found |= {f"{name} {verb}": each for verb, each in inner.items()} if inner else {name: command}
    return found


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAMACLI_HOME", str(tmp_path))
    for setting in table().values():
        monkeypatch.delenv(setting.variable, raising=False)
    (tmp_path / "config").mkdir()
    return tmp_path / "config/config.toml"


def read() -> dict[str, Any]:
    return {name: value.value for name, value in settings.read(table(), table).items()}


def test_every_option_is_a_setting_or_of_one_call() -> None:
    for command, each in commands().items():
        for param in each.params:
            if param.param_type_name == "option" and (command, param.name) not in OTHERS:
                is_setting = hasattr(param, "setting")
                alone = param.name in OF_ONE_CALL or param.name in OF_PRESETS
                assert is_setting != alone, f"{command}: {param.name} is both or neither"


def test_the_table_holds_what_the_commands_have() -> None:
    found: dict[str, Any] = {}
    for each in commands().values():
        found |= own(each.params)
    assert found.keys() == table().keys()


def test_a_setting_has_the_name_type_help_and_default_of_its_option() -> None:
    for each in commands().values():
        for param in each.params:
            if not hasattr(param, "setting"):
                continue
            setting = table()[param.setting]
            assert param.setting == param.name or (param.name, param.setting) == ("models", "model")
            assert f"--{setting.name.replace('_', '-')}" in param.opts
            kind = {"int": "whole", "float": "number", "boolean": "switch"}.get(param.type.name, "text")
            assert setting.kind == ("texts" if param.multiple and param.name == setting.name else kind)
            assert setting.default == param.default or param.default is None
            assert setting.help
    assert table()["temp"].help == load("complete").params[[p.name for p in load("complete").params].index("temp")].help


def test_a_switch_can_be_taken_back_by_an_option() -> None:
    for each in commands().values():
        for param in each.params:
            if hasattr(param, "setting") and param.type.name == "boolean":
                assert param.secondary_opts, f"--{param.name} has no --no-{param.name}"


def test_nothing_is_set(config: Path) -> None:
    assert read() == {}
    assert (table()["history"].default, table()["log"].default, table()["model"].default) == (True, False, None)


def test_the_file_and_the_variables_which_win(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('history = false\ntemp = 1\nstop = "end"\ngpu_layers = 3\nflash_attn = true\n')
    assert read() == {"history": False, "temp": 1.0, "stop": ["end"], "gpu_layers": "3", "flash_attn": "on"}
    monkeypatch.setenv("LLAMACLI_HISTORY", " Yes ")
    monkeypatch.setenv("LLAMACLI_TEMP", "0.25")
    monkeypatch.setenv("LLAMACLI_STOP", '["a b", "c"]')
    monkeypatch.setenv("LLAMACLI_FLASH_ATTN", "Off")
    monkeypatch.setenv("LLAMACLI_TOP_K", "")
    assert read() == {"history": True, "temp": 0.25, "stop": ["a b", "c"], "gpu_layers": "3", "flash_attn": "off"}
    places = {name: value.place for name, value in settings.read(table(), table).items()}
    assert places["gpu_layers"] == f"{config}, line 4"
    assert places["temp"] == "LLAMACLI_TEMP"


def test_every_variable_reaches_its_setting(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"whole": "1", "number": "0.5", "switch": "1", "text": "tiny", "texts": "7+1"}
    special = {
        "gpu_layers": "7", "tensor_split": "3,1", "think": "high", "on_overflow": "error", "flash_attn": "on",
        "cache_type_k": "q8_0", "cache_type_v": "bf16", "samplers": "top_k;temp", "override_tensor": "exps=CPU",
        "dry_base": "2.5",
    }  # fmt: skip
    for setting in table().values():
        monkeypatch.setenv(setting.variable, special.get(setting.name, texts[setting.kind]))
    assert read().keys() == table().keys()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# one\n\nmodell = 'x'", "line 3: no such setting: modell; did you mean model?"),
        ("n_ctx = 4", "line 1: no such setting: n_ctx; did you mean ctx_size?"),
        ("top-k = 4", "line 1: no such setting: top-k; did you mean top_k?"),
        ("[chat]\ntemp = 1", "line 1: no such setting: chat"),
        ("temp = 'hot'", "line 1: temp must be a number, not the text 'hot'"),
        ("temp = true", "temp must be a number, not true"),
        ("top_k = 1.5", "top_k must be a whole number, not the number 1.5"),
        ("pull = 1", "pull must be true or false, not the number 1"),
        ("stop = [1]", "stop must be a text, or a list of texts, not a list"),
        ("model = ['a']", "model must be a text, not a list"),
        ("gpu_layers = 'many'", "gpu_layers = many: it must be auto, all or a number of layers"),
        ("gpu_layers = true", "gpu_layers must be a text, or a whole number, not true"),
        ("\ntop_p = 7", "line 2: top_p = 7.0: it must be between 0 and 1"),
        ("threads = 0", "threads = 0 is not between 1 and 512"),
        ("cache_type_k = 'q9'", "cache_type_k = q9: it must be one of f32, f16"),
        ("mirostat = 3", "mirostat = 3: it must be 0 (off), 1 or 2"),
        ("seed = 99999999999999999999", "seed is too large a number"),
        ("samplers = 'magic'", "samplers = magic: no sampler magic"),
        ("logit_bias = 'x'", "logit_bias = x: ID+BIAS"),
        ("temp = 1\ntemp = 2", "line 2: the same name a second time"),
        ("temp = 'x\n'", "line 1: a text in quotes ends on its line"),
        ("temp = hot", "line 1: invalid value"),
        ("temp = 2024-01-01", "temp must be a number, not a date or time"),
    ],
)
def test_mistakes_in_the_file(config: Path, text: str, said: str) -> None:
    config.write_text(text)
    with pytest.raises(UsageError) as caught:
        read()
    assert caught.value.message.startswith(str(config))
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("PULL", "perhaps", "LLAMACLI_PULL=perhaps: not 1 and not 0"),
        ("TEMP", "hot", "LLAMACLI_TEMP=hot: a number is wanted"),
        ("TEMP", "inf", "LLAMACLI_TEMP=inf: not a number to sample with"),
        ("TOP_K", "1.5", "LLAMACLI_TOP_K=1.5: a whole number is wanted"),
        ("SEED", "9" * 5000, "a whole number is wanted"),
        ("THREADS", "-1", "LLAMACLI_THREADS=-1 is not between 1 and 512"),
        ("STOP", "[1, 2", 'a list is written ["one", "two"]'),
        ("STOP", "[1]", "LLAMACLI_STOP must be a text, or a list of texts"),
        ("THINK", "hard", "LLAMACLI_THINK=hard: it must be one of on, low, medium, high, off"),
    ],
)
def test_mistakes_in_a_variable(config: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, said: str) -> None:
    monkeypatch.setenv(f"LLAMACLI_{name}", text)
    with pytest.raises(UsageError) as caught:
        read()
    assert said in caught.value.message


def test_an_unknown_variable_is_found(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMACLI_MINE", "1")
    monkeypatch.setenv("LLAMACLI_NO_GUARD", "")
    assert settings.unknown_variables(table()) == ["LLAMACLI_MINE"]
    assert read() == {}
    monkeypatch.setenv("LLAMACLI_TEPM", "1")
    with pytest.raises(UsageError, match="LLAMACLI_TEPM: no such setting; did you mean LLAMACLI_TEMP"):
        read()
    monkeypatch.setenv("LLAMACLI_TEPM", "")
    assert read() == {}


def test_presets_may_hold_every_setting(config: Path) -> None:
    assert table().keys() <= preset_table().keys()
    assert "raw" in preset_table()
