"""One array quantised and read back, through ggml's own functions: what a type does to its numbers."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from llamacli.engine.native import ggml_base

_F32 = 0


class _Traits(ctypes.Structure):
    """struct ggml_type_traits (ggml.h)."""

    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    ]


for _name, _result, _arguments in (
    ("ggml_get_type_traits", ctypes.POINTER(_Traits), [ctypes.c_int]),
    ("ggml_row_size", ctypes.c_size_t, [ctypes.c_int, ctypes.c_int64]),
    ("ggml_quantize_init", None, [ctypes.c_int]),
    (
        "ggml_quantize_chunk",
        ctypes.c_size_t,
        [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p],
    ),
):
    _function = getattr(ggml_base, _name)
    _function.restype, _function.argtypes = _result, _arguments


def prepare(ggml_type: int) -> None:
    """Make the tables that a type quantises with: seconds for IQ2_S and IQ1_M, once a process."""
    ggml_base.ggml_quantize_init(ggml_type)


def quantised(rows: np.ndarray, ggml_type: int, weights: np.ndarray | None = None) -> np.ndarray:
    """float32 rows (n, n_columns) as bytes of a type whose blocks divide n_columns: uint8 (n, bytes of a row).

    `weights`: float32 (n_columns,), how much an error in each column matters; IQ2_XXS, IQ2_XS and IQ1_S abort the
    process without. The call releases the GIL, so rows can be shared out among threads.
    """
    n, n_columns = rows.shape
    rows = np.ascontiguousarray(rows, np.float32)
    data = np.empty((n, ggml_base.ggml_row_size(ggml_type, n_columns)), np.uint8)
    address = None if weights is None else np.ascontiguousarray(weights, np.float32)
    ggml_base.ggml_quantize_chunk(
        ggml_type, rows.ctypes.data, data.ctypes.data, 0, n, n_columns, None if address is None else address.ctypes.data
    )
    return data


def floats(data: np.ndarray, ggml_type: int, n_columns: int) -> np.ndarray:
    """uint8 (n, bytes of a row) of any type as float32 (n, n_columns)."""
    if ggml_type == _F32:
        return data.view(np.float32)
    data = np.ascontiguousarray(data)
    rows = np.empty((len(data), n_columns), np.float32)
    traits: Any = ggml_base.ggml_get_type_traits(ggml_type).contents
    traits.to_float(data.ctypes.data, rows.ctypes.data, rows.size)
    return rows


def round_trip(rows: np.ndarray, ggml_type: int, weights: np.ndarray | None = None) -> np.ndarray:
    """What is left of float32 rows (n, n_columns), as float32."""
    return floats(quantised(rows, ggml_type, weights), ggml_type, rows.shape[1])


def sums(rows: np.ndarray, found: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, float]:
    """Σ w (x̂ - x)² and Σ w x² over `rows` x and what was `found` of them, float32 (n, n_columns).

    With the mean squares of the columns' inputs as `weights` these are the energies of the product's error and of the
    product, as far as the inputs are independent of each other.
    """
    columns = np.ones(rows.shape[1]) if weights is None else weights.astype(np.float64)
    difference = found - rows
    error = np.einsum("ij,ij->j", difference, difference, dtype=np.float64) @ columns
    return float(error), float(np.einsum("ij,ij->j", rows, rows, dtype=np.float64) @ columns)
