"""The Hugging Face Hub: what a repository holds, and how its files are asked for. The only user of huggingface_hub."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llamacli.errors import OF_THE_DISK, AccessDenied, LlamacliError, ModelNotFound, NetworkError, UsageError, printable

if TYPE_CHECKING:
    import httpx2

#: Hosts that are this machine.
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


#: Statuses after which the same request may succeed: time-out, range, too early, too many.
_PASSING = (408, 416, 425, 429)


#: What to do where the network is forbidden.
ALLOW = "leave out --offline, or unset HF_HUB_OFFLINE"


class PlainRefused(NetworkError):
    """The file does not come by plain HTTP, as one that is only in Xet; asking again does not help."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. `digest` is its sha256, or for small files outside LFS its git blob id (sha1).

    A file elsewhere on the web has its `url`, an ETag or date as `version`, and no digest (models/web.py).
    """

    name: str
    size: int
    digest: str
    url: str | None = None
    version: str = ""


@dataclass(frozen=True)
class Repository:
    """A repository at one commit, and its GGUF files by name."""

    id: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True)
class Listing:
    """A repository as a search lists it. `updated` in seconds since 1970. None: the Hub does not say."""

    id: str
    downloads: int | None
    likes: int | None
    updated: float | None
    gated: bool | None


@dataclass(frozen=True)
class Source:
    """Where a file's bytes come from: `client` is the library's own HTTP client, with its proxies and hooks.

    `version`: the ETag or date that every answer must carry, if it carries one; "" where a digest tells. `repository`:
    its name on the Hub, "" elsewhere.
    """

    url: str
    headers: dict[str, str]
    client: httpx2.Client
    version: str = ""
    repository: str = ""


def repository(id: str, revision: str | None = None, token: str | None = None) -> Repository:
    """The GGUF files of a repository at a revision. Raises ModelNotFound, AccessDenied, NetworkError, UsageError."""
    from huggingface_hub import HfApi

    revision = revision or "main"
    _refuse_open_token(token)
    with _translated(id, revision, token):
        info = HfApi(token=token).model_info(id, revision=revision, files_metadata=True, timeout=30)
        files = []
        for sibling in info.siblings or ():
            if sibling.rfilename.lower().endswith(".gguf") and sibling.size is not None:
                digest = (sibling.lfs.sha256 if sibling.lfs else sibling.blob_id) or ""
                if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", digest):
                    raise NetworkError(f"the Hub gave no checksum for {printable(sibling.rfilename)}")
                files.append(RemoteFile(sibling.rfilename, sibling.size, digest))
        if not re.fullmatch(r"[0-9a-f]{40}", info.sha or ""):
            raise NetworkError(f"the Hub gave no commit for {id}")
        return Repository(id, revision, info.sha or "", tuple(files))


def search(words: str, *, sort: str = "downloads", limit: int = 20, token: str | None = None) -> tuple[Listing, ...]:
    """The repositories with GGUF files that match the words, all of them for none; at most `limit`, 1000 at most.

    `sort`: "downloads", "likes" or "lastModified", the most or the latest first. Raises NetworkError, AccessDenied,
    UsageError.
    """
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]  # as above

    ready(token)
    # As HfApi.list_models asks, which has no time-out, and repeats for 23 seconds what is refused.
    query: dict[str, Any] = {"filter": "gguf", "sort": sort, "limit": limit}
    query["expand"] = ["downloads", "likes", "lastModified", "gated"]
    if words:
        query["search"] = words
    headers = build_hf_headers(token=token, library_name="llamacli")
    with _translated("models", "main", token):
        response = get_session().get(f"{constants.ENDPOINT}/api/models", params=query, headers=headers, timeout=30)
        if response.status_code == 404:
            raise NetworkError(f"{printable(constants.ENDPOINT, 100)} offers no search")
        hf_raise_for_status(response)
        return tuple(_listing(item) for item in response.json()[:limit])


def _listing(item: dict[str, Any]) -> Listing:
    downloads, likes = (item[key] if type(item.get(key)) is int else None for key in ("downloads", "likes"))
    updated = datetime.fromisoformat(item["lastModified"]).timestamp() if item.get("lastModified") else None
    gated = None if item.get("gated") is None else bool(item["gated"])  # false, "auto" or "manual"
    return Listing(str(item["id"]), downloads, likes, updated, gated)


def ready(token: str | None = None) -> None:
    """Whether the Hub may be asked. Raises NetworkError where HF_HUB_OFFLINE forbids it, UsageError for the token."""
    if not re.fullmatch(r"[!-~]*", token or ""):
        raise UsageError("the token holds a character that no token has", hint="copy it again")
    if offline():
        raise NetworkError("the network is forbidden, so the Hub cannot be asked", hint=ALLOW)
    _refuse_open_token(token)


def unreachable(error: LlamacliError) -> bool:
    """Whether the Hub gave no answer at all, not even an error of its own."""
    import httpx2

    cause = error.__cause__
    return isinstance(cause, (httpx2.RequestError, OSError)) and not _status(cause)


def client() -> httpx2.Client:
    """The library's HTTP client, which sends no token of its own."""
    from huggingface_hub import get_session

    return get_session()


