"""llamacli imatrix beside llama-imatrix: wall time and peak memory of whole processes, in turns.

    LLAMA_CPP_BIN=…/build/bin python tests/benchmarks/imatrix.py [-n PAIRS] [--only SECTION] [--json]

stories   the trained 260K model, 200 chunks of 512 tokens of wiki.test.raw.
large     a 1.1B shape, Q4_K_M, 4 chunks of 512 tokens.

A ratio is llamacli ÷ llama-imatrix, for each pair. Both must collect the same: counts exactly, sums within 0.1 %. See
`side_by_side.py` for the models and the tools.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import side_by_side as bench
from side_by_side import MB, Row, Section

TEXT = bench.SHARED / "data" / "text" / "wiki.test.raw"


def _measure(label: str, options: argparse.Namespace, model: Path, chunks: int) -> list[Row]:
    """Wall and peak of both, after a run of each that counts for nothing."""
    if not TEXT.exists():
        raise bench.SkippedError(f"no {TEXT} (LLAMACLI_SHARED)")
    tool = bench.tool("llama-imatrix")
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours.gguf", Path(folder) / "theirs.gguf"
        common = ["-m", model, "-f", TEXT, "-c", 512, "--chunks", chunks, "-t", options.threads]
        our_command = [str(a) for a in [*bench.llamacli(), "imatrix", *common, "-o", ours, "--force"]]
        their_command = [str(a) for a in [tool, *common, "-o", theirs, *options.tool_args]] if tool else []
        for command in (our_command, their_command):
            if command:
                bench.run(command)
        mine, other = bench.in_turns(
            label,
            options.pairs,
            partial(bench.run, our_command),
            partial(bench.run, their_command) if tool else None,
        )
        if tool:
            _same_matrix(ours, theirs)
    return [
        Row(f"{label}, wall", "s", [r.seconds for r in mine], [r.seconds for r in other]),
        Row(f"{label}, peak", "MB", [r.peak / MB for r in mine], [r.peak / MB for r in other]),
    ]


def _same_matrix(ours: Path, theirs: Path) -> None:
    import numpy as np

    from llamacli.tasks.imatrix_file import read_imatrix

    mine, other = read_imatrix(ours), read_imatrix(theirs)
    for name, sums in other.sums.items():
        if name not in mine.sums or not np.array_equal(mine.counts[name], other.counts[name]):
            raise bench.FailedError(f"{name}: not the same counts")
        if not np.allclose(mine.sums[name], sums, rtol=1e-3):
            raise bench.FailedError(f"{name}: not the same sums")


def stories(options: argparse.Namespace, section: Section) -> None:
    section.notes += bench.no_comparison()
    section.rows += _measure("stories260K, 200 × 512", options, bench.stories(), 200)


def large(options: argparse.Namespace, section: Section) -> None:
    section.notes += bench.no_comparison()
    section.rows += _measure("1.1B Q4_K_M, 4 × 512", options, bench.model(options.models, "b1b", "q4km"), 4)


SECTIONS = {"stories": stories, "large": large}


def main() -> None:
    bench.report(bench.parser(__doc__, list(SECTIONS)).parse_args(), SECTIONS)


if __name__ == "__main__":
    main()
