"""All options that are settings, as those of one command that is never called."""

from __future__ import annotations

from llamacli.commands.answer_options import AnswerFlags
from llamacli.commands.model_options import CacheFlags, ModelFlags
from llamacli.commands.options import grouped
from llamacli.commands.sampling_options import SamplingFlags
from llamacli.commands.talk import LogFlag, TalkFlags
from llamacli.commands.template_options import TemplateFlags


@grouped
def every_setting(
    log: LogFlag = False,
    *,
    model: ModelFlags,
    answers: AnswerFlags,
    sampling: SamplingFlags,
    talking: TalkFlags,
    template: TemplateFlags,
    caching: CacheFlags,
) -> None:
    """Parsed by `setting_table` for its parameters."""
