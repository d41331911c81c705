"""The bindings: loaded once, with llama.cpp's logs, aborts and crashes under control. Every ctypes trick lives here.

`C` is the low-level module `llama_cpp.llama_cpp`, `ggml` and `ggml_base` are the libraries below it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import re
import signal
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llamacli import signals
from llamacli.engine.threads import others_run
from llamacli.engine.types import Device, DeviceKind
from llamacli.errors import EngineError, printable

os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # or ggml starts gdb on an abort
if "OMP_WAIT_POLICY" not in os.environ and others_run():
    os.environ.setdefault("GOMP_SPINCOUNT", "0")  # GNU's OpenMP reads it when the library is loaded
signals.watch()


def _import_bindings() -> Any:
    """Import the low-level module alone: 28 ms. The package's own `__init__` would bring numpy, jinja2 and diskcache
    (0.2 s, 41 MB), so a stub stands in for it; its `__path__` still finds the real submodules.
    """
    if "llama_cpp" not in sys.modules:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or spec.submodule_search_locations is None:
            raise EngineError("llama-cpp-python is not installed", hint="pip install llama-cpp-python")
        stub = types.ModuleType("llama_cpp")
        stub.__path__ = list(spec.submodule_search_locations)
        stub.__spec__ = spec
        sys.modules["llama_cpp"] = stub
    try:
        import llama_cpp.llama_cpp as bindings
    except (RuntimeError, OSError, FileNotFoundError) as error:
        raise EngineError(
            f"llama-cpp-python cannot load its library: {error}",
            hint="reinstall it: pip install --force-reinstall --no-cache-dir llama-cpp-python",
        ) from error
    return bindings


C: Any = _import_bindings()


def folder() -> Path:
    """Where the bindings have llama.cpp's libraries from; LLAMA_CPP_LIB_PATH names another one than their own."""
    return Path(getattr(C, "_base_path", Path(C.__file__).parent / "lib"))


def _library(name: str) -> ctypes.CDLL:
    """A library that is mapped already, by the path it is mapped from: never a second copy."""
    with contextlib.suppress(OSError), open("/proc/self/maps", "rb") as maps:
        for line in maps:
            mapped = line.split(b" ", 5)[-1].strip().decode(errors="surrogateescape")
            if os.path.basename(mapped).startswith(f"lib{name}."):
                return ctypes.CDLL(mapped)
    for pattern in (f"lib{name}.*.dylib", f"lib{name}.dylib", f"lib{name}.so", f"{name}.dll", f"lib{name}.dll"):
        for path in sorted(folder().glob(pattern)):
            return ctypes.CDLL(str(path))
    raise EngineError(f"the library {name} of llama-cpp-python was not found in {folder()}")


ggml: Any = _library("ggml")
ggml_base: Any = _library("ggml-base")


def cpu_library() -> Any:
    """The CPU backend, for its vector functions. Raises EngineError where there is none of that name."""
    return _library("ggml-cpu")


# --- logs ---------------------------------------------------------------------------------------------------------

_ERROR, _WARN, _CONTINUED = 4, 3, 5  # ggml_log_level; the bindings' own table is of an older version
_errors: deque[str] = deque(maxlen=20)
_level = 0
#: With LLAMACLI_DEBUG every line goes to standard error as well.
_show_all = bool(os.environ.get("LLAMACLI_DEBUG"))
_listener: Callable[[bytes], None] | None = None


def _log(level: int, text: bytes, _: object) -> None:
    global _level
    _level = level if level != _CONTINUED else _level
    if _listener is not None:
        _listener(text)
    if _level == _ERROR:
        _errors.append(text.decode("utf-8", "replace"))
    if _show_all:
        with contextlib.suppress(OSError):
            os.write(2, f"{printable(text.decode('utf-8', 'replace'))}\n".encode())


_on_log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_log)
C.llama_log_set(_on_log, None)  # replaces the one that the import installed


@contextlib.contextmanager
def listening(listener: Callable[[bytes], None]) -> Iterator[None]:
    """While this lasts, `listener` gets each piece of the log: a line, or a fragment of one. It must not raise."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


def take_errors() -> list[str]:
    """The error lines logged since the last call, oldest first."""
    lines = [line.strip() for line in "".join(_errors).splitlines() if line.strip()]
    _errors.clear()
    return lines


# --- aborts and crashes -------------------------------------------------------------------------------------------

#: What an abort means now: 6 while a file is being loaded, 7 elsewhere.
_crash_code = 7
_crash_subject = "llama.cpp"


@contextlib.contextmanager
def loading(path: Path) -> Iterator[None]:
    """While this lasts, a native crash is the file's fault (exit code 6)."""
    global _crash_code, _crash_subject
    before = _crash_code, _crash_subject
    _crash_code, _crash_subject = 6, str(path)
    try:
        yield
    finally:
        _crash_code, _crash_subject = before


def _die(what: str) -> None:
    """The last words of a process that native code is ending. Only raw writes: the interpreter may be half-way."""
    signals.restore_terminal()
    if _crash_code == 6:
        line = f"error: {printable(_crash_subject)}: llama.cpp cannot load this file: {printable(what)}\n"
    else:
        line = f"error: llama.cpp failed: {printable(what)}\n"
    with contextlib.suppress(OSError):
        os.write(2, line.encode("utf-8", "replace"))
    os._exit(_crash_code)


def _aborted(message: bytes) -> None:
    _die(" ".join(message.decode("utf-8", "replace").split()))


