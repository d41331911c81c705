"""llama.cpp's quantiser (llama_model_quantize), and what its log says about each tensor."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llamacli.engine import native
from llamacli.engine.native import C
from llamacli.engine.threads import logical_cores
from llamacli.engine.types import QuantizedTensor, QuantizeParams
from llamacli.errors import BadModelFile, EngineError, LlamacliError, OutOfMemory, UsageError, printable

#: Key and value of struct llama_model_kv_override, in bytes.
MOST_KEY = MOST_VALUE = 127
_TENSOR = re.compile(rb"\[ *\d+/ *\d+\] (.*?) *- \[([ \d,]+)\], type = *(\w+), $", re.DOTALL)
_CONVERTING = re.compile(rb"converting to (\w+) \.\. $")
_WOULD_BE = re.compile(rb"size = .* MiB -> .* MiB \((\w+)\)\n$")
_MISFIT = re.compile(rb"warning: (.*?) *- ncols +\d+ not divisible by +\d+ \(required for type +(\w+)\) $", re.DOTALL)
# llama_model_kv_override_type
_INT, _FLOAT, _BOOL, _STRING = range(4)


class WriteError(Exception):
    """A file could not be written to its end; the reason is the system's."""


def quantize(
    source: Path, target: Path | None, params: QuantizeParams, watch: Callable[[str], None] | None = None
) -> tuple[QuantizedTensor, ...]:
    """Write the model `source`, whose header was checked, quantised to `target`; without one, only find the types.

    `target` is written in place, without regard to what is there; with keep_split it is the beginning of the parts'
    names. `watch` gets a tensor's name when its turn comes. The call cannot be cancelled; a signal that is not deferred
    ends the process. Raises WriteError, UsageError, BadModelFile, OutOfMemory, EngineError.
    """
    log = _Log(watch)
    keep: list[Any] = []
    native_params = _native(params, keep)
    native_params.dry_run = target is None
    native.take_errors()
    arguments = os.fsencode(source), os.fsencode(target) if target else b"", ctypes.byref(native_params)
    with native.listening(log.hear):
        if target is None:
            with native.loading(source):
                failed = C.llama_model_quantize(*arguments)
        else:
            failed = C.llama_model_quantize(*arguments)
    if failed:
        raise _error(source, params, loading=not log.tensors)
    return tuple(log.tensors)


class _Log:
    """Reads the tensors out of the quantiser's log. Each of its calls gives one piece."""

    def __init__(self, watch: Callable[[str], None] | None) -> None:
        self.tensors: list[QuantizedTensor] = []
        self._watch = watch
        self._wanted: dict[str, str] = {}

    def hear(self, text: bytes) -> None:
        if found := _TENSOR.match(text):
            name, kind = _text(found[1]), _text(found[3])
            shape = tuple(int(n) for n in found[2].split(b","))
            self.tensors.append(QuantizedTensor(name, shape, kind, kind, kind))
            if self._watch is not None:
                self._watch(name)
        elif found := _CONVERTING.match(text) or _WOULD_BE.match(text):
            tensor = self.tensors[-1]
            kind = _text(found[1])
            self.tensors[-1] = tensor._replace(type=kind, wanted=self._wanted.get(tensor.name, kind))
        elif found := _MISFIT.match(text):
            self._wanted[_text(found[1])] = _text(found[2])


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


# --- parameters -----------------------------------------------------------------------------------------------------


def _native(params: QuantizeParams, keep: list[Any]) -> Any:
    """struct llama_model_quantize_params; `keep` holds what it points to. Arrays end with an empty element."""
    found = C.llama_model_quantize_default_params()
    found.nthread = params.nthread or logical_cores()
    found.ftype = params.ftype
    if params.output_tensor_type is not None:
        found.output_tensor_type = params.output_tensor_type
    if params.token_embedding_type is not None:
        found.token_embedding_type = params.token_embedding_type
    for name in ("allow_requantize", "quantize_output_tensor", "only_copy", "pure", "keep_split"):
        setattr(found, name, getattr(params, name))
    found.max_buf_size = params.max_buf_size or found.max_buf_size
    if params.imatrix:
        found.imatrix = _imatrix(params, keep)
    if params.kv_overrides:
        overrides = (C.llama_model_kv_override * (len(params.kv_overrides) + 1))()
        for i, (key, value) in enumerate(params.kv_overrides):
            _set(overrides[i], key, value)
        found.kv_overrides = _kept(keep, overrides)
    if params.tt_overrides:
        patterns = (C.llama_model_tensor_override * (len(params.tt_overrides) + 1))()
        for i, (pattern, kind) in enumerate(params.tt_overrides):
            patterns[i].pattern = _kept(keep, pattern.encode("utf-8", "surrogateescape"))
            patterns[i].type = kind
        found.tt_overrides = _kept(keep, patterns)
    if params.prune_layers:
        layers = [*sorted(params.prune_layers), -1]
        found.prune_layers = _kept(keep, (ctypes.c_int32 * len(layers))(*layers))
    return found


def _imatrix(params: QuantizeParams, keep: list[Any]) -> Any:
    entries = (C.llama_model_imatrix_data * (len(params.imatrix) + 1))()
    for i, (name, values) in enumerate(params.imatrix.items()):
        entry = entries[i]
        entry.name = _kept(keep, name.encode("utf-8", "surrogateescape"))
        data = _kept(keep, values.astype("float32", order="C").ravel())
        entry.data = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = data.size
    return _kept(keep, entries)


def _set(override: Any, key: str, value: int | float | bool | str) -> None:
    override.key = key.encode("utf-8", "surrogateescape")[:MOST_KEY]
    if isinstance(value, bool):
        override.tag, override.value.val_bool = _BOOL, value
    elif isinstance(value, int):
        override.tag, override.value.val_i64 = _INT, value
    elif isinstance(value, float):
        override.tag, override.value.val_f64 = _FLOAT, value
    else:
        override.tag, override.value.val_str = _STRING, value.encode("utf-8", "surrogateescape")[:MOST_VALUE]


def _kept(keep: list[Any], item: Any) -> Any:
    keep.append(item)
    return item


# --- errors ---------------------------------------------------------------------------------------------------------


def _error(source: Path, params: QuantizeParams, *, loading: bool) -> LlamacliError | WriteError:
    lines = native.take_errors()
    found = next((line for line in reversed(lines) if "failed to quantize: " in line), "llama.cpp gave no reason")
    reason = printable(found.split("failed to quantize: ")[-1])
    if "iostream error" in reason or "basic_ios" in reason:
        return WriteError(reason)
    if "regex" in reason or "regular expression" in reason:  # C++'s dialect: only the library can tell
        patterns = printable(" ".join(pattern for pattern, _ in params.tt_overrides))
        return UsageError(f"--tensor-type {patterns}: {reason}", hint="a pattern is a regular expression of ECMAScript")
    if "fallback" in reason:
        return UsageError(
            f"{source}: its rows are too short for the type: {reason}",
            hint="a type whose blocks are of 32, such as Q4_0",
        )
    if re.search(r"bad_alloc|out of memory|length_error", reason):
        return OutOfMemory(
            f"{source}: not enough memory: {reason}", hint="--max-buffer-size 256 keeps less of a tensor in memory"
        )
    if "imatrix" in reason or "importance matrix" in reason or "requantizing" in reason:
        return UsageError(f"{source}: {reason}")
    if loading or "invalid data" in reason or "validation failed" in reason:
        return BadModelFile(f"{source}: {reason}")
    return EngineError(f"{source}: llama.cpp cannot quantize it: {reason}")
