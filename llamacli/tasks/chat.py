"""A chat: the conversation, the models that answer in it, and what has to leave the context when it is full."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from llamacli.engine.generate import Limits, generate
from llamacli.engine.prompt_cache import PromptCache
from llamacli.engine.sampling import resolve
from llamacli.engine.text import Reasoning
from llamacli.engine.types import Chunk, ContextOptions, Finish, ModelOptions, Prompt
from llamacli.errors import ContextFull, OutOfMemory
from llamacli.tasks import chat_settings, export
from llamacli.tasks.complete import Progress
from llamacli.tasks.conversation import Conversation, Turn
from llamacli.tasks.loaded import Loaded
from llamacli.tasks.prompt import gather
from llamacli.tasks.rendering import variables_of

#: Models that stay open for /model to come back to.
MOST_MODELS = 2


@dataclass(frozen=True)
class ChatOptions:
    """How answers are made. `n_ctx` None starts with 8192 tokens and grows, 0 is the trained size."""

    context: ContextOptions = field(default_factory=lambda: ContextOptions(n_ctx=0))
    n_ctx: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    think: str | None = None
    template: str | None = None
    template_args: Mapping[str, object] = field(default_factory=dict)
    on_overflow: Literal["shift", "error"] = "shift"


@dataclass(frozen=True)
class Dropped:
    """The context was full: so many of the oldest turns are no longer seen by the model."""

    turns: int
    n_ctx: int


@dataclass(frozen=True)
class Spent:
    """What the last answer cost, and how full the context is."""

    finish: Finish
    evaluated: int  # tokens of the prompt that the context did not hold
    used: int
    n_ctx: int


Event = Dropped | Chunk | Finish


class Chat:
    """Close it when done, or use it as a context manager."""

    def __init__(
        self,
        conversation: Conversation,
        name: str,
        model: ModelOptions,
        options: ChatOptions,
        progress: Progress,
        cache: Callable[[ModelOptions], PromptCache | None] = lambda _: None,
    ) -> None:
        """`cache` gives the evaluated prompts on disk of a model that is about to be opened."""
        self.conversation, self.options, self.progress = conversation, options, progress
        self.name, self._model, self._cache = name, model, cache
        self._loaded: list[Loaded] = []  # the one that answers last
        self._first: Turn | None = None  # the oldest turn that the model still sees
        self.spent: Spent | None = None

    def __enter__(self) -> Chat:
        return self

    def __exit__(self, *exception: object) -> None:
        while self._loaded:
            self._loaded.pop().close()

    # --- the model ------------------------------------------------------------------------------------------------

    def load(self) -> Loaded:
        """The model that answers, opened if it is not. Raises what Model and Context raise."""
        if self._loaded and self._loaded[-1].name == self.name:
            return self._loaded[-1]
        known = next((each for each in self._loaded if each.name == self.name), None)
        if known is not None:
            self._loaded.remove(known)
        elif len(self._loaded) == MOST_MODELS:
            self._loaded.pop(0).close()
        self._loaded.append(known or self._open())
        return self._loaded[-1]

    def _open(self) -> Loaded:
        while True:
            try:
                return Loaded(
                    self.name,
                    self._model,
                    self.options.context,
                    self.options.n_ctx,
                    self.progress.loading,
                    self._cache(self._model),
                )
            except OutOfMemory:
                if not self._loaded:
                    raise
                self._loaded.pop(0).close()

    def switch(self, name: str, model: ModelOptions) -> Loaded:
        """Let another model answer from now on. Raises what `load` raises; then the one before goes on."""
        before = self.name, self._model
        self.name, self._model = name, model
        try:
            loaded = self.load()
        except BaseException:
            self.name, self._model = before
            raise
        self.conversation.set_model(name)
        return loaded

    def change(self, conversation: Conversation) -> None:
        """Talk on in another conversation."""
        self.conversation, self._first, self.spent = conversation, None, None

    def opened(self) -> Loaded | None:
        """The model that answered last, if it is open."""
        return self._loaded[-1] if self._loaded else None

    # --- what the person asks and sets ----------------------------------------------------------------------------

    def think(self, how: str) -> None:
        """Whether, and how hard, the model is to reason: "on", "off" or an effort."""
        self.options = replace(self.options, think=how)

    def set(self, name: str, text: str) -> None:
        """A value to sample with. Raises UsageError."""
        self.conversation.set(chat_settings.changed(self.conversation.settings, name, text, self.load()))

    def values(self) -> list[tuple[str, str]]:
        """(name, value) of what answers are made with."""
        options = self.options
        return chat_settings.shown(self.conversation.settings, options.sampling, options.max_tokens, self.load())

    def template(self) -> str:
        """The chat template's source."""
        return self.load().model.chat_template or "" if self.options.template is None else self.options.template

    def facts(self) -> list[tuple[str, str]]:
        """(what, which) about model, context and conversation."""
        loaded, conversation = self.load(), self.conversation
        used, n_ctx = self.count()
        named = [part for part in (conversation.name, f"number {conversation.id}" if conversation.id else "") if part]
        return [
            ("model", self.name),
            ("file", str(loaded.options.path)),
            ("context", f"{used} of {n_ctx} tokens; trained with {loaded.model.n_ctx_train or 'an unknown number'}"),
            ("when it is full", {"shift": "the oldest turns go", "error": "the chat ends"}[self.options.on_overflow]),
            ("template", "the model's own" if self.options.template is None else "--chat-template"),
            ("system", " ".join((conversation.system or "none").split())),
            ("messages", f"{len(conversation.path())} on this branch, {len(conversation.turns)} in all"),
            ("conversation", ", ".join(named) or "not in the history"),
        ]

    def read(self, path: Path) -> str:
        """A file as text. Raises UsageError, StorageError."""
        return gather(None, [path], None)

    def export(self, path: Path, *, force: bool = False) -> None:
        """Write the conversation, as its ending says: .json with every branch, else Markdown of this one.

        Raises UsageError where the file exists already and `force` does not replace it, StorageError.
        """
        export.write(path, self.conversation.record(), self.conversation.entries(), force=force)

    # --- answers --------------------------------------------------------------------------------------------------

    def answer(self) -> Iterator[Event]:
        """The answer to the last message of the user, kept as it comes; ends with a Finish.

        Raises UsageError for values that cannot be sampled with, BadModelFile, EngineError, and ContextFull where
        nothing is to be dropped, or nothing is left to drop.
        """
        loaded = self.load()
        values, _ = chat_settings.split(self.conversation.settings)
        sampling = resolve({**self.options.sampling, **values}, loaded.model)
        answering = _Answering(self, loaded)
        prompt, tokens = answering.fit()
        loaded.recall(tokens)
        turn = self.conversation.answer(self.name)
        yield from answering.news()
        for item in generate(
            loaded.context,
            tokens,
            sampling,
            self.limits(loaded),
            reasoning=Reasoning(prompt.text, channels=loaded.model.has_channels),
            progress=self.progress.prompt,
            make_room=answering.make_room,
        ):
            yield from answering.news()
            if isinstance(item, Chunk):
                self.conversation.extend(turn, item)
            else:
                evaluated = item.stats.evaluated_tokens
                loaded.spent += item.stats.prompt_seconds + item.stats.generation_seconds
                self.spent = Spent(item, evaluated, len(loaded.context.tokens), loaded.n_ctx)
                # Without reasoning and stop strings the text is what its tokens say: then these can stand for it.
                if loaded.spelt(item.tokens) == turn.content.encode():
                    turn.tokens = item.tokens
                self.conversation.end(turn, item, evaluated=evaluated)
            yield item

    @property
    def max_tokens(self) -> int | None:
        """Of an answer; None for no limit."""
        _, limit = chat_settings.split(self.conversation.settings)
        return self.options.max_tokens if limit is None else limit

    def limits(self, loaded: Loaded) -> Limits:
        return Limits(self.max_tokens, loaded.n_ctx, self.options.stops)

    def prompt(self, loaded: Loaded, turns: Sequence[Turn]) -> tuple[Prompt, list[int]]:
        """What the model is given for the next answer after these turns."""
        return loaded.prompt(
            self.conversation.system,
            turns,
            template=self.options.template,
            variables=variables_of(self.options.think, self.options.template_args),
        )

    def seen(self) -> list[Turn]:
        """The turns of this branch that the model still sees."""
        path = self.conversation.path()
        if self._first not in path:
            self._first = None
        return path[path.index(self._first) :] if self._first is not None else path

    def count(self) -> tuple[int, int]:
        """Tokens of the conversation as the model sees it, and of the context."""
        loaded = self.load()
        turns = self.seen()
        return (len(self.prompt(loaded, turns)[1]) if turns else 0), loaded.n_ctx


