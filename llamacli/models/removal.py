"""Removing models: which files go, what that frees, and what must stay.

In the Hub cache a model is links in snapshots to a blob; the blob goes with the last link to it. Of a link that
somebody planted only the link goes, and nothing is removed behind a folder that leads out of the cache. What is removed
is locked as a pull locks it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llamacli.errors import ModelNotFound, StorageError, UsageError, printable
from llamacli.models import folders, reference, store
from llamacli.models.reference import Reference

#: What an unfinished download leaves beside its blob: a pull's, or huggingface_hub's.
_LEFTOVER = re.compile(r"([0-9a-f]{40}|[0-9a-f]{64})\.(?:llamacli-part|llamacli-journal|(?:.+\.)?incomplete)")
_SPARSE = (".llamacli-part", ".incomplete")


@dataclass(frozen=True)
class Removal:
    """What goes of one model: its `names` (links, manifests, or the files themselves) and its `data` (blobs).

    `kept` are blobs that something else still needs. `root` is the store's folder, None outside of all stores; `folder`
    the repository's in the Hub cache, None elsewhere; `locks` are the files by which a pull of the same data is kept
    out. `unfinished`: there is only what a pull left.
    """

    model: str
    source: str
    names: tuple[Path, ...]
    data: tuple[Path, ...] = ()
    kept: tuple[Path, ...] = ()
    root: Path | None = None
    folder: Path | None = None
    locks: tuple[Path, ...] = ()
    unfinished: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """All that goes, in that order: if the process dies midway, a broken link is left, which can be removed too."""
        return (*self.data, *self.names)


def plan(text: str, others: Sequence[Removal] = ()) -> Removal:
    """What would go of a model, after `others` have gone; nothing is changed.

    Raises UsageError for what cannot be removed, ModelNotFound, and StorageError for a link that leads out of a store.
    """
    meant, path = reference.present(text)
    if path is None:
        return _unfinished(meant)
    source, place, root = folders.source(path)
    if source == "builtin":
        raise UsageError(f"{reference.BUILTIN} is built in and cannot be removed")
    gone = {name for other in others for name in other.names}
    if source == "huggingface" and root is not None:
        planned = _hub_model(text, place, root, gone)
    elif source == "ollama" and root is not None:
        planned = _ollama_model(meant, place, root, gone)
    else:
        planned = _local_files(text, source, place, root)
    if not planned.files:
        raise UsageError(f"nothing of {printable(text)} can be removed: something else needs it")
    return planned


def freed(path: Path) -> int:
    """Bytes that removing a file gives back: none for a link, or for a file that has a second name."""
    try:
        state = path.lstat()
    except OSError:
        return 0
    if not stat.S_ISREG(state.st_mode) or state.st_nlink > 1:
        return 0
    if path.name.endswith(_SPARSE):  # it has its full size from the start, with holes
        return min(state.st_size, 512 * getattr(state, "st_blocks", state.st_size))
    return state.st_size


def remove(plans: Sequence[Removal]) -> list[tuple[Removal, dict[Path, int]]]:
    """Remove what was planned: for each model what went and the bytes that each file freed.

    Raises StorageError, before anything is gone, where a pull holds one of the locks or a folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        for lock in dict.fromkeys(lock for each in plans for lock in each.locks):
            if not _locked(lock, stack):
                raise StorageError(
                    "another process is just bringing this model, or one that shares a file with it",
                    hint="wait for it, or end it, then try again",
                )
        for place, root in {(path.parent, each.root) for each in plans for path in each.files}:
            if root is not None:
                _inside(place, root)
            if place.exists() and not os.access(place, os.W_OK):
                raise StorageError(f"{printable(str(place), 1000)}: no permission to remove files there")
        done = [_remove(each) for each in plans]
        for folder in dict.fromkeys(each.folder for each in plans if each.folder is not None):
            _tidy(folder, {lock for each in plans for lock in each.locks}, stack)
    return done


def _remove(planned: Removal) -> tuple[Removal, dict[Path, int]]:
    if planned.folder is not None:  # something may have come to share a blob since it was planned
        links = _links(planned.folder)
        shared = [blob for blob in planned.data if links.get(blob.name, set()) - {*planned.names}]
        data = tuple(blob for blob in planned.data if blob not in shared)
        planned = replace(planned, data=data, kept=(*planned.kept, *shared))
    gone: dict[Path, int] = {}
    for path in planned.files:
        size = freed(path)
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StorageError(f"cannot remove {printable(str(path), 1000)}: {error.strerror}") from error
        gone[path] = size
    levels = {"ollama": 3, "lmstudio": 2}
    for name in planned.names if planned.source in levels else ():
        _remove_empty(name.parent, levels[planned.source])
    if planned.source == "web" and planned.root is not None:
        for path in planned.files:
            _remove_empty(path.parent, len(path.relative_to(planned.root).parts) - 1)
    return planned, gone


