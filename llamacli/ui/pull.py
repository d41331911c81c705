"""A pull: a bar with speed and remaining time, then where the model is."""

from __future__ import annotations

import contextlib
import os
from typing import Self

from llamacli import signals
from llamacli.errors import printable
from llamacli.tasks.pull import Plan, Pulled, Watch
from llamacli.ui.output import Output, note
from llamacli.ui.progress import Bar
from llamacli.ui.sanitize import for_terminal
from llamacli.units import size


def label(model: str) -> str:
    """A model's name on one line; of an address the file's alone, for the rest is long and may hold a password."""
    if "://" in model:
        model = model.partition("?")[0].partition("#")[0].rpartition("@")[2].rstrip("/").rpartition("/")[2]
    return printable(model)


class Transfer(Bar):
    """The bar over one model's files; `watch` moves it. A signal leaves a line where something came that is kept."""

    def __init__(self, model: str, plan: Plan) -> None:
        super().__init__(f"pulling {label(model)}", plan.variant.size, transfer=True)
        self.watch = Watch(self._told if plan.missing else None, _waiting)
        self._resumable, self._first, self._latest = plan.resumable, -1, -1  # bytes that are here
        self._interrupted = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._interrupted.enter_context(signals.on_end(self._say_what_is_kept))
        return super().__enter__()

    def __exit__(self, *exception: object) -> None:
        with self._interrupted:
            super().__exit__(*exception)

    def _told(self, done: int, _: int) -> None:
        self._first, self._latest = done if self._first < 0 else self._first, done
        self.update(done)

    def _say_what_is_kept(self) -> None:
        """One system call: it may run in the middle of anything."""
        if self._resumable and self._latest > self._first >= 0:
            line = b"stopped: what came is kept, and the next pull goes on\n"
            os.write(2, b"\n" + line if signals.cursor_hidden else line)


def _waiting() -> None:
    note("another process brings the same file: waiting for it", style="dim")


def show(pulled: Pulled, output: Output) -> None:
    """A terminal gets a sentence, a pipe the path of the (first) file, --json the whole."""
    if pulled.remark is not None:
        promised = "what came is what the Hub promised, but " if pulled.fetched else ""
        note(f"note: {promised}it is no model: {pulled.remark}", style="hint")
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
