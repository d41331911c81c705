"""What the benchmarks here share: runs in turns, llama.cpp's tools, models of known shapes, tables.

llama.cpp's tools are looked for in the folder LLAMA_CPP_BIN; without it there is no comparison and only our own figures
are printed. Models are made on demand by `tools/make_bench_model.py` of the folder LLAMACLI_SHARED (default: `shared`
beside this repository) and kept. Linux and macOS (`os.wait4`).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import math
import multiprocessing
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("LLAMACLI_SHARED") or ROOT.parent / "shared")
STORIES = SHARED / "data" / "models" / "stories260K.gguf"
MB = 1e6


class SkippedError(Exception):
    """Something that a measurement needs is not here; the message says what."""


class FailedError(Exception):
    """A program ended with an error, or the two sides did different work."""


# --- running --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A finished process: wall time in seconds, peak resident memory in bytes."""

    seconds: float
    peak: int
    stdout: str
    stderr: str


#: On Linux a process's peak counts from what its parent held at its start: so the parent is a bare interpreter (9 MB).
_LAUNCHER = """
import os, sys, time
report = int(sys.argv[1])
os.set_inheritable(report, False)
began = time.perf_counter()
process = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(process, 0)
os.write(report, f"{time.perf_counter() - began} {os.waitstatus_to_exitcode(status)} {usage.ru_maxrss}".encode())
"""


def run(command: Sequence[str | Path]) -> Run:
    """Run to the end with an empty standard input. Raises FailedError with its last lines."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as report:
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(report.fileno())]
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
        subprocess.run([*launcher, *command], env=_environment(), pass_fds=(report.fileno(),), check=True, **streams)
        seconds, code, peak = _content(report).split()
        texts = [_content(out), _content(err)]
    if int(code):
        last = " · ".join("".join(texts).split("\n")[-4:])
        raise FailedError(f"{' '.join(map(str, command))}: ended with {code}: {last}")
    return Run(float(seconds), int(peak) * (1 if sys.platform == "darwin" else 1024), *texts)


def _environment() -> dict[str, str]:
    """Ours, without the variables that change what the programs do. Python's bytecode is cached, as an installed
    package's is, but never in this checkout where the environment forbids that.
    """
    ours = ("LLAMACLI_", "LLAMA_ARG_", "LLAMA_LOG_", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        kept.setdefault("PYTHONPYCACHEPREFIX", str(Path(tempfile.gettempdir()) / "llamacli-bench-bytecode"))
    return kept


def _content(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode("utf-8", "replace"))


def in_turns(label: str, n: int, *measures: Callable[[], T] | None) -> list[list[T]]:
    """Call each in turn, n times (A B A B …). The results of each; none for a measure that is None."""
    results: list[list[T]] = [[] for _ in measures]
    say(f"{label}: ", end="")
    for _ in range(n):
        for measure, found in zip(measures, results, strict=True):
            if measure is not None:
                found.append(measure())
        say(".", end="")
    say("")
    return results


def in_child(function: Callable[..., T], *arguments: object) -> T:
    """Call a module's function in a fresh interpreter. Raises FailedError where native code crashes there."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as crash:
            raise FailedError(f"{function.__name__.strip('_')}: {crash}") from None


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)


# --- the programs ---------------------------------------------------------------------------------------------------


def llamacli() -> list[str]:
    """The command as this interpreter's environment has it installed."""
    script = Path(sys.executable).parent / "llamacli"
    return [str(script)] if script.exists() else [sys.executable, "-m", "llamacli"]


def tool(name: str) -> str | None:
    """A tool of llama.cpp, or None without LLAMA_CPP_BIN. Raises SkippedError where the folder lacks it."""
    folder = os.environ.get("LLAMA_CPP_BIN")
    if not folder:
        return None
    path = Path(folder) / name
    if not path.is_file():
        raise SkippedError(f"LLAMA_CPP_BIN has no {name}")
    return str(path)


_PERF = re.compile(r"_perf(?:_context)?_print: +([a-z][a-z ]*?) time = +([\d.]+) ms(?: */ +(\d+) (?:tokens|runs))?")


@dataclass(frozen=True)
class Timing:
    """One line of llama.cpp's statistics."""

    seconds: float
    count: int

    @property
    def per_second(self) -> float:
        return self.count / self.seconds if self.seconds else math.inf


def perf(output: str) -> dict[str, Timing]:
    """The times that llama.cpp's tools print at their end, by their names: "eval", "prompt eval", "sampling", …"""
    return {name: Timing(float(ms) / 1000, int(count or 0)) for name, ms, count in _PERF.findall(output)}


