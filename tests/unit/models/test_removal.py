"""What `rm` takes from each store, and what it must leave: real folders, made as those programs make them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from llamacli.builtin import TINY
from llamacli.errors import ModelNotFound, StorageError, UsageError
from llamacli.models import store
from llamacli.tasks import rm

REPO = "me/toy-GGUF"
OLD, NEW = "0" * 40, "1" * 40
A, B, C = "a" * 64, "b" * 64, "c" * 64


@pytest.fixture
def home(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With settings of its own."""
    monkeypatch.setenv("LLAMACLI_HOME", str(tmp_path / "llamacli"))
    return home


@pytest.fixture
def root(home: Path) -> Path:
    return home / ".cache/huggingface/hub"


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder with a file that no removal may touch."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "a.gguf").write_bytes(b"precious")
    yield folder
    assert (folder / "a.gguf").read_bytes() == b"precious"


def add(root: Path, name: str, digest: str, *, commit: str = NEW, size: int = 1000, ref: str = "main") -> Path:
    """A file as a pull leaves it, with the lock's file; returns the link."""
    folder = root / f"models--{REPO.replace('/', '--')}"
    blob, link = folder / "blobs" / digest, folder / "snapshots" / commit / name
    lock = root / ".locks" / folder.name / f"{digest}.lock"
    for path in (blob, link, lock, folder / "refs" / ref):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(b"x" * size)
    lock.touch()
    link.symlink_to(os.path.relpath(blob, link.parent))
    (folder / "refs" / ref).write_text(commit)
    return link


def left(root: Path) -> set[str]:
    """All files and links below a folder, locks apart."""
    found = (Path(place) / name for place, folders, names in os.walk(root) for name in [*names, *folders])
    files = {path.relative_to(root).as_posix() for path in found if path.is_symlink() or path.is_file()}
    return {file for file in files if not file.startswith(".locks/")}


def freed(*models: str, force: bool = False) -> list[int]:
    """Remove, and compare with what was announced."""
    plans = rm.plan(models, force=force)
    announced = rm.preview(plans)
    done = rm.remove(plans)
    assert [result.files for result in done] == [result.files for result in announced]
    assert not any(os.path.lexists(file.path) for result in done for file in result.files)
    return [result.freed for result in done]


@pytest.mark.parametrize(
    "name",
    [REPO, f"{REPO}:q4_k_m", f"{REPO.upper()}/TOY-Q4_K_M.gguf", "https://huggingface.co/me/toy-GGUF", "toy:1b", "path"],
)
def test_every_name_for_a_model_of_the_hub(home: Path, root: Path, tmp_path: Path, name: str) -> None:
    link = add(root, "toy-Q4_K_M.gguf", A)
    (tmp_path / "llamacli/config").mkdir(parents=True)
    (tmp_path / "llamacli/config/models.toml").write_text(f'["toy:1b"]\nrepository = "{REPO}"\n')
    (link.parents[2] / ".no_exist" / NEW).mkdir(parents=True)
    (link.parents[2] / ".no_exist" / NEW / "config.json").touch()
    assert freed(str(link) if name == "path" else name) == [1000]
    assert [path.name for path in root.iterdir()] == [".locks"]
    assert list((root / ".locks").iterdir()) == []


def test_all_revisions_go_and_other_files_stay(root: Path) -> None:
    old, new = add(root, "toy-Q4_K_M.gguf", A, commit=OLD, ref="v1"), add(root, "toy-Q4_K_M.gguf", B, size=500)
    other = add(root, "toy-Q8_0.gguf", C)
    readme = other.parent / "README.md"
    readme.write_text("read me")
    assert freed(f"{REPO}/toy-Q4_K_M.gguf") == [1500]
    assert not old.parent.exists()
    folder = f"models--{REPO.replace('/', '--')}"
    assert left(root) == {
        f"{folder}/{rest}"
        for rest in (f"blobs/{C}", f"snapshots/{NEW}/toy-Q8_0.gguf", f"snapshots/{NEW}/README.md", "refs/main")
    }
    assert new.parent.is_dir()


