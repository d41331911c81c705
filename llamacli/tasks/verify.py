"""Check models' files: against the checksum that a file's name tells, or else whether the file is whole and sound.

The Hub cache names a blob by its sha256, or for small files by the hash that Git gives it; Ollama by its sha256. Of
what was pulled from an address the sha256 was noted when it came. No other store keeps a checksum.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shlex
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llamacli.errors import (
    BadModelFile,
    ChecksumMismatch,
    LlamacliError,
    ModelNotFound,
    SomeItemsFailed,
    StorageError,
    UsageError,
    printable,
)
from llamacli.models import folders, gguf_checks, reference, store, web
from llamacli.models.gguf import DOWNLOAD_AGAIN, Header, path_text, read_header

State = Literal["ok", "damaged", "unchecked", "missing"]

_BLOCK = 1 << 20  # bytes that are hashed at once
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}|sha256-[0-9a-f]{64}")
_MAX_LINKS = 40

#: Told how many more bytes have been hashed.
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Target:
    """A model that is to be checked. `remark`: why there is no model file."""

    model: str
    files: tuple[Path, ...]
    remark: str | None = None


@dataclass(frozen=True)
class Checked:
    """What is known of a file now. `unchecked`: no checksum of it is known, or it could not be read."""

    model: str
    file: Path
    state: State
    detail: str


def targets(models: Sequence[str]) -> tuple[Target, ...]:
    """The files of these models, or of all models on this machine. Raises UsageError, ModelNotFound."""
    here = store.local_models()
    if not models:
        return tuple(_target(model.name, model) for model in here)
    found = []
    for name in models:
        meant, path = reference.present(name)
        if path is None:
            raise ModelNotFound(reference.missing(meant).message, hint="llamacli ls shows what is")
        known = next((model for model in here if model.path == path), None)
        found.append(_target(name, known) if known else Target(name, store.parts(path)))
    return tuple(found)


def _target(name: str, model: store.LocalModel) -> Target:
    manifest_only = model.size is None and os.path.exists(model.path)
    return Target(name, model.paths, model.remark if manifest_only else None)


def size(targets: Sequence[Target]) -> int:
    """Bytes that are going to be hashed."""
    sizes = {}
    for path in (path for target in targets for path in target.files):
        if digest_of(path) and os.path.isfile(path):
            sizes[os.path.realpath(path)] = os.path.getsize(path)
    return sum(sizes.values())


def verify(targets: Sequence[Target], progress: Progress | None = None) -> tuple[Checked, ...]:
    """Check all files, each once however many names it has. What is wrong with one is its state; nothing is raised."""
    known: dict[tuple[str, str | None], tuple[State, str]] = {}
    rows = []
    for target in targets:
        whole = all(os.path.isfile(path) for path in target.files)
        for path in target.files:
            if target.remark is not None:
                state: State = "damaged" if target.remark.startswith("cannot be read") else "unchecked"
                rows.append(Checked(target.model, path, state, target.remark))
                continue
            key = os.path.realpath(path), digest_of(path)
            if key not in known:
                known[key] = _check(path, whole, progress or (lambda _: None))
            rows.append(Checked(target.model, path, *known[key]))
    return tuple(rows)


def refuse_damaged(rows: Sequence[Checked]) -> None:
    """Raises ChecksumMismatch where something is damaged or missing, with how to bring it anew.

    SomeItemsFailed where there is only something that could not be read.
    """
    wrong = [row for row in rows if row.state in ("damaged", "missing")]
    if not wrong:
        unread = sum(row.detail.startswith("cannot be read") for row in rows)
        if unread:
            raise SomeItemsFailed(f"{unread} of {len(rows)} files could not be read", hint="who owns them?")
        return
    models = list(dict.fromkeys(row.model for row in wrong))
    what = "damaged" if any(row.state == "damaged" for row in wrong) else "not whole"
    names = ", ".join(map(printable, models[:3])) + (f" and {len(models) - 3} more" if len(models) > 3 else "")
    raise ChecksumMismatch(f"{names} {'is' if len(models) == 1 else 'are'} {what}", hint=_remedy(wrong[0]))


def _remedy(row: Checked) -> str:
    """How the first of the damaged models is brought anew."""
    source, place, _ = folders.source(row.file)
    if name := folders.hub_name(store.parts(row.file)[0]):
        shown = printable(shlex.quote(name))
        return f"llamacli rm {shown} && llamacli pull {shown}"
    if source == "web":
        shown = printable(shlex.quote(folders.address(store.parts(place)[0])))
        return f"llamacli rm {shown} && llamacli pull {shown}"
    if source == "ollama" and row.model.startswith("ollama:"):
        name = printable(shlex.quote(row.model.removeprefix("ollama:")))
        return f"ollama rm {name} && ollama pull {name}"
    return "llamacli is damaged: install it again" if source == "builtin" else DOWNLOAD_AGAIN


# ---- one file ------------------------------------------------------------------------------------------------------


def digest_of(path: Path) -> str | None:
    """The checksum that the file's name tells, or the name of the blob that it links to, or what was noted of a file
    from the web; None for any other file.
    """
    for _ in range(_MAX_LINKS):
        if path.parent.name == "blobs" and _DIGEST.fullmatch(path.name):
            return path.name.removeprefix("sha256-")
        try:
            path = Path(os.path.normpath(path.parent / os.readlink(path)))
        except OSError:  # no link
            return web.checksum(path)
    return None


def _check(path: Path, whole: bool, progress: Progress) -> tuple[State, str]:
    """`whole`: all parts of its model are here."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            return "damaged", "it is not a regular file"
        digest = digest_of(path)
        if digest is not None:
            return _check_digest(path, digest, progress)
    except FileNotFoundError:
        return "missing", "a broken link" if path.is_symlink() else ""
    except OSError as error:
        unknown = error.errno in (errno.EACCES, errno.EPERM)
        return "unchecked" if unknown else "damaged", f"cannot be read: {error.strerror or error}"
    try:
        _check_header(read_header(path), whole)
    except StorageError as error:
        return "unchecked", f"cannot be read: {error.message}"
    except LlamacliError as error:
        return "damaged", without_path(error, path)
    return "unchecked", "no checksum is known; its header is sound, and it holds all tensors"


