"""Options that several verbs share, each declared once, in groups that a command takes as one parameter.

    @grouped
    def complete(model: ModelFlags, sampling: SamplingFlags, …) -> None

A group is a dataclass whose fields are annotated options; `grouped` shows Typer the fields as the command's own
parameters and hands the command the filled dataclass. Names are those of llama.cpp, ollama and llm.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import os
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

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


def grouped(function: Callable[..., None]) -> Callable[..., None]:
    """Expand the parameters whose type is a dataclass into that dataclass's fields."""
    hints = typing.get_type_hints(function, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in groups:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))
            continue
        group = groups[parameter.name]
        field_hints = typing.get_type_hints(group, include_extras=True)
        for field in dataclasses.fields(group):
            parameters.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=field.default,
                    annotation=field_hints[field.name],
                )
            )

    @functools.wraps(function)
    def command(**values: Any) -> None:
        for name, group in groups.items():
            fields = {field.name: values.pop(field.name) for field in dataclasses.fields(group)}
            values[name] = cast(type, group)(**fields)
        function(**values)

    del command.__wrapped__  # or Typer would look through it
    flat = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    flat.sort(key=_place)
    vars(command)["__signature__"] = inspect.Signature(flat)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


ModelFlag = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--model",
        metavar="MODEL",
        help="A file, an alias, user/repo[:QUANT] that was pulled, or tiny, the built-in toy. (tiny)",
        envvar="LLAMACLI_MODEL",
    ),
]

PullFlag = Annotated[
    bool, typer.Option("--pull", help="Fetch the model from the Hub if it is not here.", rich_help_panel=MODEL)
]


def _forbid_network(wanted: bool) -> bool:
    """In the library's own way, so that nothing of it can ask: it reads the variable when it is imported."""
    if wanted:
        os.environ["HF_HUB_OFFLINE"] = "1"
    return wanted


OfflineFlag = Annotated[
    bool,
    typer.Option(
        "--offline", help="Never use the network. (HF_HUB_OFFLINE)", callback=_forbid_network, rich_help_panel=MODEL
    ),
]


TokenFlag = Annotated[
    str | None,
    typer.Option("--token", metavar="TOKEN", help="For private and gated models. (HF_TOKEN)", show_envvar=False),
]

#: For estimates of memory; `complete` fits its context to the prompt.
MemoryContext = Annotated[
    int | None,
    typer.Option(
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
class AnswerFlags:
    """What every verb that answers takes."""

    system: Annotated[
        str | None, typer.Option("-s", "--system", "-sys", metavar="TEXT", help="A system message (chat models).")
    ] = None
    think: Annotated[
        str | None,
        typer.Option("--think", metavar="[=low|medium|high]", help="Let the model reason, as hard as said."),
    ] = None
    no_think: Annotated[bool, typer.Option("--no-think", help="Ask the model not to reason.")] = False
    hidethinking: Annotated[bool, typer.Option("--hidethinking", help="Do not show the reasoning.")] = False
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--max-tokens",
            "--n-predict",
            metavar="N",
            help="At most N tokens. (until the model ends or the context is full)",
            callback=between(-1),
        ),
    ] = None
    stop: Annotated[
        list[str] | None, typer.Option("--stop", metavar="TEXT", help="End before this text; repeatable.")
    ] = None

    def thinking(self) -> str | None:
        """ "off", "on", an effort, or None where nothing was said. Raises UsageError."""
        if self.think is not None and self.no_think:
            raise UsageError("--think and --no-think exclude each other")
        if self.think is not None:
            return one_of("--think", self.think, ("on", "low", "medium", "high"))
        return "off" if self.no_think else None

    @property
    def limit(self) -> int | None:
        """Tokens of an answer, None for no limit."""
        return None if self.max_tokens == -1 else self.max_tokens


