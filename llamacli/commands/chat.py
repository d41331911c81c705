"""llamacli chat: a conversation at the terminal, or an answer in a pipe."""

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
def chat(
    name: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="As for -m.", autocompletion=words.models)
    ] = None,
    turns: Annotated[
        bool, typer.Option("--turns", help="Each line of standard input is a turn; print the answers only.")
    ] = False,
    *,
    talking: TalkFlags,
    presets: PresetFlags,
    answers: AnswerFlags,
    sampling: SamplingFlags,
    template: TemplateFlags,
    model: ModelFlags,
    caching: CacheFlags,
) -> None:
    """Talk with a model. Every conversation is kept as it happens; /? shows the commands.

    In a pipe the text is one message, and the answer is printed.

    Examples:

      llamacli chat

      llamacli chat qwen3.5:0.8b --continue

      llamacli chat --turns < script.txt
    """
    if name is not None and model.typed("model") and model.model != name:
        raise UsageError(f"two models: {name} as the argument, {model.named} as -m", hint="give one of them")
    talk(
        name or model.named,
        None,
        turns=turns,
        talking=talking,
        presets=presets,
        answers=answers,
        sampling=sampling,
        template=template,
        loading=model,
        caching=caching,
    )
