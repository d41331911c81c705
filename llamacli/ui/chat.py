"""A chat at the terminal: read a line, obey it or answer it, again."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterable
from pathlib import PurePath

from llamacli import signals
from llamacli.engine.types import ModelOptions
from llamacli.errors import ContextFull, LlamacliError
from llamacli.history.store import HistoryStore
from llamacli.tasks.chat import Chat
from llamacli.tasks.conversation import Conversation
from llamacli.ui.answer import Bars
from llamacli.ui.chat_view import AnswerView, replay
from llamacli.ui.output import Output, note, report
from llamacli.ui.slash import find, is_command
from llamacli.ui.slash_commands import TABLE, THINK
from llamacli.ui.terminal import restored


class Repl:
    """The state of a chat at the terminal."""

    def __init__(
        self,
        chat: Chat,
        output: Output,
        *,
        find_model: Callable[[str], tuple[str, ModelOptions]],
        find_conversation: Callable[[str], Conversation],
        words: Callable[[str], Iterable[str]],
        markdown: bool,
        thoughts: str,
    ) -> None:
        self.chat, self.output = chat, output
        self.find_model, self.find_conversation, self._words = find_model, find_conversation, words
        self.markdown, self.thoughts = markdown, thoughts
        self.pending: list[str] = []  # texts of /read
        self._leaving = False
        self._armed = False  # the next Ctrl-C leaves

    @property
    def store(self) -> HistoryStore | None:
        return self.chat.conversation.store

    def warn(self, message: str) -> None:
        note(f"warning: {message}", style="hint")

    def words(self, kind: str) -> Iterable[str]:
        """What may stand as an argument of this kind."""
        if kind == "set":
            return (name for name, _ in self.chat.values())
        return {"think": THINK, "show": ("system", "template")}.get(kind) or self._words(kind)

    def leave(self) -> None:
        self._leaving = True

    @property
    def short_name(self) -> str:
        """The model's name; of a file only its own."""
        name = self.chat.name
        return PurePath(name).stem if name.lower().endswith(".gguf") else name

    def greet(self) -> None:
        """A line for a newcomer; a conversation that goes on, as it was."""
        note(f"{self.short_name} · /? shows the commands · Ctrl-D leaves", style="dim")
        if self.chat.conversation.turns:
            self.replay()
            if self.chat.conversation.path()[-1].role == "user":
                note("(This was not answered; /retry asks again.)", style="dim")

    # --- the loop -------------------------------------------------------------------------------------------------

    def run(self, read: Callable[[], str]) -> None:
        """Until the end of input, /exit, or a second Ctrl-C. Raises ContextFull where the context may not shift."""
        while not self._leaving:
            try:
                text = read()
            except EOFError:
                return
            except KeyboardInterrupt:
                if self._armed:
                    raise signals.Ended(signal.SIGINT) from None
                self._armed = True
                note("Ctrl-C again, or Ctrl-D, leaves.", style="dim")
                continue
            self._armed = False
            if text.strip():
                self.obey(text)

    def obey(self, text: str) -> None:
        """A command, or a message. Errors are shown and the chat goes on, but for a context that may not shift."""
        with signals.stoppable():
            try:
                if is_command(text):
                    slash, argument = find(TABLE, text)
                    slash.run(self, argument)
                else:
                    self.send(text.strip())
            except LlamacliError as error:
                if isinstance(error, ContextFull) and self.chat.options.on_overflow == "error":
                    raise
                report(error.message, error.hint, error.exit_code)
            except signals.Ended:
                if not signals.forgive():
                    raise
                self._armed = True
            if signals.forgive():
                self._armed = True
            signals.check()

    def send(self, text: str) -> None:
        """A message of the user, with what /read has put before it, and its answer."""
        message = "\n\n".join([*self.pending, text])
        self.pending.clear()
        self.chat.conversation.say(message)
        self.answer()

    def answer(self) -> None:
        """The answer to the last message, shown as it comes."""
        signals.watch()
        with Bars() as bars, restored(echo=False):
            self.chat.progress = bars.progress
            finish = AnswerView(self.output, self.markdown, self.thoughts).show(self.chat.answer())
        note("")
        if finish.reason == "context" and self.chat.options.on_overflow == "error":
            raise ContextFull(
                f"the context of {finish.n_ctx} tokens is full; the answer ends there",
                hint="--on-overflow shift drops the oldest turns",
            )

    def replay(self) -> None:
        """The conversation so far."""
        replay(self.chat.conversation.path(), self.output, self.markdown, self.thoughts)

    def status(self) -> str:
        """The line under the prompt: model, context, speed."""
        loaded = self.chat.opened()
        spent = self.chat.spent
        parts = [self.short_name]
        if loaded is not None:
            used = len(loaded.context.tokens)
            parts.append(f"{_bar(used / loaded.n_ctx)} {used:,}/{loaded.n_ctx:,} tokens")
        if spent is not None:
            parts.append(f"{spent.finish.stats.tokens_per_second:.1f} tokens/s")
        if self.chat.conversation.name:
            parts.append(self.chat.conversation.name)
        return "  ".join(parts)[: shutil.get_terminal_size().columns - 1]


def _bar(share: float, width: int = 10) -> str:
    """A bar of `width` cells, in eighths."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")).ljust(width, "░")