def _remove_empty(folder: Path, levels: int) -> None:
    """The folder, and those above it, as long as they are empty; a link to a folder is none."""
    for _ in range(levels):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _inside(folder: Path, root: Path) -> None:
    """Raises StorageError for a folder that leads out of the store."""
    if not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(root)):
        raise StorageError(
            f"a link leads out of the store: {printable(str(folder), 1000)}",
            hint="look at it: llamacli removes nothing behind it",
        )


# ---- the Hub cache -------------------------------------------------------------------------------------------------


def _hub_model(text: str, path: Path, root: Path, gone: set[Path]) -> Removal:
    if folders.hub_name(path) is None:
        raise UsageError(
            f"{printable(text)} is a part of the Hub cache, not a model in it", hint="llamacli ls shows the names"
        )
    folder = root / path.relative_to(root).parts[0]
    snapshot = Path(*path.parts[: len(folder.parts) + 2])
    files = [part.relative_to(snapshot) for part in store.parts(path)]
    names = [name for each in _listed(folder / "snapshots") for name in map(each.joinpath, files) if _is_file(name)]
    for place in {name.parent for name in names} | {folder / "blobs", root / ".locks" / folder.name}:
        _inside(place, root)
    links = _links(folder)
    mine = {blob for blob, pointers in links.items() if pointers & {*names}}
    mine |= {blob for name in names if not name.is_symlink() for blob in _copied(name, folder, links)}
    kept = {blob for blob in mine if links.get(blob, set()) - gone - {*names}}
    leftovers = _leftovers(folder)
    if len(files) > 1 and not all((snapshot / file).is_file() for file in files):
        beside = leftovers  # nobody knows which of them the missing part is
    else:
        beside = [each for each in leftovers if each.name.partition(".")[0] in mine - kept]
    present = [folder / "blobs" / blob for blob in sorted(mine) if os.path.lexists(folder / "blobs" / blob)]
    return Removal(
        text,
        "huggingface",
        names=tuple(names),
        data=(*(blob for blob in present if blob.name not in kept), *beside),
        kept=tuple(blob for blob in present if blob.name in kept),
        root=root,
        folder=folder,
        locks=_lock_files(folder, mine | {each.name.partition(".")[0] for each in beside}),
    )


def _unfinished(meant: Reference) -> Removal:
    """What an interrupted pull left of a model that is not here."""
    if meant.url is not None:
        from llamacli.models import web

        left = _web_leftovers(meant.text, web.place(meant.url), folders.web_folder())
        if left.data:
            return left
    for root in folders.hub_roots():
        for folder in _listed(root):
            repository = folder.name.removeprefix("models--").replace("--", "/")
            if repository == folder.name or repository.casefold() != (meant.repository or "").casefold():
                continue
            _inside(folder / "blobs", root)
            _inside(root / ".locks" / folder.name, root)
            if leftovers := _leftovers(folder):
                if meant.quant or meant.file:  # nobody knows of which file they are
                    raise ModelNotFound(
                        f"{printable(meant.text)} is not here, only something unfinished of {repository}",
                        hint=f"llamacli rm {repository} removes all that interrupted pulls of it left",
                    )
                locks = _lock_files(folder, {each.name.partition(".")[0] for each in leftovers})
                return Removal(
                    meant.text,
                    "huggingface",
                    names=(),
                    data=tuple(leftovers),
                    root=root,
                    folder=folder,
                    locks=locks,
                    unfinished=True,
                )
    raise ModelNotFound(f"{printable(meant.text)} is not on this machine", hint="llamacli ls shows what is")


def _links(folder: Path) -> dict[str, set[Path]]:
    """The name of each blob of a repository that snapshots link to, whether it is there or not → the links."""
    blobs, found = os.path.realpath(folder / "blobs"), dict[str, set[Path]]()
    for place, _, names in os.walk(folder / "snapshots"):
        for name in names:
            link = Path(place) / name
            with contextlib.suppress(OSError):  # no link
                target = os.path.join(place, os.readlink(link))
                if os.path.realpath(os.path.dirname(target)) == blobs:
                    found.setdefault(os.path.basename(target), set()).add(link)
    return found


def _copied(name: Path, folder: Path, links: dict[str, set[Path]]) -> Iterator[str]:
    """The blob that a snapshot's file is a copy of, where links cannot be made: no link leads to it."""
    import filecmp

    for blob in _listed(folder / "blobs"):
        if blob.name not in links and not _LEFTOVER.fullmatch(blob.name) and blob.is_file() and not blob.is_symlink():
            with contextlib.suppress(OSError):
                if filecmp.cmp(name, blob, shallow=False):
                    yield blob.name


def _leftovers(folder: Path) -> list[Path]:
    return [path for path in _listed(folder / "blobs") if _LEFTOVER.fullmatch(path.name)]


def _lock_files(folder: Path, blobs: Iterable[str]) -> tuple[Path, ...]:
    """As models/pull.py and huggingface_hub name them."""
    return tuple(folder.parent / ".locks" / folder.name / f"{blob}.lock" for blob in sorted(blobs))


