"""What a search found: the catalogue's models and the Hub's repositories, as two tables on a terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from llamacli.tasks.search import Found, Hit
from llamacli.ui import columns
from llamacli.ui.ls import day, exact
from llamacli.ui.output import Output, note

_HEADER = ("downloads", "likes", "updated", "gated", "repository of the Hub")


def show(found: Found, words: Sequence[str], output: Output) -> None:
    """A terminal gets tables, a pipe TSV with each model once, --json a list. Nothing found is a line on stderr."""
    if output.mode == "json":
        output.document([{**dataclasses.asdict(hit), "updated": exact(hit.updated)} for hit in found.hits])
    elif output.mode == "plain":
        names = [field.name for field in dataclasses.fields(Hit) if field.name != "alias"]
        rows = [[_cell(name, getattr(hit, name)) for name in names] for hit in found.hits]
        output.tsv(names, rows, errors="replace")
    else:
        _tables(found, output)
    if not found.hits and found.failure is None:
        note(f"note: nothing matches {' '.join(words)}" if words else "note: the Hub lists no model")


def _cell(name: str, value: object) -> object:
    if name == "updated":
        return exact(value if isinstance(value, float) else None)
    return ("no", "yes")[value] if isinstance(value, bool) else value


def _tables(found: Found, output: Output) -> None:
    if found.catalogue:
        rows = [(hit.name, hit.parameters, hit.memory, hit.about) for hit in found.catalogue]
        columns.show(
            ("catalogue", "parameters", "memory", "what it is for"), rows, output, right=("parameters", "memory")
        )
    if found.catalogue and found.hub:
        output.text(b"\n")
    if found.hub:
        columns.show(_HEADER, [_row(hit) for hit in found.hub], output, right=("downloads", "likes"))


def _row(hit: Hit) -> tuple[str, ...]:
    name = f"{hit.repository}  ({hit.alias})" if hit.alias else hit.repository
    return _count(hit.downloads), _count(hit.likes), day(hit.updated) or "", "yes" if hit.gated else "", name


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"
