"""What is on this disk, used in place and never copied: our own model, the Hub cache, Ollama, LM Studio, llama.cpp.

Layouts: huggingface_hub's `models--user--repo/snapshots/<commit>/…` (links to `blobs/`), Ollama's
`manifests/<host>/<namespace>/<name>/<tag>` that name blobs by their hash, LM Studio's `publisher/repo/file`, and
llama.cpp's flat folder. Files are looked for, not opened; what is wrong with one is its `remark`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamacli.builtin import TINY
from llamacli.errors import printable
from llamacli.models import folders
from llamacli.models.quant import USUAL

#: A part of a split model: (what comes before, number, how many).
SPLIT_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
_MAX_PARTS = 1000
_MAX_MANIFEST = 1 << 20  # bytes; Ollama's have about 1,000

_OLLAMA_HOST, _OLLAMA_NAMESPACE = "registry.ollama.ai", "library"
_OLLAMA_MODEL = "application/vnd.ollama.image.model"
_OLLAMA_PROJECTOR = "application/vnd.ollama.image.projector"
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")

_GGUF = "*.[gG][gG][uU][fF]"
#: Files that belong to a model and are none themselves (llama.cpp's `gguf_filename_is_model`).
_COMPANIONS = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")


@dataclass(frozen=True)
class LocalModel:
    """A model as it lies on the disk.

    `name` is what -m takes; `paths` are all parts (the missing ones too), `path` the first of them; `size` in bytes
    over all parts, None where there is none; `modified` in seconds since 1970; `remark` says what is wrong with it.
    `projector`: the part of a model that sees images or hears (mmproj).
    """

    name: str
    path: Path
    size: int | None
    source: str
    paths: tuple[Path, ...]
    modified: float | None
    remark: str | None = None
    projector: bool = False


def local_models() -> list[LocalModel]:
    """All models, sorted by source and name. Nothing on the disk makes this raise."""
    found = [_model("tiny", (TINY,), "builtin")]
    for root in folders.hub_roots():
        found += _hub_models(root)
    for root in folders.different([folders.llama_cpp_cache()]):
        found += _folder_models(root, _GGUF, "llama.cpp")
    for root in folders.lm_studio_folders():
        found += _folder_models(root, f"*/*/{_GGUF}", "lmstudio")
    for root in folders.different(folders.ollama_folders()):
        found += _ollama_models(root)
    for paths in _joined(_files(folders.web_folder(), f"*/**/{_GGUF}")):
        found.append(_model(folders.address(paths[0]), paths, "web", root=folders.web_folder()))
    return sorted(found, key=lambda model: (model.source, model.name.casefold(), model.name))


def find(name: str, *, complete: bool = True, revision: str | None = None) -> Path | None:
    """The file of `user/repo/file.gguf`, `user/repo[:QUANT]` or `ollama:name[:tag]`; None if it is not here complete.

    Without QUANT: Q4_K_M, or else the only one that is here. Case is ignored, but an exact match wins. With `complete`
    false it may be a broken link, lack parts, or be an Ollama manifest that names no file. `revision`: a branch, tag or
    commit of which it must be.
    """
    chosen = _first_usable if complete else _first
    if name.startswith("ollama:"):
        models = [model for root in folders.different(folders.ollama_folders()) for model in _ollama_models(root)]
        return chosen(model for model in _by_name(models, _full_ollama_name(name)))
    for root in folders.hub_roots():
        repositories = _repositories(root)
        base, _, quant = name.partition(":")
        for repo, folder in sorted(repositories, key=lambda row: row[0] != base):
            if repo.casefold() == base.casefold():
                found = _quantised(_repository_models(root, repo, folder, revision), repo, quant, chosen)
            elif name.casefold().startswith(repo.casefold() + "/"):
                models = _repository_models(root, repo, folder, revision)
                found = chosen(_by_name(models, repo + name[len(repo) :]))
            else:
                continue
            if found:
                return found
    return None


def is_companion(name: str) -> bool:
    """Whether a file of this name belongs to a model and is none itself, such as its vision part."""
    return any(word in name.rpartition("/")[2].lower() for word in _COMPANIONS)


def parts(path: Path) -> tuple[Path, ...]:
    """All parts of the split model that `path` is one part of, by their names, whether they exist or not."""
    name = SPLIT_NAME.fullmatch(path.name)
    if name is None or not 1 < int(name[3]) <= _MAX_PARTS:
        return (path,)
    return tuple(path.with_name(f"{name[1]}-{i + 1:05}-of-{name[3]}.gguf") for i in range(int(name[3])))


# ---- files → models ------------------------------------------------------------------------------------------------


def _files(folder: Path, pattern: str) -> list[Path]:
    """The files of this pattern, sorted; broken links too. A folder that cannot be read holds none."""
    try:
        found = [path for path in folder.glob(pattern) if not path.name.startswith(".")]
        return sorted(path for path in found if not os.path.isdir(path))
    except (OSError, RuntimeError):
        return []


def _folder_models(root: Path, pattern: str, source: str) -> Iterator[LocalModel]:
    for paths in _joined(_files(root, pattern)):
        yield _model(str(paths[0]), paths, source)


def _joined(files: Iterable[Path]) -> list[tuple[Path, ...]]:
    """The files with all parts of a split model as one."""
    return list(dict.fromkeys(parts(path) for path in files))


def _model(name: str, paths: tuple[Path, ...], source: str, *, root: Path | None = None) -> LocalModel:
    """A row from its files. With `root`, links that lead out of it are remarked on."""
    states, remarks = [], []
    for number, path in enumerate(paths, 1):
        try:
            state = os.stat(path)
        except OSError as error:
            part = f"part {number} of {len(paths)}" if len(paths) > 1 else "the file"
            link = "a broken link: " if os.path.islink(path) else ""
            missing = isinstance(error, FileNotFoundError)
            remarks.append(f"{link}{part} is missing" if missing else f"{link}{error.strerror}")
            continue
        states.append(state)
        if root is not None and not _inside(path, root):
            remarks.append(f"a link out of the cache: {printable(os.path.realpath(path), 200)}")
    return LocalModel(
        name=name,
        path=paths[0],
        size=sum(state.st_size for state in states) if states else None,
        source=source,
        paths=paths,
        modified=max((state.st_mtime for state in states), default=None),
        remark=remarks[0] if remarks else None,
        projector="mmproj" in paths[0].name.lower(),
    )


def _inside(path: Path, root: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def _first_usable(models: Iterable[LocalModel]) -> Path | None:
    return next((model.path for model in models if all(os.path.isfile(path) for path in model.paths)), None)


def _first(models: Iterable[LocalModel]) -> Path | None:
    return next((model.path for model in models), None)


def _by_name(models: Iterable[LocalModel], name: str) -> list[LocalModel]:
    """The models of this name; one that is spelled exactly so comes first."""
    same = [model for model in models if model.name.casefold() == name.casefold()]
    return sorted(same, key=lambda model: model.name != name)


# ---- the Hub cache -------------------------------------------------------------------------------------------------


def _repositories(root: Path) -> list[tuple[str, Path]]:
    """(user/repo, its folder) of all models in a Hub cache."""
    try:
        folders = sorted(root.glob("models--*"))
    except (OSError, RuntimeError):
        return []
    return [(folder.name.removeprefix("models--").replace("--", "/"), folder) for folder in folders]


def _hub_models(root: Path) -> Iterator[LocalModel]:
    for repo, folder in _repositories(root):
        yield from _repository_models(root, repo, folder)


def _repository_models(root: Path, repo: str, folder: Path, revision: str | None = None) -> list[LocalModel]:
    """One for each file name: of refs/main if it is there and sound, else of the newest snapshot; or of a revision."""
    found: dict[str, LocalModel] = {}
    commit = commit_of(folder, revision) or revision if revision else None
    for snapshot in _snapshots(folder):
        if commit and snapshot.name != commit:
            continue
        for paths in _joined(_files(snapshot, f"**/{_GGUF}")):
            model = _model(f"{repo}/{paths[0].relative_to(snapshot).as_posix()}", paths, "huggingface", root=root)
            if model.name not in found or (found[model.name].remark and not model.remark):
                found[model.name] = model
    return list(found.values())


def commit_of(folder: Path, revision: str) -> str:
    """The commit that a branch or tag was when it was last pulled, "" where nobody knows."""
    try:
        return (folder / "refs" / revision).read_text(encoding="utf-8").strip()[:100]
    except (OSError, ValueError):
        return ""


def _snapshots(folder: Path) -> list[Path]:
    """The commit of refs/main first, then the newest."""
    commit = commit_of(folder, "main")

    def order(path: Path) -> tuple[bool, float, str]:
        return path.name != commit, -_changed(path), path.name

    try:
        return sorted((folder / "snapshots").iterdir(), key=order)
    except OSError:
        return []


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _quantised(
    models: list[LocalModel], repo: str, quant: str, chosen: Callable[[Iterable[LocalModel]], Path | None]
) -> Path | None:
    """The model of this quantisation: its name, or its folder's, holds it whole ("Q4_K_M", not "K_M")."""
    whole = [model for model in models if not is_companion(model.path.name)]
    pattern = re.compile(rf"(?<![a-z0-9])(?<!q\d_)(?<!_k_){re.escape(quant or USUAL)}[.\-/]", re.IGNORECASE)
    found = chosen(m for m in whole if pattern.search(m.name[len(repo) :]))
    return chosen(whole) if found is None and not quant and len(whole) == 1 else found


