"""What each slash command of a chat does."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from llamacli.errors import UsageError
from llamacli.tasks.conversation import Conversation, Turn
from llamacli.ui import ask, editor
from llamacli.ui.output import note
from llamacli.ui.slash import Slash, help_lines

if TYPE_CHECKING:
    from llamacli.ui.chat import Repl

THINK = ("show", "fold", "hide", "on", "off", "low", "medium", "high")


def _help(repl: Repl, _: str) -> None:
    _columns(help_lines(TABLE))
    note("")
    _columns(
        [
            ('"""', "begins a message of several lines, and ends it; Alt-Enter breaks a line"),
            ("Ctrl-C", "stops the answer and keeps it; at an empty prompt twice: leaves"),
            ("Ctrl-D", "leaves"),
            ("Ctrl-R, ↑", "looks through what was typed before"),
            ("Ctrl-G", "takes what is typed into $EDITOR"),
        ]
    )


def _exit(repl: Repl, _: str) -> None:
    repl.leave()


def _clear(repl: Repl, _: str) -> None:
    old = repl.chat.conversation
    repl.chat.change(
        Conversation(model=old.model, system=old.system, settings=old.settings, store=repl.store, warn=repl.warn)
    )
    kept = " The one before is in the history." if old.id is not None else ""
    note(f"A new conversation.{kept}", style="dim")


def _retry(repl: Repl, _: str) -> None:
    said = repl.chat.conversation.last("user")
    if said is None:
        raise UsageError("there is nothing to answer again")
    repl.chat.conversation.go(said)
    repl.answer()


def _undo(repl: Repl, _: str) -> None:
    said = repl.chat.conversation.undo()
    if said is None:
        raise UsageError("there is nothing to take back")
    note(f"Taken back: {_short(said.content)}", style="dim")


def _edit(repl: Repl, argument: str) -> None:
    said = repl.chat.conversation.last("user")
    before = said.content if said is not None else ""
    text = argument or editor.edit(before)
    if not text.strip() or (text == before and not argument):
        note("Nothing is changed.", style="dim")
        return
    if said is not None:
        repl.chat.conversation.go(said.parent)
    if not argument:
        note(f">>> {text}")
    repl.send(text)


def _system(repl: Repl, argument: str) -> None:
    conversation = repl.chat.conversation
    if argument:
        conversation.set_system(None if argument == "none" else argument)
    if conversation.system:
        note(conversation.system)
    else:
        note("There is no system message.", style="dim")


def _set(repl: Repl, argument: str) -> None:
    words = argument.split(maxsplit=1)
    if words and words[0] == "parameter" and len(words) == 2:  # as ollama has it
        words = words[1].split(maxsplit=1)
    if words and words[0] == "system":
        _system(repl, words[1] if len(words) == 2 else "")
        return
    if len(words) == 1:
        raise UsageError(f"/set {words[0]}: a value is missing", hint=f"/set {words[0]} default takes it back")
    if words:
        repl.chat.set(words[0], words[1])
    _columns([(name, value) for name, value in repl.chat.values()])


def _show(repl: Repl, argument: str) -> None:
    facts = repl.chat.facts()
    if argument == "system":
        _system(repl, "")
    elif argument == "template":
        note(repl.chat.template())
    elif argument:
        raise UsageError(f"/show {argument}: there are /show, /show system and /show template")
    else:
        _columns(facts)


def _model(repl: Repl, argument: str) -> None:
    if argument:
        name, options = repl.find_model(argument)
        loaded = repl.chat.switch(name, options)
        note(f"{name} answers from now on ({loaded.n_ctx} tokens of context).", style="dim")
        return
    for name in dict.fromkeys([repl.chat.name, *repl.words("local")]):
        note(f"{'*' if name == repl.chat.name else ' '} {name}")


def _read(repl: Repl, argument: str) -> None:
    if not argument:
        raise UsageError("/read names no file")
    text = repl.chat.read(Path(argument).expanduser())
    repl.pending.append(text)
    note(f"{argument}: {len(text):,} characters, which go before your next message.", style="dim")


def _save(repl: Repl, argument: str) -> None:
    if not argument:
        raise UsageError(
            "/save needs a name", hint="every conversation is kept as it happens; a name makes it easy to find"
        )
    repl.chat.conversation.rename(argument)
    note(f"Kept as {argument}: llamacli chat --session {argument} goes on with it.", style="dim")


def _load(repl: Repl, argument: str) -> None:
    if not argument:
        raise UsageError("/load needs a name or a number", hint="llamacli history ls shows them")
    conversation = repl.find_conversation(argument)
    repl.chat.change(conversation)
    repl.replay()


def _branch(repl: Repl, argument: str) -> None:
    conversation = repl.chat.conversation
    branches = conversation.branches()
    if argument:
        if not argument.isdecimal() or not 1 <= int(argument) <= len(branches):
            raise UsageError(f"/branch {argument}: there are {len(branches)}" if branches else "there is no branch yet")
        conversation.go(branches[int(argument) - 1][-1])
        repl.replay()
        return
    if not branches:
        raise UsageError("there is no branch yet")
    here = conversation.path()
    for number, branch in enumerate(branches, 1):
        shared = sum(a is b for a, b in zip(branch, here, strict=False))
        mark = "*" if len(here) == shared == len(branch) else "·" if here and shared == len(here) else " "
        last = next((turn for turn in reversed(branch) if turn.role == "user"), branch[-1])
        note(f"{mark} {number}  {len(branch):3} messages  {_short(last.content)}")


