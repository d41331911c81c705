"""The file that -m means: here, or pulled when that is allowed. Nothing large is ever fetched unasked."""

from __future__ import annotations

from pathlib import Path

from llamacli.errors import UsageError

#: What a newcomer is told who names no model.
NO_MODEL = (
    "note: no model is named, so this is tiny, the built-in toy; for a real one: "
    "llamacli pull qwen3.5:0.8b, then -m qwen3.5:0.8b"
)


def model_file(model: str | None, *, pull: bool = False) -> Path:
    """The file that `-m`, or the setting, means; None is the built-in model, which stderr says.

    A model of the Hub that is not here is pulled where `pull` says so, or a person at the terminal does.
    Raises ModelNotFound, UsageError, and where it pulls NetworkError, AccessDenied, StorageError, ChecksumMismatch.
    """
    from llamacli.models import reference

    if model is None:
        from llamacli.ui.output import note

        note(NO_MODEL, style="hint")
        return reference.resolve(reference.BUILTIN)
    if not model:
        raise UsageError("-m names no model", hint="-m FILE.gguf, or -m tiny for the built-in one")
    meant = reference.parse(model)
    path = reference.locate(meant)
    if path is None and (meant.repository or meant.url):
        path = _pulled(model, unasked=pull)
    if path is None:
        raise reference.missing(meant)
    return path


def _pulled(model: str, *, unasked: bool) -> Path | None:
    """The first file of a model that was pulled; None where nobody is there to ask, or the answer is no."""
    from llamacli.models import hub
    from llamacli.ui import ask

    if hub.offline() or (not unasked and not ask.possible()):
        return None
    from llamacli.tasks import pull as task
    from llamacli.ui import pull as ui
    from llamacli.units import size

    plan = task.plan(model)
    quant = f", {plan.variant.quant}" if plan.variant.quant else ""
    if not unasked and not ask.yes(f"{model} is not on this machine. Pull it ({size(plan.variant.size)}{quant})?"):
        return None
    with ui.Transfer(model, plan) as bar:
        return task.bring(plan, bar.watch).files[0].path
