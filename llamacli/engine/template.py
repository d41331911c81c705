"""Messages → prompt, by the chat template that came with the model.

    hide control tokens in the messages → render (`template_jinja`) → split at the template's own → unhide

Tokens that are hidden, split at and put back are the business of `template_tokens`.

The first time a template is seen it runs in a child process with bounds (`template_child`); one that has passed is
remembered by its hash and rendered here, still within bounds (`template_bounds`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from llamacli.engine import template_bounds
from llamacli.engine.template_child import OUTPUT_LIMIT, Job, RenderFailed, render_in_child
from llamacli.engine.template_tokens import ControlTokens, Hidden
from llamacli.engine.types import Message, Prompt, SpecialToken
from llamacli.errors import BadModelFile, printable

HINT = "use --raw to continue the text without the template"
SHOWN_CHARACTERS = 200


class Template:
    """A chat template and the control tokens of its model's vocabulary.

    `remember` is a folder for the hashes of templates that have passed; None renders in a child each time. `clock` is
    what `strftime_now` reads.
    """

    def __init__(
        self,
        source: str,
        *,
        special: Sequence[SpecialToken],
        bos: str = "",
        eos: str = "",
        remember: Path | None = None,
        clock: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.source = source
        self.control = ControlTokens(special)
        self.bos = bos
        self.eos = eos
        self._clock = clock
        self._fitness = _Fitness(source, remember)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, object] = {},
    ) -> Prompt:
        """The prompt for a conversation; `variables` are JSON values that the template may ask for.

        Text of messages and variables never becomes a control token, save reasoning markers in an assistant's content.
        Raises BadModelFile, in one line, for whatever the template does wrong or refuses; EngineError if no child
        process can be started.
        """
        hidden = Hidden(self.control, _strings([*map(_fields, messages), variables]), [self.source])
        job = Job(
            source=self.source,
            messages=_hide_in_messages(messages, hidden.hide, hidden),
            variables=_map_strings(hidden.hide, variables),
            add_generation_prompt=add_generation_prompt,
            bos=self.bos,
            eos=self.eos,
            now=self._clock().isoformat(),
            output_limit=OUTPUT_LIMIT + sum(len(message.content) for message in messages),
        )
        jobs = [job]
        if hidden.may_be_forged:
            safe = _hide_in_messages(messages, hidden.hide_starts, hidden)
            jobs.append(replace(job, messages=safe, variables=_map_strings(hidden.hide_starts, variables)))
        try:
            rendered = self._render(jobs)
        except RenderFailed as error:
            detail = printable(hidden.unhide(error.detail), SHOWN_CHARACTERS)
            raise BadModelFile(f"{error.what}: {detail}" if detail else error.what, hint=HINT) from error
        return self._prompt(rendered, hidden)

    def _render(self, jobs: Sequence[Job]) -> list[str]:
        if self._fitness.known() and template_bounds.possible():
            from llamacli.engine import template_jinja

            with template_bounds.bounded(sum(len(message["content"]) for job in jobs for message in job.messages)):
                return [template_jinja.render(job) for job in jobs]
        texts = render_in_child(jobs)
        self._fitness.remember()
        return texts

    def _prompt(self, rendered: Sequence[str], hidden: Hidden) -> Prompt:
        """Of the two renderings the second holds no forged token, the first more of what the template meant to do.

        So the first one counts, unless its control tokens are not those of the second.
        """
        text, fragments = rendered[0], self.control.split(rendered[0])
        for safe in rendered[1:]:
            safe_fragments = self.control.split(safe)
            if _ids(safe_fragments) != _ids(fragments):
                text, fragments = safe, safe_fragments
        return Prompt(
            fragments=tuple(part if isinstance(part, int) else _encodable(hidden.unhide(part)) for part in fragments),
            text=_encodable(hidden.unhide(text)),
        )


class _Fitness:
    """Whether a template has passed before: a file named by its hash, and a flag in case the folder is read-only."""

    def __init__(self, source: str, folder: Path | None) -> None:
        digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
        self._file = folder / digest if folder else None
        self._passed = False

    def known(self) -> bool:
        if self._file is None:
            return False
        with suppress(OSError):
            self._passed = self._passed or self._file.is_file()
        return self._passed

    def remember(self) -> None:
        if self._file is None:
            return
        self._passed = True
        with suppress(OSError):  # the next process asks a child again
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.touch()


def _fields(message: Message) -> dict[str, str]:
    fields = {"role": message.role, "content": message.content}
    if message.reasoning:
        # Model makers did not agree on a name.
        fields["reasoning_content"] = fields["thinking"] = message.reasoning
    return fields


def _hide_in_messages(messages: Sequence[Message], hide: Callable[[str], str], hidden: Hidden) -> list[dict[str, str]]:
    hidden_messages = [_map_strings(hide, _fields(message)) for message in messages]
    for message, fields in zip(messages, hidden_messages, strict=True):
        if message.role == "assistant":
            fields["content"] = hidden.hide_in_answer(message.content)
    return hidden_messages


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _strings([*value.keys(), *value.values()])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


def _map_strings(change: Callable[[str], str], value: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_map_strings(change, key): _map_strings(change, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_map_strings(change, item) for item in value]
    return value


def _ids(fragments: Sequence[str | int]) -> list[int]:
    return [part for part in fragments if isinstance(part, int)]


def _encodable(text: str) -> str:
    """Without lone surrogates, which a template can write but no tokenizer can read."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
