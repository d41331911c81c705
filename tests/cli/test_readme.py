"""The README is true: its examples print what it says, its options and commands exist, its tree is the package."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llamacli.builtin import TINY

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def examples() -> list[list[tuple[str, str]]]:
    """(command, what it prints) of each ```console block; the commands of one block follow each other."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        parts = (part.partition("\n") for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:])
        found.append([(command, output) for command, _, output in parts])
    return found


def recipes() -> list[str]:
    """The lines of ```sh blocks in which a model that is not here writes text."""
    lines = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
    return [line for line in lines if re.search(r"llamacli (complete|batch) .*-m (\w+\.gguf|[\w.]+:[\w.]+)", line)]


def bash(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    if re.search(r"\bjq\b", command) and shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    script = f'llamacli() {{ "{sys.executable}" -m llamacli "$@"; }}\n{command}'
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("block", examples(), ids=[block[0][0][:60] for block in examples()])
def test_console_examples(block: list[tuple[str, str]], tmp_path: Path) -> None:
    """… stands for any text, a line of it alone for any lines."""
    for command, expected in block:
        done = bash(command, tmp_path)
        pattern = re.escape(expected).replace("…\\\n", "(?:.*\n)*").replace("…", ".*")
        assert re.fullmatch(pattern, done.stdout), done.stdout + done.stderr


@pytest.mark.parametrize("command", recipes())
def test_recipes_for_other_models(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very line runs, with the built-in model under the other one's name, on files such as it is for."""
    for name in ("model.gguf", "coder.gguf"):
        (tmp_path / name).symlink_to(TINY)
    (tmp_path / "contract.txt").write_text("Anna lives in Oakdale. The notice period is two weeks.\n")
    (tmp_path / "lines.txt").write_text("The red dog saw a small cat.\nWe sleep in the house.\n")
    (tmp_path / "part.py").write_text("def add(numbers):\n    total = 0\n    for number in numbers:\n")
    (tmp_path / "broken.py").write_text("print(1 / 0)\n")
    for name, value in {"NAME": "Anna", "EMAIL": "anna@example.com"}.items():
        monkeypatch.setenv(f"GIT_AUTHOR_{name}", value)
        monkeypatch.setenv(f"GIT_COMMITTER_{name}", value)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    changes = "git init -q && git add part.py && git commit -qm one && echo pass >> part.py && git add part.py"
    assert bash(f"{changes} && echo >> part.py", tmp_path).returncode == 0
    monkeypatch.setenv("LLAMACLI_TEMP", "0")
    done = bash(command.replace("qwen3.5:0.8b", "model.gguf"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr
    written = re.search(r"> (\w+\.py)$", command)
    assert (tmp_path / written[1]).read_text().strip() if written else done.stdout.strip()


def test_there_are_recipes() -> None:
    piped = [command for command in recipes() if "| llamacli" in command]
    piped += [
        command for block in examples() for command, _ in block if re.search(r"\| llamacli (complete|batch)", command)
    ]
    assert len(piped) >= 10


def test_every_option_in_the_readme_exists() -> None:
    from llamacli.cli import COMMANDS, load

    commands = [load(command) for command in COMMANDS]
    commands += [verb for command in commands for verb in getattr(command, "commands", {}).values()]
    known = {name for each in commands for param in each.params for name in (*param.opts, *param.secondary_opts)}
    known |= {"--help", "--version", "--schema", "--install-completion"}
    theirs = {
        "--prefer-binary",
        "--extra-index-url",
        "--force-reinstall",
        "--no-cache-dir",
        "--no-deps",
        "--check",
        "--compact",
        "--cached",
    }
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README))
    assert used - known - theirs == set()


def test_every_command_has_its_row() -> None:
    from llamacli.cli import COMMANDS

    assert re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE) == list(COMMANDS)


def test_exit_codes_are_those_of_the_error_tree() -> None:
    from llamacli import errors

    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type)}
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    assert listed == codes | {0}


def test_the_tree_names_every_file() -> None:
    tree = README.partition("```text\nllamacli/\n")[2].partition("```")[0]
    named = set(re.findall(r"^\s+(\w+\.py)\b", tree, re.MULTILINE))
    present = {path.name for path in (ROOT / "llamacli").rglob("*.py") if path.name != "__init__.py"}
    assert named == present


def test_the_test_command_is_what_ci_runs() -> None:
    assert README.count("pip install -e '.[dev]'") == 1
    assert "README.md" in (ROOT / ".ci/run").read_text()


def test_every_name_in_the_documents_of_quantizing_is_in_the_readme() -> None:
    from llamacli.tasks.bench import Measured
    from llamacli.tasks.imatrix import Imatrix
    from llamacli.tasks.imatrix_statistics import LayerStatistics, TensorStatistics
    from llamacli.tasks.quantize_result import Quantized, Tensor, TypeRow
    from llamacli.tasks.report import Row
    from llamacli.tasks.target import Choice, Chosen

    known = set(re.findall(r"`([a-z_0-9]+)`", README))
    for kind in (Measured, Imatrix, LayerStatistics, TensorStatistics, Quantized, Tensor, TypeRow, Row, Choice, Chosen):
        names = {field.name for field in dataclasses.fields(kind)} - {"matrix", "options"}
        assert names - known == set(), kind.__name__
