"""Reading the header of a GGUF file, and the checks that keep llama.cpp from dying of it. Standard library only.

llama.cpp refuses much that is wrong with a file, but some faults end the whole process (`GGML_ASSERT`, a division by
zero, a null pointer). `read_header` says what a file is; `check` looks for those faults before llama.cpp sees the file.
What llama.cpp refuses cleanly by itself is left to it, unless a better message costs nothing.

Format: ggml/src/gguf.cpp and docs/gguf.md of llama.cpp. Everything in a file is foreign: names and values in messages
are escaped and cut.
"""

from __future__ import annotations

import errno
import math
import mmap
import re
import stat
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from llamacli.errors import BadModelFile, LlamacliError, ModelNotFound, StorageError, UsageError


class GgmlType(NamedTuple):
    """A tensor type: `block_size` elements take `type_size` bytes. Both are 0 for types that llama.cpp has removed."""

    name: str
    block_size: int
    type_size: int


# ids, names and sizes of ggml.h / ggml.c
GGML_TYPES: Mapping[int, GgmlType] = {
    0: GgmlType("F32", 1, 4),
    1: GgmlType("F16", 1, 2),
    2: GgmlType("Q4_0", 32, 18),
    3: GgmlType("Q4_1", 32, 20),
    4: GgmlType("Q4_2", 0, 0),
    5: GgmlType("Q4_3", 0, 0),
    6: GgmlType("Q5_0", 32, 22),
    7: GgmlType("Q5_1", 32, 24),
    8: GgmlType("Q8_0", 32, 34),
    9: GgmlType("Q8_1", 32, 36),
    10: GgmlType("Q2_K", 256, 84),
    11: GgmlType("Q3_K", 256, 110),
    12: GgmlType("Q4_K", 256, 144),
    13: GgmlType("Q5_K", 256, 176),
    14: GgmlType("Q6_K", 256, 210),
    15: GgmlType("Q8_K", 256, 292),
    16: GgmlType("IQ2_XXS", 256, 66),
    17: GgmlType("IQ2_XS", 256, 74),
    18: GgmlType("IQ3_XXS", 256, 98),
    19: GgmlType("IQ1_S", 256, 50),
    20: GgmlType("IQ4_NL", 32, 18),
    21: GgmlType("IQ3_S", 256, 110),
    22: GgmlType("IQ2_S", 256, 82),
    23: GgmlType("IQ4_XS", 256, 136),
    24: GgmlType("I8", 1, 1),
    25: GgmlType("I16", 1, 2),
    26: GgmlType("I32", 1, 4),
    27: GgmlType("I64", 1, 8),
    28: GgmlType("F64", 1, 8),
    29: GgmlType("IQ1_M", 256, 56),
    30: GgmlType("BF16", 1, 2),
    31: GgmlType("Q4_0_4_4", 0, 0),
    32: GgmlType("Q4_0_4_8", 0, 0),
    33: GgmlType("Q4_0_8_8", 0, 0),
    34: GgmlType("TQ1_0", 256, 54),
    35: GgmlType("TQ2_0", 256, 66),
    36: GgmlType("IQ4_NL_4_4", 0, 0),
    37: GgmlType("IQ4_NL_4_8", 0, 0),
    38: GgmlType("IQ4_NL_8_8", 0, 0),
    39: GgmlType("MXFP4", 32, 17),
    40: GgmlType("NVFP4", 64, 36),
    41: GgmlType("Q1_0", 128, 18),
    42: GgmlType("Q2_0", 64, 18),
}
F32 = 0

# metadata value types
_SCALARS: Mapping[int, struct.Struct] = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_UINT16, _BOOL, _STRING, _ARRAY = 2, 7, 8, 9
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_NAME = 63  # GGML_MAX_NAME - 1
_MAX_DIMS = 4
_MAX_STRING = 1 << 30  # GGUF_MAX_STRING_LENGTH, bytes
_MAX_ARRAY = 1 << 30  # GGUF_MAX_ARRAY_ELEMENTS
_MIN_KEY_BYTES = 14  # length, one character, type, one byte of value
_MIN_TENSOR_BYTES = 24  # length of the name, number of dimensions, type, offset
_INT64_MAX = (1 << 63) - 1

_DOWNLOAD_AGAIN = "download the file again"


@dataclass(frozen=True, slots=True)
class Array:
    """An array in the metadata, read from the file only when asked. `offset` and `n_bytes` are in bytes."""

    path: Path
    element_type: int
    count: int
    offset: int
    n_bytes: int

    def values(self) -> list[Any]:
        """All elements as int, float, bool or str (bytes that are not UTF-8 become U+FFFD)."""
        if self.element_type == _STRING:
            return [text.decode("utf-8", "replace") for text in self.strings()]
        return [value for (value,) in _SCALARS[self.element_type].iter_unpack(self._bytes())]

    def strings(self) -> list[bytes]:
        """All elements of an array of strings, as they stand in the file."""
        data, pos, length, texts = self._bytes(), 0, _U64.unpack_from, []
        for _ in range(self.count):
            end = pos + 8 + length(data, pos)[0]
            texts.append(data[pos + 8 : end])
            pos = end
        return texts

    def _bytes(self) -> bytes:
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                data = file.read(self.n_bytes)
        except OSError as error:
            raise _storage_error(self.path, error) from error
        if len(data) != self.n_bytes:
            raise _bad(self.path, "the file has become shorter since its header was read")
        return data


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor as the header describes it; `offset` counts from the start of the data section, both in bytes."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    n_bytes: int


