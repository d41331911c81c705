"""GGUF files anywhere on the web: where their copies lie here, and how they come.

https://host/path/model.gguf lies in web/host/path/model.gguf below llamacli's data folder, with a note beside it: its
address, sha256 and version. The web promises no checksum: what came is taken for what was meant when it has the
announced length, stayed the same version all the while, and is a whole GGUF file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from llamacli import paths
from llamacli.errors import BadModelFile, ModelNotFound, NetworkError, StorageError, UsageError, printable
from llamacli.models import hub, store
from llamacli.models.gguf import read_header
from llamacli.models.hub import RemoteFile, Repository, Source
from llamacli.models.part import Target, storage_error
from llamacli.models.transfer import Progress, fetch, locked

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def place(url: str) -> Path:
    """Where the copy of a GGUF file's address lies. Raises UsageError for what is no address of one."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise UsageError(f"{printable(url, 200)}: models come over https", hint="https://… or a file's path")
    if parts.username or parts.password:
        raise UsageError("an address with a password in it is refused", hint="it would end up in histories and logs")
    names = unquote(parts.path).strip("/").split("/")
    if not names[-1].lower().endswith(".gguf"):
        raise UsageError(f"{printable(url, 200)} is no address of a GGUF file", hint="it would end in .gguf")
    host = (parts.hostname or "").replace(":", "_") + (f"_{parts.port}" if parts.port else "")
    if any(part in ("", ".", "..") or re.search(r"[\\:\x00-\x1f\x7f]", part) for part in (host, *names)):
        raise UsageError(f"{printable(url, 200)} names a file that would leave the store")
    return store.web_folder().joinpath(host, *names)


def locate(url: str) -> Path | None:
    """The copy that is here, None where there is none, or not all parts. Raises UsageError."""
    path = place(url)
    return path if all(part.is_file() for part in store.parts(path)) else None


def repository(url: str) -> Repository:
    """Ask for the file, and for all parts of a split model: as if the folder at that address were a repository.

    Raises UsageError, ModelNotFound, AccessDenied, NetworkError.
    """
    path, base = place(url), url.partition("?")[0].partition("#")[0].rpartition("/")[0]
    files = [_ask(url.replace(quote(path.name), quote(part.name)), part) for part in store.parts(path)]
    return Repository(base, "", "", tuple(files))


def _ask(url: str, path: Path) -> RemoteFile:
    import httpx2

    if hub.offline():
        raise NetworkError(f"{path.name} is not here, and the network is forbidden", hint="unset HF_HUB_OFFLINE")
    shown = printable(url, 200)
    try:
        answer = hub.client().head(url, headers={"Accept-Encoding": "identity"}, follow_redirects=True, timeout=30)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise NetworkError(f"{shown} cannot be reached: {printable(str(error), 200)}") from error
    if answer.status_code == 404:
        raise ModelNotFound(f"{shown} does not exist (404)")
    if answer.status_code >= 400:
        raise hub.refused(answer.status_code, urlsplit(url).hostname or "the server")
    place(f"{answer.url.scheme}://{answer.url.host}/x.gguf")  # no redirect to plain http
    length = answer.headers.get("content-length", "")
    if not length.isdigit() or int(length) == 0:
        raise NetworkError(f"{shown}: the server does not say how large the file is")
    version = answer.headers.get("etag") or answer.headers.get("last-modified") or ""
    return RemoteFile(path.name, int(length), "", url, version)


def target(file: RemoteFile) -> Target:
    """Where a file comes to lie, and under which name its parts do meanwhile."""
    mark = hashlib.sha256(f"{file.size} {file.version}".encode()).hexdigest()[:16]
    return Target(place(file.url or ""), file.size, "", mark)


def pull_file(
    source: Source, file: RemoteFile, progress: Progress | None = None, waiting: Callable[[], None] | None = None
) -> Path:
    """Bring one file, if it is not there.

    `waiting` is called once where another process brings the same file. Raises what `transfer.fetch` raises, and
    BadModelFile for what is no whole GGUF file.
    """
    wanted = target(file)
    path = wanted.path
    _inside(path.parent)
    try:
        lock(path).parent.mkdir(parents=True, exist_ok=True)
        with locked(lock(path), waiting):
            if not present(file):
                _forget_other_versions(wanted)
                digest = fetch(source, wanted, progress, _check)
                _note(path, {"url": file.url, "sha256": digest, "version": wanted.version})
    except OSError as error:
        raise storage_error(error, wanted) from error
    return path


def present(file: RemoteFile) -> bool:
    """Whether this very version of the file is here."""
    wanted = target(file)
    path = wanted.path
    return path.is_file() and path.stat().st_size == file.size and _noted(path, "version") == wanted.version


def checksum(path: Path) -> str | None:
    """The sha256 that was noted when this file came, None for a file that is none of ours."""
    digest = _noted(path, "sha256") if path.is_relative_to(store.web_folder()) else ""
    return digest if re.fullmatch(r"[0-9a-f]{64}", digest) else None


def _noted(path: Path, what: str) -> str:
    try:
        return str(json.loads(sidecar(path).read_bytes())[what])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def lock(path: Path) -> Path:
    """The lock file of a copy."""
    return paths.cache() / "locks" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.lock"


def sidecar(path: Path) -> Path:
    """Where the address, sha256 and version of a copy are noted."""
    return path.with_name(f"{path.name}.json")


def leftovers(path: Path) -> list[Path]:
    """What unfinished pulls of this file left."""
    try:
        beside = [*path.parent.iterdir()]
    except OSError:
        return []
    pattern = re.compile(re.escape(path.name) + r"\.[0-9a-f]{16}\.llamacli-(part|journal)")
    return [each for each in beside if pattern.fullmatch(each.name)]


def _note(path: Path, values: dict[str, str | None]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.json")
    temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, sidecar(path))


def _check(path: Path) -> None:
    """Before the file becomes visible. Raises BadModelFile."""
    try:
        read_header(path)
    except BadModelFile as error:
        reason = error.message.replace(str(path), "what came")
        raise BadModelFile(reason, hint="nothing was kept; is this the file's own address?") from error


def _forget_other_versions(target: Target) -> None:
    for path in leftovers(target.path):
        if path not in (target.part, target.journal):
            with contextlib.suppress(OSError):
                path.unlink()


def _inside(parent: Path) -> None:
    """Make the folders. Raises StorageError where a link that somebody planted leads out of the store."""
    root = store.web_folder()
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{parent}: {error.strerror or error}") from error
    if not parent.resolve().is_relative_to(root.resolve()):
        raise StorageError(f"{parent} is a link that leads out of the store", hint="remove it")