def _check_digest(path: Path, digest: str, progress: Progress) -> tuple[State, str]:
    """Raises OSError."""
    kind = "sha256" if len(digest) == 64 else "git's sha1"
    with path.open("rb", buffering=0) as file:
        hasher = hashlib.sha256()
        if kind != "sha256":
            n_bytes = os.fstat(file.fileno()).st_size
            hasher = hashlib.sha1(f"blob {n_bytes}\0".encode(), usedforsecurity=False)
        block = memoryview(bytearray(_BLOCK))
        while length := file.readinto(block):
            hasher.update(block[:length])
            progress(length)
    if hasher.hexdigest() == digest:
        return "ok", f"{kind} {digest}"
    reason = f"{kind} is {hasher.hexdigest()}, not {digest}"
    try:
        read_header(path)
    except BadModelFile as error:  # it may know why
        reason = f"{without_path(error, path)}; {reason}"
    except (StorageError, UsageError, ModelNotFound):
        pass
    return "damaged", reason


def _check_header(header: Header, whole: bool) -> None:
    """What `read_header` leaves: whether llama.cpp would die of it. Raises BadModelFile."""
    companion = header.architecture == "clip" or header.text("general.type") in ("mmproj", "adapter", "imatrix")
    if companion or not whole or header.metadata.get("split.no", 0) != 0:
        return  # the first part's check reads the others
    gguf_checks.check(header, weights=bool(header.tensors))


def without_path(error: LlamacliError, path: Path) -> str:
    where = path_text(path)
    return error.message.removeprefix(f"{where}: ").replace(f" {where}", "")