@dataclass(frozen=True)
class Header:
    """Everything in front of the weights. Values of `metadata`: int, float, bool, str or `Array`.

    `metadata_types` holds the GGUF type id of each value (9 for arrays), `file_size` and `data_offset` are in bytes.
    """

    path: Path
    version: int
    alignment: int
    metadata: Mapping[str, object]
    metadata_types: Mapping[str, int]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    file_size: int

    @property
    def architecture(self) -> str:
        """`general.architecture`, for instance "llama"; empty where the file names none."""
        return self.text("general.architecture")

    @property
    def n_elements(self) -> int:
        """Number of weights in this file (a part of a split model: in this part)."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def n_split(self) -> int:
        """Number of files this model is split into; 1 for an ordinary file."""
        count = self.metadata.get("split.count")
        return count if isinstance(count, int) and count > 1 else 1

    def text(self, key: str) -> str:
        """A string value as llama.cpp sees it, that is up to its first NUL; empty if there is none."""
        value = self.metadata.get(key)
        return value.partition("\0")[0] if isinstance(value, str) else ""

    def hparam(self, name: str) -> object:
        """The value of `<architecture>.<name>`, or None."""
        return self.metadata.get(f"{self.architecture}.{name}")

    def per_layer(self, name: str) -> list[Any]:
        """The values of a hyperparameter that is one number or an array with one number per layer; [] if missing."""
        value = self.hparam(name)
        if isinstance(value, Array):
            # llama.cpp refuses arrays that are longer than its limit of layers
            return value.values() if value.count <= _MAX_LAYERS else []
        return [] if value is None else [value]


def escaped(text: str, limit: int = 80) -> str:
    """Foreign text for a message: unprintable characters as escapes, cut to `limit` characters."""
    chars = (char if char.isprintable() else char.encode("unicode_escape").decode() for char in text[: limit + 1])
    shown = "".join(chars)
    return shown if len(text) <= limit and len(shown) <= limit else shown[: limit - 1] + "…"


def type_name(ggml_type: int) -> str:
    """The name of a tensor type, for instance "Q4_K"; "type 99" if there is none with this id."""
    return GGML_TYPES[ggml_type].name if ggml_type in GGML_TYPES else f"type {ggml_type}"


def read_header(path: str | Path) -> Header:
    """Read metadata and tensor descriptions; arrays stay in the file until asked for.

    Raises ModelNotFound, UsageError (a folder), StorageError (no permission) or BadModelFile, which says what the file
    is instead of a GGUF file, or where it is damaged.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UsageError(f"{_shown(path)} is a folder, not a model file", hint="name the .gguf file inside it")
        if not stat.S_ISREG(mode):  # opening a FIFO would wait for a writer
            raise UsageError(f"{_shown(path)} is not a regular file")
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            _check_is_gguf(path, file.read(512), size)
            with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
                return _Reader(path, data, size).header()
    except OSError as error:
        raise _storage_error(path, error) from error
    except ValueError as error:  # a NUL in the path
        raise UsageError(f"{_shown(path)} cannot be the name of a file") from error


def check(header: Header, *, weights: bool = True) -> None:
    """Raise BadModelFile for what would make llama.cpp abort, crash, hang or allocate absurdly.

    With `weights` false the tensors do not matter: only the vocabulary is going to be used. Reads the other parts of a
    split model, too.
    """
    for check_one in _CHECKS:
        check_one(header)
    if weights:
        for check_one in _WEIGHT_CHECKS:
            check_one(header)


# ---- errors --------------------------------------------------------------------------------------------------------


def _shown(path: Path) -> str:
    return escaped(str(path), 1000)


def _bad(path: Path, reason: str, hint: str | None = None) -> BadModelFile:
    return BadModelFile(f"{_shown(path)}: {reason}", hint=hint)


def _storage_error(path: Path, error: OSError) -> LlamacliError:
    if isinstance(error, FileNotFoundError | NotADirectoryError) or error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return ModelNotFound(f"no such file: {_shown(path)}")
    return StorageError(f"cannot read {_shown(path)}: {error.strerror or error}")


# ---- what users take for a GGUF file -------------------------------------------------------------------------------

_CONVERT = "llama.cpp's convert_hf_to_gguf.py makes a GGUF file of it; most models have a ready-made one on the Hub"
_OLD_GGML = "a model file from before GGUF (2023), which llama.cpp cannot read any more"
_NEWER_FILE = "download the model as GGUF"
_NOT_THE_FILE = "this is what a server sent instead of the model: check the address, then download the file again"

