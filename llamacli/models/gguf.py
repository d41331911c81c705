"""Reading the header of a GGUF file: metadata and the tensors' descriptions. Standard library only.

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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamacli.errors import BadModelFile, LlamacliError, ModelNotFound, StorageError, UsageError, printable
from llamacli.models.ggml_types import GGML_TYPES

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
UINT16, _BOOL, STRING, _ARRAY = 2, 7, 8, 9
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

_VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
_MAX_NAME = 63  # GGML_MAX_NAME - 1
_MAX_DIMS = 4
_MAX_STRING = 1 << 30  # GGUF_MAX_STRING_LENGTH, bytes
MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
_MAX_ARRAY = 1 << 30  # GGUF_MAX_ARRAY_ELEMENTS
_MIN_KEY_BYTES = 14  # length, one character, type, one byte of value
_MIN_TENSOR_BYTES = 24  # length of the name, number of dimensions, type, offset
_INT64_MAX = (1 << 63) - 1

DOWNLOAD_AGAIN = "download the file again"


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
        if self.element_type == STRING:
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
            raise bad(self.path, "the file has become shorter since its header was read")
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

    `metadata_types` holds the GGUF type id of each value (9 for arrays), `file_size` and the offsets are in bytes.
    """

    path: Path
    version: int
    alignment: int
    metadata: Mapping[str, object]
    metadata_types: Mapping[str, int]
    tensors: tuple[TensorInfo, ...]
    tensors_offset: int  # of their descriptions: here the metadata ends
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
            return value.values() if value.count <= MAX_LAYERS else []
        return [] if value is None else [value]