# ---- Ollama --------------------------------------------------------------------------------------------------------


def _ollama_models(root: Path) -> Iterator[LocalModel]:
    for manifest, name in ollama_manifests(root).items():
        try:
            layers = _layers(manifest)
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or "it is no manifest of Ollama's"
            yield LocalModel(name, manifest, None, "ollama", (manifest,), None, f"cannot be read: {reason}")
            continue
        yield _ollama_model(name, manifest, [_blob(root, layer) for layer in layers.get(_OLLAMA_MODEL, [])])
        for layer in layers.get(_OLLAMA_PROJECTOR, []):
            path, _ = _blob(root, layer)
            model = _model(str(path), (path,), "ollama", root=root)
            yield LocalModel(**{**vars(model), "projector": True})


def _ollama_model(name: str, manifest: Path, blobs: list[tuple[Path, int]]) -> LocalModel:
    if not blobs:
        remark = "no GGUF file belongs to it"  # a model in Ollama's cloud, or in another format
        return LocalModel(name, manifest, None, "ollama", (manifest,), None, remark)
    model = _model(name, tuple(path for path, _ in blobs), "ollama", root=blobs[0][0].parent.parent)
    promised = sum(size for _, size in blobs)
    if model.size is not None and model.remark is None and model.size < promised:
        remark = f"cut short: {model.size:,} of {promised:,} bytes"
        return LocalModel(**{**vars(model), "remark": remark})
    return model


