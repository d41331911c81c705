"""A conversation: a tree of turns, one of which is where the talk goes on. Kept in the history as it happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llamacli.engine.types import Chunk, Finish, Message
from llamacli.errors import StorageError, UsageError
from llamacli.history.store import HistoryStore
from llamacli.history.types import Conversation as Record
from llamacli.history.types import Entry, Usage


@dataclass(eq=False)
class Turn:
    """One message. `tokens` are an answer's as its model sampled them, where they are exactly its `content`."""

    role: str
    content: str
    parent: Turn | None
    model: str | None = None
    reasoning: str | None = None
    finish_reason: str | None = None
    tokens: tuple[int, ...] = ()
    id: int | None = None  # in the history
    created: float = field(default_factory=time.time)
    usage: Usage = field(default_factory=Usage)


class Conversation:
    """The turns of all branches, oldest first; `leaf` is the last turn of the branch that is talked on.

    The first failure of the history is reported to `warn`; from then on it goes on without.
    """

    def __init__(
        self,
        *,
        model: str,
        system: str | None = None,
        settings: Mapping[str, Any] = {},
        store: HistoryStore | None = None,
        origin: str = "chat",
        name: str | None = None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`name`: what it is to be called once there is something to keep."""
        self.model, self.system, self.settings, self.name = model, system, dict(settings), name
        self.turns: list[Turn] = []
        self.leaf: Turn | None = None
        self.id: int | None = None
        self.store, self._origin, self._warn = store, origin, warn

    @classmethod
    def load(cls, store: HistoryStore, record: Record, warn: Callable[[str], None] = lambda _: None) -> Conversation:
        """One that the history holds. Raises StorageError."""
        conversation = cls(
            model=record.model,
            system=record.system,
            settings=record.settings,
            store=store,
            origin=record.origin,
            name=record.name,
            warn=warn,
        )
        conversation.id = record.id
        turns: dict[int, Turn] = {}
        for entry in store.entries(record.id):
            turns[entry.id] = _turn(entry, turns.get(entry.parent) if entry.parent is not None else None)
        conversation.turns = [*turns.values()]
        conversation.leaf = turns.get(record.leaf) if record.leaf is not None else None
        return conversation

    # --- reading --------------------------------------------------------------------------------------------------

    def path(self) -> list[Turn]:
        """The turns of this branch, from the first to the leaf."""
        return _path(self.leaf)

    def last(self, role: str) -> Turn | None:
        """The last turn of this branch that has this role."""
        return next((turn for turn in reversed(self.path()) if turn.role == role), None)

    def branches(self) -> list[list[Turn]]:
        """Each branch from its first turn to its last, the oldest ending first."""
        parents = {id(turn.parent) for turn in self.turns}
        return [_path(turn) for turn in self.turns if id(turn) not in parents]

    def record(self) -> Record:
        """What the history knows of a conversation, of this one, kept or not."""
        first = next((turn.content for turn in self.turns if turn.role == "user"), "")
        numbers = self._numbers()
        return Record(
            id=self.id or 0,
            name=self.name,
            model=self.model,
            system=self.system,
            settings=self.settings,
            origin=self._origin,
            created=self.turns[0].created if self.turns else time.time(),
            updated=self.turns[-1].created if self.turns else time.time(),
            leaf=numbers[self.leaf] if self.leaf is not None else None,
            n_messages=len(self.turns),
            title=" ".join(first.split())[:80],
        )

    def entries(self) -> list[Entry]:
        """All turns as the history gives them."""
        numbers = self._numbers()
        return [
            Entry(
                id=numbers[turn],
                parent=numbers[turn.parent] if turn.parent is not None else None,
                role=turn.role,
                content=turn.content,
                reasoning=turn.reasoning,
                model=turn.model,
                created=turn.created,
                finish_reason=turn.finish_reason,
                usage=turn.usage,
            )
            for turn in self.turns
        ]

    def _numbers(self) -> dict[Turn, int]:
        return {turn: turn.id or -number for number, turn in enumerate(self.turns, 1)}

    # --- talking --------------------------------------------------------------------------------------------------

    def say(self, text: str) -> Turn:
        """A user's message, which becomes the leaf."""
        self._begin()
        return self._add(Turn("user", text, self.leaf))

    def answer(self, model: str) -> Turn:
        """An answer that begins; it becomes the leaf."""
        self._begin()
        return self._add(Turn("assistant", "", self.leaf, model=model))

    def extend(self, turn: Turn, chunk: Chunk) -> None:
        """A piece of an answer: in the history before anybody sees it."""
        if chunk.reasoning:
            turn.reasoning = (turn.reasoning or "") + chunk.text
        else:
            turn.content += chunk.text
        if turn.id is not None:
            row = turn.id
            self._keep(lambda store: store.append(row, chunk.text, reasoning=chunk.reasoning))

    def end(self, turn: Turn, finish: Finish, *, evaluated: int) -> None:
        """An answer is complete, or was stopped."""
        stats = finish.stats
        turn.finish_reason = finish.reason
        turn.usage = Usage(
            prompt_tokens=stats.prompt_tokens,
            evaluated_tokens=evaluated,
            completion_tokens=stats.completion_tokens,
            prompt_seconds=round(stats.prompt_seconds, 4),
            generation_seconds=round(stats.generation_seconds, 4),
            seed=finish.seed,
        )
        if turn.id is not None:
            row = turn.id
            self._keep(lambda store: store.finish(row, finish.reason, turn.usage))

    def go(self, leaf: Turn | None) -> None:
        """Talk on from this turn; what followed it stays as a branch."""
        self.leaf = leaf
        self._change(leaf=leaf.id if leaf is not None else None)

    def undo(self) -> Turn | None:
        """Go back to before the last message of the user, which is returned; None where there is none."""
        said = self.last("user")
        if said is not None:
            self.go(said.parent)
        return said

    # --- what holds for all of it ---------------------------------------------------------------------------------

    def rename(self, name: str) -> None:
        """Raises UsageError where the name is taken or none, StorageError, and UsageError where nothing is kept."""
        if self.store is None:
            raise UsageError("the history is off, so there is nothing to save", hint="/export writes a file")
        self._begin()
        if self.id is not None:
            self.store.update(self.id, name=name)
        self.name = name

    def set_system(self, system: str | None) -> None:
        self.system = system
        self._change(system=system)

    def set_model(self, model: str) -> None:
        self.model = model
        self._change(model=model)

    def set(self, settings: Mapping[str, Any]) -> None:
        """The values of /set."""
        self.settings = dict(settings)
        self._change(settings=self.settings)

    # --- the history ----------------------------------------------------------------------------------------------

    def _add(self, turn: Turn) -> Turn:
        if self.id is not None:
            conversation, parent = self.id, turn.parent.id if turn.parent is not None else None

            def add(store: HistoryStore) -> None:
                turn.id = store.add(conversation, parent, turn.role, turn.content, model=turn.model)

            self._keep(add)
        self.turns.append(turn)
        self.leaf = turn
        return turn

    def _begin(self) -> None:
        """A row of the history, once there is something to keep. Raises UsageError for a name that is taken."""
        if self.id is None:

            def create(store: HistoryStore) -> None:
                self.id = store.create(
                    model=self.model, system=self.system, origin=self._origin, settings=self.settings, name=self.name
                )

            self._keep(create)

    def _change(self, **values: Any) -> None:
        if self.id is not None:
            conversation = self.id
            self._keep(lambda store: store.update(conversation, **values))

    def _keep(self, write: Callable[[HistoryStore], None]) -> None:
        if self.store is None:
            return
        try:
            write(self.store)
        except StorageError as error:
            self.store = None
            self._warn(f"{error.message}: this conversation goes on, and is not kept")


def messages(system: str | None, turns: Sequence[Turn]) -> list[Message]:
    """What a template is given. Where an answer is missing, two messages of the user become one."""
    found = [Message("system", system)] if system else []
    for turn in turns:
        if found and found[-1].role == turn.role == "user":
            found[-1] = Message("user", f"{found[-1].content}\n\n{turn.content}")
        else:
            found.append(Message(turn.role, turn.content, turn.reasoning))
    return found


def _path(leaf: Turn | None) -> list[Turn]:
    path = []
    while leaf is not None:
        path.append(leaf)
        leaf = leaf.parent
    return path[::-1]


def _turn(entry: Entry, parent: Turn | None) -> Turn:
    return Turn(
        role=entry.role,
        content=entry.content,
        parent=parent,
        model=entry.model,
        reasoning=entry.reasoning,
        finish_reason=entry.finish_reason,
        id=entry.id,
        created=entry.created,
        usage=entry.usage,
    )
