"""What lies in the stores of other programs: real folders, made as those programs make them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llamacli.builtin import TINY
from llamacli.models import folders
from llamacli.models.gguf import read_header
from llamacli.models.quant import quant_of_file
from llamacli.models.store import LocalModel, find, local_models

REPO = "unsloth/Tiny-GGUF"
OLD, NEW = "0" * 40, "1" * 40


def hub_file(
    home: Path, name: str, *, repo: str = REPO, commit: str = NEW, data: bytes = b"GGUF", main: str = NEW
) -> Path:
    """A file as huggingface_hub leaves it: a relative link to its blob."""
    folder = home / ".cache/huggingface/hub" / f"models--{repo.replace('/', '--')}"
    blob = folder / "blobs" / f"{abs(hash((name, commit))):064x}"
    link = folder / "snapshots" / commit / name
    for path in (blob, link, folder / "refs/main"):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    link.symlink_to(os.path.relpath(blob, link.parent))
    (folder / "refs/main").write_text(main)
    return link


def ollama_model(
    home: Path, name: str = "registry.ollama.ai/library/llama3.2/latest", *, data: bytes = b"GGUF"
) -> Path:
    digest = f"{abs(hash(name)):064x}"
    blob, manifest = home / "ollama/blobs" / f"sha256-{digest}", home / "ollama/manifests" / name
    for path in (blob, manifest):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    layers = [
        {"mediaType": "application/vnd.ollama.image.license", "digest": f"sha256:{'a' * 64}", "size": 1},
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": len(data)},
    ]
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    return blob


def others() -> list[LocalModel]:
    first, *rest = local_models()
    assert (first.name, first.path, first.source) == ("tiny", TINY, "builtin")
    return rest


def test_a_bare_machine_has_the_built_in_model(home: Path) -> None:
    assert others() == []
    assert local_models()[0].size == TINY.stat().st_size


def test_every_store(home: Path) -> None:
    hub = hub_file(home, "tiny-Q8_0.gguf", data=b"12345")
    lm_studio = home / ".lmstudio/models/publisher/repo/a b.gguf"
    older = home / ".cache/lm-studio/models/publisher/repo/c.gguf"
    cached = home / ".cache/llama.cpp/user_repo_model.gguf"
    for path in (lm_studio, older, cached):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"GGUF")
    blob = ollama_model(home)
    assert [(m.source, m.name, m.path) for m in others()] == [
        ("huggingface", f"{REPO}/tiny-Q8_0.gguf", hub),
        ("llama.cpp", str(cached), cached),
        ("lmstudio", str(older), older),
        ("lmstudio", str(lm_studio), lm_studio),
        ("ollama", "ollama:llama3.2:latest", blob),
    ]
    assert others()[0].size == 5
    assert others()[0].modified == pytest.approx(hub.stat().st_mtime)
    assert {model.remark for model in others()} == {None}


@pytest.mark.parametrize(
    ("variable", "folder"),
    [
        ("HF_HUB_CACHE", "x"),
        ("HUGGINGFACE_HUB_CACHE", "x"),
        ("HF_HOME", "x/hub"),
        ("XDG_CACHE_HOME", "x/huggingface/hub"),
        ("LLAMA_CACHE", "x"),  # of newer versions of llama.cpp
    ],
)
def test_variables_move_the_hub_cache(home: Path, monkeypatch: pytest.MonkeyPatch, variable: str, folder: str) -> None:
    hub_file(home, "a.gguf")
    (home / folder).parent.mkdir(parents=True, exist_ok=True)
    (home / ".cache/huggingface/hub").rename(home / folder)
    assert others() == []
    monkeypatch.setenv(variable, "~/x")
    assert [model.name for model in others()] == [f"{REPO}/a.gguf"]
    assert find(f"{REPO}/a.gguf") == others()[0].path


def test_the_hub_cache_is_where_huggingface_hub_looks(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    script = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    for variable in ("", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        with monkeypatch.context() as m:
            if variable:
                m.setenv(variable, "~/$USER_FOLDER/y" if variable != "XDG_CACHE_HOME" else str(home / "y"))
                m.setenv("USER_FOLDER", "z")
            theirs = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
            expected = os.path.expanduser(os.path.expandvars(theirs.stdout.strip()))
            assert str(folders.hub_cache()) == expected, variable


def test_one_row_for_each_file_of_the_hub(home: Path) -> None:
    """The commit of refs/main wins; what only an older snapshot has is there too."""
    hub_file(home, "a-Q4_K_M.gguf", commit=OLD, data=b"old")
    new = hub_file(home, "a-Q4_K_M.gguf", commit=NEW, data=b"newer")
    gone = hub_file(home, "b-Q8_0.gguf", commit=OLD)
    os.utime(new.parent, (1, 1))  # not the newest by date
    assert {model.name: model.path for model in others()} == {
        f"{REPO}/a-Q4_K_M.gguf": new,
        f"{REPO}/b-Q8_0.gguf": gone,
    }
    (new.parents[2] / "refs/main").unlink()
    assert others()[0].path.parent.name == OLD


def test_a_sound_older_file_stands_in_for_a_broken_link(home: Path) -> None:
    old = hub_file(home, "a.gguf", commit=OLD)
    new = hub_file(home, "a.gguf", commit=NEW)
    new.resolve().unlink()
    assert [(model.path, model.remark) for model in others()] == [(old, None)]


def test_parts_are_one_row(home: Path) -> None:
    for number in (2, 3, 1):
        hub_file(home, f"Q4_K_M/big-{number:05}-of-00003.gguf", data=b"1234")
    (model,) = others()
    assert (model.name, model.size, len(model.paths)) == (f"{REPO}/Q4_K_M/big-00001-of-00003.gguf", 12, 3)
    assert find(f"{REPO}:q4_k_m") == model.path == model.paths[0]
    model.paths[2].unlink()
    (model,) = others()
    assert (model.remark, model.size, len(model.paths)) == ("part 3 of 3 is missing", 8, 3)
    assert find(f"{REPO}:Q4_K_M") is None
    assert find(model.name) is None


def test_broken_and_outward_links_are_remarks(home: Path) -> None:
    broken = hub_file(home, "broken.gguf")
    broken.resolve().unlink()
    loop = broken.with_name("loop.gguf")
    loop.symlink_to("loop.gguf")
    outside = home / "elsewhere.gguf"
    outside.write_bytes(b"GGUF")
    broken.with_name("out.gguf").symlink_to(outside)
    remarks = {model.path.name: model.remark or "" for model in others()}
    assert remarks["broken.gguf"] == "a broken link: the file is missing"
    assert remarks["loop.gguf"].startswith("a broken link: ")
    assert remarks["out.gguf"] == f"a link out of the cache: {outside}"
    assert find(f"{REPO}/broken.gguf") is None
    assert find(f"{REPO}/out.gguf") == broken.with_name("out.gguf")  # what the user linked may be used


@pytest.mark.parametrize(
    ("name", "file"),
    [
        (f"{REPO}/sub/a-Q8_0.gguf", "sub/a-Q8_0.gguf"),
        (f"{REPO.upper()}/SUB/A-q8_0.gguf", "sub/a-Q8_0.gguf"),
        (REPO, "a-Q4_K_M.gguf"),
        (f"{REPO}:", "a-Q4_K_M.gguf"),
        (f"{REPO.lower()}:q8_0", "sub/a-Q8_0.gguf"),
        (f"{REPO}:Q4_0", "a-Q4_0.gguf"),
        (f"{REPO}:F16", None),  # that is the mmproj only
        (f"{REPO}:Q4", None),
        (f"{REPO}:K_M", None),
        (f"{REPO}/mmproj-F16.gguf", "mmproj-F16.gguf"),
        (f"{REPO}/../a-Q4_0.gguf", None),
        ("unsloth/Other", None),
        ("unsloth", None),
        ("", None),
        ("/", None),
        ("tiny", None),
    ],
)
def test_find_in_the_hub_cache(home: Path, name: str, file: str | None) -> None:
    for each in ("a-IQ4_0.gguf", "a-Q4_0.gguf", "a-Q4_K_M.gguf", "sub/a-Q8_0.gguf", "mmproj-F16.gguf"):
        hub_file(home, each)
    snapshot = home / f".cache/huggingface/hub/models--{REPO.replace('/', '--')}/snapshots" / NEW
    assert find(name) == (snapshot / file if file else None)


def test_without_the_usual_quant_only_a_single_file_is_meant(home: Path) -> None:
    only = hub_file(home, "a-Q8_0.gguf")
    hub_file(home, "mmproj-a-f16.gguf")
    assert find(REPO) == only
    hub_file(home, "a-Q5_K_M.gguf")
    assert find(REPO) is None


def test_refs_main_cannot_lead_elsewhere(home: Path) -> None:
    inside = hub_file(home, "a.gguf", main="../../../..")
    assert [model.path for model in others()] == [inside]


@pytest.mark.parametrize(
    ("manifest", "names"),
    [
        ("registry.ollama.ai/library/llama3.2/latest", ["llama3.2", "llama3.2:latest", "library/Llama3.2"]),
        (
            "registry.ollama.ai/library/llama3.2/1b-Q4_0",
            ["llama3.2:1b-q4_0", "registry.ollama.ai/library/llama3.2:1b-Q4_0"],
        ),
        ("registry.ollama.ai/me/mine/latest", ["me/mine", "me/mine:latest"]),
        ("hf.co/bart/X-GGUF/Q4_K_M", ["hf.co/bart/X-GGUF:Q4_K_M"]),
        ("localhost:5000/a/b/latest", ["localhost:5000/a/b"]),
    ],
)
def test_find_in_ollamas_folder(home: Path, manifest: str, names: list[str]) -> None:
    blob = ollama_model(home, manifest)
    (model,) = others()
    assert find(model.name) == blob
    assert [find(f"ollama:{name}") for name in names] == [blob] * len(names)
    assert find("ollama:") is find("ollama:other") is find("ollama:llama3.2:7b") is None


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ("", "cannot be read: it is no manifest of Ollama's"),
        ("[1, 2]", "cannot be read: it is no manifest of Ollama's"),
        ("[" * 100_000, "cannot be read: it is no manifest of Ollama's"),
        (
            '{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../../x"}]}',
            "cannot be",
        ),
        ('{"layers": []}', "no GGUF file belongs to it"),
    ],
)
def test_a_damaged_manifest_is_a_remark(home: Path, text: str, remark: str) -> None:
    ollama_model(home)
    (home / "ollama/manifests/registry.ollama.ai/library/llama3.2/bad").write_text(text)
    bad, good = others()
    assert (bad.name, good.name) == ("ollama:llama3.2:bad", "ollama:llama3.2:latest")
    assert str(bad.remark).startswith(remark)
    assert good.remark is None
    assert find(bad.name) is not bad.path or bad.remark  # never a manifest as a model


def test_what_ollama_lost_is_a_remark(home: Path) -> None:
    blob = ollama_model(home, data=b"12345678")
    blob.write_bytes(b"123")
    assert others()[0].remark == "cut short: 3 of 8 bytes"
    blob.unlink()
    assert others()[0].remark == "the file is missing"
    assert find("ollama:llama3.2") is None


def test_mmproj_is_marked(home: Path) -> None:
    hub_file(home, "mmproj-model-f16.gguf")
    hub_file(home, "model-f16.gguf")
    assert [model.projector for model in others()] == [True, False]


def test_what_finder_leaves_is_no_model(home: Path) -> None:
    for path in (hub_file(home, "a.gguf"), home / "ollama/manifests/registry.ollama.ai/library/llama3.2/x"):
        path.parent.mkdir(parents=True, exist_ok=True)
        for name in ("._a.gguf", ".DS_Store"):
            path.with_name(name).write_bytes(b"\0")
    assert [model.name for model in others()] == [f"{REPO}/a.gguf"]


def test_a_store_that_is_a_file_is_empty(home: Path) -> None:
    (home / ".cache").mkdir()
    (home / ".cache/llama.cpp").write_text("")
    (home / "ollama").write_text("")
    (home / ".lmstudio").symlink_to(".lmstudio")
    assert others() == []


def test_one_folder_under_two_names_counts_once(home: Path) -> None:
    path = home / ".lmstudio/models/p/r/a.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    (home / ".cache").mkdir()
    (home / ".cache/lm-studio").symlink_to(home / ".lmstudio")
    assert len(others()) == 1


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("Model-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("model.q8_0.gguf", "Q8_0"),
        ("model-f16-IQ2_XXS.gguf", "IQ2_XXS"),
        ("model-fp16.gguf", "F16"),
        ("gpt-oss-20b-mxfp4-00001-of-00003.gguf", "MXFP4"),
        ("Q4_K_M-00001-of-00002.gguf", "Q4_K_M"),
        ("sha256-0f16ab.gguf", "Q5_K_M"),  # by general.file_type
        ("qwen3.gguf", "Q5_K_M"),
    ],
)
def test_quant_of_a_file(tmp_path: Path, name: str, quant: str) -> None:
    from make_gguf import write_llama

    header = read_header(write_llama(tmp_path / name, metadata_overrides={"general.file_type": 17}))
    assert quant_of_file(header) == quant


def test_quant_of_a_file_that_says_nothing(tmp_path: Path) -> None:
    from make_gguf import write_llama

    assert quant_of_file(read_header(write_llama(tmp_path / "a.gguf"))) == "F32"
    strange = {"general.file_type": 999}
    assert quant_of_file(read_header(write_llama(tmp_path / "b.gguf", metadata_overrides=strange, tensors=False))) == ""