def ollama_manifests(root: Path) -> dict[Path, str]:
    """All manifests in a folder of Ollama's → their models' names."""
    found = _files(root / "manifests", "*/*/*/*")
    return {path: _ollama_name(*path.relative_to(root / "manifests").parts) for path in found}


def ollama_manifest(root: Path, name: str) -> Path | None:
    """The manifest of `ollama:name[:tag]` in a folder of Ollama's."""
    wanted = _full_ollama_name(name)
    same = [path for path, known in ollama_manifests(root).items() if known.casefold() == wanted.casefold()]
    return min(same, key=lambda path: ollama_manifests(root)[path] != wanted, default=None)


def ollama_digests(manifest: Path) -> set[str]:
    """The names of all blobs that a manifest speaks of. Raises OSError; ValueError for what is no manifest."""
    layers = _layers(manifest)
    with open(manifest, "rb") as file:
        config = json.loads(file.read(_MAX_MANIFEST)).get("config")
    entries = [layer for each in layers.values() for layer in each] + ([config] if isinstance(config, dict) else [])
    digests = [str(entry.get("digest")) for entry in entries]
    return {digest.replace(":", "-") for digest in digests if _DIGEST.fullmatch(digest)}


def _layers(manifest: Path) -> dict[str, list[dict[str, Any]]]:
    """Media type → the layers of it. Raises OSError; ValueError for what is no manifest."""
    with open(manifest, "rb") as file:
        document = json.loads(file.read(_MAX_MANIFEST))
    layers = document.get("layers") if isinstance(document, dict) else None
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise ValueError("no layers")
    found: dict[str, list[dict[str, Any]]] = {}
    for layer in layers:
        kind = str(layer.get("mediaType"))
        if kind in (_OLLAMA_MODEL, _OLLAMA_PROJECTOR) and not _DIGEST.fullmatch(str(layer.get("digest"))):
            raise ValueError("no digest")  # it becomes a path
        found.setdefault(kind, []).append(layer)
    return found


def _blob(root: Path, layer: dict[str, Any]) -> tuple[Path, int]:
    """The file of a layer and how many bytes it should have (0: not said)."""
    size = layer.get("size")
    name = str(layer["digest"]).replace(":", "-")
    return root / "blobs" / name, size if isinstance(size, int) else 0


def _ollama_name(host: str, namespace: str, name: str, tag: str) -> str:
    """As `ollama list` shows it, after "ollama:"."""
    if host != _OLLAMA_HOST:
        return f"ollama:{host}/{namespace}/{name}:{tag}"
    return f"ollama:{name}:{tag}" if namespace == _OLLAMA_NAMESPACE else f"ollama:{namespace}/{name}:{tag}"


def _full_ollama_name(typed: str) -> str:
    """What a user typed, as `_ollama_name` writes it."""
    rest = typed.removeprefix("ollama:")
    base, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:  # a host's port is no tag
        base, tag = rest, "latest"
    pieces = base.split("/")
    host = pieces.pop(0) if len(pieces) > 2 else _OLLAMA_HOST
    namespace = pieces.pop(0) if len(pieces) > 1 else _OLLAMA_NAMESPACE
    return _ollama_name(host, namespace, "/".join(pieces), tag)
