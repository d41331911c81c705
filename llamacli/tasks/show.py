"""What a GGUF file says of its model, and what memory that model needs. Reads headers only, loads nothing."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llamacli.errors import BadModelFile, UsageError
from llamacli.models import store
from llamacli.models.ggml_types import type_name
from llamacli.models.gguf import MAX_LAYERS, STRING, Array, Header, TensorInfo, path_text, read_header
from llamacli.models.quant import quant_of_file
from llamacli.models.reference import name as shown_name
from llamacli.tasks.memory import MOST_CTX, Memory, estimate, number, tensors_of

#: Arrays of the metadata with more elements than this are shortened.
SHORT = 16
_FLOAT32 = 6  # GGUF's type id

#: Part of a model → the names of its tensors; the first that fits. llama.cpp's names: src/llama-arch.cpp.
_PARTS = {
    "norms": r"norm|(^|[._])ln\d?([._]|$)",
    "other": r"(^|\.)nextn\.|^rope_",
    "experts": r"exps(\.|$)|shexp|ffn_gate_inp|ffn_gate_tid2eid|exp_probs|ffn_\w+\.\d+\.",
    "recurrent": r"ssm_|shortconv|time_mix_",
    "attention": r"attn|indexer",
    "feed_forward": r"ffn|channel_mix",
    "output": r"^(output|cls|dense_)",
    "embeddings": r"embd|token_types",
}
_ORDER = ("embeddings", "attention", "feed_forward", "experts", "recurrent", "norms", "output", "other")
#: tokenizer.ggml.model → llama.cpp's name of the algorithm.
_VOCABULARIES = {"llama": "SPM", "gpt2": "BPE", "bert": "WPM", "t5": "UGM", "rwkv": "RWKV", "gemma4": "BPE"}
#: Kind of a chat template → the text in it that tells; the first that fits.
_TEMPLATES = {
    "harmony": "<|channel|>",
    "chatml": "<|im_start|>",
    "llama3": "<|start_header_id|>",
    "mistral": "[INST]",
    "gemma": "<start_of_turn>",
    "gemma4": "<|turn>",
    "deepseek": "<｜Assistant｜>",
    "glm": "[gMASK]",
    "granite": "<|start_of_role|>",
}


@dataclass(frozen=True)
class Part:
    """The tensors of one part of a model (embeddings, attention, …) that are stored in one type."""

    part: str
    type: str
    tensors: int
    parameters: int
    bytes: int


@dataclass(frozen=True)
class Token:
    """A special token; `text` as the vocabulary spells it."""

    id: int
    text: str


@dataclass(frozen=True)
class Vocabulary:
    """`kind` is the algorithm by llama.cpp's name, `model` and `pre` are what the file calls it."""

    size: int
    kind: str
    model: str
    pre: str


@dataclass(frozen=True)
class ChatTemplate:
    """`kind`: the family that its markers belong to, "" for none that is known."""

    kind: str
    first_line: str
    characters: int


@dataclass(frozen=True)
class ModelCard:
    """What a model is. None, or "" for texts, where the file does not say. Sizes in bytes.

    `active_parameters` take part in computing one token: not the experts that are not chosen.
    """

    model: str
    name: str
    architecture: str
    license: str
    files: tuple[str, ...]
    file_size: int
    quant: str
    bits_per_weight: float | None
    parameters: int
    active_parameters: int
    parts: tuple[Part, ...]
    n_layer: int | None
    n_embd: int | None
    n_head: int | None
    n_head_kv: int | None
    n_expert: int | None
    n_expert_used: int | None
    n_ctx_train: int | None
    vocabulary: Vocabulary | None
    bos: Token | None
    eos: Token | None
    chat_template: ChatTemplate | None
    sampling: dict[str, object]
    memory: Memory | None


@dataclass(frozen=True)
class Shortened:
    """An array of the metadata with more than SHORT elements: how many it has, and the first of them."""

    length: int
    first: tuple[object, ...]


@dataclass(frozen=True)
class Tensor:
    """`shape` innermost first, as in the file; `bytes` of data at `offset` bytes from the start of `file`."""

    name: str
    shape: tuple[int, ...]
    type: str
    bytes: int
    offset: int
    file: str


def show(path: Path, *, n_ctx: int | None = None, type_k: str = "f16", type_v: str = "f16") -> ModelCard:
    """Everything about a model; of a split one over all its files, whichever of them `path` is.

    `n_ctx` as in `memory.estimate`; `type_k`, `type_v`: names of KV_TYPES. Raises ModelNotFound, UsageError,
    StorageError, BadModelFile.
    """
    headers = _headers(path)
    header, tensors = headers[0], tensors_of(headers)
    parameters = sum(math.prod(tensor.shape) for tensor in tensors)
    n_bytes = sum(tensor.n_bytes for tensor in tensors)
    trained = number(header, "context_length", MOST_CTX) or None
    return ModelCard(
        model=shown_name(path),
        name=header.text("general.name"),
        architecture=header.architecture,
        license=header.text("general.license") or header.text("general.license.name"),
        files=tuple(str(each.path) for each in headers),
        file_size=sum(each.file_size for each in headers),
        quant=quant_of_file(header),
        bits_per_weight=round(8 * n_bytes / parameters, 3) if parameters else None,
        parameters=parameters,
        active_parameters=_active(header, tensors),
        parts=_parts(tensors),
        n_layer=number(header, "block_count", MAX_LAYERS),
        n_embd=number(header, "embedding_length"),
        n_head=number(header, "attention.head_count"),
        n_head_kv=number(header, "attention.head_count_kv"),
        n_expert=number(header, "expert_count"),
        n_expert_used=number(header, "expert_used_count"),
        n_ctx_train=trained,
        vocabulary=_vocabulary(header),
        bos=_token(header, "bos"),
        eos=_token(header, "eos"),
        chat_template=_chat_template(header),
        sampling=_sampling(header),
        memory=estimate(headers, n_ctx=n_ctx, type_k=type_k, type_v=type_v),
    )


