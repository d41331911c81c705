"""The importance matrix: squared inputs of each weight matrix, summed while llama.cpp computes.

The rules are those of llama.cpp's `tools/imatrix/imatrix.cpp`: every MUL_MAT_ID (experts), and each MUL_MAT of a weight
`blk.*` (or of `output.weight`) whose input is F32 and has at least 16 rows.
"""

from __future__ import annotations

import ctypes
import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np

from llamacli.engine import native
from llamacli.engine.ggml_tensor import Tensor, check_layout
from llamacli.engine.native import C
from llamacli.errors import BadModelFile, EngineError, printable

_LEAST_ROWS = 16
_F32 = 0  # enum ggml_type


for _name, _result, _arguments in (
    ("ggml_op_name", ctypes.c_char_p, [ctypes.c_int]),
    ("ggml_nbytes", ctypes.c_size_t, [ctypes.c_void_p]),
    ("ggml_backend_buffer_is_host", ctypes.c_bool, [ctypes.c_void_p]),
    ("ggml_backend_tensor_get", None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]),
):
    _function = getattr(native.ggml_base, _name)
    _function.restype, _function.argtypes = _result, _arguments


@cache
def _operations() -> tuple[int, int]:
    """Numbers of MUL_MAT and MUL_MAT_ID. Raises EngineError where the library's tensors are not laid out as here."""
    check_layout()
    names = map(native.ggml_base.ggml_op_name, itertools.count())
    plain = next(i for i, name in enumerate(names) if name == b"MUL_MAT")
    return plain, next(i for i, name in enumerate(names, plain + 1) if name == b"MUL_MAT_ID")


@dataclass
class Sums:
    """What is known of one weight matrix, or of its n_mat experts.

    `values`: float32 (n_mat · ne0,), the squares of each column of its input, summed; `counts`: int64, the rows that
    went in, of each expert; one number where the tensor has no experts, whatever its dimensions.
    """

    values: np.ndarray
    counts: np.ndarray


class Collector:
    """Watches a context compute (`Context(…, on_node=collector.callback)`) and sums."""

    def __init__(self, *, process_output: bool = False) -> None:
        """`process_output`: the output matrix as well. Raises EngineError."""
        self._plain, self._experts = _operations()
        self._process_output = process_output
        self._sums: dict[str, Sums] = {}
        self._failure: BaseException | None = None
        self.callback = C.ggml_backend_sched_eval_callback(self._on_node)

    def take(self) -> dict[str, Sums]:
        """What was summed since the last call. Raises what went wrong while llama.cpp computed."""
        failure, found = self._failure, self._sums
        self.discard()
        if failure is not None:
            raise failure
        return found

    def discard(self) -> None:
        """Forget what was summed since the last call of `take`."""
        self._sums, self._failure = {}, None

    def _on_node(self, address: int, ask: bool, _: object) -> bool:
        """llama.cpp asks about each node whether it is wanted, and calls again once a wanted one is computed."""
        if self._failure is not None:
            return ask  # want the next node, then refuse it: that ends the graph
        try:
            if ask:
                return self._wants(Tensor.from_address(address))
            self._add(Tensor.from_address(address))
        except BaseException as error:  # ctypes would print it and go on
            self._failure = error
            return ask
        return True

    def _wants(self, node: Tensor) -> bool:
        if node.op != self._plain:
            return bool(node.op == self._experts)
        inputs = Tensor.from_address(node.src[1])
        if inputs.ne[1] < _LEAST_ROWS or inputs.type != _F32:
            return False
        name = _name_of(node)
        return name.startswith(b"blk.") or (self._process_output and name == b"output.weight")

    def _add(self, node: Tensor) -> None:
        weights = Tensor.from_address(node.src[0])
        name = _name_of(node).decode("utf-8", "replace")
        inputs = _array(node.src[1], np.float32)
        if node.op == self._experts:
            sums = self._of(name, inputs.shape[3], weights.ne[2], weights.ne[2])
            touched = _add_experts(sums, inputs, _array(node.src[2], np.int32)[0, 0])
        else:
            sums = self._of(name, inputs.shape[3], weights.ne[2] * weights.ne[3], 1)
            touched = _add_plain(sums, inputs, weights)
        if not np.isfinite(touched).all():
            raise BadModelFile(
                f"{printable(name)}: what goes into it are no numbers (infinite, or NaN)",
                hint="the model is damaged, or it overflows: try -fa off, or another quantization",
            )

    def _of(self, name: str, n_columns: int, n_mat: int, n_counts: int) -> Sums:
        sums = self._sums.get(name)
        if sums is None:
            sums = Sums(np.zeros(n_mat * n_columns, np.float32), np.zeros(n_counts, np.int64))
            self._sums[name] = sums
        if len(sums.values) != n_mat * n_columns:
            raise EngineError(f"{printable(name)} has inputs of {len(sums.values)} and of {n_mat * n_columns} columns")
        if len(sums.counts) < n_counts:  # used with and without experts
            sums.counts = np.repeat(sums.counts, n_counts)
        return sums


