"""GGUF files anywhere on the web: where their copies lie here, and how they come.

https://host/path/model.gguf lies in web/host/path/model.gguf below llamacli's data folder, with a note beside it: its
address, sha256 and version. The web promises no checksum: what came is taken for what was meant when it has the
announced length, stayed the same version all the while, and is a whole GGUF file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from llamacli import paths
from llamacli.errors import AccessDenied, BadModelFile, ModelNotFound, NetworkError, UsageError, printable
from llamacli.models import folders, hub, inside, store
from llamacli.models.gguf import read_header
from llamacli.models.hub import RemoteFile, Repository, Source
from llamacli.models.part import Target, storage_error
from llamacli.models.transfer import Progress, fetch, locked

#: The number of a part in an address.
_NUMBER = re.compile(r"-\d{5}(?=-of-\d{5}\.gguf)", re.IGNORECASE)


def place(url: str) -> Path:
    """Where the copy of a GGUF file's address lies; its query does not count. Raises UsageError for other addresses."""
    try:
        parts = urlsplit(url)
        secret, port, host = parts.username or parts.password, parts.port, parts.hostname or ""
        names = unquote(parts.path, errors="strict").strip("/").split("/")
        host.encode("idna" if not host.isascii() else "ascii")
    except ValueError as error:  # UnicodeError too
        raise UsageError(f"{printable(url, 200)} is no address") from error
    if secret:
        raise UsageError("an address with a password in it is refused", hint="it would end up in histories and logs")
    if parts.scheme not in ("http", "https") or hub.unsafe(parts.scheme, host):
        raise UsageError(f"{printable(url, 200)}: models come over https", hint="https://… or a file's path")
    if not names[-1].lower().endswith(".gguf"):
        raise UsageError(f"{printable(url, 200)} is no address of a GGUF file", hint="it would end in .gguf")
    site = host.replace(":", "_") + (f"_{port}" if port else "")
    if inside.leads_out((site, *names)):
        raise UsageError(f"{printable(url, 200)} names a file that would leave the store")
    return folders.web_folder().joinpath(site, *names)


def locate(url: str, *, complete: bool = True) -> Path | None:
    """The copy that is here; None where there is none or, with `complete`, not all parts. Raises UsageError."""
    path = place(url)
    parts = store.parts(path)
    here = all(part.is_file() for part in parts) if complete else any(map(os.path.lexists, parts))
    return path if here else None


def repository(url: str) -> Repository:
    """Ask for the file, and for all parts of a split model: as if the folder at that address were a repository.

    Raises UsageError, ModelNotFound, AccessDenied, NetworkError.
    """
    path, (start, mark, query) = place(url), url.partition("?")
    addresses = [_NUMBER.sub(f"-{number:05}", start) + mark + query for number in range(1, len(store.parts(path)) + 1)]
    files = [_ask(each) for each in (addresses if len(addresses) > 1 else [url])]
    return Repository(folder(url), "", "", tuple(files))


def folder(url: str) -> str:
    """The address of the folder in which a file lies."""
    return url.partition("?")[0].partition("#")[0].rpartition("/")[0]


def _ask(url: str) -> RemoteFile:
    import httpx2

    path = place(url)
    if hub.offline():
        raise NetworkError(f"the network is forbidden, so nobody can be asked for {path.name}", hint=hub.ALLOW)
    shown, client = printable(url, 200), hub.client()
    try:
        settings: dict[str, Any] = {"headers": {"Accept-Encoding": "identity"}, "follow_redirects": True, "timeout": 30}
        answer = client.head(url, **settings)
        length = answer.headers.get("content-length", "")
        if answer.status_code in (403, 405, 501):  # a signed address is for one method only
            settings["headers"] = {**settings["headers"], "Range": "bytes=0-0"}
            with client.stream("GET", url, **settings) as answer:
                total = answer.headers.get("content-range", "").rpartition("/")[2]
                length = total if answer.status_code == 206 else answer.headers.get("content-length", "")
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, UnicodeError) as error:
        raise NetworkError(f"{shown} cannot be reached: {printable(str(error), 200)}") from error
    if answer.status_code == 404:
        raise ModelNotFound(f"{shown} does not exist (404)")
    if answer.status_code in (401, 403):
        raise AccessDenied(f"{shown}: access is refused ({answer.status_code})", hint="download it, then name the file")
    if answer.status_code >= 400:
        raise hub.refused(answer.status_code, urlsplit(url).hostname or "the server")
    if hub.led_astray(answer):
        raise NetworkError(f"{shown} leads from https to plain http")
    if not (length.isascii() and length.isdigit()) or int(length) == 0:
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

    def check(part: Path) -> None:
        _check(part)
        sidecar(path).unlink(missing_ok=True)  # what it says is of an older file

    try:
        inside.make(folders.web_folder(), (path.parent,))
        with locked(lock(path), waiting):
            if not present(file):
                if not file.version:  # nobody knows of which version the parts are
                    wanted.forget()
                digest = fetch(source, wanted, progress, check)
                _note(path, {"url": (file.url or "").partition("?")[0], "sha256": digest, "version": wanted.version})
    except OSError as error:
        raise storage_error(error, wanted) from error
    return path


def forget_other_versions(files: Sequence[RemoteFile]) -> None:
    """Remove parts of other versions; and copies of a split model, before the first new one comes: never mix them."""
    for file in files:
        wanted = target(file)
        if not wanted.path.parent.is_dir():
            continue
        inside.make(folders.web_folder(), (wanted.path.parent,))
        with locked(lock(wanted.path)):
            if len(files) > 1 and not present(file):
                wanted.path.unlink(missing_ok=True)
                sidecar(wanted.path).unlink(missing_ok=True)
            for path in leftovers(wanted.path):
                if path not in (wanted.part, wanted.journal):
                    path.unlink(missing_ok=True)


def present(file: RemoteFile) -> bool:
    """Whether this very version of the file is here."""
    wanted = target(file)
    path = wanted.path
    return path.is_file() and path.stat().st_size == file.size and _noted(path, "version") == wanted.version


def checksum(path: Path) -> str | None:
    """The sha256 that was noted when this file came, None for a file that is none of ours."""
    source, spelled, _ = folders.source(path)
    digest = _noted(spelled, "sha256") if source == "web" else ""
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
