"""Damage a GGUF file in many ways and see how the program ends: with an exit code, a signal, or not at all.

    mutants.py MODEL.gguf --count 2000 --seed 1             run `llamacli complete` on each mutant
    mutants.py MODEL.gguf --loader native --jobs 2          read_header + check, then llama.cpp in a forked child
    mutants.py MODEL.gguf --loader native --no-check        what llama.cpp alone does with them
    mutants.py MODEL.gguf --loader check                    read_header + check only

Half of the mutants are random (bytes of the header, truncations), half are structured: one to three fields that mean
something are overwritten (counts, types, values, dimensions, offsets), or the file is taken apart and written anew as a
well-formed one with other contents (`rebuild.py`). Files that ended the process by a signal, or not within the time
limit, are kept in --keep and listed with the last line on stderr; the exit code is then 1. Linux and macOS (fork).
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

sys.path.insert(0, str(Path(__file__).parent))
import rebuild

DEFAULT_COMMAND = f'{shlex.quote(sys.executable)} -m llamacli complete -m FILE --raw -n 4 --temp 0 "Once"'
NATIVE_MEMORY = 8 << 30  # bytes of address space for a child that runs llama.cpp
OK, BUG, BAD_MODEL, ENGINE = 0, 1, 6, 7  # exit codes of llamacli


# ---- where the fields of a GGUF file are ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """A number in the file: what it is, where it starts, and how struct packs it."""

    what: str
    offset: int
    layout: str


_LAYOUTS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


def fields(data: bytes) -> tuple[list[Field], int]:
    """All numbers in the header of an intact GGUF file, and the offset behind the header."""
    walker = _Walker(data)
    return walker.walk(), walker.pos


class _Walker:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.pos = 4
        self.found: list[Field] = []

    def walk(self) -> list[Field]:
        self.number("version", "<I")
        n_tensors, n_keys = self.number("n_tensors", "<Q"), self.number("n_keys", "<Q")
        for _ in range(n_keys):
            key = self.string("key length")
            self.value(key, self.number(f"{key} type", "<I"))
        for _ in range(n_tensors):
            name = self.string("tensor name length")
            for _ in range(self.number(f"{name} n_dims", "<I")):
                self.number(f"{name} dim", "<Q")
            self.number(f"{name} type", "<I")
            self.number(f"{name} offset", "<Q")
        return self.found

    def number(self, what: str, layout: str) -> int:
        self.found.append(Field(what, self.pos, layout))
        (value,) = struct.unpack_from(layout, self.data, self.pos)
        self.pos += struct.calcsize(layout)
        return int(value)

    def string(self, what: str) -> str:
        length = self.number(what, "<Q")
        self.pos += length
        return self.data[self.pos - length : self.pos].decode("utf-8", "replace")

    def value(self, key: str, value_type: int) -> None:
        if value_type == _STRING:
            self.string(f"{key} length")
        elif value_type == _ARRAY:
            element_type = self.number(f"{key} element type", "<I")
            for _ in range(self.number(f"{key} count", "<Q")):
                self.value(f"{key} element", element_type)
        else:
            self.number(key, _LAYOUTS[value_type])


# ---- mutants -------------------------------------------------------------------------------------------------------

_INTEGERS = (0, 1, 2, 3, 5, 7, 8, 31, 33, 63, 255, 256, 511, 513, 1000, 65535, 1 << 20, (1 << 31) - 1, 1 << 31,
             (1 << 32) - 1, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip
_FLOATS = (0.0, -0.0, -1.0, 1.0, 1e-30, 1e30, float("inf"), float("-inf"), float("nan"))


def mutants(data: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` pairs (what was done, damaged file), always the same for the same seed."""
    rng = random.Random(seed)
    numbers, header_end = fields(data)
    scalars = [field for field in numbers if not field.what.endswith((" element", " element length"))]
    strings = [field for field in numbers if field.what.endswith(" length")]
    intact = rebuild.decode(data)
    for i in range(count):
        kind = i % 8
        if kind == 0 and i % 16:
            yield _truncated(data, header_end, rng)
        elif kind < 4:
            yield _random_bytes(data, header_end, rng)
        elif kind == 4:  # array elements are many and mostly harmless: one in five
            yield _changed_numbers(data, numbers if rng.random() < 0.2 else scalars, rng)
        elif kind == 5 and i % 16 == 5:
            yield _changed_text(data, strings, rng)
        else:
            yield rebuild.mutant(intact, rng)


def _random_bytes(data: bytes, header_end: int, rng: random.Random) -> tuple[str, bytes]:
    damaged = bytearray(data)
    n = rng.choice((1, 1, 2, 4, 16))
    # half of them at the start and the end of the header, where lengths and types stand close together
    places = [_place(header_end, rng) for _ in range(n)]
    for place in places:
        damaged[place] = rng.choice((0, 1, 0xFF, rng.randrange(256), damaged[place] ^ (1 << rng.randrange(8))))
    return f"bytes at {sorted(places)}", bytes(damaged)


