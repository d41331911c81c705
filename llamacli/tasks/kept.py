"""A completion that is kept in the history while it is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llamacli.engine.types import Finish
from llamacli.tasks.complete import Event, Started
from llamacli.tasks.conversation import Conversation, Turn


def kept(events: Iterable[Event], conversation: Conversation, model: str, system: str | None) -> Iterator[Event]:
    """The events as they are, each in the history before it is passed on; several samples become branches."""
    said: Turn | None = None
    answers: dict[int, Turn] = {}
    for event in events:
        if isinstance(event, Started):
            conversation.set_model(model)
            if system != conversation.system:
                conversation.set_system(system)
            said = conversation.say(event.prompt)
        elif isinstance(event, tuple):
            index, item = event
            if index not in answers:
                conversation.go(said)
                answers[index] = conversation.answer(model)
            if isinstance(item, Finish):
                conversation.end(answers[index], item, evaluated=item.stats.evaluated_tokens)
            else:
                conversation.extend(answers[index], item)
        yield event
