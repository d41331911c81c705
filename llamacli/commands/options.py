"""Options that several verbs share, each declared once, in groups that a command takes as one parameter.

    @grouped
    def complete(model: ModelFlags, sampling: SamplingFlags, …) -> None

A group is a dataclass whose fields are annotated options; `grouped` shows Typer the fields as the command's own
parameters and hands the command the filled dataclass. Names are those of llama.cpp, ollama and llm.

An option that is declared by `setting` can be fixed in config.toml and by a variable: name, type, check and help are
the option's (`commands/setting_table.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import os
import re
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from llamacli import settings
from llamacli.commands import words
from llamacli.errors import UsageError

if TYPE_CHECKING:
    from llamacli.engine.prompt_cache import PromptCache
    from llamacli.engine.types import ContextOptions, ModelOptions

MODEL, SAMPLING, ADVANCED, GPU = "Model and context", "Sampling", "Advanced", "GPU"


#: What native code takes as an int; a larger number would wrap around.
INT_MAX = 2**31 - 1


def between(smallest: int, largest: int = INT_MAX) -> Callable[[Any], Any]:
    """A check for a number; Typer's own `min` and `max` would clutter the help."""

    def check(value: int | None) -> int | None:
        if value is not None and not smallest <= value <= largest:
            raise typer.BadParameter(f"{value} is not between {smallest} and {largest}")
        return value

    return check


class Unfit(typer.BadParameter):
    """A value that its option cannot have. The message goes on after the option's name: "q9: it must be …"."""

    def format_message(self) -> str:
        names = sorted(self.param.opts, key=len) if self.param is not None else [""]
        return f"{names[-1]} {self.message}"


def among(*words: str, later: Callable[[], Iterable[str]] = tuple) -> dict[str, Any]:
    """For an option whose value is one of a few words, in upper or lower case: its check, and what Tab offers.

    `later` gives more of them when there is a value, so that it may import.
    """

    def check(value: str | None) -> str | None:
        if value is None:
            return None
        allowed = (*words, *later())
        if value.lower() not in allowed:
            raise Unfit(f"{value}: it must be one of {', '.join(allowed)}")
        return value.lower()

    def offered(incomplete: str) -> list[str]:
        return [*words, *later()]

    vars(check)["words"] = words
    return {"callback": check, "autocompletion": offered}


def setting(*names: str, **details: Any) -> Any:
    """An option that config.toml and LLAMACLI_NAME can fix, by the name of its first long form: --top-k, top_k."""
    long = next(name for name in names if name.startswith("--")).partition("/")[0]
    variable = "LLAMACLI_" + long[2:].upper().replace("-", "_")
    return typer.Option(*names, envvar=variable, show_envvar=False, **details)


@dataclasses.dataclass(frozen=True)
class Flags:
    """A group of options. `sources`: where the value of each comes from.

    That is "option" (it was typed), "preset", "environment", "file" or "default".
    """

    sources: Mapping[str, str] = dataclasses.field(default_factory=dict, kw_only=True)

    def typed(self, name: str) -> bool:
        return self.sources.get(name) == "option"

    def asked(self, name: str) -> bool:
        """Whether it was typed, or is a preset's: what a setting says must give way where it does not apply."""
        return self.sources.get(name) in ("option", "preset")


def sources(ctx: typer.Context) -> dict[str, str]:
    """Where each parameter of a command has its value from, as in `Flags`."""
    fixed: Mapping[str, str] = ctx.meta.get(settings.ORIGINS, {})
    found = {}
    for name in ctx.params:
        source = getattr(ctx.get_parameter_source(name), "name", "DEFAULT")
        found[name] = {"COMMANDLINE": "option", "DEFAULT_MAP": fixed.get(name, "file")}.get(source, "default")
    return found


