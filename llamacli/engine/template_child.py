"""A chat template rendered in a process of its own, with bounds on time, memory and output.

A template comes with a model file, so it is foreign code. The sandbox keeps it from the system, but not from looping
for ever or from allocating gigabytes inside one C call, where no thread could stop it. Only a process can be killed.

`render_in_child` is the parent's side, `main` the child's. Job and answer travel as JSON through pipes. jinja2 is
imported in the child only.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamacli import signals
from llamacli.errors import EngineError

if TYPE_CHECKING:
    import subprocess

MB = 1 << 20
TIME_LIMIT = 3.0  # seconds, from the moment the child has imported jinja2
MEMORY_LIMIT = 512 * MB  # above what the child holds at that moment
OUTPUT_LIMIT = 64 * MB  # characters
START_LIMIT = 30.0  # seconds for the interpreter to start, on a cold and busy machine
POLL_SECONDS = 0.02
DETAIL_LIMIT = 4000  # characters of a template's own words that are carried home

#: What a conversation itself needs, so that a large document is not blamed on the template: up to 4 bytes a character
#: in each of the copies that a rendering holds, and a second for 10 MB.
MEMORY_PER_INPUT_BYTE = 24
SECONDS_PER_INPUT_BYTE = 1e-7

#: Elsewhere the limit is not enforced (macOS) or missing (Windows): there the parent looks at the resident memory.
HAS_RLIMIT_AS = sys.platform == "linux"

#: -P: no module of that name from the current folder. -S: the parent's sys.path replaces `site`, which costs time.
PYTHON_OPTIONS = ("-P", "-S")
BOOTSTRAP = (
    "import json, sys; request = json.load(sys.stdin.buffer); sys.path[:] = request.pop('path'); "
    "from llamacli.engine.template_child import main; main(**request)"
)

NOT_STARTED = "the process that renders the chat template does not start"
TOOK_TOO_LONG = f"the chat template took longer than {TIME_LIMIT:g} s"
TOO_MUCH_MEMORY = f"the chat template needs more than {MEMORY_LIMIT // MB} MB of memory"
TOO_MUCH_OUTPUT = f"the chat template's output is larger than {OUTPUT_LIMIT // MB} MB"


@dataclass(frozen=True)
class Job:
    """One rendering, in plain JSON values. `now` is an ISO date and time; `output_limit` counts characters."""

    source: str
    messages: list[dict[str, str]]
    variables: dict[str, Any]
    add_generation_prompt: bool
    bos: str
    eos: str
    now: str
    output_limit: int = OUTPUT_LIMIT


class RenderFailed(Exception):
    """The template is at fault: `what` happened in our words, `detail` in the template's (foreign text, or empty)."""

    def __init__(self, what: str, detail: str = "") -> None:
        super().__init__(what, detail)
        self.what = what
        self.detail = detail[:DETAIL_LIMIT]


