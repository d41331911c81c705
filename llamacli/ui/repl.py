"""The line editor of a chat: history over sessions, several lines, completion, a status line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output
from prompt_toolkit.shortcuts import CompleteStyle
from prompt_toolkit.styles import Style

from llamacli.ui.output import colours, is_terminal
from llamacli.ui.slash import Slash
from llamacli.ui.terminal import restored

FENCE = '"""'

#: kind of argument → the words that may stand there
Words = Callable[[str], Iterable[str]]


class LineEditor:
    """Reads messages and slash commands from the terminal."""

    def __init__(self, table: Sequence[Slash], words: Words, status: Callable[[], str], history: Path | None) -> None:
        """`history`: the file of what was typed; None keeps it in memory."""
        stream = sys.stdout if is_terminal(sys.stdout) else sys.stderr
        output = create_output(stdout=stream)
        # Or it would ask the terminal where the cursor is, and show no status line until it hears an answer.
        output.get_rows_below_cursor_position = lambda: 1  # type: ignore[method-assign]
        self._stream = stream
        self._status = status
        style = Style.from_dict({"prompt": "bold", "bottom-toolbar": "noreverse", "bottom-toolbar.text": "fg:ansigray"})
        self._session: PromptSession[str] = PromptSession(
            message=[("class:prompt", ">>> ")],
            prompt_continuation="... ",
            multiline=True,
            key_bindings=_keys(),
            completer=_Completer(table, words),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            reserve_space_for_menu=0,
            history=_history(history),
            enable_history_search=False,
            bottom_toolbar=self._toolbar,
            style=style if colours(stream) else None,
            include_default_pygments_style=False,
            output=output,
            tempfile_suffix=".md",
        )

    def read(self, text: str = "") -> str:
        """A message, possibly of several lines; `text` stands there already.

        Raises EOFError for Ctrl-D, KeyboardInterrupt for Ctrl-C where nothing is typed.
        """
        with restored(after=(self._stream, b"\x1b[?2004l\x1b[?25h\n")):
            return unquoted(self._session.prompt(default=text, handle_sigint=False))

    def _toolbar(self) -> FormattedText:
        return FormattedText([("class:bottom-toolbar.text", self._status())])


def unquoted(text: str) -> str:
    """A message without its triple quotes."""
    inner = text.strip()
    if inner.startswith(FENCE) and inner.endswith(FENCE) and len(inner) >= 2 * len(FENCE):
        return inner[len(FENCE) : -len(FENCE)].strip("\n")
    return text.strip()


def _is_open(text: str) -> bool:
    """Whether a triple quote waits for its end."""
    inner = text.strip()
    return inner.startswith(FENCE) and (len(inner) < 2 * len(FENCE) or not inner.endswith(FENCE))


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if _is_open(buffer.text):
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @keys.add("c-g")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.open_in_editor()

    @keys.add("c-c")
    def _(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt())

    return keys


class _FileHistory(FileHistory):
    """A file that cannot be read or written costs nothing but the history."""

    def load_history_strings(self) -> Iterable[str]:
        with contextlib.suppress(OSError):
            yield from super().load_history_strings()

    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):
            super().store_string(string)


def _history(path: Path | None) -> History:
    if path is None:
        return InMemoryHistory()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
    return _FileHistory(str(path))


class _Completer(Completer):
    """Slash commands, and what may follow them."""

    def __init__(self, table: Sequence[Slash], words: Words) -> None:
        self._kinds = {name: slash.kind for slash in table for name in slash.names}
        self._words = words
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        command, space, argument = text.partition(" ")
        if not space:
            yield from (Completion(name, -len(text)) for name in self._kinds if name.startswith(text))
            return
        kind = self._kinds.get(command, "")
        if kind == "file":
            yield from self._paths.get_completions(Document(argument), complete_event)
        elif kind:
            yield from (Completion(word, -len(argument)) for word in self._words(kind) if word.startswith(argument))
