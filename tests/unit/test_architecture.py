"""The design's rules, checked: imports point one way, libraries have one home, `--help` imports little."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "llamacli"

#: part → the parts it may import; GROUND is what everything may stand on.
GROUND = {"errors", "paths", "settings", "signals", "toml_file", "units", "__init__", "__version__"}
#: What the engine may know of models: the file format, and its table of types.
FORMAT = ("llamacli.models.gguf", "llamacli.models.ggml_types")
ALLOWED = {
    "__main__": {"cli"},
    "cli": {"commands", "ui"},
    "commands": {"ui", "tasks", "models", "engine", "history"},
    "ui": {"tasks", "engine", "history"},
    "tasks": {"models", "engine", "history"},
    "models": {"builtin"},
    "engine": {"models"},
    "history": set(),
    "builtin": set(),
}
#: library → the places that may import it.
HOMES = {
    "llama_cpp": ("engine/",),
    "huggingface_hub": ("models/hub.py",),
    "rich": ("ui/",),
    "prompt_toolkit": ("ui/",),
    "llguidance": ("engine/shape.py",),
    "matplotlib": ("ui/plots.py",),
}


def imports(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where they point"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(name: str) -> str:
    """llamacli.engine.model → engine; llamacli.cli → cli."""
    pieces = name.split(".")
    return pieces[1] if len(pieces) > 1 else "__init__"


def data_only(package: Path, name: str) -> bool:
    """Whether a dotted name is a module of data types, or a class of one: what `ui` may take from below."""
    return name.startswith("llamacli.engine.types") or name.rpartition(".")[2][:1].isupper()


def violations(package: Path) -> list[str]:
    found = []
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        here = relative.parts[0].removesuffix(".py")
        if here == "builtin" and len(relative.parts) > 1:
            continue  # training scripts stand apart
        names = list(imports(path))
        for name in names:
            library = name.split(".")[0]
            homes = HOMES.get(library)
            if homes and not str(relative.as_posix()).startswith(homes):
                found.append(f"{relative} imports {library}")
            if library != "llamacli" or name == "llamacli":
                continue
            there = part(name)
            if there in GROUND or there == here:
                continue
            if here in GROUND or there not in ALLOWED[here]:
                found.append(f"{relative} imports {name}")
            elif here == "engine" and there == "models" and not name.startswith(FORMAT):
                if name != "llamacli.models":
                    found.append(f"{relative} imports {name}")
            elif (
                here == "ui"
                and not data_only(package, name)
                and not any(other.startswith(name + ".") and data_only(package, other) for other in names)
            ):
                found.append(f"{relative} imports {name}, which is no data type")
    return found


def test_imports_point_one_way() -> None:
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("engine/model.py", "from llamacli.ui.output import Output"),
        ("models/gguf.py", "import llamacli.engine.native"),
        ("engine/model.py", "from llamacli.models.reference import resolve"),
        ("tasks/complete.py", "import rich.console"),
        ("errors.py", "from llamacli.engine import types"),
        ("ui/answer.py", "from llamacli.tasks.complete import complete"),
        ("commands/complete.py", "def f():\n    import llama_cpp"),
        ("tasks/tokens.py", "from huggingface_hub import HfApi"),
    ],
)
def test_a_planted_violation_is_caught(tmp_path: Path, file: str, line: str) -> None:
    for path in PACKAGE.rglob("*.py"):
        copy = tmp_path / path.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text() + (f"\n{line}\n" if path == PACKAGE / file else ""))
    assert len(violations(tmp_path)) >= 1


#: What starting must not import. `--help` pays for rich itself (typer's help), and for nothing else.
HEAVY = ("numpy", "llama_cpp", "huggingface_hub", "prompt_toolkit", "jinja2", "pydantic", "llguidance", "httpx2")


def modules_after(*arguments: str, plant: str = "") -> set[str]:
    script = (
        f"{plant}\nimport sys\nsys.argv = ['llamacli', *{arguments!r}]\n"
        "from llamacli.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", [("--help",), ("complete", "--help"), ("--version",), ("complet",)])
def test_starting_imports_little(arguments: tuple[str, ...]) -> None:
    loaded = modules_after(*arguments)
    assert [name for name in HEAVY if name in loaded] == []
    assert not {name for name in loaded if name.startswith(("llamacli.engine", "llamacli.tasks", "llamacli.models"))}


def test_only_help_pays_for_rich() -> None:
    assert "rich" in modules_after("--help")
    assert not {name for name in modules_after("--version") if name.split(".")[0] == "rich"}


@pytest.mark.parametrize("line", ["complete -m ", "complete --", "chat --preset ", "config get ", "history show "])
def test_a_tab_imports_little(line: str) -> None:
    loaded = modules_after("completion", "--words", "bash", "--", f"llamacli {line}")
    assert [name for name in (*HEAVY, "rich") if name in loaded] == []


def test_completing_needs_neither_rich_nor_numpy(bare: Path) -> None:
    loaded = modules_after("complete", "-m", str(bare), "-n", "2", "--no-stdin", "hi")
    assert [n for n in ("rich", "numpy", "jinja2", "huggingface_hub", "prompt_toolkit") if n in loaded] == []


def test_a_planted_import_is_caught() -> None:
    assert "jinja2" in modules_after("--help", plant="import jinja2")
