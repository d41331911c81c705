"""A pull: a bar with speed and remaining time, then where the model is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamacli.tasks.pull import Pulled, Watch
from llamacli.ui.output import Output, note
from llamacli.ui.progress import Bar
from llamacli.ui.sanitize import for_terminal

if TYPE_CHECKING:
    from types import TracebackType


class Bars:
    """The bar of one model's files."""

    def __init__(self, model: str, size: int, missing: int) -> None:
        self._bar = Bar(f"pulling {for_terminal(model)}", size, transfer=True)
        self.watch = Watch(self._update if missing else None, self._waiting)

    def __enter__(self) -> Bars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def _update(self, done: int, total: int) -> None:
        self._bar.update(done)

    def _waiting(self) -> None:
        note("another process brings the same file: waiting for it", style="dim")


def show(pulled: Pulled, output: Output) -> None:
    """A terminal gets a sentence, a pipe the path of the (first) file, --json the whole."""
    if output.mode == "json":
        output.document(pulled)
        return
    first = pulled.files[0].path
    if output.mode == "plain":
        output.text(f"{first}\n".encode(errors="surrogateescape"))
        return
    size = sum(file.size for file in pulled.files) / 1e9
    what = "pulled" if pulled.fetched else "already here"
    quant = f", {pulled.quant}" if pulled.quant else ""
    output.text(for_terminal(f"{pulled.model}: {what} ({size:.2f} GB{quant})\n{first}\n").encode())