def grouped(function: Callable[..., None], without: Collection[str] = ()) -> Callable[..., None]:
    """Expand the parameters whose type is a dataclass into that dataclass's fields.

    Fields named in `without` are no options, and keep their defaults.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in groups:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))
            continue
        group = groups[parameter.name]
        field_hints = typing.get_type_hints(group, include_extras=True)
        for field in _options(group, without):
            parameters.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=field.default,
                    annotation=field_hints[field.name],
                )
            )

    context = next((p.name for p in parameters if p.annotation is typer.Context), None)
    if context is None:
        parameters.append(inspect.Parameter("ctx_of_groups", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))

    @functools.wraps(function)
    def command(**values: Any) -> None:
        known = sources(values[context] if context else values.pop("ctx_of_groups"))
        for name, group in groups.items():
            fields = {field.name: values.pop(field.name) for field in _options(group, without)}
            told = {"sources": known} if issubclass(cast(type, group), Flags) else {}
            values[name] = cast(type, group)(**fields, **told)
        function(**values)

    del command.__wrapped__  # or Typer would look through it
    flat = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    flat.sort(key=_place)
    vars(command)["__signature__"] = inspect.Signature(flat)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _options(group: Any, without: Collection[str] = ()) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(group) if field.name != "sources" and field.name not in without]


ModelFlag = Annotated[
    str | None,
    setting(
        "-m",
        "--model",
        metavar="MODEL",
        help="A file, an alias, user/repo[:QUANT] that was pulled, or tiny, the built-in toy. (tiny)",
        autocompletion=words.models,
    ),
]

PullFlag = Annotated[
    bool, setting("--pull/--no-pull", help="Fetch the model from the Hub if it is not here.", rich_help_panel=MODEL)
]


def _forbid_network(wanted: bool) -> bool:
    """In the library's own way, so that nothing of it can ask: it reads the variable when it is imported."""
    if wanted:
        os.environ["HF_HUB_OFFLINE"] = "1"
    return wanted


OfflineFlag = Annotated[
    bool,
    setting(
        "--offline/--no-offline",
        help="Never use the network. (HF_HUB_OFFLINE)",
        callback=_forbid_network,
        rich_help_panel=MODEL,
    ),
]


TokenFlag = Annotated[
    str | None,
    typer.Option("--token", metavar="TOKEN", help="For private and gated models. (HF_TOKEN)", show_envvar=False),
]

#: For estimates of memory; `complete` fits its context to the prompt.
MemoryContext = Annotated[
    int | None,
    setting(
        "-c",
        "--ctx-size",
        callback=between(0),
        metavar="N",
        help="Context in tokens for the memory; 0: the trained size. (the trained size, 8192 at most)",
    ),
]


def _place(parameter: inspect.Parameter) -> int:
    """The model first, what is rare last. Panels stand in the help in the order of their first options."""
    details = getattr(parameter.annotation, "__metadata__", ())
    rare = any(getattr(detail, "rich_help_panel", None) == ADVANCED for detail in details)
    return 0 if parameter.name in ("model", "models") else 2 if rare else 1


@dataclasses.dataclass(frozen=True)
class AnswerFlags(Flags):
    """What every verb that answers takes."""

    system: Annotated[
        str | None, setting("-s", "--system", "-sys", metavar="TEXT", help="A system message (chat models).")
    ] = None
    think: Annotated[
        str | None,
        setting(
            "--think",
            metavar="[=low|medium|high]",
            help="Let the model reason, as hard as said.",
            **among("on", "low", "medium", "high", "off"),
        ),
    ] = None
    no_think: Annotated[bool, typer.Option("--no-think", help="Ask the model not to reason.")] = False
    hidethinking: Annotated[bool, setting("--hidethinking/--no-hidethinking", help="Do not show the reasoning.")] = (
        False
    )
    max_tokens: Annotated[
        int | None,
        setting(
            "-n",
            "--max-tokens",
            "--n-predict",
            metavar="N",
            help="At most N tokens. (until the model ends or the context is full)",
            callback=between(-1),
        ),
    ] = None
    stop: Annotated[list[str] | None, setting("--stop", metavar="TEXT", help="End before this text; repeatable.")] = (
        None
    )

    def thinking(self) -> str | None:
        """ "off", "on", an effort, or None where nothing was said. Raises UsageError."""
        if self.typed("think") and self.no_think:
            raise UsageError("--think and --no-think exclude each other")
        return "off" if self.no_think else self.think

    @property
    def unasked(self) -> frozenset[str]:
        """Of system and think what only a setting says: it gives way where the model has no chat template."""
        asked = {"system": self.asked("system"), "think": self.asked("think") or self.no_think}
        return frozenset(name for name, is_asked in asked.items() if not is_asked)

    @property
    def limit(self) -> int | None:
        """Tokens of an answer, None for no limit."""
        return None if self.max_tokens == -1 else self.max_tokens


def kv_types() -> Iterable[str]:
    from llamacli.engine.types import KV_TYPES

    return KV_TYPES


def fit(parse: Callable[[Any], object]) -> Callable[[Any], Any]:
    """A check that tries what the value is later used by; `parse` raises Unfit."""

    def check(value: Any) -> Any:
        for each in value if isinstance(value, (list, tuple)) else () if value is None else (value,):
            parse(each)
        return value

    return check


