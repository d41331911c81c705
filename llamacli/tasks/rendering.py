"""Messages of a conversation → a prompt, by the model's template or another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from llamacli.engine.model import Model
from llamacli.engine.types import Message, Prompt
from llamacli.errors import BadModelFile


def render(
    model: Model,
    messages: Sequence[Message],
    *,
    template: str | None = None,
    variables: Mapping[str, object] = {},
    add_generation_prompt: bool = True,
) -> Prompt:
    """The messages through `template`, or else the GGUF's own. Raises BadModelFile."""
    from llamacli import paths
    from llamacli.engine.template import Template

    source = model.chat_template or "" if template is None else template
    special = model.tokens_of(source)
    prompt = Template(
        source,
        special=special,
        bos=model.token_text(model.bos),
        eos=model.token_text(model.eos),
        remember=paths.cache() / "templates",
    ).render(messages, variables=variables, add_generation_prompt=add_generation_prompt)
    if not prompt.fragments:
        raise BadModelFile(
            f"{model.header.path}: its chat template renders nothing"
            if template is None
            else "--chat-template renders nothing",
            hint="--raw continues the text without it",
        )
    return replace(prompt, apart=tuple(token.text for token in special[len(model.special_tokens) :]))


def variables_of(think: str | None, arguments: Mapping[str, object]) -> dict[str, object]:
    """What a template is told: whether, and how hard, to reason (Qwen, DeepSeek, Granite; gpt-oss), and `arguments`."""
    if think is None:
        return {**arguments}
    on = think != "off"
    variables: dict[str, object] = {"enable_thinking": on, "thinking": on}
    if think in ("low", "medium", "high"):
        variables["reasoning_effort"] = think
    return {**variables, **arguments}
