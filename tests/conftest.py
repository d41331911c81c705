"""What many tests need: the shared folder, small models, and llamacli as a real process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from llamacli.builtin import TINY

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(Path(__file__).parent))  # for `make_gguf`

SHARED = Path(os.environ.get("LLAMACLI_SHARED") or REPOSITORY / ".." / "shared").resolve()

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

Cli = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with models, texts and figures of llama.cpp's own tools."""
    if not SHARED.is_dir():
        pytest.skip("the shared folder is not here; LLAMACLI_SHARED names it")
    return SHARED


@pytest.fixture(scope="session")
def stories(shared: Path) -> Path:
    """A trained LLaMA of 260K parameters, of which llama.cpp's own figures are known."""
    return shared / "data/models/stories260K.gguf"


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model without its chat template: a trained model that continues text."""
    path = tmp_path_factory.mktemp("bare") / "bare.gguf"
    key, other = b"tokenizer.chat_template", b"tokenizer.lost_template"  # of one length, so all offsets stay
    data = TINY.read_bytes()
    assert data.count(key) == 1
    path.write_bytes(data.replace(key, other))
    return path


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small random models, made once: plain.gguf, chat.gguf."""
    from make_gguf import spm_tokens, write_llama

    folder = tmp_path_factory.mktemp("models")
    write_llama(folder / "plain.gguf")
    markers = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    write_llama(folder / "chat.gguf", tokens=[*spm_tokens(), *markers], chat_template=CHATML)
    return folder


@pytest.fixture(scope="session")
def plain(models: Path) -> Path:
    return models / "plain.gguf"


@pytest.fixture(scope="session")
def chat(models: Path) -> Path:
    return models / "chat.gguf"


@pytest.fixture(autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the person who runs the tests is read or written, and two cores are not fought over."""
    monkeypatch.setenv("LLAMACLI_HOME", str(tmp_path_factory.getbasetemp() / "llamacli-home"))
    for name in ("LLAMACLI_MODEL", "LLAMACLI_DEBUG", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def cli() -> Cli:
    """llamacli as a process: cli("complete", …, stdin=b"…") → CompletedProcess with bytes."""

    def run(
        *arguments: object,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "llamacli", *(a if isinstance(a, bytes) else str(a) for a in arguments)],
            input=stdin if stdin is not None else b"",
            capture_output=True,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            timeout=timeout,
            check=False,
        )

    return run
