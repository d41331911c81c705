"""A pull: a bar with speed and remaining time, then where the model is."""

from __future__ import annotations

from llamacli.tasks.pull import Pulled, Watch
from llamacli.ui.output import Output, note
from llamacli.ui.progress import Bar
from llamacli.ui.sanitize import for_terminal


class Transfer(Bar):
    """The bar over one model's files; `watch` moves it."""

    def __init__(self, model: str, size: int, missing: int) -> None:
        super().__init__(f"pulling {for_terminal(model)}", size, transfer=True)
        self.watch = Watch((lambda done, _: self.update(done)) if missing else None, _waiting)


def _waiting() -> None:
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
