"""A program on a pseudo-terminal, and its screen as a person sees it (pyte)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping

import pexpect
import pyte


class Terminal:
    """llamacli on a terminal of `columns` × `rows`, with scrollback."""

    def __init__(self, *arguments: object, columns: int = 80, rows: int = 24, env: Mapping[str, str] = {}) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=0.5)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "llamacli", *map(str, arguments)],
            env={**os.environ, **env},
            dimensions=(rows, columns),
            timeout=30,
        )
        self.child.delaybeforesend = None

    def type(self, text: str, *, enter: bool = True) -> None:
        self.child.send(text.encode() + (b"\r" if enter else b""))

    def read(self, seconds: float = 0.05) -> bool:
        """What has come meanwhile, onto the screen; False at the end of the program."""
        try:
            data = self.child.read_nonblocking(1 << 16, timeout=seconds)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += data
        self.stream.feed(data)
        return True

    def until(self, seen: str | Callable[[], bool], timeout: float = 60) -> None:
        """Wait until a text, or what a function looks for, is there."""
        found = seen if callable(seen) else lambda: seen in self.text()
        deadline = time.monotonic() + timeout
        while not found():
            alive = self.read()
            assert alive or found(), f"the program has ended:\n{self.text()}"
            assert time.monotonic() < deadline, f"{seen!r} does not come:\n{self.text()}"

    def prompt(self, timeout: float = 60) -> None:
        """Wait for an empty prompt."""
        self.until(lambda: self.line() == ">>>", timeout)

    def ask(self, text: str) -> str:
        """Type a message or command, wait for the next prompt; what stands from this one to that."""
        before, prompts = len(self.lines()), self.prompts()
        self.type(text)
        self.until(lambda: self.prompts() > prompts and self.line() == ">>>")
        return "\n".join(self.lines()[before - 1 :])

    def prompts(self) -> int:
        """How many there have been."""
        return sum(line.startswith(">>>") for line in self.lines())

    def line(self) -> str:
        """The line of the cursor."""
        return self.screen.display[self.screen.cursor.y].rstrip()

    def lines(self) -> list[str]:
        """Scrollback and screen, down to the line of the cursor."""
        past = ["".join(line[x].data for x in range(self.screen.columns)).rstrip() for line in self.screen.history.top]
        return [*past, *(line.rstrip() for line in self.screen.display[: self.screen.cursor.y + 1])]

    def text(self) -> str:
        """Scrollback and screen."""
        past = ["".join(line[x].data for x in range(self.screen.columns)).rstrip() for line in self.screen.history.top]
        return "\n".join([*past, *(line.rstrip() for line in self.screen.display)]).rstrip()

    def resize(self, columns: int, rows: int) -> None:
        self.child.setwinsize(rows, columns)
        self.screen.resize(rows, columns)

    def end(self) -> int:
        """Read to the end; the exit code, negative for a signal."""
        while self.read(1.0):
            pass
        self.child.wait()
        return int(self.child.exitstatus if self.child.signalstatus is None else -self.child.signalstatus)

    def close(self) -> None:
        self.child.close(force=True)