class _Answering:
    """How the context is made to hold the prompt of one answer, and then the answer."""

    def __init__(self, chat: Chat, loaded: Loaded) -> None:
        self._chat, self._loaded = chat, loaded
        self._turns = chat.seen()
        self._news: list[Dropped] = []

    def news(self) -> Iterator[Dropped]:
        while self._news:
            yield self._news.pop(0)

    def fit(self) -> tuple[Prompt, list[int]]:
        """The prompt, as long as the context can hold it with room for an answer. Raises ContextFull."""
        prompt, tokens = self._chat.prompt(self._loaded, self._turns)
        if len(tokens) + self._room() <= self._loaded.n_ctx or self._loaded.grow(len(tokens) + self._room()):
            return prompt, tokens
        if self._chat.options.on_overflow == "shift":
            prompt, tokens = self._shift(0) or (prompt, tokens)
        if len(tokens) >= self._loaded.n_ctx:
            what = "the conversation" if self._chat.options.on_overflow == "error" else "the last message alone"
            raise ContextFull(
                f"{what} has {len(tokens)} tokens, and the context holds {self._loaded.n_ctx}",
                hint="--on-overflow shift drops the oldest turns" if what == "the conversation" else None,
            )
        return prompt, tokens

    def make_room(self, answered: Sequence[int]) -> tuple[list[int], Limits] | None:
        """The context is full in the middle of an answer: let it grow, or drop what is oldest."""
        if self._loaded.grow(self._loaded.n_ctx + 1):
            prompt = self._chat.prompt(self._loaded, self._turns)
        else:
            shifted = self._shift(len(answered)) if self._chat.options.on_overflow == "shift" else None
            if shifted is None or len(shifted[1]) + len(answered) + self._room() > self._loaded.n_ctx:
                return None
            prompt = shifted
        return prompt[1], self._chat.limits(self._loaded)

    def _room(self) -> int:
        """Tokens that should be free for an answer, or for the rest of one."""
        most = self._chat.max_tokens
        return max(1, self._loaded.n_ctx // 8 if most is None else min(most, self._loaded.n_ctx // 8))

    def _shift(self, n_answered: int) -> tuple[Prompt, list[int]] | None:
        """Drop the oldest turns until half of the context is free, so that it need not happen at each turn.

        The message that is answered stays, and so does the system message. None where nothing else is left.
        """
        starts = [i for i, turn in enumerate(self._turns) if turn.role == "user" and i > 0]
        if not starts:
            return None

        def fits(start: int) -> bool:
            return len(self._chat.prompt(self._loaded, self._turns[start:])[1]) + n_answered <= self._loaded.n_ctx // 2

        start = starts[min(bisect.bisect_left(starts, True, key=fits), len(starts) - 1)]
        self._news.append(Dropped(start, self._loaded.n_ctx))
        self._turns = self._turns[start:]
        self._chat._first = self._turns[0]
        return self._chat.prompt(self._loaded, self._turns)
