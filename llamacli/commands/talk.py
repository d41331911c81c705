"""What `chat` and `run` share: their options, and how a chat begins, at a terminal or in a pipe."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamacli.commands import words
from llamacli.commands.answer_options import AnswerFlags
from llamacli.commands.model_options import CacheFlags, ModelFlags
from llamacli.commands.options import MODEL, Flags, among, setting
from llamacli.commands.preset_options import PresetFlags
from llamacli.commands.sampling_options import SamplingFlags
from llamacli.commands.template_options import TemplateFlags
from llamacli.errors import StorageError, UsageError

if TYPE_CHECKING:
    from llamacli.engine.types import ModelOptions
    from llamacli.history.store import HistoryStore
    from llamacli.tasks.chat import Chat
    from llamacli.tasks.conversation import Conversation
    from llamacli.ui.output import Output


LogFlag = Annotated[bool, setting("--log/--no-log", help="Keep prompt and answer in the history.", show_default=False)]


@dataclasses.dataclass(frozen=True)
class HistoryFlags(Flags):
    """Which conversation is gone on with."""

    resume: Annotated[bool, typer.Option("--continue", help="Go on with the last conversation.")] = False
    session: Annotated[
        str | None,
        typer.Option(
            "--session",
            metavar="NAME",
            help="Go on with the conversation of this name, or begin it.",
            autocompletion=words.conversations,
        ),
    ] = None

    @property
    def wanted(self) -> bool:
        return self.resume or self.session is not None


@dataclasses.dataclass(frozen=True)
class TalkFlags(HistoryFlags):
    """Whether a conversation is kept, and how it is shown."""

    history: Annotated[bool, setting("--history/--no-history", help="Keep this conversation.")] = True
    on_overflow: Annotated[
        str,
        setting(
            "--on-overflow",
            metavar="shift|error",
            help="When the context is full: drop the oldest turns, or end with code 8.",
            rich_help_panel=MODEL,
            **among("shift", "error"),
        ),
    ] = "shift"
    markdown: Annotated[
        bool, setting("--markdown/--no-markdown", help="Lay answers out, or show them as the model writes them.")
    ] = True


def talk(
    model: str | None,
    prompt: str | None,
    *,
    turns: bool,
    talking: TalkFlags,
    presets: PresetFlags,
    answers: AnswerFlags,
    sampling: SamplingFlags,
    template: TemplateFlags,
    loading: ModelFlags,
    caching: CacheFlags,
) -> None:
    """A chat at the terminal; in a pipe, or with a prompt, one answer, or with `turns` one for each line."""
    from llamacli.tasks.chat import Chat, ChatOptions
    from llamacli.tasks.complete import Progress
    from llamacli.ui.output import Output, is_terminal

    overflow: Any = talking.on_overflow
    interactive = prompt is None and not turns and is_terminal(sys.stdin)
    if turns and (prompt is not None or is_terminal(sys.stdin)):
        raise UsageError("--turns reads a script from standard input", hint="llamacli chat --turns < script.txt")
    output, source = Output(), template.given()
    if not talking.history and talking.typed("history") and talking.wanted:
        raise UsageError("--no-history excludes --continue and --session")
    store = open_history(talking, unasked=talking.history)
    conversation = begin(store, talking)
    name, options = named_model(model or conversation.model or loading.model, loading)
    if name != conversation.model:
        conversation.set_model(name)
    # What a setting says is for a new conversation; one that is gone on with has its own.
    system = presets.system(answers, conversation.system if not conversation.path() else conversation.system or "")
    if system is not None and (system or None) != conversation.system:
        conversation.set_system(system or None)
    chat = Chat(
        conversation,
        name,
        options,
        ChatOptions(
            context=loading.context(),
            n_ctx=loading.ctx_size,
            sampling=sampling.given(),
            max_tokens=answers.limit,
            stops=tuple(answers.stop or ()),
            think=answers.thinking(),
            template=source[0],
            template_args=source[1],
            on_overflow=overflow,
        ),
        Progress(),
        cache=(lambda _: None) if not talking.history else caching.opened,
    )
    with chat:
        if interactive:
            _at_the_terminal(chat, output, talking, answers, loading)
        else:
            _in_a_pipe(chat, output, _messages(prompt, turns), talking, answers)


def _at_the_terminal(chat: Chat, output: Output, talking: TalkFlags, answers: AnswerFlags, loading: ModelFlags) -> None:
    from llamacli import paths
    from llamacli.ui.answer import Bars
    from llamacli.ui.chat import Repl
    from llamacli.ui.repl import LineEditor
    from llamacli.ui.slash_commands import TABLE

    store = chat.conversation.store

    def find_conversation(which: str) -> Conversation:
        if store is None:
            raise UsageError("the history is off, so there is nothing to load")
        return _named(store, which)

    repl = Repl(
        chat,
        output,
        find_model=lambda name: named_model(name, loading),
        find_conversation=find_conversation,
        words=lambda kind: _words(kind, store),
        markdown=talking.markdown,
        thoughts="hide" if answers.hidethinking else "fold",
    )
    with Bars() as bars:
        chat.progress = bars.progress
        chat.load()
    editor = LineEditor(TABLE, repl.words, repl.status, paths.data() / paths.TYPED if store is not None else None)
    repl.greet()
    repl.run(editor.read)


def _in_a_pipe(chat: Chat, output: Output, messages: Iterable[str], talking: TalkFlags, answers: AnswerFlags) -> None:
    from llamacli.tasks.completion import Ending, verdict
    from llamacli.ui.answer import Bars
    from llamacli.ui.chat_view import AnswerView

    for message in messages:
        chat.conversation.say(message)
        with Bars() as bars:
            chat.progress = bars.progress
            view = AnswerView(output, talking.markdown, "hide" if answers.hidethinking else "show")
            finish = view.show(chat.answer())
        answer = chat.conversation.path()[-1]
        n_tokens, reasoned = finish.stats.completion_tokens, answer.reasoning is not None
        verdict([Ending(finish.reason, finish.n_ctx, n_tokens, reasoned, bool(answer.content))])


def _messages(prompt: str | None, turns: bool) -> Iterator[str]:
    from llamacli.tasks.prompt import gather
    from llamacli.ui import stdin

    if turns:
        yield from stdin.lines()
    else:
        piped = stdin.read(wanted=prompt == "-")
        yield gather(None if prompt == "-" else prompt, [], piped)


def named_model(name: str | None, loading: ModelFlags) -> tuple[str, ModelOptions]:
    """What a model is called in the history, and how it is loaded. Raises what `model_file` raises."""
    from llamacli.models import reference

    options = dataclasses.replace(loading, model=name).options()
    called = name or reference.BUILTIN
    if reference.name(options.path) == reference.BUILTIN:
        called = reference.BUILTIN
    elif Path(called).expanduser().is_file():
        called = str(options.path.absolute())  # a conversation may go on from another folder
    return called, options


def open_history(flags: HistoryFlags, *, unasked: bool) -> HistoryStore | None:
    """Where conversations are kept; None where it is not `unasked`, and nothing that is there is asked for.

    A history that cannot be opened costs a warning. Raises StorageError where one is to be gone on with.
    """
    from llamacli.history.store import HistoryStore

    if not (unasked or flags.wanted):
        return None
    try:
        return HistoryStore()
    except StorageError as error:
        if flags.wanted:
            raise
        _warn(f"{error.message}: this conversation is not kept")
        return None


def begin(store: HistoryStore | None, flags: HistoryFlags, *, origin: str = "chat") -> Conversation:
    """The conversation that the flags mean, or a new one. Raises UsageError."""
    from llamacli.history.store import checked_name
    from llamacli.tasks.conversation import Conversation

    if flags.resume and flags.session is not None:
        raise UsageError("--continue is the last conversation, --session one of that name: give one of them")
    if store is not None and flags.wanted:
        known = store.last() if flags.resume else store.conversation(flags.session or "")
        if known is not None:
            return Conversation.load(store, known, _warn)
        if flags.resume:
            raise UsageError("there is no conversation to continue", hint="llamacli chat begins one")
    return Conversation(model="", store=store, origin=origin, name=checked_name(flags.session), warn=_warn)


def _named(store: HistoryStore, which: str) -> Conversation:
    from llamacli.tasks import history
    from llamacli.tasks.conversation import Conversation

    return Conversation.load(store, history.find(store, which), _warn)


def _warn(message: str) -> None:
    from llamacli.ui.output import note

    note(f"warning: {message}", style="hint")


def _words(kind: str, history: HistoryStore | None) -> Iterable[str]:
    """What completes an argument of this kind."""
    if kind == "conversation" and history is not None:
        return (each.name for each in history.conversations() if each.name)
    if kind in ("model", "local"):
        from llamacli.models import catalogue, store

        return [*(model.name for model in store.local_models()), *(catalogue.read().entries if kind == "model" else ())]
    return ()
