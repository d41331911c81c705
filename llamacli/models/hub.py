"""The Hugging Face Hub: what a repository holds, and how its files are asked for. The only user of huggingface_hub."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llamacli.errors import AccessDenied, ModelNotFound, NetworkError, UsageError, printable

if TYPE_CHECKING:
    import httpx2

#: Hosts to which a token may go without encryption.
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. `digest` is its sha256, or for small files outside LFS its git blob id (sha1)."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class Repository:
    """A repository at one commit, and its GGUF files by name."""

    id: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True)
class Source:
    """Where a file's bytes come from: `client` is the library's own HTTP client, with its proxies and hooks."""

    url: str
    headers: dict[str, str]
    client: httpx2.Client


def repository(id: str, revision: str | None = None, token: str | None = None) -> Repository:
    """The GGUF files of a repository at a revision. Raises ModelNotFound, AccessDenied, NetworkError, UsageError."""
    from huggingface_hub import HfApi

    revision = revision or "main"
    _refuse_open_token(token)
    with _translated(id, revision):
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


def source(repository: Repository, name: str, token: str | None = None) -> Source:
    """How to ask for a file of a repository, at its commit."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, not in __all__

    headers = build_hf_headers(token=token, library_name="llamacli")
    headers["Accept-Encoding"] = "identity"  # ranges of the file itself
    return Source(hf_hub_url(repository.id, name, revision=repository.commit), headers, get_session())


def fetch_with_library(repository: Repository, name: str, token: str | None = None) -> Path:
    """Let huggingface_hub fetch a file into the cache: what plain HTTP refuses (above 50 GB) goes through Xet.

    Raises what `repository` raises. The file is not hashed.
    """
    from huggingface_hub import hf_hub_download

    with _translated(repository.id, repository.revision):
        return Path(hf_hub_download(repository.id, name, revision=repository.commit, token=token))


def cache_folder() -> Path:
    """The standard cache of the Hub, which other tools read too (HF_HUB_CACHE, HF_HOME)."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())


def _refuse_open_token(token: str | None) -> None:
    """A token must not cross the network readable. Raises UsageError."""
    from huggingface_hub import constants, get_token

    parts = urlsplit(constants.ENDPOINT)
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK and (token or get_token()):
        raise UsageError(
            "HF_ENDPOINT is plain http, and the token would cross the network readable",
            hint="use https, or unset HF_TOKEN",
        )


@contextlib.contextmanager
def _translated(id: str, revision: str) -> Iterator[None]:
    """The library's exceptions as ours."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise AccessDenied(
            f"{id} is gated: its makers want you to accept their terms",
            hint=f"accept them at https://huggingface.co/{id}, then set HF_TOKEN or use --token",
        ) from error
    except errors.RepositoryNotFoundError as error:
        if _status(error) == 401 and not _has_token():
            hint = "check the spelling; for a private one set HF_TOKEN"
        else:
            hint = "check the spelling"
        raise ModelNotFound(f"there is no repository {id} on the Hub", hint=hint) from error
    except errors.RevisionNotFoundError as error:
        raise ModelNotFound(f"{id} has no revision {printable(revision)}") from error
    except errors.HFValidationError as error:
        raise UsageError(f"{printable(id)} is no name of a repository: {printable(str(error), 200)}") from error
    except errors.OfflineModeIsEnabled as error:
        raise NetworkError(f"{id} is not here, and the network is forbidden", hint="unset HF_HUB_OFFLINE") from error
    except errors.HfHubHTTPError as error:
        raise refused(_status(error), f"the Hub, asked for {id},") from error
    except httpx2.TimeoutException as error:
        raise NetworkError(f"the Hub does not answer, asked for {id}") from error
    except (httpx2.HTTPError, OSError) as error:
        raise NetworkError(f"the Hub cannot be reached: {printable(str(error), 200)}") from error


def refused(status: int, who: str) -> Exception:
    """The error for an HTTP status that is no success."""
    if status in (401, 403):
        return AccessDenied(f"{who} refused access ({status})", hint="set HF_TOKEN, or use --token")
    if status == 404:
        return ModelNotFound(f"{who} has no such file (404)")
    return NetworkError(f"{who} answered {status}", hint="try again later: what came is kept")


def _status(error: Any) -> int:
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def _has_token() -> bool:
    from huggingface_hub import get_token

    return bool(get_token())
