"""The wheel: what is in it, and that it runs where nothing of the repository is."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling builds the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    script = (
        f"import os; os.chdir({str(ROOT)!r})\nfrom hatchling import build; print(build.build_wheel({str(folder)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    return folder / done.stdout.split()[-1]


def test_what_is_in_it(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.partition("/")[0].endswith(".dist-info")}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "llamacli").rglob("*.py")}
    recipe = {name for name in sources if name.startswith("llamacli/builtin/") and not name.endswith("__init__.py")}
    assert recipe
    assert names == (sources - recipe) | {"llamacli/models.toml", "llamacli/builtin/tiny.gguf"}


def test_it_runs_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False, symlinks=os.name != "nt")
    scheme = sysconfig.get_preferred_scheme("prefix")
    paths = sysconfig.get_paths(scheme, {"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")})
    pip = [sys.executable, "-m", "pip", "--python", str(tmp_path / "venv"), "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--disable-pip-version-check", str(wheel)], capture_output=True, timeout=120, check=True)
    # llama-cpp-python and the rest are found where the tests run; their own .pth files (the checkout!) are not read.
    (Path(paths["purelib"]) / "installed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    llamacli = Path(paths["scripts"]) / "llamacli"
    environment = {**os.environ, "LLAMACLI_HOME": str(tmp_path / "home")}
    environment.pop("PYTHONPATH", None)
    where = "import llamacli; print(llamacli.__file__)"
    python = Path(paths["scripts"]) / "python"
    found = subprocess.run([python, "-c", where], capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert found.startswith(str(tmp_path))
    done = subprocess.run(
        [llamacli, "complete", "Once upon a time", "--temp", "0"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 30
    assert done.stderr.startswith("note: no model is named")
    version = subprocess.run([llamacli, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert version.strip().endswith(wheel.name.split("-")[1])
