"""What many tests need: the shared folder, small models, and llamacli as a real process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llamacli.builtin import TINY

REPOSITORY = Path(__file__).parent.parent
for folder in ("model", "."):  # for `quantize_facts`; `make_gguf` and `hub_server`
    sys.path.insert(0, str(Path(__file__).parent / folder))

SHARED = Path(os.environ.get("LLAMACLI_SHARED") or REPOSITORY / ".." / "shared").resolve()

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

if TYPE_CHECKING:
    from hub_server import HubServer

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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder; no variable names another place but for Ollama's, or its service's folder would count."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "LLAMA_CACHE", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    monkeypatch.setenv("OLLAMA_MODELS", str(folder / "ollama"))
    return folder


@pytest.fixture
def environment(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    """Where a process finds the stand-in (each file of tests has its own `hub`), in an empty home without a token."""
    home = str(tmp_path / "home")
    clean = {"HF_TOKEN": "", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "LLAMA_CACHE": ""}
    clean |= {"HOME": home, "USERPROFILE": home, "OLLAMA_MODELS": f"{home}/ollama", "HF_HOME": str(tmp_path / "hf")}
    return {**clean, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "cache")}


@pytest.fixture(autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the person who runs the tests is read or written, and two cores are not fought over."""
    monkeypatch.setenv("LLAMACLI_HOME", str(tmp_path_factory.getbasetemp() / "llamacli-home"))
    for name in ("LLAMACLI_MODEL", "LLAMACLI_DEBUG", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    # Two processes of tests run side by side, and llama.cpp's threads wait for each other by spinning.
    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")
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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Gives a file system of so many bytes, which needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(n_bytes: int) -> Path:
        while mounted:
            subprocess.run(["umount", mounted.pop()], check=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "none", folder], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip(f"a small file system needs root: {done.stderr.decode().strip()}")
        mounted.append(folder)
        return folder

    if shutil.which("mount") is None or sys.platform != "linux":
        pytest.skip("a small file system needs Linux and root")
    yield mount
    while mounted:
        subprocess.run(["umount", mounted.pop()], check=True)
