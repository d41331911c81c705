"""Which models of the Hub cache have a newer file: their branches and tags, here and on the Hub.

A newer commit alone makes no model outdated: it may have changed nothing but the README. So digests are compared, those
of the Hub's listing with the names of the blobs that the cache's links point to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llamacli.errors import LlamacliError, ModelNotFound, SomeItemsFailed, UsageError, printable
from llamacli.models import folders, hub, reference, store
from llamacli.models.hub import RemoteFile, Repository

State = Literal["current", "outdated", "gone", "unknown"]

#: Requests at once.
_AT_ONCE = 8
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class Row:
    """A model at a branch or tag: `here` and `newest` are commits of it, None where the Hub gave none.

    `gone`: the repository, the revision or the file is no longer there; `unknown`: it could not be asked or compared.
    `size`: bytes that a pull would bring, None where it is not outdated. `remark`: the reason for gone and unknown.
    """

    model: str
    revision: str
    here: str
    newest: str | None
    state: State
    size: int | None = None
    remark: str | None = None


@dataclass(frozen=True)
class _Copy:
    """A model as it lies in the cache: its files' names in the repository → where they are.

    `revision`: None for what was pulled by its commit, so that no branch or tag says what would be newer.
    """

    model: str
    repository: str
    revision: str | None
    commit: str
    files: dict[str, Path]


def outdated(
    models: Sequence[str] = (), *, token: str | None = None, progress: Callable[[int, int], None] | None = None
) -> tuple[Row, ...]:
    """A row for each model of the Hub cache and each branch or tag that it is known by; or for those of these names.

    `progress` is told how many repositories have been asked, of how many. Raises UsageError for what is not of the Hub,
    ModelNotFound, and NetworkError at once where the Hub cannot be reached.
    """
    copies = _copies()
    chosen = _named(models, copies) if models else copies
    wanted = [copy for copy in chosen if copy.revision is not None]
    if not wanted:
        return ()
    hub.ready(token)
    answers = _ask([(copy.repository, copy.revision or "") for copy in wanted], token, progress)
    return tuple(_row(copy, answers[copy.repository, copy.revision or ""]) for copy in wanted)


def refuse_unknown(rows: Sequence[Row]) -> None:
    """Raises SomeItemsFailed where a state is unknown."""
    unknown = [row for row in rows if row.state == "unknown"]
    if unknown:
        first = f"{printable(unknown[0].model)}: {unknown[0].remark}"
        rest = f", and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise SomeItemsFailed(f"not known for {len(unknown)} of {len(rows)}: {first}{rest}")


# ---- what is here --------------------------------------------------------------------------------------------------


def _copies() -> list[_Copy]:
    """All models of the Hub cache, by name. Of a name in several caches it is the one that -m takes."""
    found: dict[tuple[str, str | None], _Copy] = {}
    for model in store.local_models():
        if model.source == "huggingface":
            for copy in _copies_of(model):
                found.setdefault((copy.model, copy.revision), copy)
    return list(found.values())


def _copies_of(model: store.LocalModel) -> Iterator[_Copy]:
    """One for each branch or tag whose commit holds the model; main first."""
    root = next(root for root in folders.hub_roots() if model.path.is_relative_to(root))
    name, snapshots, commit, *_ = model.path.relative_to(root).parts
    folder, snapshot = root / name, root / name / snapshots / commit
    repository = name.removeprefix("models--").replace("--", "/")
    names = [path.relative_to(snapshot) for path in model.paths]
    revisions = _revisions(folder)
    whole = {
        revision: at for revision, at in revisions.items() if os.path.lexists(folder / "snapshots" / at / names[0])
    }
    if not whole and "main" in revisions:  # since then another file of a newer main has come
        whole = {"main": commit}
    for revision, at in whole.items() or [(None, commit)]:
        files = {name.as_posix(): folder / "snapshots" / at / name for name in names}
        yield _Copy(model.name, repository, revision, at, files)


def _revisions(folder: Path) -> dict[str, str]:
    """Branch or tag → its commit when it was pulled; main first."""
    found = {}
    for place, _, names in os.walk(folder / "refs"):
        for path in (Path(place) / name for name in names):
            try:
                commit = path.read_text(encoding="ascii").strip() if path.is_file() else ""
            except (OSError, ValueError):
                continue
            if _COMMIT.fullmatch(commit):
                found[path.relative_to(folder / "refs").as_posix()] = commit
    return dict(sorted(found.items(), key=lambda item: (item[0] != "main", item[0])))


def _named(models: Sequence[str], copies: Sequence[_Copy]) -> list[_Copy]:
    """The copies of these models, each once. Raises UsageError, ModelNotFound."""
    chosen: list[_Copy] = []
    for text in models:
        meant = reference.parse(text)
        path = reference.locate(meant)
        if path is None:
            raise reference.missing(meant)
        model = folders.hub_name(store.parts(path)[0])
        mine = [copy for copy in copies if copy.model == model and copy not in chosen]
        if model is None:
            raise UsageError(
                f"{printable(text)} is not of the Hub cache", hint="llamacli ls shows where models are from"
            )
        if any(copy.revision is None for copy in mine):
            raise UsageError(
                f"{printable(text)} was pulled by its commit: no branch or tag says what would be newer",
                hint=f"llamacli pull {printable(model)} brings main's",
            )
        chosen += mine
    return chosen


# ---- what the Hub says ---------------------------------------------------------------------------------------------


def _ask(
    questions: Sequence[tuple[str, str]], token: str | None, progress: Callable[[int, int], None] | None
) -> dict[tuple[str, str], Repository | LlamacliError]:
    """The listing of each repository at a revision, or why there is none, each asked for once.

    Raises NetworkError where the first thing to come is that the Hub cannot be reached.
    """
    answers: dict[tuple[str, str], Repository | LlamacliError] = {}
    different = list(dict.fromkeys(questions))
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        futures = {pool.submit(hub.repository, *question, token): question for question in different}
        for future in as_completed(futures):
            try:
                answers[futures[future]] = future.result()
            except LlamacliError as error:
                if hub.unreachable(error) and not answers:
                    raise
                answers[futures[future]] = error
            if progress is not None:
                progress(len(answers), len(different))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return answers


def _row(copy: _Copy, answer: Repository | LlamacliError) -> Row:
    base = (copy.model, copy.revision or "", copy.commit)
    if isinstance(answer, LlamacliError):
        state: State = "gone" if isinstance(answer, ModelNotFound) else "unknown"
        private = ", or it is private" if "no repository" in answer.message else ""
        return Row(*base, None, state, remark=answer.message + private)
    if answer.commit == copy.commit:
        return Row(*base, answer.commit, "current")
    there = {file.name: file for file in answer.files}
    if not all(name in there for name in copy.files):
        return Row(*base, answer.commit, "gone", remark="the newest commit has no such file")
    same = {name: _same(path, there[name]) for name, path in copy.files.items()}
    if False in same.values():
        size = sum(there[name].size for name in same if same[name] is False)
        return Row(*base, answer.commit, "outdated", size)
    if None in same.values():
        return Row(*base, answer.commit, "unknown", remark="the cache does not tell the checksum of the file here")
    return Row(*base, answer.commit, "current")


def _same(path: Path, there: RemoteFile) -> bool | None:
    """Whether a file of the cache is the Hub's; None where the cache holds a copy of that size instead of a link."""
    try:
        digest = os.path.basename(os.readlink(path))
    except OSError:
        digest = ""
    if _DIGEST.fullmatch(digest):
        return digest == there.digest
    try:
        return None if path.stat().st_size == there.size else False
    except OSError:
        return None
