"""No failure of native code ends by its own signal or a traceback: one line, and code 6 or 7."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NATIVE = "import ctypes; from pathlib import Path; from llamacli.engine import native\n"
LOADING = "with native.loading(Path('evil\\x1b[2J.gguf')):\n    "


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("crash", "wanted"),
    [
        ("ctypes.string_at(8)", "SIGSEGV"),
        ("ctypes.CDLL(None).abort()", "SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGBUS)", "SIGBUS"),
        ("native.ggml_base.ggml_abort(b'file.c', 12, b'ASSERT(%s) failed', b'1 == 2')", "ASSERT(1 == 2) failed"),
    ],
)
def test_crashes_become_one_line(crash: str, wanted: str) -> None:
    done = run(NATIVE + crash)
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr.startswith("error: llama.cpp failed: ")
    assert wanted in done.stderr
    assert done.stderr.count("\n") == 1


def test_while_loading_it_is_the_files_fault() -> None:
    done = run(NATIVE + LOADING + "ctypes.string_at(8)")
    assert done.returncode == 6
    assert "evil\\x1b[2J.gguf" in done.stderr
    assert "\x1b" not in done.stderr


def test_a_crash_on_another_thread() -> None:
    script = "import threading; t = threading.Thread(target=ctypes.string_at, args=(8,)); t.start(); t.join()"
    assert run(NATIVE + script).returncode == 7


def test_a_file_cut_short_while_mapped(tmp_path: Path, bare: Path) -> None:
    """The mapped pages beyond the new end raise SIGBUS in the middle of the answer."""
    path = tmp_path / "model.gguf"
    path.write_bytes(bare.read_bytes())
    script = f"""
import os
from pathlib import Path
from llamacli.engine.context import Context
from llamacli.engine.model import Model
from llamacli.engine.types import ContextOptions, ModelOptions
model = Model(ModelOptions(Path({str(path)!r})))
context = Context(model, ContextOptions(n_ctx=256, n_threads=1))
os.truncate({str(path)!r}, 4096)
context.evaluate([1, 300, 301, 302])
"""
    done = run(script)
    assert done.returncode == 7
    assert "cut short while in use" in done.stderr


def test_logs_are_captured_and_shown_only_when_asked(bare: Path) -> None:
    script = f"""
from pathlib import Path
from llamacli.engine.model import Model
from llamacli.engine.types import ModelOptions
Model(ModelOptions(Path({str(bare)!r}))).close()
"""
    assert run(script).stderr == ""
    assert "llama_model_loader" in run("import os; os.environ['LLAMACLI_DEBUG'] = '1'\n" + script).stderr
