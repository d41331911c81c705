"""What a name of a model means."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamacli.builtin import TINY
from llamacli.errors import LlamacliError, ModelNotFound, UsageError
from llamacli.models.reference import Reference, parse, resolve

R = Reference


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("tiny", R("tiny", path=TINY)),
        ("user/repo", R("user/repo", repository="user/repo")),
        ("user/Repo-GGUF:Q8_0", R("user/Repo-GGUF:Q8_0", repository="user/Repo-GGUF", quant="Q8_0")),
        ("user/repo/a.gguf", R("user/repo/a.gguf", repository="user/repo", file="a.gguf")),
        ("user/repo/Q4/a.GGUF", R("user/repo/Q4/a.GGUF", repository="user/repo", file="Q4/a.GGUF")),
        ("hf.co/user/repo", R("hf.co/user/repo", repository="user/repo")),
        ("hf.co/user/repo:Q4_0", R("hf.co/user/repo:Q4_0", repository="user/repo", quant="Q4_0")),
        ("https://huggingface.co/user/repo/", R("https://huggingface.co/user/repo/", repository="user/repo")),
        (
            "https://huggingface.co/user/repo/resolve/v2/sub/a.gguf?download=true",
            R(
                "https://huggingface.co/user/repo/resolve/v2/sub/a.gguf?download=true",
                repository="user/repo",
                revision="v2",
                file="sub/a.gguf",
            ),
        ),
        ("ollama:llama3.2", R("ollama:llama3.2", ollama="llama3.2")),
        ("ollama:llama3.2:1b", R("ollama:llama3.2:1b", ollama="llama3.2:1b")),
        (
            "qwen3.5:0.8b",
            R("qwen3.5:0.8b", repository="ggml-org/Qwen3.5-0.8B-GGUF", preferred="Q8_0"),
        ),
    ],
)
def test_forms(text: str, wanted: Reference) -> None:
    assert parse(text) == wanted


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("a\0b", UsageError, "NUL"),
        ("./none.gguf", ModelNotFound, "no such file"),
        ("none.gguf", ModelNotFound, "no such file"),
        ("/none/at/all", ModelNotFound, "no such file"),
        ("..\\x.gguf", ModelNotFound, "no such file"),
        ("C:\\x.gguf", ModelNotFound, "no such file"),
        ("a/b/c", ModelNotFound, "no such file"),
        ("../x/y.gguf", ModelNotFound, "no such file"),
        ("user/re..po", ModelNotFound, "no such file"),
        ("https://example.org/x.zip", UsageError, "no address of a GGUF file"),
        ("https://huggingface.co/user", UsageError, "user/repo"),
        ("qwen3.5:0.8", ModelNotFound, "there is no model"),
        ("nonsense", ModelNotFound, "there is no model"),
    ],
)
def test_what_means_nothing(text: str, kind: type[LlamacliError], said: str) -> None:
    with pytest.raises(kind, match=said):
        parse(text)


def test_a_typo_gets_a_suggestion() -> None:
    with pytest.raises(ModelNotFound) as caught:
        parse("qwen3.5:0.8")
    assert "qwen3.5:0.8b" in (caught.value.hint or "")


def test_a_folder_chooses_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is meant by what is written like one: a cloned repository may hold any others."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user").mkdir()
    for name in ("user/repo", "qwen3.5:0.8b", "mine", "mine.gguf", "tiny"):
        (tmp_path / name).write_bytes(b"")
    assert parse("user/repo").repository == "user/repo"
    assert parse("qwen3.5:0.8b").path is None
    assert parse("mine.gguf").path == Path("mine.gguf")
    assert parse("./user/repo").path == Path("./user/repo")
    assert parse("./tiny").path == Path("./tiny")
    with pytest.raises(ModelNotFound) as caught:
        parse("mine")
    assert "./mine or mine.gguf" in (caught.value.hint or "")
    for folder in ("user", "./user"):
        with pytest.raises(UsageError, match="is a folder"):
            parse(folder)


def test_what_is_not_here_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFound) as caught:
        resolve("user/repo:Q8_0")
    assert caught.value.hint == "llamacli pull user/repo:Q8_0"


def test_what_was_pulled_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--ggml-org--Qwen3.5-0.8B-GGUF"
    snapshot = folder / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    file = snapshot / "Qwen3.5-0.8B-Q4_K_M.gguf"
    file.write_bytes(TINY.read_bytes())
    for name in ("qwen3.5:0.8b", "ggml-org/Qwen3.5-0.8B-GGUF", f"ggml-org/Qwen3.5-0.8B-GGUF/{file.name}"):
        assert resolve(name) == file
    with pytest.raises(ModelNotFound):
        resolve("ggml-org/Qwen3.5-0.8B-GGUF:Q8_0")