# --- models ---------------------------------------------------------------------------------------------------------

_SPM = "ggml-vocab-llama-spm.gguf"
#: stem → vocabulary, arguments of the generator
SHAPES = {
    "b1b": (_SPM, "--layers 22 --dim 2048 --heads 32 --kv-heads 4 --ffn 5632"),
    "b19m": (_SPM, "--layers 4 --dim 256 --heads 8 --kv-heads 4 --ffn 768"),
    "tiny8k": (_SPM, "--layers 2 --dim 128 --heads 4 --kv-heads 2 --ffn 256 --context 8192"),
    "wide": ("ggml-vocab-qwen2.gguf", "--layers 8 --dim 768 --heads 12 --kv-heads 4 --ffn 2048"),
}
_QUANTS = {"q4km": ("Q4_K_M", 15)}  # suffix → (name, enum llama_ftype)


def model(folder: Path, stem: str, kind: str = "f16") -> Path:
    """The model file `<stem>.<kind>.gguf` in `folder`, made if it is not there. Raises SkippedError."""
    path = folder / f"{stem}.{kind}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        source = None if kind == "f16" else model(folder, stem)
        partial = path.with_suffix(".partial")
        if source is None:
            _generate(stem, partial)
        else:
            _quantize(source, partial, kind)
        partial.replace(path)
    return path


def stories() -> Path:
    """The trained 260K model. Raises SkippedError."""
    if not STORIES.exists():
        raise SkippedError(f"no {STORIES} (LLAMACLI_SHARED)")
    return STORIES


def _generate(stem: str, target: Path) -> None:
    generator = SHARED / "tools" / "make_bench_model.py"
    if not generator.exists():
        raise SkippedError(f"no {generator} to make models with (LLAMACLI_SHARED)")
    say(f"making {target.with_suffix('.gguf')}")
    vocabulary, shape = SHAPES[stem]
    run([sys.executable, generator, SHARED / "data" / "vocab" / vocabulary, target, *shape.split()])


def _quantize(source: Path, target: Path, kind: str) -> None:
    say(f"making {target.with_suffix('.gguf')}")
    name, ftype = _QUANTS[kind]
    quantize = tool("llama-quantize")
    if quantize:
        run([quantize, source, target, name])
    else:
        in_child(_quantize_natively, source, target, ftype)


def _quantize_natively(source: Path, target: Path, ftype: int) -> None:
    import ctypes

    from llamacli.engine.native import C

    params = C.llama_model_quantize_default_params()
    params.ftype = ftype
    if C.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params)):
        raise FailedError(f"{source} could not be quantized")


def end_tokens(path: Path) -> list[int]:
    """The ids that end a text in this model's vocabulary."""
    return in_child(_end_tokens, path)


def _end_tokens(path: Path) -> list[int]:
    from llamacli.engine.model import Model
    from llamacli.engine.types import ModelOptions

    with Model(ModelOptions(path, vocab_only=True)) as vocabulary:
        return [i for i in range(vocabulary.n_vocab) if vocabulary.ends_generation(i)]


def read_once(path: Path) -> None:
    """Bring a file into the page cache, so that the first run is like the others."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


# --- tables ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One quantity, measured in pairs: values of the first column and of the second (empty: there was none)."""

    what: str
    unit: str
    first: list[float]
    second: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.first, self.second, strict=False) if b]

    def medians(self) -> tuple[float | None, float | None]:
        return _median(self.first), _median(self.second)

    def summary(self) -> dict[str, Any]:
        first, second = self.medians()
        differences = [a - b for a, b in zip(self.first, self.second, strict=False)]
        return {
            **asdict(self),
            "first_median": first,
            "second_median": second,
            "ratio": _median(self.ratios),
            "ratio_min": min(self.ratios, default=None),
            "ratio_max": max(self.ratios, default=None),
            "difference": _median(differences),
        }


@dataclass
class Section:
    """A table: its columns' names, its rows, and why it has not more of them. A ratio is first ÷ second."""

    name: str
    columns: tuple[str, str] = ("llamacli", "llama.cpp")
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: bool = False

    @contextlib.contextmanager
    def part(self) -> Iterator[None]:
        """What is skipped or fails inside becomes a note; the section goes on."""
        try:
            yield
        except SkippedError as reason:
            self.notes.append(f"skipped: {reason}")
        except FailedError as reason:
            self.notes.append(f"FAILED: {reason}")
            self.failed = True


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def number(value: float | None) -> str:
    """Four significant digits, – for none."""
    if value is None:
        return "–"
    digits = 3 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{min(max(digits, 0), 4)}f}"


