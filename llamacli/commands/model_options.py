"""Which model, how it is loaded and run, and what of it is kept."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from llamacli.commands import words
from llamacli.commands.options import (
    ADVANCED,
    GPU,
    INT_MAX,
    MODEL,
    Flags,
    OfflineFlag,
    PullFlag,
    Unfit,
    among,
    between,
    fit,
    setting,
)
from llamacli.errors import UsageError

if TYPE_CHECKING:
    from llamacli.engine.prompt_cache import PromptCache
    from llamacli.engine.types import ContextOptions, ModelOptions


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


def kv_types() -> Iterable[str]:
    from llamacli.engine.types import KV_TYPES

    return KV_TYPES


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