def _name_of(node: Tensor) -> bytes:
    """Of the weight: `CUDA0#blk.0.attn_k.weight#0`, a copy on a device, is `blk.0.attn_k.weight`."""
    name = bytes(Tensor.from_address(node.src[0]).name)
    return name.split(b"#", 2)[1] if b"#" in name else name


def _array(address: int, kind: type[np.generic]) -> np.ndarray:
    """A tensor's data (ne3, ne2, ne1, ne0): the library's own memory, or a copy where that is on a device."""
    tensor = Tensor.from_address(address)
    if tensor.nb[0] != np.dtype(kind).itemsize:
        raise EngineError(f"{printable(tensor.name.decode('utf-8', 'replace'))}: its numbers do not lie side by side")
    n_bytes = native.ggml_base.ggml_nbytes(address)
    if native.ggml_base.ggml_backend_buffer_is_host(tensor.buffer):
        data = (ctypes.c_char * n_bytes).from_address(tensor.data)
    else:
        data = (ctypes.c_char * n_bytes)()
        native.ggml_base.ggml_backend_tensor_get(address, data, 0, n_bytes)
    return np.ndarray(tuple(tensor.ne)[::-1], kind, data, strides=tuple(tensor.nb)[::-1])


def _squares(rows: np.ndarray) -> np.ndarray:
    """Σ x² of each column of (n, n_columns), added row by row in float32 as llama.cpp does."""
    sums: np.ndarray = np.einsum("ij,ij->j", rows, rows)
    return sums


def _add_plain(sums: Sums, inputs: np.ndarray, weights: Tensor) -> np.ndarray:
    """Weights of several matrices meet an input of their own each; those of one meet all of it."""
    n3, n2, n_rows, n_columns = inputs.shape
    values = sums.values.reshape(-1, n_columns)
    for i3, i2 in np.ndindex(n3, n2):
        values[i3 % weights.ne[3] * weights.ne[2] + i2 % weights.ne[2]] += _squares(inputs[i3, i2])
    sums.counts += n3 * n2 * n_rows // len(values)
    return values


def _add_experts(sums: Sums, inputs: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """`inputs` (1, n_tokens, n_used or 1, n_columns); `ids` (n_tokens, n_used): the experts of each token."""
    n_tokens, n_used = ids.shape
    _, n_rows, n_slots, n_columns = inputs.shape
    values = sums.values.reshape(-1, n_columns)
    if len(inputs) != 1 or n_rows != n_tokens or ids.min(initial=0) < 0 or ids.max(initial=0) >= len(values):
        raise EngineError(f"experts of {n_tokens} tokens, and inputs of the form {inputs.shape}")
    tokens, slots = np.divmod(np.argsort(ids, axis=None, kind="stable"), n_used)
    counts = np.bincount(ids.ravel(), minlength=len(values))
    ends = np.cumsum(counts)
    touched = np.flatnonzero(counts)
    for expert in touched:
        its = slice(ends[expert] - counts[expert], ends[expert])
        values[expert] += _squares(inputs[0, tokens[its], slots[its] % n_slots])
    sums.counts += counts
    return values[touched]
