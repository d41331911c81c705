"""llamacli run: as people who come from ollama type it."""

from __future__ import annotations

from typing import Annotated

import typer

from llamacli.commands import words
from llamacli.commands.answer_options import AnswerFlags
from llamacli.commands.model_options import CacheFlags, ModelFlags
from llamacli.commands.options import grouped
from llamacli.commands.preset_options import PresetFlags
from llamacli.commands.sampling_options import SamplingFlags
from llamacli.commands.talk import TalkFlags, talk
from llamacli.commands.template_options import TemplateFlags
from llamacli.errors import UsageError


@grouped
def run(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="As for -m.", autocompletion=words.models)],
    prompt: Annotated[str | None, typer.Argument(metavar="[PROMPT]", help="One message; without it a chat.")] = None,
    *,
    talking: TalkFlags,
    presets: PresetFlags,
    answers: AnswerFlags,
    sampling: SamplingFlags,
    template: TemplateFlags,
    model: ModelFlags,
    caching: CacheFlags,
) -> None:
    """Talk with MODEL, or answer one PROMPT. Text in a pipe stands before PROMPT.

    Examples:

      llamacli run qwen3.5:0.8b

      llamacli run tiny "Tell me a story about Lily."
    """
    if model.typed("model") and model.model != name:
        raise UsageError(f"two models: {name} as the argument, {model.named} as -m", hint="give one of them")
    talk(
        name,
        prompt,
        turns=False,
        talking=talking,
        presets=presets,
        answers=answers,
        sampling=sampling,
        template=template,
        loading=model,
        caching=caching,
    )
