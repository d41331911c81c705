"""What Tab offers for a value, by what the value is. Each is called at a Tab only, and imports what it needs then.

They are `autocompletion` of options and arguments; typer drops what does not begin as typed. Nothing raises: where the
words cannot be had, there are none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import typer


def local_models(incomplete: str) -> list[str | tuple[str, str]]:
    """The models on this machine."""
    with _quietly():
        from llamacli.models import store

        return [(model.name, model.source) for model in store.local_models() if not model.projector]
    return []


def models(incomplete: str) -> list[str | tuple[str, str]]:
    """What -m takes: the models on this machine, then the catalogue's aliases."""
    found = dict(each for each in local_models(incomplete) if isinstance(each, tuple))
    with _quietly():
        from llamacli.models import catalogue

        for alias, entry in catalogue.read().entries.items():
            found.setdefault(alias, entry.about)
    return [*found.items()]


def models_and_types(incomplete: str) -> list[str | tuple[str, str]]:
    """What quantize takes: a model, and the types that it can be given."""
    found = models(incomplete)
    with _quietly():
        from llamacli.tasks.quantize_types import TYPES

        found += [(kind.name, kind.purpose) for kind in TYPES]
    return found


def presets(incomplete: str) -> list[str | tuple[str, str]]:
    with _quietly():
        from llamacli.tasks import presets as task

        return [*task.names()]
    return []


def settings(incomplete: str) -> list[str | tuple[str, str]]:
    with _quietly():
        from llamacli.commands.setting_table import table

        return [(name, setting.help) for name, setting in table().items()]
    return []


def values(ctx: typer.Context, incomplete: str) -> list[str | tuple[str, str]]:
    """What a setting can be: its name stands before, and its option knows."""
    with _quietly():
        from llamacli.commands.setting_table import params

        name = ctx.args[0].removeprefix("--").replace("-", "_")
        param = next(param for param in params() if getattr(param, "setting", None) == name)
        if param.type.name == "boolean":
            return ["true", "false"]
        return [(item.value, item.help or "") for item in param.shell_complete(ctx, incomplete)]
    return []


def conversations(incomplete: str) -> list[str | tuple[str, str]]:
    """Names, and numbers with what was said first."""
    with _quietly():
        from llamacli.tasks import history

        kept = history.conversations(200)
        return [(each.name or str(each.id), each.title) for each in kept]
    return []


def templates(incomplete: str) -> list[str | tuple[str, str]]:
    """The formats that --chat-template knows by name."""
    with _quietly():
        from llamacli.engine import template_names

        return [*template_names.names()]
    return []


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with contextlib.suppress(Exception):
        yield
