"""Bring files of a repository into the standard Hub cache: which ones a name means, then lock, transfer, link."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llamacli.errors import ChecksumMismatch, ModelNotFound, StorageError, UsageError, printable
from llamacli.models import folders, hub, inside, web
from llamacli.models.hub import RemoteFile, Repository
from llamacli.models.part import PIECE, Target, storage_error
from llamacli.models.quant import USUAL, quant_of_name
from llamacli.models.store import is_companion
from llamacli.models.transfer import Progress, check_space, fetch, locked
from llamacli.units import size

#: Above this, plain HTTP is refused by the Hub's own library; bytes.
LARGEST_OVER_HTTP = 50 * 10**9

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\.gguf$)", re.IGNORECASE)


@dataclass(frozen=True)
class Variant:
    """One quantisation of a repository's model: its files, in the order of the shards."""

    quant: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all shards."""
        return sum(file.size for file in self.files)

    @property
    def n_parts(self) -> int:
        """How many files there should be, as their names say."""
        name = _SHARD.search(self.files[0].name)
        return int(name[2]) if name else 1

    def refuse_parts_missing(self) -> None:
        """Raises ModelNotFound for a split model that the repository does not hold whole."""
        if len(self.files) == self.n_parts:
            return
        have = ", ".join(str(int(shard[1])) for file in self.files if (shard := _SHARD.search(file.name)))
        raise ModelNotFound(
            f"{printable(self.files[0].name)}: the repository holds only part {have} of {self.n_parts}",
            hint="another quant, or another repository",
        )


def variants(repository: Repository) -> list[Variant]:
    """The models of a repository, smallest first; vision parts, importance matrices and draft models are none."""
    found: dict[str, list[RemoteFile]] = {}
    for file in repository.files:
        if not is_companion(file.name):
            found.setdefault(_SHARD.sub(r"-of-\2", file.name), []).append(file)
    whole = [
        Variant(quant_of_name(name), tuple(sorted(files, key=lambda file: file.name))) for name, files in found.items()
    ]
    return sorted(whole, key=lambda variant: (variant.size, variant.files[0].name))


def find(repository: Repository, quant: str | None = None, file: str | None = None) -> Variant | None:
    """What is meant: a file (with its shards), a quant, or the usual one, or else the only one; None if missing."""
    present = variants(repository)
    if file is not None:
        whole = [variant for variant in present if any(each.name == file for each in variant.files)]
        alone = [Variant("", (each,)) for each in repository.files if each.name == file]  # a vision part, say
        return next(iter([*whole, *alone]), None)
    wanted = (quant or USUAL).upper()
    matching = [variant for variant in present if variant.quant in (wanted, f"UD-{wanted}")]
    if matching:
        return min(matching, key=lambda variant: (variant.quant != wanted, len(variant.files[0].name)))
    return present[0] if quant is None and len(present) == 1 else None


def choose(repository: Repository, quant: str | None = None, file: str | None = None) -> Variant:
    """What `find` finds. Raises ModelNotFound with what there is."""
    found, present = find(repository, quant, file), variants(repository)
    if found is not None:
        return found
    if file is not None:
        raise ModelNotFound(f"{repository.id} has no file {printable(file)}", hint=offer(present))
    if not present:
        raise ModelNotFound(f"{repository.id} holds no GGUF model", hint="most have a second repository, …-GGUF")
    raise ModelNotFound(
        f"{repository.id} has no {printable((quant or USUAL).upper())}", hint=_nearest(present, quant) + offer(present)
    )


def _nearest(present: list[Variant], quant: str | None) -> str:
    """The quant that a mistyped one most likely stands for, as the beginning of a hint."""
    import difflib

    known = {variant.quant.replace("_", ""): variant.quant for variant in present if variant.quant}
    near = difflib.get_close_matches((quant or "").upper().replace("_", ""), known, 1, 0.8)
    return f"did you mean {known[near[0]]}? " if near else ""


def offer(present: list[Variant]) -> str:
    """What there is, for a hint."""
    shown = [f"{variant.quant or printable(variant.files[0].name)} ({size(variant.size)})" for variant in present]
    return f"it has {', '.join(shown[:20])}" if shown else "it holds no GGUF model"


def place(repository: Repository, file: RemoteFile, cache: Path | None = None) -> Path:
    """Where a file of a repository lies in the cache. Raises UsageError for a name that would lead out of it."""
    if file.url is not None:
        return web.place(file.url)
    parts = file.name.split("/")
    if inside.leads_out(parts):
        raise UsageError(f"{repository.id} names a file that would leave the cache: {printable(file.name)}")
    return _folder(repository, cache) / "snapshots" / repository.commit / Path(*parts)


def here(repository: Repository, file: RemoteFile) -> int:
    """Bytes of a file that are in the cache, or in the part file of an interrupted pull as its journal says."""
    try:
        pointer, target = place(repository, file), _target(repository, file, None)
    except UsageError:  # a name that is never pulled
        return 0
    if web.present(file) if file.url is not None else pointer.exists() or _present(target.path, file.size):
        return file.size
    if not target.part.is_file():
        return 0
    try:
        lines = target.journal.read_bytes().split(b"\n")[:-1]
    except OSError:
        return 0
    numbers = {int(line.split(b" ")[0]) for line in lines if re.match(rb"\d{1,9} ", line)}
    return sum(max(0, min(PIECE, file.size - number * PIECE)) for number in numbers)


def _target(repository: Repository, file: RemoteFile, cache: Path | None) -> Target:
    if file.url is not None:
        return web.target(file)
    return Target(_folder(repository, cache) / "blobs" / file.digest, file.size, file.digest)


def cache(repository: Repository) -> Path:
    """The folder in which a repository's files go."""
    return hub.cache_folder() if repository.commit else folders.web_folder()


