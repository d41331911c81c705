"""The models on this machine, with what their headers say. A damaged file is an entry with a remark."""

from __future__ import annotations

from dataclasses import dataclass

from llamacli.errors import LlamacliError
from llamacli.models import store
from llamacli.models.gguf import path_text, read_header
from llamacli.models.quant import quant_of_file
from llamacli.models.store import LocalModel


@dataclass(frozen=True)
class Entry:
    """`name` is what -m takes. `size` in bytes over all `files`, `modified` in seconds since 1970; both None, and
    `quant` and `architecture` "", where nobody knows. `remark`: what is wrong.
    """

    name: str
    size: int | None
    quant: str
    architecture: str
    source: str
    modified: float | None
    files: tuple[str, ...]
    remark: str | None


def models(*, projectors: bool = False) -> tuple[Entry, ...]:
    """All models by source and name; `projectors`: also what sees images or hears for one (mmproj). Never raises."""
    entries = (_entry(model, projectors) for model in store.local_models())
    return tuple(entry for entry in entries if entry is not None)


def _entry(model: LocalModel, projectors: bool) -> Entry | None:
    """None for a projector that is not wanted. A header takes 1 to 30 ms: its vocabulary is skipped, not read."""
    if model.projector and not projectors:
        return None
    quant = architecture = ""
    remark = model.remark
    if model.size is not None:
        try:
            header = read_header(model.path)
            quant, architecture = quant_of_file(header), header.architecture
            if not projectors and (architecture == "clip" or header.text("general.type") == "mmproj"):
                return None
        except LlamacliError as error:
            where = path_text(model.path)
            remark = remark or error.message.removeprefix(f"{where}: ").replace(f" {where}", "")
    files = tuple(str(path) for path in model.paths)
    return Entry(model.name, model.size, quant, architecture, model.source, model.modified, files, remark)