def metadata(path: Path) -> dict[str, object]:
    """All metadata in the file's order; of a split model that of its first file. Raises as `show`.

    Values: int, float, bool, str, tuples of these, or Shortened.
    """
    header = _headers(path)[0]
    return {key: _value(value, header.metadata_types[key]) for key, value in header.metadata.items()}


def tensors(path: Path) -> tuple[Tensor, ...]:
    """All tensors in the order of the files. Raises as `show`."""
    return tuple(
        Tensor(t.name, t.shape, type_name(t.type), t.n_bytes, header.data_offset + t.offset, str(header.path))
        for header in _headers(path)
        for t in header.tensors
    )


def template(path: Path) -> str:
    """The chat template's text. Raises UsageError if there is none, and as `show`."""
    header = _headers(path)[0]
    text = header.metadata.get("tokenizer.chat_template")
    if not isinstance(text, str) or not text:
        raise UsageError(f"{path_text(Path(shown_name(path)))} has no chat template")
    return text


# ---- reading -------------------------------------------------------------------------------------------------------


def _headers(path: Path) -> list[Header]:
    """The header of each file of a model, the first one first. Raises BadModelFile for parts that are missing."""
    header = read_header(path)
    if header.n_split == 1:
        return [header]
    files = store.parts(path)
    if len(files) != header.n_split:
        raise BadModelFile(
            f"{path_text(path)}: one of {header.n_split} parts of a model, but its name does not say which",
            hint=f"its name must end in -00001-of-{header.n_split:05}.gguf",
        )
    if missing := [i for i, file in enumerate(files) if not file.exists()]:
        part = f"part {missing[0] + 1} of {len(files)} is missing: {path_text(files[missing[0]])}"
        raise BadModelFile(part, hint="download all parts into one folder")
    return [read_header(file) for file in files]


def _value(value: object, kind: int) -> object:
    if isinstance(value, Array):
        return _array(value)
    return _shortest(value) if kind == _FLOAT32 and isinstance(value, float) else value


def _array(array: Array) -> object:
    count = min(array.count, SHORT)
    n_bytes = array.n_bytes if array.element_type == STRING or not count else array.n_bytes // array.count * count
    values = replace(array, count=count, n_bytes=n_bytes).values()
    first = tuple(_value(value, array.element_type) for value in values)
    return Shortened(array.count, first) if array.count > count else first


def _shortest(value: float) -> float:
    """The shortest number that is this one in 32 bits: 1e-05, not 9.999999747378752e-06."""
    for digits in range(6, 9):
        shorter = float(f"{value:.{digits}g}")
        if struct.pack("<f", shorter) == struct.pack("<f", value):
            return shorter
    return value


def _sampling(header: Header) -> dict[str, object]:
    """What the file recommends, by its own names (`general.sampling.*`)."""
    start, types = "general.sampling.", header.metadata_types
    found = {key: value for key, value in header.metadata.items() if key.startswith(start)}
    return {key.removeprefix(start): _value(value, types[key]) for key, value in found.items()}


def _vocabulary(header: Header) -> Vocabulary | None:
    tokens, model = header.metadata.get("tokenizer.ggml.tokens"), header.text("tokenizer.ggml.model")
    if not isinstance(tokens, Array):
        return None
    return Vocabulary(tokens.count, _VOCABULARIES.get(model, model), model, header.text("tokenizer.ggml.pre"))


def _token(header: Header, which: str) -> Token | None:
    number = header.metadata.get(f"tokenizer.ggml.{which}_token_id")
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if type(number) is not int or not isinstance(tokens, Array) or not 0 <= number < tokens.count:
        return None
    return Token(number, str(replace(tokens, count=number + 1).values()[number]))


def _chat_template(header: Header) -> ChatTemplate | None:
    text = header.metadata.get("tokenizer.chat_template")
    if not isinstance(text, str) or not text:
        return None
    kind = next((kind for kind, mark in _TEMPLATES.items() if mark in text), "")
    return ChatTemplate(kind, text.strip().partition("\n")[0].strip(), len(text))


def part_of(name: str) -> str:
    """The part of a model that a tensor of this name belongs to."""
    return next((part for part, pattern in _PARTS.items() if re.search(pattern, name)), "other")


def _parts(tensors: Sequence[TensorInfo]) -> tuple[Part, ...]:
    """A row for each part and type: the parts in their order, the type with most bytes first."""
    rows: dict[tuple[str, str], Part] = {}
    for tensor in tensors:
        key = part_of(tensor.name), type_name(tensor.type)
        old = rows.get(key, Part(*key, 0, 0, 0))
        size = math.prod(tensor.shape)
        rows[key] = Part(*key, old.tensors + 1, old.parameters + size, old.bytes + tensor.n_bytes)
    return tuple(sorted(rows.values(), key=lambda row: (_ORDER.index(row.part), -row.bytes, row.type)))


def _active(header: Header, tensors: Sequence[TensorInfo]) -> int:
    n_expert, used = number(header, "expert_count"), number(header, "expert_used_count")
    idle = sum(math.prod(t.shape) for t in tensors if re.search(r"_(ch)?exps\.", t.name))
    share = 1 - used / n_expert if n_expert and used and used <= n_expert else 0.0
    return sum(math.prod(t.shape) for t in tensors) - int(idle * share)