def render_in_child(jobs: Sequence[Job]) -> list[str]:
    """The rendered texts, all from one child.

    Raises RenderFailed for whatever the template does wrong, EngineError if no child can be started. The child is gone
    when this returns or raises, KeyboardInterrupt included.
    """
    import subprocess  # 8 ms that a remembered template does not pay

    request = _encoded({"jobs": [vars(job) for job in jobs], "path": _import_path(), "rlimit": HAS_RLIMIT_AS})
    try:
        process = subprocess.Popen(
            [sys.executable, *PYTHON_OPTIONS, "-c", BOOTSTRAP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal is the parent's business
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
    except OSError as error:
        raise EngineError(f"cannot start a process for the chat template: {error.strerror}") from None
    with process, signals.on_end(process.kill):
        return _converse(process, request)


def _import_path() -> list[str]:
    # Our own folder too: an editable installation may reach it through an import hook instead of sys.path.
    return [*sys.path, str(Path(__file__).parents[2])]


def _encoded(value: Any) -> bytes:
    # surrogatepass: a template may write a lone surrogate. json.loads undoes it by itself.
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _converse(process: subprocess.Popen[bytes], request: bytes) -> list[str]:
    answer = bytearray()
    ready = threading.Event()
    limit = 6 * (OUTPUT_LIMIT + len(request))  # JSON writes 6 bytes for a control character
    # Both pipes are served by threads: neither side may block on a full pipe, and selectors know no pipes on Windows.
    writer = threading.Thread(target=_write, args=(process, request), daemon=True)
    reader = threading.Thread(target=_read, args=(process, answer, ready, limit), daemon=True)
    writer.start()
    reader.start()
    try:
        _watch(process, reader, ready, len(request))
        if len(answer) > limit:
            raise RenderFailed(TOO_MUCH_OUTPUT)
        return _texts(bytes(answer), process.wait())
    finally:
        process.kill()
        reader.join()
        writer.join()


def _write(process: subprocess.Popen[bytes], request: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError), process.stdin:  # a child that died early says so by its exit status
        process.stdin.write(request)


def _read(process: subprocess.Popen[bytes], answer: bytearray, ready: threading.Event, limit: int) -> None:
    assert process.stdout is not None
    while len(answer) <= limit and (chunk := os.read(process.stdout.fileno(), MB)):
        answer += chunk
        ready.set()


def _watch(process: subprocess.Popen[bytes], reader: threading.Thread, ready: threading.Event, input_size: int) -> None:
    """Returns when the child has said everything; raises RenderFailed when it goes beyond its bounds."""
    memory_limit = MEMORY_LIMIT + MEMORY_PER_INPUT_BYTE * input_size
    deadline = time.monotonic() + START_LIMIT
    baseline: int | None = None
    while True:
        reader.join(POLL_SECONDS)
        if not reader.is_alive():
            return
        if baseline is None and ready.is_set():
            deadline = time.monotonic() + TIME_LIMIT + SECONDS_PER_INPUT_BYTE * input_size
            baseline = resident_bytes(process.pid)
        if time.monotonic() > deadline:
            raise RenderFailed(TOOK_TOO_LONG) if ready.is_set() else EngineError(NOT_STARTED)
        if baseline is not None and resident_bytes(process.pid) > baseline + memory_limit:
            raise RenderFailed(TOO_MUCH_MEMORY)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 where it cannot be known (it has ended, or on Windows)."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_bytes().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return _resident_bytes_by_ps(pid) if sys.platform == "darwin" else 0


def _resident_bytes_by_ps(pid: int) -> int:
    import subprocess

    try:
        done = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=False)
        return int(done.stdout) * 1024
    except (OSError, ValueError):
        return 0


def _texts(answer: bytes, exit_status: int) -> list[str]:
    if not answer:
        raise EngineError(f"{NOT_STARTED} (exit code {exit_status})")
    try:
        fields = json.loads(answer)
    except ValueError:
        how = f"signal {-exit_status}" if exit_status < 0 else f"exit code {exit_status}"
        raise RenderFailed(f"the chat template crashed the process that rendered it ({how})") from None
    if "failed" in fields:
        raise RenderFailed(*fields["failed"])
    return [str(text) for text in fields["texts"]]


def main(jobs: list[dict[str, Any]], rlimit: bool) -> None:
    """The child: jobs in, one answer out, end of process."""
    from llamacli.engine import template_jinja

    _limit_this_process(sum(map(_characters, jobs)), rlimit)
    out = sys.stdout.buffer
    out.write(b"\n")  # "ready": JSON allows white space in front
    out.flush()
    try:
        answer = _encoded({"texts": [template_jinja.render(Job(**fields)) for fields in jobs]})
    except RenderFailed as error:
        answer = _encoded({"failed": [error.what, error.detail]})
    except MemoryError:
        answer = _encoded({"failed": [TOO_MUCH_MEMORY]})
    out.write(answer)
    out.flush()
    os._exit(0)  # nothing to clean up, and taking the interpreter down costs time


def _characters(fields: dict[str, Any]) -> int:
    return sum(len(value) for message in fields["messages"] for value in message.values())


def _limit_this_process(input_size: int, rlimit: bool) -> None:
    if sys.platform == "win32":
        return
    import resource
    import signal

    # Should the parent be killed, nobody else would end an endless loop.
    signal.alarm(int(TIME_LIMIT + SECONDS_PER_INPUT_BYTE * 4 * input_size) + 2)
    if rlimit:
        size = int(Path("/proc/self/statm").read_bytes().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        limit = size + MEMORY_LIMIT + MEMORY_PER_INPUT_BYTE * input_size
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
