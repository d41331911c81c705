"""llama.cpp's tensors, as the callback that is shown each node of a graph gets them."""

from __future__ import annotations

import ctypes

from llamacli.engine import native
from llamacli.errors import EngineError


class Tensor(ctypes.Structure):
    """struct ggml_tensor (ggml.h)."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    ]


_OBJECT_SIZE = 32  # struct ggml_object: ggml_tensor_overhead counts it along

native.ggml_base.ggml_tensor_overhead.restype = ctypes.c_size_t
native.ggml_base.ggml_tensor_overhead.argtypes = []


def check_layout() -> None:
    """Raises EngineError where the library's tensors are not laid out as here."""
    if native.ggml_base.ggml_tensor_overhead() != ctypes.sizeof(Tensor) + _OBJECT_SIZE:
        raise EngineError(
            "this llama-cpp-python lays its tensors out in a way that llamacli does not know: no graph can be read",
            hint="pip install 'llama-cpp-python==0.3.36'",
        )
