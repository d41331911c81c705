"""Search for models: in the catalogue, which is always here, and on the Hub, among the repositories with GGUF files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llamacli.errors import AccessDenied, LlamacliError, NetworkError
from llamacli.models import catalogue, hub

#: What can be sorted by, and how the Hub calls it: the largest first, or the last updated.
ORDERS = {"downloads": "downloads", "likes": "likes", "newest": "lastModified"}


@dataclass(frozen=True)
class Hit:
    """A model of the catalogue, or a repository with GGUF files. `name` is what -m and pull take: the alias, if any.

    `about`, `parameters` and `memory` are the catalogue's, "" elsewhere. `updated` in seconds since 1970. Downloads are
    those of the last 30 days. None: not among the repositories that the Hub named.
    """

    name: str
    alias: str | None
    repository: str
    downloads: int | None
    likes: int | None
    updated: float | None
    gated: bool | None
    about: str = ""
    parameters: str = ""
    memory: str = ""


@dataclass(frozen=True)
class Found:
    """The catalogue's models in its order, and the Hub's repositories in theirs; one may be among both.

    `failure`: why the Hub gave no answer.
    """

    catalogue: tuple[Hit, ...]
    hub: tuple[Hit, ...]
    failure: LlamacliError | None = None

    @property
    def hits(self) -> tuple[Hit, ...]:
        """Each once: the catalogue's, then the others."""
        return self.catalogue + tuple(hit for hit in self.hub if hit.alias is None)


def search(words: Sequence[str], *, sort: str = "downloads", limit: int = 20, token: str | None = None) -> Found:
    """What matches all words, whatever their case; without words the whole catalogue, and the first of the Hub.

    `sort`: a key of ORDERS; `limit`: the most repositories of the Hub, up to 1000. Raises UsageError, and StorageError
    for the catalogue's file.
    """
    wanted = " ".join(words).replace(":", " ").split()  # an alias has a colon, a repository's name has none
    entries = catalogue.read().entries.values()
    failure: LlamacliError | None = None
    listed: dict[str, hub.Listing] = {}
    try:
        answer = hub.search(" ".join(wanted), sort=ORDERS[sort], limit=limit, token=token)
        listed = {each.id.lower(): each for each in answer}
    except (NetworkError, AccessDenied) as error:
        failure = error
    known = [e for e in entries if _matches(e, wanted) or e.repository.lower() in listed]
    aliases = {entry.repository.lower(): entry.alias for entry in reversed(known)}
    return Found(
        tuple(_known(entry, listed.get(entry.repository.lower())) for entry in known),
        tuple(_listed(each, aliases.get(name)) for name, each in listed.items()),
        failure,
    )


def refuse_half(found: Found) -> None:
    """Raises what kept the Hub from answering: NetworkError, AccessDenied."""
    if found.failure is not None:
        raise found.failure


def _matches(entry: catalogue.Entry, words: Sequence[str]) -> bool:
    text = f"{entry.alias} {entry.repository} {entry.about}".lower()
    return all(word.lower() in text for word in words)


def _known(entry: catalogue.Entry, each: hub.Listing | None) -> Hit:
    hit = _listed(each or hub.Listing(entry.repository, None, None, None, None), entry.alias)
    return replace(hit, about=entry.about, parameters=entry.parameters, memory=entry.memory)


def _listed(each: hub.Listing, alias: str | None) -> Hit:
    return Hit(alias or each.id, alias, each.id, each.downloads, each.likes, each.updated, each.gated)
