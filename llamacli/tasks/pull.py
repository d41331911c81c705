"""Pull a model: find out what its name means, then bring all its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llamacli.errors import UsageError
from llamacli.models import hub, pull
from llamacli.models.pull import Variant
from llamacli.models.reference import Reference, parse


@dataclass(frozen=True)
class PulledFile:
    """A file in the cache."""

    name: str
    size: int
    digest: str
    path: Path


@dataclass(frozen=True)
class Pulled:
    """A model that is here now. `fetched` is the bytes of files that were not here before."""

    model: str
    repository: str
    revision: str
    commit: str
    quant: str
    files: tuple[PulledFile, ...]
    fetched: int


@dataclass(frozen=True)
class Plan:
    """What a name means on the Hub."""

    reference: Reference
    repository: hub.Repository
    variant: Variant
    token: str | None = None

    @property
    def missing(self) -> int:
        """Bytes of the files that are not here."""
        files = self.variant.files
        return sum(file.size for file in files if not pull.place(self.repository, file).exists())


@dataclass(frozen=True)
class Watch:
    """Told (bytes here, of how many, over all files), and that another process brings the same file."""

    progress: Callable[[int, int], None] | None = None
    waiting: Callable[[], None] | None = None


def plan(name: str, *, revision: str | None = None, token: str | None = None) -> Plan:
    """Ask the Hub what a name means. Raises UsageError, ModelNotFound, AccessDenied, NetworkError."""
    reference = parse(name)
    if reference.repository is None:
        raise UsageError(f"{name} is not a model of the Hub", hint="pull takes an alias or user/repo[:QUANT]")
    repository = hub.repository(reference.repository, revision or reference.revision, token)
    quant = reference.quant
    if reference.preferred and not any(v.quant == reference.preferred.upper() for v in pull.variants(repository)):
        quant = None  # the catalogue's wish is not there: the usual one
    elif reference.preferred:
        quant = reference.preferred
    return Plan(reference, repository, pull.choose(repository, quant, reference.file), token)


def bring(plan: Plan, watch: Watch = Watch()) -> Pulled:
    """Bring what is missing. Raises what `plan` raises, StorageError and ChecksumMismatch."""
    total, before, fetched = plan.variant.size, 0, 0
    files = []
    for file in plan.variant.files:

        def told(done: int, _: int, before: int = before) -> None:
            if watch.progress is not None:
                watch.progress(before + done, total)

        present = pull.place(plan.repository, file).exists()
        path = pull.pull_file(plan.repository, file, token=plan.token, progress=told, waiting=watch.waiting)
        before += file.size
        fetched += 0 if present else file.size
        files.append(PulledFile(file.name, file.size, file.digest, path))
    repository = plan.repository
    return Pulled(
        plan.reference.text,
        repository.id,
        repository.revision,
        repository.commit,
        plan.variant.quant,
        tuple(files),
        fetched,
    )