def test_a_shared_blob_goes_with_its_last_name(root: Path) -> None:
    add(root, "a-Q4_K_M.gguf", A)
    second = add(root, "b-Q8_0.gguf", A)
    (plan,) = rm.preview(rm.plan([f"{REPO}/a-Q4_K_M.gguf"]))
    assert (plan.freed, [path.name for path in plan.kept]) == (0, [A])
    assert freed(f"{REPO}/a-Q4_K_M.gguf", f"{REPO}:q8_0", f"{REPO}/b-Q8_0.gguf") == [0, 1000]
    assert left(root) == set()
    assert not second.parent.exists()


def test_a_blob_that_came_to_be_shared_after_the_question(root: Path) -> None:
    add(root, "a-Q4_K_M.gguf", A)
    plans = rm.plan([f"{REPO}/a-Q4_K_M.gguf"])
    second = add(root, "b-Q8_0.gguf", A)
    (result,) = rm.remove(plans)
    assert (result.freed, result.kept) == (0, (second.resolve(),))
    assert second.exists()


def test_all_parts_go(root: Path) -> None:
    for number, digest in enumerate((A, B, C), 1):
        add(root, f"Q4_K_M/big-Q4_K_M-{number:05}-of-00003.gguf", digest)
    assert freed(REPO) == [3000]
    assert left(root) == set()


def test_what_is_damaged_can_be_removed(root: Path) -> None:
    for number, digest in enumerate((A, B), 1):
        add(root, f"big-Q4_K_M-{number:05}-of-00003.gguf", digest)
    broken = add(root, "toy-Q8_0.gguf", C)
    broken.resolve().unlink()
    part = broken.parents[2] / "blobs" / f"{'d' * 64}.llamacli-part"
    part.write_bytes(b"y" * 700)
    names = [model.name for model in store.local_models()[1:]]
    assert names == [f"{REPO}/big-Q4_K_M-00001-of-00003.gguf", f"{REPO}/toy-Q8_0.gguf"]
    assert freed(names[1]) == [0]
    assert part.exists()
    assert freed(REPO) == [2700]  # with the part that the third file may be
    assert left(root) == set()


def test_what_a_download_left_beside_the_blob_goes_too(root: Path) -> None:
    blobs = add(root, "toy-Q4_K_M.gguf", A).resolve().parent
    for name in (f"{A}.llamacli-part", f"{A}.llamacli-journal", f"{A}.12345678.incomplete", f"{B}.llamacli-part"):
        (blobs / name).write_bytes(b"z" * 100)
    assert freed(REPO) == [1300]
    assert [path.name for path in blobs.iterdir()] == [f"{B}.llamacli-part"]
    (result,) = rm.preview(rm.plan([REPO]))
    assert (result.unfinished, result.freed) == (True, 100)
    assert freed(REPO) == [100]
    assert left(root) == set()
    with pytest.raises(ModelNotFound):
        rm.plan([REPO])


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a file with holes is not counted so")
def test_a_part_file_frees_what_it_holds(root: Path) -> None:
    blobs = root / "models--me--toy-GGUF/blobs"
    blobs.mkdir(parents=True)
    with (blobs / f"{A}.llamacli-part").open("wb") as file:
        file.write(b"x" * 4096)
        file.truncate(1 << 30)
    assert freed(REPO)[0] < 1 << 20


def test_copies_where_links_cannot_be_made(root: Path) -> None:
    link = add(root, "toy-Q4_K_M.gguf", A)
    add(root, "toy-Q8_0.gguf", B, size=900)
    blob = link.resolve()
    link.unlink()
    shutil.copyfile(blob, link)
    assert freed(f"{REPO}:Q4_K_M") == [2000]
    assert freed(f"{REPO}:Q8_0") == [900]


def test_a_file_with_a_second_name_frees_nothing(root: Path, tmp_path: Path) -> None:
    blob = add(root, "toy-Q4_K_M.gguf", A).resolve()
    os.link(blob, tmp_path / "second.gguf")
    assert freed(REPO) == [0]


