"""A pull: a bar with speed and remaining time, then where the model is."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Self

from llamacli import signals
from llamacli.tasks.pull import Plan, Pulled, Watch
from llamacli.ui.output import Output, note
from llamacli.ui.progress import Bar
from llamacli.ui.sanitize import for_terminal
from llamacli.units import size


class Transfer(Bar):
    """The bar over one model's files; `watch` moves it. A signal leaves a line that says what is kept."""

    def __init__(self, model: str, plan: Plan) -> None:
        name = for_terminal(model.partition("?")[0].rpartition("/")[2])
        super().__init__(f"pulling {name}", plan.variant.size, transfer=True)
        self.watch = Watch((lambda done, _: self.update(done)) if plan.missing else None, _waiting)
        self._interrupted = signals.on_end(_kept) if plan.missing and plan.resumable else contextlib.nullcontext()

    def __enter__(self) -> Self:
        self._interrupted.__enter__()
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._interrupted.__exit__(*exception)


def _kept() -> None:
    """One system call: it may run in the middle of anything."""
    os.write(2, (b"\n" if signals.cursor_hidden else b"") + b"stopped: what came is kept, and the next pull goes on\n")


def _waiting() -> None:
    note("another process brings the same file: waiting for it", style="dim")


def show(pulled: Pulled, output: Output) -> None:
    """A terminal gets a sentence, a pipe the path of the (first) file, --json the whole."""
    if pulled.remark is not None:
        note(f"note: what came is what was promised, but it is no model: {pulled.remark}", style="hint")
    if output.mode == "json":
        output.document(pulled)
        return
    first = pulled.files[0].path
    if output.mode == "plain":
        output.text(f"{first}\n".encode(errors="surrogateescape"))
        return
    total = size(sum(file.size for file in pulled.files))
    what = "pulled" if pulled.fetched else "already here"
    quant = f", {pulled.quant}" if pulled.quant else ""
    output.text(for_terminal(f"{pulled.model}: {what} ({total}{quant})\n{first}\n").encode())
