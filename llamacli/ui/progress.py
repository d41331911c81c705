"""Bars and spinners: on stderr, only on a terminal, and only for what takes longer than a moment."""

from __future__ import annotations

import sys
import time
from typing import Any, Self

from llamacli import signals
from llamacli.ui.output import is_terminal
from llamacli.units import size

#: Seconds of work before a bar appears: what is done sooner needs none, and rich is not imported for it.
DELAY = 0.4


class Bar:
    """A bar that appears after DELAY seconds and leaves nothing behind."""

    def __init__(
        self,
        label: str,
        total: float | None = 1.0,
        *,
        transfer: bool = False,
        remaining: bool = False,
        still: bool = False,
    ) -> None:
        """`total` None: nobody knows. `transfer`: `total` is bytes, and speed and remaining time are shown.

        `remaining`: that time alone. `still`: it is drawn by `update` alone, and takes no time from what is measured in
        between.
        """
        self._label, self._total, self._transfer, self._remaining = label, total, transfer, remaining
        self._still = still
        self._enabled = is_terminal(sys.stderr)
        self._began = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, done: float, label: str | None = None) -> None:
        """`done` of `total`, and from now on another label."""
        self._label = label or self._label
        if not self._enabled:
            return
        if self._bar is None:
            if time.monotonic() - self._began < DELAY or self._complete(done):
                return
            self._show()
        self._bar.update(self._task, completed=done, description=self._label, refresh=self._still)
        if self._complete(done):
            self.close()

    def _complete(self, done: float) -> bool:
        return self._total is not None and done >= self._total

    def _show(self) -> None:
        from rich import progress
        from rich.console import Console
        from rich.table import Column
        from rich.text import Text

        class Speed(progress.ProgressColumn):
            """As rich's own, but in the units of everything else here."""

            def render(self, task: progress.Task) -> Text:
                return Text(f"{size(task.speed)}/s" if task.speed else "", style="progress.data.speed")

        def whole() -> Column:
            """Of a narrow terminal the bar gets what is left."""
            return Column(no_wrap=True)

        columns = (
            (
                progress.DownloadColumn(binary_units=True, table_column=whole()),
                Speed(table_column=whole()),
                progress.TimeRemainingColumn(table_column=whole()),
            )
            if self._transfer
            else (progress.MofNCompleteColumn(table_column=whole()), progress.TimeRemainingColumn(table_column=whole()))
            if self._remaining
            else (progress.TaskProgressColumn(),)
        )
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            *columns,
            console=Console(stderr=True),
            transient=True,
            auto_refresh=not self._still,
        )
        self._task = self._bar.add_task(self._label, total=self._total)
        signals.cursor_hidden = True
        self._bar.start()

    def close(self) -> None:
        self._enabled = False
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            signals.cursor_hidden = False