def _export(repl: Repl, argument: str) -> None:
    if not argument:
        raise UsageError("/export names no file", hint="/export talk.md or /export talk.json")
    path = Path(argument).expanduser()
    force = path.exists() and ask.possible() and ask.yes(f"{path} is there already. Replace it?", enter=False)
    repl.chat.export(path, force=force)
    note(f"Written: {path}", style="dim")


def _tokens(repl: Repl, argument: str) -> None:
    loaded = repl.chat.load()
    if argument:
        note(f"{len(loaded.model.tokenize(argument, add_special=False))} tokens")
        return
    rows = [
        (turn.role, str(len(loaded.model.tokenize(turn.content, add_special=False))), _short(turn.content))
        for turn in _turns(repl)
    ]
    for role, count, text in rows:
        note(f"{role:9}  {count:>6}  {text}")
    used, n_ctx = repl.chat.count()
    note(f"{'in all':9}  {used:>6}  with the template, of {n_ctx} tokens of context")


def _turns(repl: Repl) -> list[Turn]:
    system = repl.chat.conversation.system
    return [*([Turn("system", system, None)] if system else []), *repl.chat.seen()]


def _stats(repl: Repl, _: str) -> None:
    spent = repl.chat.spent
    if spent is None:
        raise UsageError("there is no answer yet")
    stats = spent.finish.stats
    reused = stats.prompt_tokens - spent.evaluated
    _columns(
        [
            ("prompt", f"{stats.prompt_tokens} tokens: {spent.evaluated} evaluated, {reused} reused"),
            ("", f"{stats.prompt_seconds:.3f} s, {stats.prompt_per_second:.1f} tokens/s"),
            (
                "answer",
                f"{stats.completion_tokens} tokens, {stats.generation_seconds:.3f} s, "
                f"{stats.tokens_per_second:.1f} tokens/s",
            ),
            ("context", f"{spent.used} of {spent.n_ctx} tokens"),
            ("seed", str(spent.finish.seed)),
            ("ended by", spent.finish.reason),
        ]
    )


def _think(repl: Repl, argument: str) -> None:
    if argument and argument not in THINK:
        raise UsageError(f"/think {argument}: it is one of {', '.join(THINK)}")
    if argument in ("show", "fold", "hide"):
        repl.thoughts = argument
        last = repl.chat.conversation.last("assistant")
        if argument == "show" and last is not None and last.reasoning:
            note(last.reasoning, style="dim")
    elif argument:
        repl.chat.think(argument)
    how = {"show": "shown", "fold": "folded to one line when it is done", "hide": "hidden"}[repl.thoughts]
    asked = repl.chat.options.think
    note(f"Reasoning is {how}; the model is asked for: {asked or 'what it does by itself'}.", style="dim")


def _columns(rows: list[tuple[str, str]]) -> None:
    """Two columns; what is too long for a line goes on under its beginning."""
    left = max(len(name) for name, _ in rows)
    width = shutil.get_terminal_size().columns - left - 3
    for name, text in rows:
        lines = textwrap.wrap(text, width) if width > 20 else [text]
        for number, line in enumerate(lines or [""]):
            note(f"{'' if number else name:{left}}  {line}".rstrip())


def _short(text: str, limit: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


TABLE: tuple[Slash, ...] = (
    Slash(("/help", "/?"), "", "this list", _help),
    Slash(("/exit", "/bye"), "", "leave; so does Ctrl-D", _exit),
    Slash(("/clear",), "", "begin a new conversation", _clear),
    Slash(("/retry",), "", "another answer to your last message", _retry),
    Slash(("/undo",), "", "take back your last message and its answer", _undo),
    Slash(("/edit",), "[TEXT]", "change your last message, in $EDITOR or to TEXT, and send it", _edit),
    Slash(("/system",), "[TEXT]", "show or set the system message; none removes it", _system),
    Slash(("/set",), "[NAME VALUE]", "show or set a sampling value, such as temp 0", _set, "set"),
    Slash(("/show",), "[system|template]", "what is talked with, and how", _show, "show"),
    Slash(("/model",), "[NAME]", "show the models, or let another one answer", _model, "model"),
    Slash(("/read",), "FILE", "put a file before your next message", _read, "file"),
    Slash(("/save",), "NAME", "give this conversation a name", _save),
    Slash(("/load",), "NAME", "go on with another conversation", _load, "conversation"),
    Slash(("/branch",), "[N]", "show the branches that /undo, /edit and /retry made, or go to one", _branch),
    Slash(("/export",), "FILE", "write the conversation to FILE.md or FILE.json", _export, "file"),
    Slash(("/tokens",), "[TEXT]", "how many tokens the conversation, or a text, has", _tokens),
    Slash(("/stats",), "", "what the last answer cost", _stats),
    Slash(("/think",), "[show|fold|hide|on|off|…]", "how reasoning is shown, and if it is asked for", _think, "think"),
)  # fmt: skip