def read_header(path: str | Path) -> Header:
    """Read metadata and tensor descriptions; arrays stay in the file until asked for.

    Raises ModelNotFound, UsageError (a folder), StorageError (no permission) or BadModelFile, which says what the file
    is instead of a GGUF file, or where it is damaged.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _storage_error(path, error) from error
    except ValueError as error:  # a NUL in the path
        raise UsageError(f"{path_text(path)} cannot be the name of a file") from error
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path_text(path)} is a folder, not a model file", hint="name the .gguf file inside it")
    if not stat.S_ISREG(mode):  # opening a FIFO would wait for a writer
        raise UsageError(f"{path_text(path)} is not a regular file")
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            _check_is_gguf(path, file.read(512), size)
            with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
                return _Reader(path, data, size).header()
    except OSError as error:
        raise _storage_error(path, error) from error
    except ValueError as error:  # mmap found it shorter than it had been
        raise bad(path, "the file changed while its header was read") from error


# ---- errors --------------------------------------------------------------------------------------------------------


def brief(text: str) -> str:
    """Foreign text for a message: harmless, and not too long."""
    return printable(text, 80)


def path_text(path: Path) -> str:
    return printable(str(path), 1000)


def bad(path: Path, reason: str, hint: str | None = None) -> BadModelFile:
    return BadModelFile(f"{path_text(path)}: {reason}", hint=hint)


def _storage_error(path: Path, error: OSError) -> LlamacliError:
    if isinstance(error, FileNotFoundError | NotADirectoryError) or error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return ModelNotFound(f"no such file: {path_text(path)}")
    return StorageError(f"cannot read {path_text(path)}: {error.strerror or error}")


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
        raise bad(path, "the file is empty", DOWNLOAD_AGAIN)
    if start.startswith(b"GGUF"):
        return
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        raise bad(path, f"a web page ({size:,} bytes), not a GGUF file", _NOT_THE_FILE)
    if text.startswith(b"version https://git-lfs.github.com/spec"):
        named = _LFS_SIZE.search(start)
        of = f" for a file of {int(named[1]):,} bytes" if named else ""
        raise bad(path, f"a Git LFS pointer{of}, not the model itself", "run `git lfs pull` or download the file")
    for magic, what, hint in _OTHER_FORMATS:
        if start.startswith(magic):
            raise bad(path, what, hint)
    if start[8:10] == b'{"' and len(start) >= 10 and _U64.unpack_from(start)[0] <= size:
        raise bad(path, "a safetensors file, not a GGUF file", _CONVERT)
    if text.startswith((b"{", b"[")):
        raise bad(path, f"a JSON text ({size:,} bytes), not a GGUF file", "name the .gguf file")
    if not start.strip(b"\0"):
        raise bad(path, "its first bytes are all zero: a download that did not finish?", DOWNLOAD_AGAIN)
    raise bad(path, f"not a GGUF file: it starts with {repr(start[:4])[1:]} instead of 'GGUF'")


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
            raise bad(self.path, reason, DOWNLOAD_AGAIN) from None

    def _header(self) -> Header:
        version = self._version()
        n_tensors, n_keys = self._u64(), self._u64()
        room = self.size - self.pos
        if n_tensors > room // _MIN_TENSOR_BYTES or n_keys > room // _MIN_KEY_BYTES:
            counts = f"{n_tensors:,} tensors and {n_keys:,} metadata keys"
            raise self._bad(f"claims {counts}, more than its {self.size:,} bytes can hold", DOWNLOAD_AGAIN)
        metadata: dict[str, object] = {}
        types: dict[str, int] = {}
        for i in range(n_keys):
            self.place = f"metadata key {i + 1} of {n_keys}"
            key = self._name("metadata key")
            if key in metadata:
                raise self._bad(f"the metadata key {brief(key)} occurs twice")
            types[key], metadata[key] = self._value(key)
        alignment = self._alignment(metadata, types)
        tensors_offset = self.pos
        tensors = []
        for i in range(n_tensors):
            self.place = f"the description of tensor {i + 1} of {n_tensors}"
            tensors.append(self._tensor())
        padding = -self.pos % alignment if tensors else 0
        data_offset = self.pos + padding
        header = Header(
            self.path, version, alignment, metadata, types, tuple(tensors), tensors_offset, data_offset, self.size
        )
        self._check_data(header)
        return header

    def _bad(self, reason: str, hint: str | None = None) -> BadModelFile:
        return bad(self.path, reason, hint)

    def _version(self) -> int:
        version = self._u32()
        if version & 0xFFFF == 0 and version:
            raise self._bad("a big-endian GGUF file, for another kind of processor", "download the little-endian file")
        if version not in _VERSIONS:
            reason = f"GGUF version {version}; versions {_VERSIONS[0]} and {_VERSIONS[1]} can be read"
            hint = "download a newer file of this model" if version < _VERSIONS[0] else "update llamacli"
            raise self._bad(reason, hint if version < 16 else DOWNLOAD_AGAIN)
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
            raise self._bad(f"damaged: a string of {length:,} bytes in {self.place}", DOWNLOAD_AGAIN)
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
            raise self._bad(f"damaged: a {what} that is empty or holds a NUL byte ({brief(repr(name))})")
        return name.decode("utf-8", "backslashreplace")

    def _value(self, key: str) -> tuple[int, object]:
        value_type = self._u32()
        self.place = f"the value of {brief(key)}"
        if value_type == STRING:
            return value_type, self._string().decode("utf-8", "replace")
        if value_type == _ARRAY:
            return value_type, self._array(key)
        layout = self._layout(key, value_type)
        return value_type, layout.unpack(self._take(layout.size))[0]

    def _layout(self, key: str, value_type: int) -> struct.Struct:
        if value_type not in _SCALARS:
            what = "is an array of arrays" if value_type == _ARRAY else f"has the unknown type {value_type}"
            raise self._bad(f"the metadata key {brief(key)} {what}")
        return _SCALARS[value_type]

    def _array(self, key: str) -> Array:
        element_type, count = self._u32(), self._u64()
        start = self.pos
        if element_type == STRING:
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
        reason = f"the array {brief(key)} claims {count:,} elements; {self.size - self.pos:,} bytes are left"
        return self._bad(f"cut short or damaged: {reason}", DOWNLOAD_AGAIN)

    def _skip_strings(self, count: int) -> None:
        data, pos, length = self.data, self.pos, _U64.unpack_from  # the hot loop: 150,000 tokens and as many merges
        for _ in range(count):
            pos += 8 + length(data, pos)[0]
        if pos > self.size:
            raise struct.error
        self.pos = pos

    def _alignment(self, metadata: Mapping[str, object], types: Mapping[str, int]) -> int:
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or types.get("general.alignment", 4) != 4:
            raise self._bad("general.alignment is not a 32-bit unsigned integer")
        if alignment <= 0 or alignment & (alignment - 1):
            raise self._bad(f"general.alignment is {alignment}, not a power of two")
        return alignment

    def _tensor(self) -> TensorInfo:
        name = self._name("tensor name")
        shown = f"the tensor {brief(name)}"
        n_dims = self._u32()
        if len(name.encode()) > _MAX_NAME or n_dims > _MAX_DIMS:
            limits = f"at most {_MAX_NAME} and {_MAX_DIMS} are possible"
            raise self._bad(f"{shown} has a name of {len(name.encode())} bytes and {n_dims} dimensions; {limits}")
        shape = struct.unpack(f"<{n_dims}q", self._take(8 * n_dims))
        ggml_type, offset = self._u32(), self._u64()
        if any(n <= 0 for n in shape) or math.prod(shape) > _INT64_MAX:
            raise self._bad(f"{shown} has the impossible shape {shape_text(shape)}")
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
                raise self._bad(f"the tensor {brief(tensor.name)} occurs twice")
            names.add(tensor.name)
            if tensor.offset != expected:
                numbers = f"at {tensor.offset:,} instead of {expected:,}"
                raise self._bad(f"damaged: the data of the tensor {brief(tensor.name)} is said to be {numbers}")
            end = expected + tensor.n_bytes
            expected = end + -end % header.alignment
        if header.tensors and header.data_offset + end > header.file_size:
            needed = f"needs {header.data_offset + end:,} bytes, the file has {header.file_size:,}"
            raise self._bad(f"cut short: the model {needed}", DOWNLOAD_AGAIN)


def scalar_size(value_type: int) -> int:
    """Bytes of a metadata value that is a number or a bool."""
    return _SCALARS[value_type].size


def shape_text(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(str(n) for n in shape) + "]"