def table(section: Section) -> str:
    lines = [(section.name, "", *section.columns, "ratio", "(min–max)", "difference")]
    for row in section.rows:
        s = row.summary()
        spread = f"({s['ratio_min']:.3f}–{s['ratio_max']:.3f})" if row.ratios else ""
        ratio = f"{s['ratio']:.3f}" if row.ratios else "–"
        difference = number(s["difference"])
        if s["difference"] is not None and s["difference"] > 0:
            difference = "+" + difference
        lines.append(
            (row.what, row.unit, number(s["first_median"]), number(s["second_median"]), ratio, spread, difference)
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["  ".join(_cells(line, widths)) for line in lines]
    text.insert(1, "-" * len(text[0]))
    return "\n".join([*text, *(f"  {note}" for note in section.notes)])


def _cells(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    """The quantity and its unit to the left, figures to the right."""
    pairs = list(zip(line, widths, strict=True))
    return [cell.ljust(width) for cell, width in pairs[:2]] + [cell.rjust(width) for cell, width in pairs[2:]]


# --- the machine ----------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What the figures were taken on and with."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu_model(),
        "cpus": cpus,
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "llamacli": _version("llamacli"),
        "llama_cpp_python": _version("llama_cpp_python"),
        "llama_cpp": _tools_version(),
    }


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        done = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
        return done.stdout.strip() or platform.processor()
    return found.group(1) if found else platform.machine()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _tools_version() -> str | None:
    for name in ("llama-completion", "llama-bench", "llama-perplexity", "llama-quantize"):
        path = Path(os.environ.get("LLAMA_CPP_BIN") or "/nonexistent", name)
        if path.is_file():
            done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
            found = re.search(r"version: (.+)", done.stdout + done.stderr)
            if found:
                return found.group(1).strip()
    return None


def describe(facts: dict[str, Any]) -> str:
    lines = [
        f"{facts['cpu']}, {facts['cpus']} CPUs, threads used: {facts['threads']}, {facts['memory_gib']} GiB, "
        f"{facts['system']}",
        f"llamacli {facts['llamacli']}, llama-cpp-python {facts['llama_cpp_python']}, Python {facts['python']}",
        f"llama.cpp's tools: {' '.join([facts['llama_cpp'] or 'none (LLAMA_CPP_BIN)', *facts['tool_args']])}",
    ]
    if facts["load_average"] > 0.5:
        lines.append(f"load average {facts['load_average']}: this machine is not idle, so the ratios mean little")
    return "\n".join(lines)


# --- a benchmark's command line -------------------------------------------------------------------------------------


def parser(description: str | None, sections: Sequence[str]) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("-n", "--pairs", type=int, default=9, metavar="N", help="pairs of runs (default 9)")
    found.add_argument("-t", "--threads", type=int, metavar="N", help="for both sides (default: the physical cores)")
    found.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        default=Path(tempfile.gettempdir()) / "llamacli-bench",
        help="where the models are kept (default %(default)s)",
    )
    found.add_argument(
        "--tool-args",
        type=shlex.split,
        default=[],
        metavar="ARGS",
        help="more arguments for llama.cpp's tools, such as --tool-args=--no-repack where their AMX kernels crash",
    )
    found.add_argument("--only", action="append", choices=sections, help="this section only; repeatable")
    found.add_argument("--json", action="store_true", help="one JSON document with every single value")
    return found


def report(options: argparse.Namespace, sections: Mapping[str, Callable[[argparse.Namespace, Section], None]]) -> None:
    """Measure the chosen sections and print them, each as soon as it is done. Exits with 1 where something failed."""
    from llamacli.engine.threads import physical_cores

    options.threads = options.threads or physical_cores()
    facts = {**machine(), "threads": options.threads, "tool_args": options.tool_args}
    done = []
    if not options.json:
        print(describe(facts), flush=True)
    for name, measure in sections.items():
        if options.only and name not in options.only:
            continue
        section = Section(name)
        with section.part():
            measure(options, section)
        done.append(section)
        if not options.json:
            print("\n" + table(section), flush=True)
    if options.json:
        print(json.dumps({"machine": facts, "sections": _documents(done)}, indent=2))
    sys.exit(any(section.failed for section in done))


def _documents(sections: Sequence[Section]) -> list[dict[str, Any]]:
    return [
        {"name": s.name, "columns": s.columns, "rows": [row.summary() for row in s.rows], "notes": s.notes}
        for s in sections
    ]


def no_comparison() -> list[str]:
    """The note of a section that has our own figures only."""
    return [] if os.environ.get("LLAMA_CPP_BIN") else ["not compared: LLAMA_CPP_BIN is not set"]