def _gpu_layers(text: str) -> int | None:
    text = text.lower()
    if text in ("auto", "all"):
        return None if text == "auto" else -1
    if not re.fullmatch(r"\d+", text):
        raise Unfit(f"{text}: it must be auto, all or a number of layers")
    return min(int(text), INT_MAX)


def _numbers(text: str | None) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in re.split("[,/]", text)) if text else ()
    except ValueError as error:
        raise Unfit(f"{text}: numbers separated by commas are wanted, such as 3,1") from error
    if any(not math.isfinite(number) or number < 0 for number in numbers):
        raise Unfit(f"{text}: each part must be 0 or more")
    return numbers


def _overrides(text: str) -> list[tuple[str, str]]:
    pairs = []
    for part in text.split(","):
        pattern, equals, buffer = part.rpartition("=")
        if not equals or not pattern or not buffer:
            raise Unfit(f"{part}: REGEX=BUFFER is wanted, such as exps=CPU")
        pairs.append((pattern, buffer))
    return pairs


@dataclasses.dataclass(frozen=True)
class LoadFlags(Flags):
    """How a model is loaded and run."""

    ctx_size: Annotated[
        int | None,
        setting(
            "-c",
            "--ctx-size",
            callback=between(0),
            metavar="N",
            help="Context in tokens; 0: the trained size. (what prompt and answer need)",
            rich_help_panel=MODEL,
        ),
    ] = None
    threads: Annotated[
        int | None,
        setting(
            "-t",
            "--threads",
            callback=between(1, 512),
            metavar="N",
            help="Threads. (the physical cores)",
            rich_help_panel=MODEL,
        ),
    ] = None
    pull: PullFlag = False
    offline: OfflineFlag = False
    lora: Annotated[
        list[str] | None,
        setting("--lora", metavar="FILE[:SCALE]", help="Apply a LoRA adapter; repeatable.", rich_help_panel=MODEL),
    ] = None
    gpu_layers: Annotated[
        str,
        setting(
            "-ngl",
            "--gpu-layers",
            "--n-gpu-layers",
            metavar="auto|all|N",
            help="Layers to put on the GPU; auto: as many as fit.",
            rich_help_panel=GPU,
            callback=fit(_gpu_layers),
        ),
    ] = "auto"
    device: Annotated[
        str | None,
        setting(
            "-dev", "--device", metavar="NAMES", help="Devices to offload to, by comma; none: CPU.", rich_help_panel=GPU
        ),
    ] = None
    tensor_split: Annotated[
        str | None,
        setting(
            "-ts",
            "--tensor-split",
            metavar="N,N",
            help="Each GPU's share, such as 3,1.",
            rich_help_panel=GPU,
            callback=fit(_numbers),
        ),
    ] = None
    main_gpu: Annotated[
        int | None,
        setting(
            "-mg",
            "--main-gpu",
            callback=between(0),
            metavar="N",
            help="Put the whole model on this GPU.",
            rich_help_panel=GPU,
        ),
    ] = None
    override_tensor: Annotated[
        list[str] | None,
        setting(
            "-ot",
            "--override-tensor",
            metavar="REGEX=BUFFER",
            help="Put the tensors of these names elsewhere, such as exps=CPU; repeatable.",
            rich_help_panel=GPU,
            callback=fit(_overrides),
        ),
    ] = None
    n_cpu_moe: Annotated[
        int,
        setting(
            "-ncmoe",
            "--n-cpu-moe",
            callback=between(0),
            metavar="N",
            help="Keep the experts of the first N layers in RAM.",
            rich_help_panel=GPU,
        ),
    ] = 0
    batch_size: Annotated[
        int,
        setting(
            "-b",
            "--batch-size",
            callback=between(1),
            metavar="N",
            help="Prompt tokens per call.",
            rich_help_panel=ADVANCED,
        ),
    ] = 2048
    ubatch_size: Annotated[
        int,
        setting(
            "-ub",
            "--ubatch-size",
            callback=between(1),
            metavar="N",
            help="Prompt tokens computed at once.",
            rich_help_panel=ADVANCED,
        ),
    ] = 512
    flash_attn: Annotated[
        str,
        setting(
            "-fa",
            "--flash-attn",
            metavar="auto|on|off",
            help="Flash attention.",
            rich_help_panel=ADVANCED,
            **among("auto", "on", "off"),
        ),
    ] = "auto"
    cache_type_k: Annotated[
        str,
        setting(
            "-ctk",
            "--cache-type-k",
            metavar="TYPE",
            help="K cache: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0 or iq4_nl.",
            rich_help_panel=ADVANCED,
            **among(later=kv_types),
        ),
    ] = "f16"
    cache_type_v: Annotated[
        str,
        setting(
            "-ctv", "--cache-type-v", metavar="TYPE", help="V cache.", rich_help_panel=ADVANCED, **among(later=kv_types)
        ),
    ] = "f16"
    mmap: Annotated[bool, setting("--mmap/--no-mmap", help="Map the file, or read it.", rich_help_panel=ADVANCED)] = (
        True
    )
    mlock: Annotated[bool, setting("--mlock/--no-mlock", help="Keep the model in RAM.", rich_help_panel=ADVANCED)] = (
        False
    )
    repack: Annotated[
        bool, setting("--repack/--no-repack", help="Rearrange weights for this processor.", rich_help_panel=ADVANCED)
    ] = True

    def options_of(self, model: str | None, *, vocab_only: bool = False) -> ModelOptions:
        """For this model. Raises UsageError, ModelNotFound, and what pulling raises."""
        from llamacli.commands.locate import model_file
        from llamacli.engine.types import ModelOptions

        return ModelOptions(
            path=model_file(model, pull=self.pull),
            n_gpu_layers=_gpu_layers(self.gpu_layers),
            devices=_devices(self.device),
            tensor_split=_numbers(self.tensor_split),
            main_gpu=self.main_gpu,
            override_tensor=tuple(pair for text in self.override_tensor or () for pair in _overrides(text)),
            n_cpu_moe=self.n_cpu_moe,
            mmap=self.mmap,
            mlock=self.mlock,
            repack=self.repack,
            loras=tuple(_lora(text) for text in self.lora or ()),
            vocab_only=vocab_only,
        )

    def context(self) -> ContextOptions:
        """Everything about the context but its size. Raises UsageError."""
        from llamacli.engine.types import ContextOptions

        return ContextOptions(
            n_ctx=self.ctx_size or 0,
            n_batch=self.batch_size,
            n_ubatch=self.ubatch_size,
            n_threads=self.threads or 0,
            flash_attn=self.flash_attn,
            type_k=self.cache_type_k,
            type_v=self.cache_type_v,
        )