def source(repository: Repository, file: RemoteFile, token: str | None = None) -> Source:
    """How to ask for a file of a repository, at its commit; or for one elsewhere, without the token."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, not in __all__

    plain = {"Accept-Encoding": "identity"}  # ranges of the file itself
    if file.url is not None:
        return Source(file.url, plain, client(), file.version)
    headers = {**build_hf_headers(token=token, library_name="llamacli"), **plain}
    url = hf_hub_url(repository.id, file.name, revision=repository.commit)
    return Source(url, headers, client(), repository=repository.id)


def fetch_with_library(repository: Repository, name: str, folder: Path, token: str | None = None) -> Path:
    """Let huggingface_hub fetch a file into a folder: what plain HTTP refuses (above 50 GB) goes through Xet.

    Raises what `repository` raises. The file is not hashed.
    """
    from huggingface_hub import hf_hub_download

    with _translated(repository.id, repository.revision, token):
        return Path(hf_hub_download(repository.id, name, revision=repository.commit, token=token, local_dir=folder))


def cache_folder() -> Path:
    """The standard cache of the Hub, which other tools read too (HF_HUB_CACHE, HF_HOME)."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())


def unsafe(scheme: str, host: str | None) -> bool:
    """Whether others can read or change what crosses the network: plain http, but not to this machine."""
    return scheme != "https" and host not in _LOOPBACK


def led_astray(response: httpx2.Response) -> bool:
    """Whether a redirect led over plain http."""
    return any(unsafe(hop.url.scheme, hop.url.host) for hop in (*response.history, response))


def _refuse_open_token(token: str | None) -> None:
    """A token must not cross the network readable. Raises UsageError."""
    from huggingface_hub import constants, get_token

    parts = urlsplit(constants.ENDPOINT)
    if unsafe(parts.scheme, parts.hostname) and (token or get_token()):
        raise UsageError(
            "HF_ENDPOINT is plain http, and the token would cross the network readable",
            hint="use https, or unset HF_TOKEN",
        )


@contextlib.contextmanager
def _translated(id: str, revision: str, token: str | None) -> Iterator[None]:
    """The library's exceptions as ours."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise gated(id, bool(token) or _has_token()) from error
    except errors.RepositoryNotFoundError as error:
        if _status(error) == 401 and not (token or _has_token()):
            hint = "check the spelling; for a private one set HF_TOKEN"
        else:
            hint = "check the spelling"
        raise ModelNotFound(f"there is no repository {id} on the Hub", hint=hint) from error
    except errors.RevisionNotFoundError as error:
        raise ModelNotFound(f"{id} has no revision {printable(revision)}") from error
    except errors.HFValidationError as error:
        raise UsageError(f"{printable(id)} is no name of a repository: {printable(str(error), 200)}") from error
    except errors.OfflineModeIsEnabled as error:
        raise NetworkError(f"the network is forbidden, so the Hub cannot be asked for {id}", hint=ALLOW) from error
    except errors.HfHubHTTPError as error:
        raise refused(_status(error), f"the Hub, asked for {id},") from error
    except (UnicodeEncodeError, httpx2.LocalProtocolError):  # whose text, or traceback, would show the token
        raise UsageError("the token holds a character that no token has", hint="copy it again") from None
    except httpx2.TimeoutException as error:
        raise NetworkError(f"the Hub does not answer, asked for {id}") from error
    except (httpx2.HTTPError, OSError, RuntimeError) as error:  # RuntimeError: what hf_xet raises
        if isinstance(error, OSError) and error.errno in OF_THE_DISK:
            raise
        raise NetworkError(f"the Hub cannot be reached: {printable(str(error), 200)}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # a proxy's page, say, in place of JSON
        raise NetworkError(f"the Hub's answer cannot be read, asked for {id}") from error


def gated(id: str, token: bool) -> AccessDenied:
    """The error for a repository whose files the Hub refuses; `token`: although one was sent."""
    then = "the token must belong to the account that did" if token else "then set HF_TOKEN or use --token"
    return AccessDenied(
        f"{id} is gated: its makers want you to accept their terms",
        hint=f"accept them at https://huggingface.co/{id}; {then}",
    )


def refused(status: int, who: str) -> Exception:
    """The error for an HTTP status that is no success."""
    if status in (401, 403):
        return AccessDenied(f"{who} refused access ({status})", hint="set HF_TOKEN, or use --token")
    if status == 404:
        return ModelNotFound(f"{who} has no such file (404)")
    if 400 <= status < 500 and status not in _PASSING:
        return PlainRefused(f"{who} answered {status}")
    return NetworkError(f"{who} answered {status}", hint="try again later: what came is kept")


def _status(error: Any) -> int:
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def _has_token() -> bool:
    from huggingface_hub import get_token

    return bool(get_token())
