"""llamacli quantize beside llama-quantize: wall time and peak memory of whole processes, in turns.

    LLAMA_CPP_BIN=…/build/bin python tests/benchmarks/quantize.py [-n PAIRS] [--only SECTION] [--json]

large    a 1.1B shape, F16 to Q4_K_M.
small    the trained 260K model to Q8_0: what Python's start costs.

A ratio is llamacli ÷ llama-quantize, for each pair. Both must write the same bytes. llamacli also waits until they are
on the disk, which llama-quantize leaves to the system. See `side_by_side.py` for the models and the tools.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import side_by_side as bench
from side_by_side import MB, Row, Section


def _measure(label: str, options: argparse.Namespace, model: Path, kind: str) -> list[Row]:
    """Wall and peak of both, after a run of each that counts for nothing."""
    tool = bench.tool("llama-quantize")
    bench.read_once(model)
    with tempfile.TemporaryDirectory(dir=options.models) as folder:
        ours, theirs = Path(folder, "ours.gguf"), Path(folder, "theirs.gguf")
        threads = str(options.threads)
        our_command = [*bench.llamacli(), "quantize", str(model), str(ours), kind, "-t", threads, "--force"]
        their_command = [tool, *options.tool_args, str(model), str(theirs), kind, threads] if tool else []
        bench.run(our_command)
        if tool:
            bench.run(their_command)
            if _sha256(ours) != _sha256(theirs):
                raise bench.FailedError(f"{label}: the files differ")
        mine, other = bench.in_turns(
            label,
            options.pairs,
            partial(bench.run, our_command),
            partial(bench.run, their_command) if tool else None,
        )
    return [
        Row(f"{label}, wall", "s", [r.seconds for r in mine], [r.seconds for r in other]),
        Row(f"{label}, peak", "MB", [r.peak / MB for r in mine], [r.peak / MB for r in other]),
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def large(options: argparse.Namespace, section: Section) -> None:
    section.notes += bench.no_comparison()
    section.rows += _measure("1.1B F16 to Q4_K_M", options, bench.model(options.models, "b1b"), "Q4_K_M")


def small(options: argparse.Namespace, section: Section) -> None:
    section.notes += bench.no_comparison()
    options.models.mkdir(parents=True, exist_ok=True)
    section.rows += _measure("stories260K to Q8_0", options, bench.stories(), "Q8_0")


SECTIONS = {"large": large, "small": small}


def main() -> None:
    bench.report(bench.parser(__doc__, list(SECTIONS)).parse_args(), SECTIONS)


if __name__ == "__main__":
    main()