@dataclasses.dataclass(frozen=True)
class CacheFlags(Flags):
    """Whether evaluated prompts are kept on disk, for every verb that reads long ones again and again."""

    cache: Annotated[
        bool, setting("--cache/--no-cache", help="Load and store evaluated prompts.", rich_help_panel=ADVANCED)
    ] = True
    cache_size: Annotated[
        int | None,
        setting(
            "--cache-size",
            metavar="MIB",
            help="What all evaluated prompts may take on disk. (2048, a tenth of what is free at most)",
            callback=between(0),
            rich_help_panel=ADVANCED,
        ),
    ] = None

    def opened(self, model: ModelOptions) -> PromptCache | None:
        """Those of a model that is about to be opened; None where they are not wanted."""
        from llamacli.tasks import cache

        if not self.cache or self.cache_size == 0:
            return None
        return cache.opened(model, None if self.cache_size is None else self.cache_size << 20)


@dataclasses.dataclass(frozen=True)
class ModelFlags(LoadFlags):
    """Which model, and how it is loaded and run."""

    model: ModelFlag = None

    @property
    def named(self) -> str | None:
        """The model that was named as an option or by a preset, not by a setting."""
        return self.model if self.asked("model") else None

    def options(self, *, vocab_only: bool = False) -> ModelOptions:
        """Raises UsageError, ModelNotFound, and what pulling raises."""
        return self.options_of(self.model, vocab_only=vocab_only)


def one_of(option: str, value: str, allowed: tuple[str, ...]) -> str:
    """`value` in lower case. Raises UsageError with what is allowed."""
    if value.lower() not in allowed:
        raise UsageError(f"{option} {value}: it must be one of {', '.join(allowed)}")
    return value.lower()


def _devices(text: str | None) -> tuple[str, ...]:
    names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    if text is not None and not names:
        raise UsageError("--device names no device", hint="--device none keeps to the CPU")
    return ("none",) if [name.lower() for name in names] == ["none"] else names


def _lora(text: str) -> tuple[Path, float]:
    name, colon, number = text.rpartition(":")
    if not colon or Path(text).exists() or not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", number):
        name, number = text, "1"
    if not Path(name).is_file():
        raise UsageError(f"--lora {name}: no such file")
    return Path(name), float(number)
