"""Where results go: human (a terminal), plain (a pipe) or json. Results on stdout, everything else on stderr."""

from __future__ import annotations

import dataclasses
import os
import select
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from llamacli import signals
from llamacli.errors import StorageError
from llamacli.ui.sanitize import for_terminal, json_for_terminal

Mode = Literal["human", "plain", "json"]
_PIECE = getattr(select, "PIPE_BUF", 512)  # bytes


def is_terminal(stream: IO[Any] | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def colours(stream: IO[Any] | None) -> bool:
    """Whether this stream may get colours: https://no-color.org and TERM=dumb are obeyed."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def dim(text: str, stream: IO[Any]) -> str:
    return f"\x1b[2m{text}\x1b[22m" if text and colours(stream) else text


class Output:
    """The one sink of a command."""

    def __init__(self, *, as_json: bool = False) -> None:
        """Raises StorageError where there is no standard output."""
        if sys.stdout is None:
            raise StorageError("standard output is closed", hint="send it to /dev/null if it does not matter")
        self.mode: Mode = "json" if as_json else "human" if is_terminal(sys.stdout) else "plain"

    def text(self, data: bytes) -> None:
        """A piece of the model's text, at once. In a pipe its bytes as they are; on a terminal made harmless."""
        if is_terminal(sys.stdout):
            shown = for_terminal(data.decode("utf-8", "replace"))
            data = shown.encode(sys.stdout.encoding or "utf-8", "backslashreplace")
        self.data(data)

    def data(self, data: bytes) -> None:
        """Bytes, all of them, at once."""
        sys.stdout.flush()
        try:
            fd = sys.stdout.fileno()
        except (OSError, ValueError):  # a stream of Python's own, as tests put there
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        rest = memoryview(data)
        while rest:
            # A pipe that select calls writable takes PIPE_BUF bytes without blocking. So a signal is heeded while
            # nobody reads, and a pipe that the parent made non-blocking loses nothing, as Python's own streams would.
            if os.name == "posix" and not select.select([], [fd], [], signals.GRACE_SECONDS)[1]:
                signals.check()
                continue
            try:
                rest = rest[os.write(fd, rest[:_PIECE]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise
            except OSError as error:
                raise StorageError(f"standard output: {error.strerror}") from error

    def document(self, result: Any) -> None:
        """One JSON document. A dataclass gives all its fields, null for what does not apply."""
        import json

        text = json.dumps(_plain(result), ensure_ascii=False, indent=2, allow_nan=False) + "\n"
        if is_terminal(sys.stdout):
            self.text(json_for_terminal(text).encode())
        else:
            self.data(text.encode("utf-8", "replace"))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table on a terminal, TSV with a header line in a pipe."""
        if self.mode == "plain":
            self.tsv(header, rows, errors="replace")
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in header:
            table.add_column(name, justify="right" if _numeric(header.index(name), rows) else "left")
        for row in rows:
            table.add_row(*(Text(for_terminal(_cell(value))) for value in row))
        Console(file=sys.stdout).print(table)

    def tsv(self, header: Sequence[str], rows: Sequence[Sequence[object]], *, errors: str = "surrogateescape") -> None:
        """TSV with a header line. Unlike `table` with the very bytes of a path, so that -m takes them."""
        lines = ["\t".join(_cell(value) for value in row) for row in (header, *rows)]
        self.data(("\n".join(lines) + "\n").encode("utf-8", errors))


def _numeric(column: int, rows: Sequence[Sequence[object]]) -> bool:
    return all(isinstance(row[column], (int, float)) for row in rows)


def _cell(value: object) -> str:
    """One field of a TSV line: no tab or line break can end it early."""
    return str(value).replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r") if value is not None else ""


def _plain(value: Any) -> Any:
    """What json.dumps takes: dataclasses and mappings as objects, paths and non-finite numbers as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: _plain(item) for name, item in fields}
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value


def note(text: str, *, style: str = "") -> None:
    """One line for a person, on stderr; foreign text in it is made harmless. `style`: "", "dim", "error" or "hint"."""
    if sys.stderr is None:
        return
    line = for_terminal(text)
    try:
        if style == "dim":
            line = dim(line, sys.stderr)
        elif style and colours(sys.stderr):
            label, _, rest = line.partition(":")
            line = f"\x1b[{'1;31' if style == 'error' else '1;36'}m{label}:\x1b[0m{rest}"
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass  # standard error is closed: there is nobody to tell


def report(message: str, hint: str | None, code: int) -> int:
    """Print an error's one line, and its hint; return the code. With LLAMACLI_DEBUG=1 the traceback comes first."""
    if os.environ.get("LLAMACLI_DEBUG") and sys.exc_info()[0] is not None:
        import traceback

        note(traceback.format_exc())
    note("error: " + " ".join(message.split()), style="error")
    if hint:
        note("hint: " + " ".join(hint.split()), style="hint")
    return code