_OTHER_FORMATS: tuple[tuple[bytes, str, str | None], ...] = (
    (b"PK\x03\x04", "a zip archive or PyTorch checkpoint (.bin, .pt), not a GGUF file", _CONVERT),
    (b"\x80\x02", "a Python pickle (PyTorch checkpoint), not a GGUF file", _CONVERT),
    (b"\x80\x04", "a Python pickle, not a GGUF file", _CONVERT),
    (b"\x89HDF", "an HDF5 file, not a GGUF file", _CONVERT),
    (b"lmgg", f"{_OLD_GGML} (ggml)", _NEWER_FILE),
    (b"fmgg", f"{_OLD_GGML} (ggmf)", _NEWER_FILE),
    (b"tjgg", f"{_OLD_GGML} (ggjt)", _NEWER_FILE),
    (b"algg", "a LoRA adapter from before GGUF (ggla)", None),
    (b"\x1f\x8b", "a gzip archive, not a GGUF file", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive, not a GGUF file", "unpack it first"),
    (b"7z\xbc\xaf", "a 7-zip archive, not a GGUF file", "unpack it first"),
    (b"BZh", "a bzip2 archive, not a GGUF file", "unpack it first"),
    (b"\xfd7zXZ", "an xz archive, not a GGUF file", "unpack it first"),
)
_LFS_SIZE = re.compile(rb"^size (\d{1,15})\s*$", re.MULTILINE)


def _check_is_gguf(path: Path, start: bytes, size: int) -> None:
    """Raise BadModelFile with the most likely reason if the file does not start like a GGUF file."""
    if size == 0:
        raise _bad(path, "the file is empty", _DOWNLOAD_AGAIN)
    if start.startswith(b"GGUF"):
        return
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        raise _bad(path, f"a web page ({size:,} bytes), not a GGUF file", _NOT_THE_FILE)
    if text.startswith(b"version https://git-lfs.github.com/spec"):
        named = _LFS_SIZE.search(start)
        of = f" for a file of {int(named[1]):,} bytes" if named else ""
        raise _bad(path, f"a Git LFS pointer{of}, not the model itself", "run `git lfs pull` or download the file")
    for magic, what, hint in _OTHER_FORMATS:
        if start.startswith(magic):
            raise _bad(path, what, hint)
    if start[8:10] == b'{"' and len(start) >= 10 and _U64.unpack_from(start)[0] <= size:
        raise _bad(path, "a safetensors file, not a GGUF file", _CONVERT)
    if text.startswith((b"{", b"[")):
        raise _bad(path, f"a JSON text ({size:,} bytes), not a GGUF file", "name the .gguf file")
    if not start.strip(b"\0"):
        raise _bad(path, "its first bytes are all zero: a download that did not finish?", _DOWNLOAD_AGAIN)
    raise _bad(path, f"not a GGUF file: it starts with {start[:4]!r} instead of b'GGUF'")


# ---- reading -------------------------------------------------------------------------------------------------------


class _Reader:
    """A position in a mapped file. Its methods raise struct.error or OverflowError behind the end of the file."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self.path = path
        self.data = data
        self.size = size
        self.pos = 4
        self.place = "its header"

    def header(self) -> Header:
        try:
            return self._header()
        except (struct.error, OverflowError):
            reason = f"cut short or damaged: the file ends after {self.size:,} bytes, inside {self.place}"
            raise _bad(self.path, reason, _DOWNLOAD_AGAIN) from None

    def _header(self) -> Header:
        version = self._version()
        n_tensors, n_keys = self._u64(), self._u64()
        room = self.size - self.pos
        if n_tensors > room // _MIN_TENSOR_BYTES or n_keys > room // _MIN_KEY_BYTES:
            counts = f"{n_tensors:,} tensors and {n_keys:,} metadata keys"
            raise self._bad(f"claims {counts}, more than its {self.size:,} bytes can hold", _DOWNLOAD_AGAIN)
        metadata: dict[str, object] = {}
        types: dict[str, int] = {}
        for i in range(n_keys):
            self.place = f"metadata key {i + 1} of {n_keys}"
            key = self._name("metadata key")
            if key in metadata:
                raise self._bad(f"the metadata key {escaped(key)} occurs twice")
            types[key], metadata[key] = self._value(key)
        alignment = self._alignment(metadata, types)
        tensors = []
        for i in range(n_tensors):
            self.place = f"the description of tensor {i + 1} of {n_tensors}"
            tensors.append(self._tensor())
        padding = -self.pos % alignment if tensors else 0
        header = Header(self.path, version, alignment, metadata, types, tuple(tensors), self.pos + padding, self.size)
        self._check_data(header)
        return header

    def _bad(self, reason: str, hint: str | None = None) -> BadModelFile:
        return _bad(self.path, reason, hint)

    def _version(self) -> int:
        version = self._u32()
        if version & 0xFFFF == 0 and version:
            raise self._bad("a big-endian GGUF file, for another kind of processor", "download the little-endian file")
        if version not in _VERSIONS:
            reason = f"GGUF version {version}; versions {_VERSIONS[0]} and {_VERSIONS[1]} can be read"
            hint = "download a newer file of this model" if version < _VERSIONS[0] else "update llamacli"
            raise self._bad(reason, hint if version < 16 else _DOWNLOAD_AGAIN)
        return version

    def _u32(self) -> int:
        value: int = _U32.unpack_from(self.data, self.pos)[0]
        self.pos += 4
        return value

    def _u64(self) -> int:
        value: int = _U64.unpack_from(self.data, self.pos)[0]
        self.pos += 8
        return value

    def _string(self) -> bytes:
        length = self._u64()
        if length > _MAX_STRING:
            raise self._bad(f"damaged: a string of {length:,} bytes in {self.place}", _DOWNLOAD_AGAIN)
        return self._take(length)

    def _take(self, length: int) -> bytes:
        start, self.pos = self.pos, self.pos + length
        if self.pos > self.size:
            raise struct.error
        return self.data[start : self.pos]

    def _name(self, what: str) -> str:
        name = self._string()
        # llama.cpp compares names as C strings: behind a NUL, a key could hide from the checks
        if not name or 0 in name:
            raise self._bad(f"damaged: a {what} that is empty or holds a NUL byte ({escaped(repr(name))})")
        return name.decode("utf-8", "backslashreplace")

    def _value(self, key: str) -> tuple[int, object]:
        value_type = self._u32()
        self.place = f"the value of {escaped(key)}"
        if value_type == _STRING:
            return value_type, self._string().decode("utf-8", "replace")
        if value_type == _ARRAY:
            return value_type, self._array(key)
        layout = self._layout(key, value_type)
        return value_type, layout.unpack(self._take(layout.size))[0]

    def _layout(self, key: str, value_type: int) -> struct.Struct:
        if value_type not in _SCALARS:
            what = "is an array of arrays" if value_type == _ARRAY else f"has the unknown type {value_type}"
            raise self._bad(f"the metadata key {escaped(key)} {what}")
        return _SCALARS[value_type]

    def _array(self, key: str) -> Array:
        element_type, count = self._u32(), self._u64()
        start = self.pos
        if element_type == _STRING:
            if count > min(_MAX_ARRAY, (self.size - start) // 8):
                raise self._too_long(key, count)
            self._skip_strings(count)
        else:
            n_bytes = count * self._layout(key, element_type).size
            if count > _MAX_ARRAY or n_bytes > self.size - start:
                raise self._too_long(key, count)
            self.pos += n_bytes
        return Array(self.path, element_type, count, start, self.pos - start)

    def _too_long(self, key: str, count: int) -> BadModelFile:
        reason = f"the array {escaped(key)} claims {count:,} elements; {self.size - self.pos:,} bytes are left"
        return self._bad(f"cut short or damaged: {reason}", _DOWNLOAD_AGAIN)

    def _skip_strings(self, count: int) -> None:
        data, pos, length = self.data, self.pos, _U64.unpack_from  # the hot loop: 150,000 tokens and as many merges
        for _ in range(count):
            pos += 8 + length(data, pos)[0]
        if pos > self.size:
            raise struct.error
        self.pos = pos

    def _alignment(self, metadata: Mapping[str, object], types: Mapping[str, int]) -> int:
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or types.get("general.alignment", 4) != 4:
            raise self._bad("general.alignment is not a 32-bit unsigned integer")
        if alignment <= 0 or alignment & (alignment - 1):
            raise self._bad(f"general.alignment is {alignment}, not a power of two")
        return alignment

    def _tensor(self) -> TensorInfo:
        name = self._name("tensor name")
        shown = f"the tensor {escaped(name)}"
        n_dims = self._u32()
        if len(name.encode()) > _MAX_NAME or n_dims > _MAX_DIMS:
            limits = f"at most {_MAX_NAME} and {_MAX_DIMS} are possible"
            raise self._bad(f"{shown} has a name of {len(name.encode())} bytes and {n_dims} dimensions; {limits}")
        shape = struct.unpack(f"<{n_dims}q", self._take(8 * n_dims))
        ggml_type, offset = self._u32(), self._u64()
        if any(n <= 0 for n in shape) or math.prod(shape) > _INT64_MAX:
            raise self._bad(f"{shown} has the impossible shape {_shape(shape)}")
        return TensorInfo(name, shape, ggml_type, offset, self._n_bytes(shown, shape, ggml_type))

    def _n_bytes(self, shown: str, shape: tuple[int, ...], ggml_type: int) -> int:
        if ggml_type not in GGML_TYPES:
            raise self._bad(f"{shown} has the unknown type {ggml_type}", "is it from a newer llama.cpp?")
        name, block_size, type_size = GGML_TYPES[ggml_type]
        if block_size == 0:
            raise self._bad(f"{shown} has the type {name}, which llama.cpp has removed", "download another file")
        row = shape[0] if shape else 1
        if row % block_size:
            raise self._bad(f"{shown} has rows of {row:,} elements, but {name} comes in blocks of {block_size}")
        return math.prod(shape) // block_size * type_size

    def _check_data(self, header: Header) -> None:
        """Tensors follow each other without gap or overlap, up to the end of the file at most."""
        expected = 0
        names = set()
        for tensor in header.tensors:
            if tensor.name in names:
                raise self._bad(f"the tensor {escaped(tensor.name)} occurs twice")
            names.add(tensor.name)
            if tensor.offset != expected:
                numbers = f"at {tensor.offset:,} instead of {expected:,}"
                raise self._bad(f"damaged: the data of the tensor {escaped(tensor.name)} is said to be {numbers}")
            end = expected + tensor.n_bytes
            expected = end + -end % header.alignment
        if header.tensors and header.data_offset + end > header.file_size:
            needed = f"needs {header.data_offset + end:,} bytes, the file has {header.file_size:,}"
            raise self._bad(f"cut short: the model {needed}", _DOWNLOAD_AGAIN)


def _shape(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(str(n) for n in shape) + "]"


# ---- what kills llama.cpp ------------------------------------------------------------------------------------------

_MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
_MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS
_MAX_WINDOW = 1 << 26
_BYTE_TOKEN = 6  # LLAMA_TOKEN_TYPE_BYTE


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# GGML_ASSERT(n_expert > 0), or an integer division by n_expert_used
_MOE_ARCHITECTURES = _names(
    """
    bailingmoe2 glm4moe grovemoe lfm2moe llada-moe mellum qwen2moe qwen35moe qwen3moe qwen3next qwen3vlmoe rnd1
    smallthinker
    """
)
# their ggml_rope_multi asserts that the three sections are not all empty
_MROPE_ARCHITECTURES = _names("paddleocr qwen2vl qwen35 qwen35moe qwen3tts qwen3vl qwen3vlmoe qwen4exp")
# n_embd / n_head(0) as integers
_DIVIDE_BY_HEADS = _names("gemma2 gemma3 olmo2 phimoe")
# d_inner / n_group or n_v_heads % n_group as integers
_DIVIDE_BY_GROUPS = _names("falcon-h1 granitehybrid mamba2 nemotron_h nemotron_h_moe qwen35 qwen35moe qwen3next")
# GGML_ASSERT(n_embd_head == hparams.n_embd_head_k()) when their graph is built: heads of keys and values are alike
_EVEN_HEADS = _names(
    """
    afmoe apertus arcee arctic baichuan bailingmoe2 bert bitnet bloom chameleon chatglm codeshell cogvlm cohere2
    cohere2moe command-r dbrx deci deepseek dflash dots1 dream eagle3 ernie4_5 ernie4_5-moe eurobert exaone falcon
    glm4 glm4moe gpt2 gptneox granite granite_swa granitehybrid granitemoe graniteswitch grok grovemoe hunyuan-dense
    hunyuan-moe hunyuan_vl hy_v3 internlm2 jais jais2 jina-bert-v2 jina-bert-v3 laguna llada llada-moe llama llama-
    embed llama4 maincoder mellum minicpm minimax-01 minimax-m2 minimax-m3 mistral3 modern-bert mpt muse-glimmer
    nanbeige nemotron nemotron_h nemotron_h_moe neo-bert nomic-bert nomic-bert-moe olmo olmo2 olmoe openelm orion
    paddleocr pangu-embedded phi2 phi3 phimoe plamo pockettts qwen qwen2 qwen2moe qwen2vl qwen3 qwen35 qwen35moe
    qwen3moe qwen3next qwen3vl qwen3vlmoe qwen4exp refact rnd1 seed_oss smallthinker smollm3 spark2_5 stablelm
    starcoder starcoder2 t5 t5encoder xverse
    """
)
# GGML_ASSERT(n_embd_head == n_rot): RoPE turns whole heads
_WHOLE_ROPE = _names(
    """
    apertus arcee arctic baichuan chameleon codeshell cogvlm cohere2moe dbrx deci deepseek dots1 dream ernie4_5
    ernie4_5-moe exaone exaone-moe exaone4 falcon granite granite_swa granitemoe graniteswitch grok grovemoe
    hunyuan-dense hunyuan-moe hunyuan_vl hy_v3 internlm2 jais2 llada llada-moe llama llama-embed llama4 maincoder
    mellum minicpm mistral3 olmo olmo2 olmoe orion paddleocr pangu-embedded plamo pockettts qwen2 qwen2moe qwen2vl
    qwen3 qwen3moe qwen3vl qwen3vlmoe rnd1 seed_oss smallthinker smollm3 starcoder2 talkie xverse
    """
)


def _check_kind(header: Header) -> None:
    """Files that are GGUF, but no language model. llama.cpp only says that it cannot load them."""
    kind = header.text("general.type")
    if header.architecture == "clip" or kind == "mmproj":
        hint = "name the model it belongs to"
        raise _bad(header.path, "a projector for images or sound (mmproj), not a language model", hint)
    if kind == "adapter":
        raise _bad(header.path, "a LoRA adapter, not a model", "name the model it was trained for")
    if kind == "imatrix":
        raise _bad(header.path, "an importance matrix, not a model")
    if not header.architecture:
        raise _bad(header.path, "general.architecture is missing: not a language model")


def _check_layers(header: Header) -> None:
    """GGML_ASSERT(n_layer_all > 0 && n_layer_all <= LLAMA_MAX_LAYERS) and its like in load_hparams."""
    n_layer = header.hparam("block_count")
    if not isinstance(n_layer, int):
        return
    if not 0 < n_layer <= _MAX_LAYERS:
        raise _bad(header.path, f"block_count is {n_layer:,}; between 1 and {_MAX_LAYERS} layers are possible")
    for name in ("nextn_predict_layers", "posnet.block_count", "convnext.block_count"):
        n = header.hparam(name)
        if isinstance(n, int) and n > n_layer:
            raise _bad(header.path, f"{name} is {n:,}, more than its {n_layer} layers")


def _check_experts(header: Header) -> None:
    """GGML_ASSERT(n_expert_used <= n_expert) and its like in load_hparams."""
    n_expert = header.hparam("expert_count") or 0
    n_groups = header.hparam("expert_group_count") or 0
    group_used = header.hparam("expert_group_used_count") or 0
    used = max((n for n in header.per_layer("expert_used_count") if isinstance(n, int)), default=0)
    if not isinstance(n_expert, int) or not isinstance(n_groups, int) or not isinstance(group_used, int):
        return
    if header.architecture in ("hunyuan_vl", "hunyuan-dense") and n_expert <= 1:
        return  # llama.cpp takes these as models without experts
    if n_expert == 0 and header.architecture in _MOE_ARCHITECTURES:
        raise _bad(header.path, f"expert_count is missing or 0, but {escaped(header.architecture)} models have experts")
    if n_expert > _MAX_EXPERTS:
        raise _bad(header.path, f"expert_count is {n_expert:,}; at most {_MAX_EXPERTS} experts are possible")
    if used > n_expert or (used == 0) != (n_expert == 0):
        raise _bad(header.path, f"expert_used_count is {used:,} of {n_expert:,} experts")
    if n_groups > 0 and n_groups >= n_expert:
        raise _bad(header.path, f"expert_group_count is {n_groups:,} for {n_expert:,} experts")
    if n_groups > 1 and (n_expert % n_groups or not 0 < group_used < n_groups):
        raise _bad(header.path, f"{group_used:,} of {n_groups:,} groups used for {n_expert:,} experts")


def _check_heads(header: Header) -> None:
    """ggml_mul_mat and ggml_flash_attn_ext assert that the query heads are a multiple of the key heads.

    Architectures that divide by a number end by SIGFPE where it is 0.
    """
    heads = header.per_layer("attention.head_count")
    heads_kv = header.per_layer("attention.head_count_kv")
    if header.architecture in _DIVIDE_BY_HEADS and (not heads or heads[0] == 0):
        raise _bad(header.path, "attention.head_count is missing or 0")
    if header.architecture in _DIVIDE_BY_GROUPS and header.hparam("ssm.group_count") == 0:
        raise _bad(header.path, "ssm.group_count is 0")
    layers = max(len(heads), len(heads_kv)) if heads and heads_kv else 0
    for layer in range(layers):
        n_head, n_kv = heads[layer % len(heads)], heads_kv[layer % len(heads_kv)]
        if isinstance(n_head, int) and isinstance(n_kv, int) and n_kv > 0 and n_head % n_kv:
            raise _bad(header.path, f"{n_head:,} attention heads cannot share {n_kv:,} key/value heads")


def _check_rope_scaling(header: Header) -> None:
    """GGML_ASSERT(rope_scaling_type_train != LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED) in load_hparams."""
    if isinstance(header.hparam("rope.scaling.type"), str):
        scaling = header.text(f"{header.architecture}.rope.scaling.type")
        if scaling not in ("none", "linear", "yarn", "longrope"):
            raise _bad(header.path, f"rope.scaling.type is {escaped(repr(scaling))}, which llama.cpp does not know")


def _check_head_dimensions(header: Header) -> None:
    """GGML_ASSERT(n_dims <= ne0) and (n_dims % 2 == 0) in ggml_rope, and what architectures assert of their heads."""
    heads, n_embd = header.per_layer("attention.head_count"), header.hparam("embedding_length")
    if not heads or not isinstance(heads[0], int) or heads[0] <= 0 or not isinstance(n_embd, int):
        return
    key = _number(header, "attention.key_length", n_embd // heads[0])
    value = _number(header, "attention.value_length", n_embd // heads[0])
    n_rot = _number(header, "rope.dimension_count", key)
    key_swa = _number(header, "attention.key_length_swa", key)  # of layers with a sliding window
    n_rot_swa = _number(header, "rope.dimension_count_swa", n_rot)
    for rot, dim in ((n_rot, key), (n_rot_swa, key_swa)):
        if rot > dim or rot % 2:
            raise _bad(header.path, f"RoPE turns {rot:,} of the {dim:,} dimensions of an attention head")
    if (key_swa, n_rot_swa) != (key, n_rot):
        return
    if value != key and header.architecture in _EVEN_HEADS:
        raise _bad(header.path, f"the heads of keys have {key:,} dimensions, those of values {value:,}")
    if n_rot != value and header.architecture in _WHOLE_ROPE:
        raise _bad(header.path, f"RoPE turns {n_rot:,} of the {value:,} dimensions of an attention head")
    if header.architecture in _WHOLE_ROPE or header.architecture == "gpt-oss":
        _check_head_tensors(header, key)


_HEADS_OF = re.compile(r"blk\.(\d+)\.attn_([qk])\.weight")


def _check_head_tensors(header: Header, head_dim: int) -> None:
    """GGML_ASSERT(ggml_nelements(a) == ne0*ne1*ne2) in ggml_reshape_3d, where the heads are told apart."""
    counts = {"q": header.per_layer("attention.head_count")}
    counts["k"] = header.per_layer("attention.head_count_kv") or counts["q"]
    for tensor in header.tensors:
        if found := _HEADS_OF.fullmatch(tensor.name):
            per_layer, layer = counts[found[2]], int(found[1])
            n_head = per_layer[layer if layer < len(per_layer) else 0]
            if isinstance(n_head, int) and tensor.shape[1:] != (n_head * head_dim,):
                heads = f"{n_head:,} heads of {head_dim:,} dimensions"
                raise _bad(header.path, f"the tensor {tensor.name} has the shape {_shape(tensor.shape)}, not {heads}")


def _number(header: Header, name: str, default: int) -> int:
    value = header.hparam(name)
    return value if isinstance(value, int) else default


def _check_rope_sections(header: Header) -> None:
    """GGML_ASSERT(sections[0] > 0 || …) and (sect_dims <= ne0) in ggml_rope_multi; a division by their sum."""
    sections = [n for n in header.per_layer("rope.dimension_sections") if isinstance(n, int)]
    sections = 4 * sections if len(sections) == 1 else sections  # llama.cpp repeats a single number
    heads, n_embd = header.per_layer("attention.head_count"), header.hparam("embedding_length")
    shown = escaped(", ".join(str(n) for n in sections[:8]))
    if not any(n > 0 for n in sections[:3]) and header.architecture in _MROPE_ARCHITECTURES:
        raise _bad(header.path, f"rope.dimension_sections is {shown or 'missing'}: no section has dimensions")
    if sections and heads and isinstance(heads[0], int) and heads[0] > 0 and isinstance(n_embd, int):
        head_dim = _number(header, "attention.key_length", n_embd // heads[0])
        if min(sections) < 0 or sum(sections[:4]) > head_dim:
            raise _bad(header.path, f"rope.dimension_sections is {shown} for heads of {head_dim:,} dimensions")


def _check_sliding_window(header: Header) -> None:
    """GGML_ASSERT(hparams.is_swa_any()), and 4 bytes for each position of the window when the mask is made."""
    window, pattern = header.hparam("attention.sliding_window"), header.hparam("attention.sliding_window_pattern")
    if isinstance(window, int) and window > _MAX_WINDOW:
        raise _bad(header.path, f"attention.sliding_window is {window:,} tokens; at most {_MAX_WINDOW:,} is plausible")
    if window and type(pattern) is int and pattern == 1:
        raise _bad(header.path, "attention.sliding_window_pattern is 1: no layer has a sliding window")


def _check_epsilon(header: Header) -> None:
    """GGML_ASSERT(eps >= 0.0f) in ggml_rms_norm and ggml_norm; NaN fails it, too."""
    for name in ("layer_norm_rms_epsilon", "layer_norm_epsilon", "group_norm_epsilon"):
        eps = header.hparam(f"attention.{name}")
        if isinstance(eps, float) and not eps >= 0:
            raise _bad(header.path, f"attention.{name} is {eps}, not a positive number")


def _check_pooling(header: Header) -> None:
    """GGML_ABORT("unknown pooling type") when embeddings are computed."""
    for name in ("pooling_type", "classifier.pooling_type"):
        pooling = header.hparam(name)
        if isinstance(pooling, int) and not 0 <= pooling <= 4 and pooling != 0xFFFFFFFF:
            raise _bad(header.path, f"{name} is {pooling:,}, which llama.cpp does not know")


def _check_tokenizer(header: Header) -> None:
    """GGML_ASSERT(tokenizer && ...) when a text is tokenised, a division by zero for an empty vocabulary."""
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if header.text("tokenizer.ggml.model") in ("none", "no_vocab"):
        raise _bad(header.path, "holds no vocabulary, so it cannot be used with text")
    if isinstance(tokens, Array) and tokens.count == 0:
        raise _bad(header.path, "its vocabulary is empty")


def _check_tokens(header: Header) -> None:
    """GGML_ASSERT(id_to_token.size() == token_to_id.size()) when the vocabulary is loaded."""
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, Array) or tokens.element_type != _STRING:
        return
    texts = tokens.strings()
    # llama.cpp sees C strings, and gives a token without text a name
    known = {_token_text(text, i) if not text or 0 in text else text for i, text in enumerate(texts)}
    if len(known) < len(texts):
        raise _twice(header.path, texts)
    model = header.text("tokenizer.ggml.model")
    if model == "llama":
        _check_byte_tokens(header.path, known)
    if model == "rwkv":
        _check_rwkv_tokens(header.path, known)


def _twice(path: Path, texts: list[bytes]) -> BadModelFile:
    seen: dict[bytes, int] = {}
    for i, text in enumerate(texts):
        first = seen.setdefault(_token_text(text, i), i)
        if first != i:
            break
    shown = escaped(repr(text.decode("utf-8", "replace")))
    return _bad(path, f"the tokens {first} and {i} have the same text {shown}")


def _check_byte_tokens(path: Path, known: set[bytes]) -> None:
    """An uncaught std::out_of_range (unordered_map::at) when a text needs the byte.

    Vocabularies without any byte tokens do exist; SentencePiece writes all 256 or none, so a gap is damage. Without the
    space, too, it is no SentencePiece vocabulary at all.
    """
    missing = [byte for byte in range(256) if b"<0x%02X>" % byte not in known]
    if len(missing) == 256 and "▁".encode() in known:
        return
    missing = [byte for byte in missing if bytes([byte]) not in known]  # the plain character does as well
    if missing:
        raise _bad(path, f"{len(missing)} of the 256 byte tokens are missing, for instance <0x{missing[0]:02X}>")


def _token_text(text: bytes, token: int) -> bytes:
    return text.partition(b"\0")[0] or b"[EMPTY_%d]" % token


_RWKV_ESCAPE = re.compile(rb"\\(?:x([0-9a-f]{2})|(.))", re.DOTALL)
_RWKV_ESCAPES = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}


def _check_rwkv_tokens(path: Path, known: set[bytes]) -> None:
    """An endless loop that eats the memory: a byte that begins a token, but is none, is never passed."""

    def unescaped(found: re.Match[bytes]) -> bytes:
        return bytes([int(found[1], 16)]) if found[1] else _RWKV_ESCAPES.get(found[2], found[2])

    texts = {_RWKV_ESCAPE.sub(unescaped, text) if b"\\" in text else text for text in known}
    missing = {text[:1] for text in texts} - texts
    if missing:
        raise _bad(path, f"{len(missing)} bytes begin a token, but are no tokens themselves ({min(missing)!r})")


class _Special(NamedTuple):
    """A token that a tokenizer puts around each text: which llama.cpp asserts to exist when it does so."""

    name: str
    default: int | None  # its id, unless the file names another
    flag: str  # the key that says whether it is added, if there is a choice
    added: bool  # whether it is added when the file is silent


_BOS_11, _EOS_11 = _Special("bos", 11, "add_bos_token", True), _Special("eos", 11, "add_eos_token", False)
# by tokenizer.ggml.model; for "gpt2" it depends on the pre-tokenizer whether BOS is added, its default is harmless
_SPECIAL_TOKENS: Mapping[str, tuple[_Special, ...]] = {
    "llama": (_Special("bos", 1, "add_bos_token", True), _Special("eos", 2, "add_eos_token", False)),
    "bert": (_Special("bos", 101, "", True), _Special("seperator", 102, "", True)),  # sic
    "gpt2": (_BOS_11, _EOS_11),
    "hybriddna": (_BOS_11, _EOS_11),
    "whitespace": (_BOS_11, _EOS_11),
    "t5": (_Special("bos", None, "add_bos_token", False), _Special("eos", 1, "add_eos_token", True)),
    "gemma4": (_Special("bos", None, "", True), _Special("eos", None, "add_eos_token", False)),
}


def _check_special_tokens(header: Header) -> None:
    """GGML_ASSERT(special_bos_id != LLAMA_TOKEN_NULL) and its like when a text is tokenised."""
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, Array):
        return
    for special in _SPECIAL_TOKENS.get(header.text("tokenizer.ggml.model"), ()):
        flag = header.metadata.get(f"tokenizer.ggml.{special.flag}")
        if not (flag if isinstance(flag, bool) else special.added):
            continue
        token = header.metadata.get(f"tokenizer.ggml.{special.name}_token_id")
        if not any(isinstance(i, int) and 0 <= i < tokens.count for i in (token, special.default)):
            is_ = "missing" if token is None else f"{escaped(str(token))} in a vocabulary of {tokens.count:,}"
            raise _bad(header.path, f"every text gets the {special.name} token, but {special.name}_token_id is {is_}")


def _check_token_types(header: Header) -> None:
    """GGML_ABORT("fatal error") in token_to_byte: WordPiece vocabularies have no byte tokens."""
    types = header.metadata.get("tokenizer.ggml.token_type")
    if header.text("tokenizer.ggml.model") == "bert" and isinstance(types, Array) and _BYTE_TOKEN in types.values():
        raise _bad(header.path, "a WordPiece vocabulary (tokenizer.ggml.model is bert) with byte tokens")


def _check_has_weights(header: Header) -> None:
    if header.tensors or header.n_split > 1:  # the first part of a split model may hold the metadata only
        return
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    what = f"a vocabulary only ({tokens.count:,} tokens), no weights" if isinstance(tokens, Array) else "no tensors"
    raise _bad(header.path, f"holds {what}", "name a file with the whole model")


# Types of weights that the CPU can multiply with; the others are for intermediate results and integers.
_NO_WEIGHTS = frozenset({9, 15, 24, 25, 26, 27, 28})  # Q8_1, Q8_K, I8, I16, I32, I64, F64
_INTEGERS = frozenset({26, 27})
_INTEGER_TENSORS = ("d2t", "t2d", "tid2eid.weight", "tid2eid", "position_ids")  # token ids and expert ids
# Vectors are added or multiplied element by element, where the CPU knows F32 only; so do these, whatever their shape.
# llama.cpp's own converter writes all of them in F32.
_F32_ONLY = ("norm.weight", ".bias", ".scale", "ssm_a", "ssm_d", "ssm_conv1d.weight", "shortconv.conv.weight")


def _check_tensor_types(header: Header) -> None:
    """A null vec_dot in ggml_mul_mat (segfault), GGML_ABORT in get_rows and binary_op ("unsupported types")."""
    for tensor in header.tensors:
        if tensor.type == F32:
            continue
        integers = tensor.type in _INTEGERS and tensor.name.endswith(_INTEGER_TENSORS)
        if tensor.type in _NO_WEIGHTS and not integers:
            raise _bad(header.path, f"the tensor {escaped(tensor.name)} has the type {type_name(tensor.type)}, "
                                    "which cannot hold weights")  # fmt: skip
        if (len(tensor.shape) == 1 or tensor.name.endswith(_F32_ONLY)) and not integers:
            raise _bad(header.path, f"the tensor {escaped(tensor.name)} has the type {type_name(tensor.type)}; "
                                    "llama.cpp needs F32 there")  # fmt: skip


def _check_data_alignment(header: Header) -> None:
    """GGML_ASSERT(ptr % TENSOR_ALIGNMENT == 0) when the mapped file becomes a buffer."""
    if header.tensors and header.data_offset % _DEFAULT_ALIGNMENT:
        where = f"at byte {header.data_offset:,}, not a multiple of {_DEFAULT_ALIGNMENT}"
        raise _bad(header.path, f"the weights start {where} (general.alignment is {header.alignment})")


_SPLIT_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


def _check_split(header: Header) -> None:
    """The other parts of a split model: complete, and not harmful themselves.

    GGML_ASSERT(type_to_gguf_type<T>::value == type) where a part's split.no is not a 16-bit integer.
    """
    n_split = header.n_split
    name = _SPLIT_NAME.fullmatch(header.path.name)
    if n_split == 1:
        return
    number = header.metadata.get("split.no")
    first = f"{name[1]}-00001-of-{n_split:05}.gguf" if name else "the file …-00001-of-…"
    if number != 0:
        shown = number + 1 if isinstance(number, int) else "?"
        raise _bad(header.path, f"part {shown} of a model in {n_split} parts", f"name the first part: {escaped(first)}")
    if name is None or name[3] != f"{n_split:05}":
        hint = f"its name must end in -00001-of-{n_split:05}.gguf"
        raise _bad(header.path, f"the first part of a model in {n_split} parts has been renamed", hint)
    for i in range(1, n_split):
        _check_part(header, header.path.with_name(f"{name[1]}-{i + 1:05}-of-{n_split:05}.gguf"), i)


def _check_part(header: Header, path: Path, number: int) -> None:
    try:
        part = read_header(path)
    except ModelNotFound as error:
        reason = f"part {number + 1} of {header.n_split} is missing: {_shown(path)}"
        raise BadModelFile(reason, hint="download all parts into one folder") from error
    if part.metadata_types.get("split.no") != _UINT16 or part.metadata.get("split.no") != number:
        raise _bad(path, f"does not say that it is part {number + 1} of {header.n_split}", _DOWNLOAD_AGAIN)
    _check_tensor_types(part)
    _check_data_alignment(part)


_CHECKS: tuple[Callable[[Header], None], ...] = (
    _check_kind,
    _check_tokenizer,
    _check_tokens,
    _check_token_types,
    _check_special_tokens,
)
_WEIGHT_CHECKS: tuple[Callable[[Header], None], ...] = (
    _check_has_weights,
    _check_layers,
    _check_experts,
    _check_heads,
    _check_rope_scaling,
    _check_head_dimensions,
    _check_rope_sections,
    _check_sliding_window,
    _check_epsilon,
    _check_pooling,
    _check_tensor_types,
    _check_data_alignment,
    _check_split,
)