# ---- locks ---------------------------------------------------------------------------------------------------------


def test_a_running_pull_of_the_same_file_is_not_disturbed(root: Path) -> None:
    link = add(root, "toy-Q4_K_M.gguf", A)
    other = add(root, "toy-Q8_0.gguf", B)
    before = left(root)
    plans = rm.plan([f"{REPO}:Q8_0", REPO])
    with FileLock(root / ".locks" / link.parents[2].name / f"{A}.lock"), pytest.raises(StorageError, match="bringing"):
        rm.remove(plans)
    assert left(root) == before
    assert other.exists()


def test_nothing_is_tidied_away_under_a_pull_of_another_file(root: Path) -> None:
    """It has made its folders already, which are empty until its end."""
    link = add(root, "toy-Q4_K_M.gguf", A)
    with FileLock(root / ".locks" / link.parents[2].name / f"{B}.lock"):
        assert freed(REPO) == [1000]
        assert link.parent.is_dir()
    assert left(root) == {"models--me--toy-GGUF/refs/main"}


def test_a_look_makes_no_files(root: Path) -> None:
    link = add(root, "toy-Q4_K_M.gguf", A)
    shutil.rmtree(root / ".locks")
    rm.preview(rm.plan([REPO]))
    assert link.exists()
    assert not (root / ".locks").exists()


# ---- planted links -------------------------------------------------------------------------------------------------


def test_of_a_planted_link_only_the_link_goes(root: Path, outside: Path) -> None:
    link = add(root, "toy-Q4_K_M.gguf", A)
    link.unlink()
    link.symlink_to(outside / "a.gguf")
    assert freed(REPO) == [0]
    assert not link.is_symlink()
    link = add(root, "toy-Q8_0.gguf", B)
    blob = link.resolve()
    blob.unlink()
    blob.symlink_to(outside / "a.gguf")
    assert freed(REPO) == [0]
    assert not blob.is_symlink()


@pytest.mark.parametrize("which", ["models--me--toy-GGUF", "snapshots", "blobs", "commit"])
def test_nothing_is_removed_behind_a_planted_link(root: Path, outside: Path, which: str) -> None:
    link = add(root, "a.gguf", A)
    folder = {"commit": link.parent, "models--me--toy-GGUF": link.parents[2]}.get(which, link.parents[2] / which)
    folder.rename(outside / "moved")
    folder.symlink_to(outside / "moved")
    before = left(outside)
    with pytest.raises(StorageError, match="out of the store"):
        rm.plan([f"{REPO}/a.gguf"])
    assert left(outside) == before


def test_a_link_that_is_planted_while_one_thinks(root: Path, outside: Path) -> None:
    link = add(root, "a.gguf", A)
    plans = rm.plan([REPO])
    shutil.rmtree(link.parent)
    link.parent.symlink_to(outside)
    with pytest.raises(StorageError, match="out of the store"):
        rm.remove(plans)
    assert link.exists()


@pytest.mark.parametrize("which", ["refs", ".no_exist", "snapshots"])
def test_planted_folders_are_not_tidied(root: Path, outside: Path, which: str) -> None:
    blobs = root / "models--me--toy-GGUF/blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{A}.llamacli-part").write_bytes(b"x")
    (blobs.parent / which).symlink_to(outside)
    (outside / "main").write_text(NEW)
    (outside / "mark").touch()
    (outside / "empty").mkdir()
    assert freed(REPO) == [1]
    assert {path.name for path in outside.iterdir()} == {"a.gguf", "main", "mark", "empty"}


# ---- others --------------------------------------------------------------------------------------------------------


def test_the_built_in_model_cannot_be_removed(home: Path, tmp_path: Path) -> None:
    for name in ("tiny", str(TINY), os.path.relpath(TINY)):
        with pytest.raises(UsageError, match="built in"):
            rm.plan([name], force=True)
    link = tmp_path / "mine.gguf"
    link.symlink_to(TINY)
    assert freed(str(link), force=True) == [0]
    assert TINY.exists()