def _is_file(path: Path) -> bool:
    """Whether something of this name is there, a broken link too, but no folder."""
    return path.is_symlink() or (os.path.lexists(path) and not path.is_dir())


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _locked(path: Path, stack: contextlib.ExitStack) -> bool:
    """Whether the lock could be taken; the stack releases it."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        return False
    except OSError as error:
        raise StorageError(f"{printable(str(path.parent), 1000)}: {error.strerror or error}") from error
    stack.callback(lock.release)
    return True


def _tidy(folder: Path, held: set[Path], stack: contextlib.ExitStack) -> None:
    """Remove what has become empty, unless somebody is just bringing another file of this repository."""
    locks = folder.parent / ".locks" / folder.name
    snapshots, refs, absent = folder / "snapshots", folder / "refs", folder / ".no_exist"
    if any(part.is_symlink() for part in (folder, snapshots, refs, absent, locks)):
        return  # it may lead anywhere
    try:
        if not all(_locked(lock, stack) for lock in _listed(locks) if lock.suffix == ".lock" and lock not in held):
            return
    except StorageError:  # a link in the place of a lock
        return
    for staging in folder.glob(".llamacli-*"):  # of a file above 50 GB whose pull was killed
        if not staging.is_symlink():
            shutil.rmtree(staging, ignore_errors=True)
    _remove_empty_below(snapshots)
    for place, _, names in os.walk(refs):
        for ref in (Path(place) / name for name in names):
            with contextlib.suppress(OSError, ValueError):
                if not os.path.lexists(snapshots / ref.read_text(encoding="utf-8")[:100].strip()):
                    ref.unlink()
    if not os.path.lexists(snapshots):  # what huggingface_hub notes of files that a commit does not have
        for place, _, names in os.walk(absent):
            for mark in (Path(place) / name for name in names):
                with contextlib.suppress(OSError):
                    if mark.lstat().st_size == 0:
                        mark.unlink()
    for empty in (refs, absent, folder / "blobs"):
        _remove_empty_below(empty)
    _remove_empty(folder, levels=1)
    if not os.path.lexists(folder):
        for lock in _listed(locks):
            if lock.suffix == ".lock":
                with contextlib.suppress(OSError):
                    lock.unlink()
        _remove_empty(locks, levels=1)


def _remove_empty_below(folder: Path) -> None:
    """All empty folders in a folder, and itself if it is empty then."""
    for place, _, _ in os.walk(folder, topdown=False):
        _remove_empty(Path(place), levels=1)


# ---- others --------------------------------------------------------------------------------------------------------


def _ollama_model(meant: Reference, path: Path, root: Path, gone: set[Path]) -> Removal:
    """Its manifest, and the blobs that no other manifest names."""
    text, manifests = meant.text, store.ollama_manifests(root)
    own = store.ollama_manifest(root, meant.text) if meant.ollama is not None else None
    if own is None and path in manifests:
        own = path
    if own is None:
        owner = next((name for manifest, name in manifests.items() if path.name in (_digests(manifest) or ())), None)
        if owner is not None:
            raise UsageError(f"{printable(text)} is a part of {printable(owner)}", hint=f"name {printable(owner)}")
        return _local_files(text, "ollama", path, root)
    blobs = root / "blobs"
    _inside(blobs, root)
    _inside(own.parent, root)
    others = [_digests(manifest) for manifest in manifests if manifest != own and manifest not in gone]
    present = [blobs / name for name in sorted(_digests(own) or ()) if os.path.lexists(blobs / name)]
    # where a manifest cannot be read, nobody knows what it needs
    kept = tuple(blob for blob in present if any(names is None or blob.name in names for names in others))
    return Removal(text, "ollama", (own,), tuple(blob for blob in present if blob not in kept), kept, root)


def _digests(manifest: Path) -> set[str] | None:
    """The blobs of a manifest; None where it cannot be read."""
    try:
        return store.ollama_digests(manifest)
    except (OSError, ValueError, RecursionError):
        return None


def _local_files(text: str, source: str, path: Path, root: Path | None) -> Removal:
    """A file, with all parts of a split model."""
    if source != "ollama" and path.suffix.lower() != ".gguf" and not _is_gguf(path):
        raise UsageError(f"{printable(text)} is no GGUF file", hint="rm removes models only")
    if root is not None:
        _inside(path.parent, root)
    names = tuple(part for part in store.parts(path) if _is_file(part))
    if source != "web":
        return Removal(text, source, names, root=root)
    return replace(_web_leftovers(text, path, root), names=names, unfinished=False)


def _web_leftovers(text: str, path: Path, root: Path | None) -> Removal:
    """The noted checksums of a file from the web and its parts, and what unfinished pulls of it left."""
    from llamacli.models import web

    parts = store.parts(path)
    beside = [each for part in parts for each in (web.sidecar(part), *web.leftovers(part)) if _is_file(each)]
    return Removal(text, "web", (), tuple(beside), root=root, locks=tuple(map(web.lock, parts)), unfinished=True)


def _is_gguf(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False