def _folder(repository: Repository, cache: Path | None) -> Path:
    return (cache or hub.cache_folder()) / f"models--{repository.id.replace('/', '--')}"


def prepare(repository: Repository, files: Sequence[RemoteFile]) -> None:
    """Before the first of several files comes. Raises StorageError where not all of them fit on the disk."""
    folder = cache(repository)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_space(folder, sum(file.size - here(repository, file) for file in files))
        if any(file.url for file in files):
            web.forget_other_versions(files)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror or error}") from error


def pull_file(
    repository: Repository,
    file: RemoteFile,
    *,
    token: str | None = None,
    progress: Progress | None = None,
    waiting: Callable[[], None] | None = None,
) -> Path:
    """Bring one file into the cache, if it is not there, and return its path there.

    `waiting` is called once where another process brings the same file. Raises what `transfer.fetch` raises, and
    UsageError for names that lead out of the cache.
    """
    if file.url is not None:
        return web.pull_file(hub.source(repository, file), file, progress, waiting)
    cache = hub.cache_folder()
    pointer, target = place(repository, file, cache), _target(repository, file, cache)
    blob = target.path
    lock_path = cache / ".locks" / _folder(repository, cache).name / f"{file.digest}.lock"  # the library's own
    try:
        inside.make(cache, (pointer.parent, blob.parent, lock_path.parent))
        with locked(lock_path, waiting):
            if _present(blob, file.size):
                target.forget()  # somebody else brought it, or a kill came just before this
            else:
                _transfer(repository, file, target, token, progress)
            inside.make(cache, (pointer.parent,))  # again: a removal of other files may have found it empty
            _link(pointer, blob)
            _remember(repository, cache)
    except OSError as error:
        raise storage_error(error, target) from error
    return pointer


def _transfer(
    repository: Repository, file: RemoteFile, target: Target, token: str | None, progress: Progress | None
) -> None:
    if file.size <= LARGEST_OVER_HTTP:
        try:
            fetch(hub.source(repository, file, token), target, progress)
            return
        except hub.PlainRefused:  # the library knows Xet
            pass
    # In a folder of its own: in the cache it would be visible before it is hashed, and want the lock that we hold.
    staging = staging_folder(target.path)
    shutil.rmtree(staging, ignore_errors=True)
    check_space(target.path.parent, file.size)
    try:
        path = hub.fetch_with_library(repository, file.name, staging, token)
        hasher = target.hasher()
        with path.open("rb") as stream:
            while data := stream.read(1 << 20):
                hasher.update(data)
        if hasher.hexdigest() != file.digest:
            raise ChecksumMismatch(
                f"{printable(file.name)}: what came is not what was promised", hint="nothing was kept; try again"
            )
        os.replace(path, target.path)
        target.forget()
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def staging_folder(blob: Path) -> Path:
    """Where a file lies that huggingface_hub fetches, until it is hashed."""
    return blob.parent.parent / f".llamacli-{blob.name[:16]}"


def _present(blob: Path, size: int) -> bool:
    return blob.is_file() and not blob.is_symlink() and blob.stat().st_size == size


def _link(pointer: Path, blob: Path) -> None:
    """The name under which every tool finds the file: a relative link, or a copy where links cannot be made."""
    link = os.path.relpath(blob, pointer.parent)
    if pointer.is_symlink() and os.readlink(pointer) == link:
        return
    if not pointer.is_symlink() and _present(pointer, blob.stat().st_size):  # a copy
        return
    temporary = pointer.with_name(f".{pointer.name}.{os.getpid()}.llamacli")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(link)
    except OSError:
        try:
            shutil.copyfile(blob, temporary)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    os.replace(temporary, pointer)


def _remember(repository: Repository, cache: Path) -> None:
    """refs/<revision> says which commit a branch or tag was."""
    if repository.revision == repository.commit:
        return
    parts = repository.revision.split("/")
    if inside.leads_out(parts):
        raise UsageError(f"a revision cannot be called {printable(repository.revision)}")
    ref = _folder(repository, cache) / "refs" / Path(*parts)
    inside.make(cache, (ref.parent,))
    temporary = ref.with_name(f".{ref.name}.{os.getpid()}.llamacli")
    temporary.write_text(repository.commit)
    os.replace(temporary, ref)