@dataclasses.dataclass(frozen=True)
class LoadFlags:
    """How a model is loaded and run."""

    ctx_size: Annotated[
        int | None,
        typer.Option(
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
        typer.Option(
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
        typer.Option("--lora", metavar="FILE[:SCALE]", help="Apply a LoRA adapter; repeatable.", rich_help_panel=MODEL),
    ] = None
    gpu_layers: Annotated[
        str,
        typer.Option(
            "-ngl",
            "--gpu-layers",
            "--n-gpu-layers",
            metavar="auto|all|N",
            help="Layers to put on the GPU; auto: as many as fit.",
            rich_help_panel=GPU,
        ),
    ] = "auto"
    device: Annotated[
        str | None,
        typer.Option(
            "-dev", "--device", metavar="NAMES", help="Devices to offload to, by comma; none: CPU.", rich_help_panel=GPU
        ),
    ] = None
    tensor_split: Annotated[
        str | None,
        typer.Option(
            "-ts", "--tensor-split", metavar="N,N", help="Each GPU's share, such as 3,1.", rich_help_panel=GPU
        ),
    ] = None
    main_gpu: Annotated[
        int | None,
        typer.Option(
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
        typer.Option(
            "-ot",
            "--override-tensor",
            metavar="REGEX=BUFFER",
            help="Put the tensors of these names elsewhere, such as exps=CPU; repeatable.",
            rich_help_panel=GPU,
        ),
    ] = None
    n_cpu_moe: Annotated[
        int,
        typer.Option(
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
        typer.Option(
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
        typer.Option(
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
        typer.Option("-fa", "--flash-attn", metavar="auto|on|off", help="Flash attention.", rich_help_panel=ADVANCED),
    ] = "auto"
    cache_type_k: Annotated[
        str,
        typer.Option(
            "-ctk",
            "--cache-type-k",
            metavar="TYPE",
            help="K cache: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0 or iq4_nl.",
            rich_help_panel=ADVANCED,
        ),
    ] = "f16"
    cache_type_v: Annotated[
        str,
        typer.Option("-ctv", "--cache-type-v", metavar="TYPE", help="V cache.", rich_help_panel=ADVANCED),
    ] = "f16"
    no_mmap: Annotated[
        bool, typer.Option("--no-mmap", help="Read the file instead of mapping it.", rich_help_panel=ADVANCED)
    ] = False
    mlock: Annotated[bool, typer.Option("--mlock", help="Keep the model in RAM.", rich_help_panel=ADVANCED)] = False

    no_repack: Annotated[
        bool, typer.Option("--no-repack", help="Do not rearrange weights for this processor.", rich_help_panel=ADVANCED)
    ] = False

    def options_of(self, model: str | None, *, vocab_only: bool = False) -> ModelOptions:
        """For this model. Raises UsageError, ModelNotFound, and what pulling raises."""
        from llamacli.commands.locate import model_file
        from llamacli.engine.types import ModelOptions

        return ModelOptions(
            path=model_file(model, pull=self.pull),
            n_gpu_layers=_gpu_layers(self.gpu_layers),
            devices=_devices(self.device),
            tensor_split=_numbers("--tensor-split", self.tensor_split),
            main_gpu=self.main_gpu,
            override_tensor=tuple(pair for text in self.override_tensor or () for pair in _overrides(text)),
            n_cpu_moe=self.n_cpu_moe,
            mmap=not self.no_mmap,
            mlock=self.mlock,
            repack=not self.no_repack,
            loras=tuple(_lora(text) for text in self.lora or ()),
            vocab_only=vocab_only,
        )

    def context(self) -> ContextOptions:
        """Everything about the context but its size. Raises UsageError."""
        from llamacli.engine.types import KV_TYPES, ContextOptions

        return ContextOptions(
            n_ctx=self.ctx_size or 0,
            n_batch=self.batch_size,
            n_ubatch=self.ubatch_size,
            n_threads=self.threads or 0,
            flash_attn=one_of("--flash-attn", self.flash_attn, ("auto", "on", "off")),
            type_k=one_of("--cache-type-k", self.cache_type_k, tuple(KV_TYPES)),
            type_v=one_of("--cache-type-v", self.cache_type_v, tuple(KV_TYPES)),
        )


@dataclasses.dataclass(frozen=True)
class CacheFlags:
    """Whether evaluated prompts are kept on disk, for every verb that reads long ones again and again."""

    no_cache: Annotated[
        bool,
        typer.Option(
            "--no-cache",
            help="Neither load nor store evaluated prompts.",
            envvar="LLAMACLI_NO_CACHE",
            show_envvar=False,
            rich_help_panel=ADVANCED,
        ),
    ] = False
    cache_size: Annotated[
        int | None,
        typer.Option(
            "--cache-size",
            metavar="MIB",
            help="What all evaluated prompts may take on disk. (2048, a tenth of what is free at most)",
            callback=between(0),
            envvar="LLAMACLI_CACHE_SIZE",
            show_envvar=False,
            rich_help_panel=ADVANCED,
        ),
    ] = None

    def opened(self, model: ModelOptions) -> PromptCache | None:
        """Those of a model that is about to be opened; None where they are not wanted."""
        from llamacli.tasks import cache

        if self.no_cache or self.cache_size == 0:
            return None
        return cache.opened(model, None if self.cache_size is None else self.cache_size << 20)


@dataclasses.dataclass(frozen=True)
class ModelFlags(LoadFlags):
    """Which model, and how it is loaded and run."""

    model: ModelFlag = None

    @property
    def named(self) -> str | None:
        """The model that was named as an option, not by the variable LLAMACLI_MODEL."""
        return self.model if self.model != os.environ.get("LLAMACLI_MODEL") else None

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


def _gpu_layers(text: str) -> int | None:
    text = text.lower()
    if text in ("auto", "all"):
        return None if text == "auto" else -1
    if not re.fullmatch(r"\d+", text):
        raise UsageError(f"--gpu-layers {text}: it must be auto, all or a number of layers")
    return min(int(text), INT_MAX)


def _numbers(option: str, text: str | None) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in re.split("[,/]", text)) if text else ()
    except ValueError as error:
        raise UsageError(f"{option} {text}: numbers separated by commas are wanted, such as 3,1") from error
    if any(not math.isfinite(number) or number < 0 for number in numbers):
        raise UsageError(f"{option} {text}: each part must be 0 or more")
    return numbers


def _overrides(text: str) -> list[tuple[str, str]]:
    pairs = []
    for part in text.split(","):
        pattern, equals, buffer = part.rpartition("=")
        if not equals or not pattern or not buffer:
            raise UsageError(f"--override-tensor {part}: REGEX=BUFFER is wanted, such as exps=CPU")
        pairs.append((pattern, buffer))
    return pairs


def _lora(text: str) -> tuple[Path, float]:
    name, colon, number = text.rpartition(":")
    if not colon or Path(text).exists() or not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", number):
        name, number = text, "1"
    if not Path(name).is_file():
        raise UsageError(f"--lora {name}: no such file")
    return Path(name), float(number)