def test_files_of_others_need_force(home: Path, tmp_path: Path) -> None:
    paths = [home / ".lmstudio/models/me/toy/a.gguf", home / ".cache/llama.cpp/b.gguf", tmp_path / "c.gguf"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"GGUF")
        with pytest.raises(UsageError) as raised:
            rm.plan([str(path)])
        assert "--force" in str(raised.value.hint)
        assert freed(str(path), force=True) == [4]
    assert list((home / ".lmstudio/models").iterdir()) == []


def test_what_is_no_model_is_never_removed(home: Path, tmp_path: Path, root: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("my notes")
    blob = add(root, "toy-Q4_K_M.gguf", A).resolve()
    os.mkfifo(tmp_path / "fifo")
    for path in (text, blob, tmp_path / "fifo"):
        with pytest.raises(UsageError):
            rm.plan([str(path)], force=True)


def test_a_broken_link_or_a_lone_part_by_its_path(home: Path) -> None:
    folder = home / ".cache/llama.cpp"
    folder.mkdir(parents=True)
    (folder / "broken.gguf").symlink_to("nowhere")
    (folder / "big-00002-of-00002.gguf").write_bytes(b"GGUF")
    names = [model.name for model in store.local_models()[1:]]
    assert len(names) == 2
    assert sorted(freed(*names, force=True)) == [0, 4]
    assert list(folder.iterdir()) == []


def ollama(home: Path, name: str, *digests: str) -> Path:
    manifest = home / "ollama/manifests/registry.ollama.ai/library" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    kinds = ["model", "projector", "license"]
    layers = [
        {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": f"sha256:{digest}", "size": 10}
        for kind, digest in zip(kinds, digests[:-1], strict=False)
    ]
    manifest.write_text(json.dumps({"config": {"digest": f"sha256:{digests[-1]}"}, "layers": layers}))
    for digest in digests:
        blob = home / "ollama/blobs" / f"sha256-{digest}"
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(b"0123456789")
    return manifest


def test_ollama_loses_what_no_other_model_needs(home: Path) -> None:
    first, second = ollama(home, "toy/1b", A, B), ollama(home, "toy/2b", A, C)
    with pytest.raises(UsageError) as raised:
        rm.plan(["ollama:toy:1b"])
    assert "`ollama rm toy:1b`" in str(raised.value.hint)
    size = first.stat().st_size
    assert freed("ollama:toy:1b", force=True) == [10 + size]
    assert left(home / "ollama/blobs") == {f"sha256-{A}", f"sha256-{C}"}
    assert freed("ollama:TOY:2B", force=True) == [20 + size]
    assert left(home / "ollama") == set()
    assert not second.parent.exists()


def test_two_models_of_ollama_at_once(home: Path) -> None:
    size = ollama(home, "toy/1b", A, B).stat().st_size
    ollama(home, "toy/2b", A, C)
    assert freed("ollama:toy:1b", "ollama:toy:2b", force=True) == [10 + size, 20 + size]
    assert left(home / "ollama") == set()


def test_a_manifest_that_cannot_be_read_keeps_all_blobs(home: Path) -> None:
    manifest = ollama(home, "toy/1b", A, B)
    size = manifest.stat().st_size
    ollama(home, "other/1b", C, C).write_text("{")
    assert freed("ollama:toy:1b", force=True) == [size]
    assert len(left(home / "ollama/blobs")) == 3
    assert freed("ollama:other:1b", force=True) == [1]


def test_a_part_of_a_model_of_ollama_stays(home: Path) -> None:
    ollama(home, "toy/1b", A, B, C)
    for model in store.local_models()[1:]:
        if model.projector:
            with pytest.raises(UsageError, match="is a part of ollama:toy:1b"):
                rm.plan([model.name], force=True)
    orphan = home / "ollama/blobs" / f"sha256-{'e' * 64}"
    orphan.write_bytes(b"GGUF")
    assert freed(str(orphan), force=True) == [4]
