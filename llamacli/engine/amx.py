"""Whether this build's AMX kernels work here: tried once per build, in a child process.

On Intel processors with AMX (Sapphire Rapids and later) llama.cpp's kernels crash with many compilers: the tile
configuration is written by plain stores that the optimiser drops, as no one seems to read them (llama.cpp issue 20824,
pull request 26954). Every quantised model then dies at its first token. Where the trial fails, models are loaded
without the CPU's extra buffer types, so that they write a fifth more slowly, but right.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import zlib
from pathlib import Path
from typing import Any

from llamacli import paths, signals

_F32, _Q8_0 = 0, 8  # enum ggml_type
_ROWS, _COLUMNS, _BATCH = 256, 256, 64
_BLOCK = b"\x00\x3c" + b"\x01" * 32  # Q8_0: the scale 1.0 as f16, then 32 ones
_SECONDS = 30


def works() -> bool:
    """True where there is no AMX, or where it multiplies right."""
    from llamacli.engine import native

    if "AMX_INT8 = 1" not in native.build():
        return True
    library = Path(native.ggml._name)
    verdicts = {name: paths.cache() / "amx" / f"{_key(library)}-{name}" for name in ("works", "fails")}
    for name, path in verdicts.items():
        if path.exists():
            return name == "works"
    good = _try_in_child()
    with contextlib.suppress(OSError):  # a read-only home: tried again next time
        path = verdicts["works" if good else "fails"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return good


def _key(library: Path) -> str:
    """Changes with the build and with the processor."""
    from llamacli.engine import native

    stat = library.stat()
    text = f"{library} {stat.st_size} {stat.st_mtime_ns} {[d.description for d in native.devices()]}"
    return f"{zlib.crc32(text.encode()):08x}"


def _try_in_child() -> bool:
    import subprocess

    script = f"import sys; sys.path[:] = {sys.path!r}; from llamacli.engine import amx; amx.multiply()"
    command = [sys.executable, "-P", "-c", script]
    streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    with subprocess.Popen(command, start_new_session=True, **streams) as child, signals.on_end(child.kill):
        try:
            return child.wait(_SECONDS) == 0
        except subprocess.TimeoutExpired:
            child.kill()
            return False


def multiply() -> None:
    """Multiply a Q8_0 matrix of ones in AMX's own layout by a matrix of ones. SystemExit(1) if the result is wrong."""
    from llamacli.engine import native

    buffer_type = _amx_buffer_type()
    if not buffer_type:
        return  # compiled in, but not granted by the system: llama.cpp does not use it either
    g = native.ggml_base
    for name in (
        *("ggml_init", "ggml_new_tensor_2d", "ggml_mul_mat", "ggml_new_graph", "ggml_get_data_f32"),
        *("ggml_backend_alloc_ctx_tensors_from_buft", "ggml_backend_alloc_ctx_tensors"),
    ):
        getattr(g, name).restype = ctypes.c_void_p
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    weights, rest = (pointer(g.ggml_init(_InitParams(1 << 20, None, True))) for _ in range(2))
    w = pointer(g.ggml_new_tensor_2d(weights, _Q8_0, size(_COLUMNS), size(_ROWS)))
    x = pointer(g.ggml_new_tensor_2d(rest, _F32, size(_COLUMNS), size(_BATCH)))
    y = pointer(g.ggml_mul_mat(rest, w, x))
    graph = pointer(g.ggml_new_graph(rest))
    g.ggml_build_forward_expand(graph, y)
    native.ggml.ggml_backend_init_by_type.restype = ctypes.c_void_p
    backend = pointer(native.ggml.ggml_backend_init_by_type(0, None))  # the CPU
    g.ggml_backend_alloc_ctx_tensors_from_buft(weights, pointer(buffer_type))
    g.ggml_backend_alloc_ctx_tensors(rest, backend)
    _fill(g, w, _BLOCK * (_ROWS * _COLUMNS // 32))
    _fill(g, x, b"\x00\x00\x80\x3f" * (_COLUMNS * _BATCH))
    status = g.ggml_backend_graph_compute(backend, graph)
    result = (ctypes.c_float * (_ROWS * _BATCH))()
    g.ggml_backend_tensor_get(y, result, ctypes.c_size_t(0), ctypes.c_size_t(ctypes.sizeof(result)))
    if status != 0 or any(abs(value - _COLUMNS) > 1 for value in result):
        raise SystemExit(1)


class _InitParams(ctypes.Structure):
    """struct ggml_init_params"""

    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


def _fill(g: Any, tensor: ctypes.c_void_p, data: bytes) -> None:
    g.ggml_backend_tensor_set(tensor, data, ctypes.c_size_t(0), ctypes.c_size_t(len(data)))


def _amx_buffer_type() -> int | None:
    from llamacli.engine import native

    cpu = next(handle for handle, device in native.device_table() if device.kind == "cpu")
    lookup = native.ggml_base.ggml_backend_reg_get_proc_address
    lookup.restype = ctypes.c_void_p
    registry = ctypes.c_void_p(native.ggml_base.ggml_backend_dev_backend_reg(cpu))
    address = lookup(registry, b"ggml_backend_dev_get_extra_bufts")
    if not address:
        return None
    extra = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)(cpu)
    i = 0
    while handle := extra[i]:
        if native.ggml_base.ggml_backend_buft_name(handle) == b"AMX":
            return int(handle)
        i += 1
    return None
