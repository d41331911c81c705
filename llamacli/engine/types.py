"""What crosses the engine's boundary: frozen dataclasses of plain values. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np

FinishReason = Literal["stop", "length", "context", "interrupted"]
DeviceKind = Literal["cpu", "gpu", "igpu", "accel", "other"]

#: llama.cpp's default chain (`common/common.h`), by its own names.
SAMPLER_ORDER = (
    "penalties",
    "dry",
    "top_n_sigma",
    "top_k",
    "typ_p",
    "top_p",
    "min_p",
    "xtc",
    "temperature",
)
SAMPLER_NAMES = (*SAMPLER_ORDER, "adaptive_p", "infill")


class KvType(NamedTuple):
    """A type of the KV cache: its number in enum ggml_type, bytes per element."""

    id: int
    n_bytes: float


KV_TYPES = {
    "f32": KvType(0, 4.0),
    "f16": KvType(1, 2.0),
    "bf16": KvType(30, 2.0),
    "q8_0": KvType(8, 34 / 32),
    "q5_1": KvType(7, 24 / 32),
    "q5_0": KvType(6, 22 / 32),
    "q4_1": KvType(3, 20 / 32),
    "q4_0": KvType(2, 18 / 32),
    "iq4_nl": KvType(20, 18 / 32),
}


@dataclass(frozen=True)
class ModelOptions:
    """How a model is loaded. `n_gpu_layers`: None chooses as many as fit, -1 means all."""

    path: Path
    n_gpu_layers: int | None = None
    devices: tuple[str, ...] = ()
    tensor_split: tuple[float, ...] = ()
    main_gpu: int | None = None
    override_tensor: tuple[tuple[str, str], ...] = ()  # (regex over tensor names, buffer type's name)
    n_cpu_moe: int = 0
    mmap: bool = True
    mlock: bool = False
    repack: bool = True  # rearrange quantised weights in RAM for this processor's fastest kernels
    loras: tuple[tuple[Path, float], ...] = ()
    vocab_only: bool = False


@dataclass(frozen=True)
class ContextOptions:
    """How a context is made. Sizes in tokens; `n_threads` 0 means the physical cores this process may use."""

    n_ctx: int
    n_batch: int = 2048
    n_ubatch: int = 512
    n_sequences: int = 1
    kv_unified: bool | None = None  # one KV cache for all sequences; None: where there are several
    n_threads: int = 0
    flash_attn: str = "auto"  # auto, on, off
    type_k: str = "f16"
    type_v: str = "f16"
    swa_full: bool = True  # layers with a sliding window keep all tokens, so that a part of them can be forgotten


@dataclass(frozen=True)
class Sampling:
    """Values of llama.cpp's samplers, by its names and with its defaults (`common/common.h`)."""

    temp: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exp: float = 1.0
    adaptive_target: float = -1.0
    adaptive_decay: float = 0.9
    logit_bias: tuple[tuple[int, float], ...] = ()
    samplers: tuple[str, ...] = SAMPLER_ORDER
    seed: int | None = None  # None draws one


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. `reasoning` is what an assistant thought before `content`."""

    role: str
    content: str
    reasoning: str | None = None


@dataclass(frozen=True)
class SpecialToken:
    """A control token of the vocabulary. `lstrip`/`rstrip`: it swallows white space on that side."""

    id: int
    text: str
    lstrip: bool = False
    rstrip: bool = False


@dataclass(frozen=True)
class Prompt:
    """A prompt before tokenisation: plain text (never parsed for control tokens) and ids of control tokens, in order.

    `text` is the whole as one string, as a template rendered it. `apart`: texts in the fragments that must not become
    one token, though the vocabulary has it.
    """

    fragments: tuple[str | int, ...]
    text: str
    apart: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chunk:
    """A piece of the answer: whole UTF-8 characters, or bytes that are no UTF-8 at all."""

    data: bytes
    reasoning: bool = False

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "replace")


@dataclass(frozen=True)
class Stats:
    """What a run cost: seconds and tokens. `generation_seconds` leaves out what the reader of the stream took."""

    load_seconds: float = 0.0
    prompt_seconds: float = 0.0
    generation_seconds: float = 0.0
    prompt_tokens: int = 0
    evaluated_tokens: int = 0  # of the prompt: the others were in the context already
    completion_tokens: int = 0
    decodes: int = 0  # of the generation: the first token comes from the prompt's logits

    @property
    def prompt_per_second(self) -> float:
        return self.evaluated_tokens / self.prompt_seconds if self.prompt_seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.decodes / self.generation_seconds if self.generation_seconds else 0.0


@dataclass(frozen=True)
class Finish:
    """The end of a stream."""

    reason: FinishReason
    seed: int
    stats: Stats
    n_ctx: int
    stop: str | None = None  # the stop string that ended it
    tokens: tuple[int, ...] = ()  # the answer's, with its reasoning


@dataclass(frozen=True)
class Device:
    """A compute device as ggml sees it; memory in bytes."""

    name: str
    description: str
    kind: DeviceKind
    memory_free: int
    memory_total: int
    backend: str = ""


@dataclass(frozen=True)
class QuantizeParams:
    """llama_model_quantize_params, by its names; numbers are those of enum llama_ftype and enum ggml_type.

    `imatrix`: tensor → mean squares of what its rows are multiplied with, float32, one after the other for each expert.
    `tt_overrides`: (regex over names, type), the first that is found decides.
    """

    ftype: int
    nthread: int = 0  # 0: all that this process may use
    output_tensor_type: int | None = None
    token_embedding_type: int | None = None
    allow_requantize: bool = False
    quantize_output_tensor: bool = True
    only_copy: bool = False
    pure: bool = False
    keep_split: bool = False
    imatrix: Mapping[str, np.ndarray] = field(default_factory=dict)
    kv_overrides: tuple[tuple[str, int | float | bool | str], ...] = ()
    tt_overrides: tuple[tuple[str, int], ...] = ()
    prune_layers: tuple[int, ...] = ()
    max_buf_size: int = 0  # bytes, 0: 8 GiB


class QuantizedTensor(NamedTuple):
    """What the quantiser makes of a tensor. Types by ggml's names ("q4_K"); `wanted` is another where rows do not fit.

    Where layers are pruned, `name` is the new one.
    """

    name: str
    shape: tuple[int, ...]
    source_type: str
    type: str
    wanted: str