def _place(header_end: int, rng: random.Random) -> int:
    edge = min(2048, header_end)
    where = rng.random()
    if where < 0.25:
        return rng.randrange(edge)
    return header_end - 1 - rng.randrange(edge) if where < 0.5 else rng.randrange(header_end)


def _truncated(data: bytes, header_end: int, rng: random.Random) -> tuple[str, bytes]:
    size = rng.choice((rng.randrange(64), rng.randrange(header_end), rng.randrange(len(data)), len(data) - 1))
    return f"cut to {size} bytes", data[:size]


def _changed_numbers(data: bytes, numbers: list[Field], rng: random.Random) -> tuple[str, bytes]:
    damaged = bytearray(data)
    done = []
    for field in rng.sample(numbers, rng.choice((1, 1, 1, 2, 3))):
        (old,) = struct.unpack_from(field.layout, data, field.offset)
        new = _other_value(field, old, rng)
        damaged[field.offset : field.offset + len(new)] = new
        done.append(f"{field.what}: {old} → {struct.unpack(field.layout, new)[0]}")
    return ", ".join(done), bytes(damaged)


def _other_value(field: Field, old: float, rng: random.Random) -> bytes:
    if field.layout in ("<f", "<d"):
        return struct.pack(field.layout, rng.choice((*_FLOATS, old * 2, -old)))
    size = struct.calcsize(field.layout)
    near = (int(old) - 1, int(old) + 1, int(old) * 2, int(old) // 2)
    values = range(44) if field.what.endswith("type") else (*_INTEGERS, *near, *near)
    return (rng.choice(values) % (1 << 8 * size)).to_bytes(size, "little")


def _changed_text(data: bytes, strings: list[Field], rng: random.Random) -> tuple[str, bytes]:
    """A string becomes another string of the file, cut or padded to its length: duplicates, wrong names."""
    target, source = rng.sample(strings, 2)
    (length,) = struct.unpack_from("<Q", data, target.offset)
    start = source.offset + 8
    text = data[start : start + length].ljust(length, rng.choice((b" ", b"\0", b"\xff")))
    damaged = data[: target.offset + 8] + text + data[target.offset + 8 + length :]
    return f"{target.what} at {target.offset}: text from {source.offset}", damaged


# ---- running them --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How one mutant ended: "exit 6", "SIGABRT" or "hang", and the last line it wrote on stderr."""

    end: str
    message: str = ""

    @property
    def deadly(self) -> bool:
        return not self.end.startswith("exit ") or self.end == f"exit {BUG}"


def run_command(command: str, file: Path, timeout: float) -> Outcome:
    """Run a shell-like command line with FILE replaced; no shell is involved."""
    argv = [str(file) if part == "FILE" else part for part in shlex.split(command)]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return Outcome("hang")
    return Outcome(_end(done.returncode), _last_line(done.stderr))


def _end(returncode: int) -> str:
    return f"exit {returncode}" if returncode >= 0 else signal.Signals(-returncode).name


def _last_line(stderr: bytes) -> str:
    lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    asserts = [line for line in lines if "GGML_ASSERT" in line or "fatal error" in line]
    return (asserts or lines or [""])[-1][:300]


def run_check(file: Path) -> Outcome:
    """read_header and check, in this process; anything but BadModelFile and its like is a bug."""
    from llamacli.errors import LlamacliError
    from llamacli.models.gguf import read_header
    from llamacli.models.gguf_checks import check

    try:
        check(read_header(file))
    except LlamacliError as error:
        return Outcome(f"exit {error.exit_code}", error.message)
    except Exception as error:
        return Outcome(f"exit {BUG}", repr(error))
    return Outcome(f"exit {OK}")


def run_native(file: Path, timeout: float) -> Outcome:
    """Load the file and decode four tokens with llama.cpp, in a child forked from this (unused) process."""
    import llama_cpp  # noqa: F401  (the child inherits the import, which takes longer than everything else)

    with tempfile.TemporaryFile() as stderr:
        child = os.fork()
        if child == 0:
            os.dup2(stderr.fileno(), 2)
            os._exit(_decode(file))
        end = _wait(child, time.monotonic() + timeout)
        stderr.seek(0)
        return Outcome(end, _last_line(stderr.read()))


def _wait(child: int, deadline: float) -> str:
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return _end(os.waitstatus_to_exitcode(status))
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hang"
        time.sleep(0.002)


def _decode(file: Path) -> int:
    """0: four tokens were decoded; 7: llama.cpp refused the file. Runs in the child, whose memory is limited."""
    import ctypes
    import resource

    from llama_cpp import llama_cpp as lib

    resource.setrlimit(resource.RLIMIT_AS, (NATIVE_MEMORY, NATIVE_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["GGML_NO_BACKTRACE"] = "1"
    lib.llama_backend_init()
    silence = lib.llama_log_callback(lambda level, text, data: None)
    lib.llama_log_set(silence, ctypes.c_void_p(0))
    model_params = lib.llama_model_default_params()
    model_params.n_gpu_layers = 0
    # GCC 12 drops stores to AMX's tile configuration: such builds segfault with any quantised model
    model_params.use_extra_bufts = False
    model = lib.llama_model_load_from_file(os.fsencode(file), model_params)
    if not model:
        return ENGINE
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_threads, params.n_threads_batch = 128, 128, 1, 1
    context = lib.llama_init_from_model(model, params)
    vocab = lib.llama_model_get_vocab(model)
    tokens = (lib.llama_token * 64)()
    n = lib.llama_tokenize(vocab, b"Once", 4, tokens, 64, True, False) if context else -1
    piece = ctypes.create_string_buffer(512)
    sampler = lib.llama_sampler_init_greedy()
    for _ in range(4):
        if n <= 0 or lib.llama_decode(context, lib.llama_batch_get_one(tokens, n)):
            return ENGINE
        tokens[0], n = lib.llama_sampler_sample(sampler, context, -1), 1
        lib.llama_token_to_piece(vocab, tokens[0], piece, len(piece), 0, True)
    lib.llama_free(context)
    lib.llama_model_free(model)
    return OK


class Worker:
    """A process that answers one line (end, tab, message) for each file named on its stdin, so that imports are paid
    once and a thread pool may use several of them."""

    def __init__(self, loader: str, checked: bool, timeout: float) -> None:
        argv = [sys.executable, __file__, "--worker", "--loader", loader, "--timeout", str(timeout), "-"]
        argv += [] if checked else ["--no-check"]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def run(self, file: Path) -> Outcome:
        assert self.process.stdin
        assert self.process.stdout
        print(file, file=self.process.stdin, flush=True)
        end, _, message = self.process.stdout.readline().rstrip("\n").partition("\t")
        return Outcome(end or "the worker ended", message)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def serve(loader: str, checked: bool, timeout: float) -> None:
    """The worker's side: files on stdin, outcomes on stdout."""
    for line in sys.stdin:
        file = Path(line.rstrip("\n"))
        outcome = run_check(file) if checked else Outcome(f"exit {OK}")
        if outcome.end == f"exit {OK}" and loader == "native":
            outcome = run_native(file, timeout)
        print(outcome.end, outcome.message.replace("\n", " "), sep="\t", flush=True)


def run_all(
    data: bytes, count: int, seed: int, jobs: int, keep: Path, runner: Callable[[Path], Outcome]
) -> tuple[Counter[str], list[tuple[Path, str, Outcome]]]:
    """Run all mutants; returns the count of each end, and what was deadly (file, what was done, outcome)."""
    keep.mkdir(parents=True, exist_ok=True)
    deadly = []
    slots = threading.Semaphore(2 * jobs)  # mutants are made as they are needed

    def one(number: int, what: str, mutant: bytes) -> Outcome:
        file = keep / f"seed{seed}-{number:05}.gguf"
        try:
            file.write_bytes(mutant)
            outcome = runner(file)
        finally:
            slots.release()
        if outcome.deadly:
            deadly.append((file, what, outcome))
        else:
            file.unlink()
        return outcome

    with ThreadPoolExecutor(jobs) as pool:
        futures = []
        for number, (what, mutant) in enumerate(mutants(data, count, seed)):
            slots.acquire()
            futures.append(pool.submit(one, number, what, mutant))
        ends = Counter(future.result().end for future in futures)
    return ends, deadly


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds for one mutant")
    parser.add_argument("--loader", choices=("command", "native", "check"), default="command")
    parser.add_argument("--command", default=DEFAULT_COMMAND, help="FILE stands for the mutant")
    parser.add_argument("--no-check", action="store_true", help="native: give llama.cpp every mutant")
    parser.add_argument("--keep", type=Path, help="folder for deadly files (default: a new temporary one)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        serve(args.loader, not args.no_check, args.timeout)
        return 0
    keep = args.keep or Path(tempfile.mkdtemp(prefix="mutants-"))
    workers: Queue[Worker] = Queue()

    def with_worker(file: Path) -> Outcome:
        worker = workers.get()
        try:
            return worker.run(file)
        finally:
            workers.put(worker)

    def with_command(file: Path) -> Outcome:
        return run_command(args.command, file, args.timeout)

    if args.loader != "command":
        for _ in range(args.jobs):
            workers.put(Worker(args.loader, not args.no_check, args.timeout))
    runner = with_command if args.loader == "command" else with_worker
    ends, deadly = run_all(args.model.read_bytes(), args.count, args.seed, args.jobs, keep, runner)
    while not workers.empty():
        workers.get().close()
    for end, count in sorted(ends.items()):
        print(f"{count:6}  {end}")
    for file, what, outcome in sorted(deadly):
        print(f"{file}\n    {what}\n    {outcome.end}: {outcome.message}")
    return 1 if deadly else 0


if __name__ == "__main__":
    sys.exit(main())
