"""Pull a model: find out what its name means, then bring all its files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llamacli.errors import BadModelFile, UsageError
from llamacli.models import folders, hub, pull, store, web
from llamacli.models.gguf import read_header
from llamacli.models.pull import Variant
from llamacli.models.quant import quant_of_name
from llamacli.models.reference import Reference, locate, parse
from llamacli.tasks.verify import digest_of, without_path


@dataclass(frozen=True)
class PulledFile:
    """A file in the cache."""

    name: str
    size: int
    digest: str
    path: Path


@dataclass(frozen=True)
class Pulled:
    """A model that is here now. `fetched` is the bytes that were not here before; `remark`: what is wrong with it."""

    model: str
    repository: str
    revision: str
    commit: str
    quant: str
    files: tuple[PulledFile, ...]
    fetched: int
    remark: str | None = None


@dataclass(frozen=True)
class Plan:
    """What a name means on the Hub."""

    reference: Reference
    repository: hub.Repository
    variant: Variant
    token: str | None = None

    @property
    def missing(self) -> int:
        """Bytes that are still to be fetched."""
        return sum(file.size - pull.here(self.repository, file) for file in self.variant.files)

    @property
    def resumable(self) -> bool:
        """Whether what came of an interrupted pull serves the next one."""
        return all((file.digest or file.version) and file.size <= pull.LARGEST_OVER_HTTP for file in self.variant.files)


@dataclass(frozen=True)
class Watch:
    """Told (bytes here, of how many, over all files), and that another process brings the same file."""

    progress: Callable[[int, int], None] | None = None
    waiting: Callable[[], None] | None = None


@dataclass(frozen=True)
class Asked:
    """What a name means before one of the repository's models is chosen. `quant`: the one that is wanted, if any."""

    reference: Reference
    repository: hub.Repository
    quant: str | None
    token: str | None = None

    @property
    def named(self) -> bool:
        """Whether the name itself says which quant or file."""
        return self.reference.quant is not None or self.reference.file is not None

    def find(self) -> Variant | None:
        """The model that is meant, None where the repository has no such one."""
        return pull.find(self.repository, self.quant, self.reference.file)

    def plan(self, variant: Variant | None = None) -> Plan:
        """For this model, or the one that is meant. Raises ModelNotFound with what there is."""
        chosen = variant or pull.choose(self.repository, self.quant, self.reference.file)
        chosen.refuse_parts_missing()
        return Plan(self.reference, self.repository, chosen, self.token)


def ask(name: str, *, revision: str | None = None, token: str | None = None) -> Asked:
    """Ask the Hub what a name means. Raises UsageError, ModelNotFound, AccessDenied, NetworkError."""
    reference = _parsed(name, revision)
    if reference.url is not None:
        there = web.repository(reference.url)
        return Asked(replace(reference, file=there.files[0].name), there, None)
    if reference.repository is None:
        raise UsageError(
            f"{name} is not a model of the Hub", hint="pull takes an alias, user/repo[:QUANT] or an address"
        )
    repository = hub.repository(reference.repository, revision or reference.revision, token)
    quant = reference.quant
    if reference.preferred and not any(v.quant == reference.preferred.upper() for v in pull.variants(repository)):
        quant = None  # the catalogue's wish is not there: the usual one
    elif reference.preferred:
        quant = reference.preferred
    return Asked(reference, repository, quant, token)


def plan(name: str, *, revision: str | None = None, token: str | None = None) -> Plan:
    """What a pull of this name brings. Raises what `ask` raises, and ModelNotFound with what there is."""
    return ask(name, revision=revision, token=token).plan()


def bring(plan: Plan, watch: Watch = Watch()) -> Pulled:
    """Bring what is missing. Raises what `plan` raises, StorageError and ChecksumMismatch."""
    total, before, fetched = plan.variant.size, 0, 0
    pull.prepare(plan.repository, plan.variant.files)
    files = []
    for file in plan.variant.files:
        start: list[int] = []  # what an earlier pull left, where a transfer of ours began

        def told(done: int, _: int, before: int = before, start: list[int] = start) -> None:
            start[:] = start or [done]
            if watch.progress is not None:
                watch.progress(before + done, total)

        present = pull.here(plan.repository, file)
        path = pull.pull_file(plan.repository, file, token=plan.token, progress=told, waiting=watch.waiting)
        before += file.size
        fetched += file.size - (start[0] if start else present)
        files.append(PulledFile(file.name, file.size, file.digest or digest_of(path) or "", path))
    repository = plan.repository
    return Pulled(
        plan.reference.text,
        repository.id,
        repository.revision,
        repository.commit,
        plan.variant.quant,
        tuple(files),
        fetched,
        _remark(files),
    )


def present(name: str, revision: str | None = None) -> Pulled | None:
    """The model that -m would take by this name, as a pull of it gives it; None where none is here. Nobody is asked.

    Raises UsageError, ModelNotFound.
    """
    meant = _parsed(name, revision)
    meant = replace(meant, revision=revision or meant.revision)
    path = None if meant.path or meant.ollama else locate(meant)
    if path is None:
        return None
    parts = store.parts(path)
    if meant.url is not None:
        files = [_present_file(part, part.name) for part in parts]
        return Pulled(meant.text, web.folder(meant.url), "", "", "", tuple(files), 0, _remark(files))
    root = next(root for root in folders.hub_roots() if path.is_relative_to(root))
    repository, snapshots, commit, *_ = path.relative_to(root).parts
    snapshot = root / repository / snapshots / commit
    files = [_present_file(part, part.relative_to(snapshot).as_posix()) for part in parts]
    is_main = store.commit_of(root / repository, "main") == commit
    quant = "" if store.is_companion(path.name) else quant_of_name(files[0].name)
    return Pulled(
        meant.text,
        meant.repository or "",
        meant.revision or ("main" if is_main else commit),
        commit,
        quant,
        tuple(files),
        0,
        _remark(files),
    )


def _present_file(path: Path, name: str) -> PulledFile:
    return PulledFile(name, path.stat().st_size, digest_of(path) or "", path)


def _parsed(name: str, revision: str | None) -> Reference:
    reference = parse(name)
    if reference.url is not None and revision is not None:
        raise UsageError("--revision: an address has no revisions", hint="leave it out")
    return reference


def _remark(files: Sequence[PulledFile]) -> str | None:
    """The Hub promises the file, not that it is a model."""
    for file in files:
        try:
            read_header(file.path)
        except BadModelFile as error:
            return f"{file.name}: {without_path(error, file.path)}"
    return None