_CRASHES = {
    name: reason
    for name, reason in {
        "SIGSEGV": "it reached outside its memory (SIGSEGV)",
        "SIGBUS": "the file was cut short while in use, or the disk failed (SIGBUS)",
        "SIGABRT": "it gave up (SIGABRT)",
        "SIGFPE": "a division by zero (SIGFPE)",
        "SIGILL": "this processor lacks an instruction that the build uses (SIGILL)",
    }.items()
    if hasattr(signal, name)
}


def _crashed(signum: int) -> None:
    _die(_CRASHES.get(signal.Signals(signum).name, f"signal {signum}"))


# The library keeps only their addresses: they must live as long as the process.
_on_abort = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(_aborted)
_on_crash = ctypes.CFUNCTYPE(None, ctypes.c_int)(_crashed)


def _guard() -> None:
    """Turn aborts and crashes of native code into one line and an exit code.

    Through the C library's `signal`: Python's own only notes the signal and returns to the faulting instruction.
    """
    ggml_base.ggml_set_abort_callback.restype = ctypes.c_void_p
    ggml_base.ggml_set_abort_callback(_on_abort)
    if os.name == "posix" and not os.environ.get("LLAMACLI_NO_GUARD"):
        libc = ctypes.CDLL(None)
        libc.signal.restype = ctypes.c_void_p
        for name in _CRASHES:
            libc.signal(getattr(signal, name), _on_crash)


_guard()
C.llama_backend_init()

# A native call asks this between two steps of its graph whether it shall stop. It is the C library's strlen over the
# byte that signal handlers set: not zero once a signal came. No Python runs, no lock is taken, and it costs nothing.
_flag = (ctypes.c_char * len(signals.flag)).from_buffer(signals.flag)
interrupted_address = ctypes.addressof(_flag)
_strlen = ctypes.CDLL(None).strlen if os.name == "posix" else ctypes.cdll.msvcrt.strlen
interrupted_callback = ctypes.cast(_strlen, C.ggml_abort_callback)


# --- devices and types --------------------------------------------------------------------------------------------

#: enum ggml_backend_dev_type
_KINDS: dict[int, DeviceKind] = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel"}

for _library_of, _name, _result, _arguments in (
    (ggml, "ggml_backend_dev_count", ctypes.c_size_t, []),
    (ggml, "ggml_backend_dev_get", ctypes.c_void_p, [ctypes.c_size_t]),
    (ggml_base, "ggml_backend_dev_backend_reg", ctypes.c_void_p, [ctypes.c_void_p]),
    (ggml_base, "ggml_backend_reg_name", ctypes.c_char_p, [ctypes.c_void_p]),
    (ggml_base, "ggml_backend_dev_name", ctypes.c_char_p, [ctypes.c_void_p]),
    (ggml_base, "ggml_backend_dev_description", ctypes.c_char_p, [ctypes.c_void_p]),
    (ggml_base, "ggml_backend_dev_type", ctypes.c_int, [ctypes.c_void_p]),
    (ggml_base, "ggml_backend_dev_memory", None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]),
    (ggml_base, "ggml_backend_dev_buffer_type", ctypes.c_void_p, [ctypes.c_void_p]),
    (ggml_base, "ggml_backend_buft_name", ctypes.c_char_p, [ctypes.c_void_p]),
):
    _function = getattr(_library_of, _name)
    _function.restype, _function.argtypes = _result, _arguments


def device_table() -> list[tuple[int, Device]]:
    """ggml's handle of each device and what it is, in ggml's order; the CPU is among them."""
    found = []
    for i in range(ggml.ggml_backend_dev_count()):
        handle = ggml.ggml_backend_dev_get(i)
        kind = _KINDS.get(ggml_base.ggml_backend_dev_type(handle), "other")
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        ggml_base.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
        device = Device(
            name=_text(ggml_base.ggml_backend_dev_name(handle)),
            description=_text(ggml_base.ggml_backend_dev_description(handle)),
            kind=kind,
            memory_free=min(free.value, memory_available() or free.value) if kind == "cpu" else free.value,
            memory_total=total.value,
            backend=_text(ggml_base.ggml_backend_reg_name(ggml_base.ggml_backend_dev_backend_reg(handle))),
        )
        found.append((handle, device))
    return found


def devices() -> list[Device]:
    """All devices of this build, the CPU among them."""
    return [device for _, device in device_table()]


def buffer_types() -> dict[str, int]:
    """Names of the devices' buffer types → handles, for tensor overrides."""
    handles = [ggml_base.ggml_backend_dev_buffer_type(handle) for handle, _ in device_table()]
    return {_text(ggml_base.ggml_backend_buft_name(handle)): handle for handle in handles if handle}


def memory_available() -> int:
    """Bytes of RAM that can be had without swapping, within the container's limit; 0 where the system does not tell."""
    available = 0
    with contextlib.suppress(OSError), open("/proc/meminfo") as meminfo:
        for line in meminfo:
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    cgroup = Path("/sys/fs/cgroup")
    for limit, used, statistics in (
        (cgroup / "memory.max", cgroup / "memory.current", cgroup / "memory.stat"),
        *[[cgroup / "memory" / f"memory.{n}" for n in ("limit_in_bytes", "usage_in_bytes", "stat")]],
    ):
        with contextlib.suppress(OSError, ValueError):
            room = int(limit.read_text()) - int(used.read_text())
            # The page cache counts as used, and goes when it is needed: the mapped model itself, for one.
            room += sum(int(n) for n in re.findall(r"^(?:in)?active_file (\d+)$", statistics.read_text(), re.MULTILINE))
            available = min(available, room)
    return max(available, 0)


def _text(data: bytes | None) -> str:
    return (data or b"").decode("utf-8", "replace")


def build() -> str:
    """The library's own line about how it was compiled."""
    return _text(C.llama_print_system_info()).strip()
