"""What a pull would bring, and the table of a repository's quants to pick from."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence

from llamacli.tasks.dry_run import DryRun, Quant
from llamacli.ui.columns import ON_ONE_LINE
from llamacli.ui.output import Output, note
from llamacli.ui.sanitize import for_terminal
from llamacli.ui.show import memory_rows
from llamacli.units import size

_HEADER = ("model", "quant", "size", "here", "memory", "fit", "gpu_layers", "comes", "recommended")


def show(runs: Sequence[DryRun], output: Output) -> None:
    """A terminal gets tables, a pipe a line for each quant, --json a document for each model."""
    if output.mode == "json":
        for run in runs:
            output.document(run)
    elif output.mode == "plain":
        output.table(_HEADER, [_exact(quant) for run in runs for quant in run.quants])
    else:
        for number, run in enumerate(runs):
            text = "\n".join(([""] if number else []) + _lines(run))
            output.data(f"{text}\n".encode(sys.stdout.encoding or "utf-8", "backslashreplace"))
    for run in runs:
        if run.disk_free is not None and run.missing > run.disk_free:
            needed = f"{size(run.missing)} are to be fetched, and {size(run.disk_free)} are free in {run.cache}"
            note(f"hint: {needed}: make room first", style="hint")


def pick(run: DryRun) -> Quant | None:
    """Show the quants on stderr and ask for one; None where the answer is none of them."""
    lines = [f"{run.repository}: which one?", *_table(run, numbers=True), *_machine(run)]
    best = next((i for i, quant in enumerate(run.quants, 1) if quant.recommended), None)
    for line in lines:
        note(line)
    while True:
        sys.stderr.write(f"1 to {len(run.quants)}, q for none [{best or 'q'}]: ")
        sys.stderr.flush()
        answer = sys.stdin.readline()
        word = answer.strip().lower()
        if not answer or word in ("q", "n", "no", "none", "quit") or (not word and best is None):
            if not answer:
                note("")
            return None
        number = word or str(best)
        if number.isascii() and number.isdigit() and 1 <= int(number) <= len(run.quants):
            return run.quants[int(number) - 1]
        named = [quant for quant in run.quants if quant.quant and quant.quant.lower() == word]
        if len(named) == 1:
            return named[0]
        note(f"{word} is none of them")


def _exact(quant: Quant) -> tuple[object, ...]:
    fields = dataclasses.asdict(quant) | {"model": quant.name}
    return tuple(str(value).lower() if isinstance(value := fields[name], bool) else value for name in _HEADER)


def _lines(run: DryRun) -> list[str]:
    """All of it for a terminal."""
    lines = [f"{run.model}: {_would_come(run)}"]
    for file in run.files:
        part = "" if not file.here else ", here" if file.here == file.size else f", {size(file.here)} of it here"
        lines.append(f"  {file.name.translate(ON_ONE_LINE)} ({size(file.size)}{part})")
    if run.files:
        free = f", {size(run.disk_free)} free in {_short(str(run.cache))}" if run.disk_free is not None else ""
        lines.append(f"{size(run.missing)} to fetch{free}" if run.missing else "nothing to fetch")
    if run.memory and run.fit:
        rows = [(f"memory, {run.memory.n_ctx:,} tokens", "about"), *memory_rows(run.memory)]
        lines += ["", *_aligned(rows)]
    return [for_terminal(line) for line in [*lines, *_machine(run), "", *_table(run)]]


def _would_come(run: DryRun) -> str:
    if not run.files:
        return f"no quant is named, and there is no usual one: pull {run.repository}:QUANT"
    return f"{run.quant or 'this'} of {run.repository} would come"


def _machine(run: DryRun) -> list[str]:
    """What the verdicts are measured against."""
    ram = "RAM that is available: " + (size(run.ram_available) if run.ram_available is not None else "not known")
    gpus = "".join(f"; {gpu.name}: {size(gpu.memory_free)} free" for gpu in run.gpus)
    tokens = f"; context: {run.n_ctx:,} tokens" if run.n_ctx else ""
    return [f"{ram}{gpus}{tokens}", *([f"note: {run.remark}"] if run.remark else [])]


def _table(run: DryRun, *, numbers: bool = False) -> list[str]:
    """A line for each quant; the one that would come is marked, or the one that is recommended."""
    rows = [("" if numbers else " ", "quant", "size", "here", "memory", "fit")]
    for number, quant in enumerate(run.quants, 1):
        mark = str(number) if numbers else "→" if quant.comes else " "
        here = "all" if quant.here == quant.size else size(quant.here) if quant.here else ""
        memory = size(quant.memory) if quant.memory is not None else ""
        rows.append((mark, quant.quant or quant.files[0], size(quant.size), here, memory, _fit(quant)))
    return _aligned(rows, right=(0, 2, 3, 4))


def _fit(quant: Quant) -> str:
    gpu = f", {quant.gpu_layers} layers on the GPU" if quant.gpu_layers else ""
    return f"{quant.fit}{gpu}{' (recommended)' if quant.recommended else ''}"


def _aligned(rows: Sequence[tuple[str, ...]], right: tuple[int, ...] = ()) -> list[str]:
    shown = [[for_terminal(cell.translate(ON_ONE_LINE)) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in shown) for column in range(len(rows[0]))]
    lines = []
    for row in shown:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


def _short(path: str) -> str:
    """A path below the home folder by ~."""
    home = os.path.expanduser("~") + os.sep
    return f"~{os.sep}{path.removeprefix(home)}" if path.startswith(home) and len(home) > 2 else path
