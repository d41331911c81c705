"""llamacli perplexity beside llama-perplexity: wall time and peak memory of whole processes, in turns.

    LLAMA_CPP_BIN=…/build/bin python tests/benchmarks/perplexity.py [-n PAIRS] [--only SECTION] [--json]

stories     the trained 260K model on the whole of wiki.test.raw, -c 512.
large       a 1.1B shape, Q4_K_M, 8 chunks of 512 tokens.
wide        a vocabulary of 152k tokens, 8 chunks of 512 tokens.
divergence  the trained model against a base file, 100 chunks of 512 tokens: written, then compared with.

A ratio is llamacli ÷ llama-perplexity, for each pair. Both must print the same perplexity. See `side_by_side.py` for
the models and the tools.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import side_by_side as bench
from side_by_side import MB, Row, Run, Section

TEXT = bench.SHARED / "data" / "text" / "wiki.test.raw"


def _measure(label: str, options: argparse.Namespace, ours: list[object], theirs: list[object]) -> list[Row]:
    """Wall and peak of both, after a run of each that counts for nothing."""
    if not TEXT.exists():
        raise bench.SkippedError(f"no {TEXT} (LLAMACLI_SHARED)")
    tool = bench.tool("llama-perplexity")
    threads = ["-t", options.threads]
    our_command = [str(a) for a in [*bench.llamacli(), "perplexity", *ours, *threads]]
    their_command = [str(a) for a in [tool, *theirs, *threads, *options.tool_args]] if tool else []
    bench.run(our_command)
    mine, other = bench.in_turns(
        label,
        options.pairs,
        partial(bench.run, our_command),
        partial(bench.run, their_command) if tool else None,
    )
    _same_figures(mine[0], [_their_figure(run) for run in other])
    return [
        Row(f"{label}, wall", "s", [r.seconds for r in mine], [r.seconds for r in other]),
        Row(f"{label}, peak", "MB", [r.peak / MB for r in mine], [r.peak / MB for r in other]),
    ]


def _their_figure(run: Run) -> float | None:
    """The last estimate that is printed, unless the log's own thread lost it."""
    found = re.findall(r"(?:Final estimate: PPL =|Mean PPL\(Q\) +:) +([\d.]+)", run.stdout + run.stderr)
    return float(found[-1]) if found else None


def _same_figures(ours: Run, theirs: list[float | None]) -> None:
    row = next(csv.DictReader(ours.stdout.splitlines(), delimiter="\t"))
    figure = float(row.get("ppl") or row["value"])
    for other in theirs:
        if other is not None and abs(other / figure - 1) > 1e-4:
            raise bench.FailedError(f"llamacli's perplexity is {figure}, llama-perplexity's {other}")


def _both(model: Path, chunks: int | None) -> tuple[list[object], list[object]]:
    common: list[object] = ["-m", model, "-f", TEXT, "-c", 512, *(["--chunks", chunks] if chunks else [])]
    return common, common


def stories(options: argparse.Namespace, section: Section) -> None:
    section.notes += bench.no_comparison()
    section.rows += _measure("stories260K, wiki.test", options, *_both(bench.stories(), None))


def large(options: argparse.Namespace, section: Section) -> None:
    section.notes += bench.no_comparison()
    path = bench.model(options.models, "b1b", "q4km")
    section.rows += _measure("1.1B Q4_K_M, 8 × 512", options, *_both(path, 8))


def wide(options: argparse.Namespace, section: Section) -> None:
    section.notes += bench.no_comparison()
    path = bench.model(options.models, "wide")
    section.rows += _measure("152k vocabulary, 8 × 512", options, *_both(path, 8))


def divergence(options: argparse.Namespace, section: Section) -> None:
    section.notes += bench.no_comparison()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        common, _ = _both(bench.stories(), 100)
        ours: list[object] = [*common, "--save-logits", base, "--force"]
        section.rows += _measure("write a base file", options, ours, [*common, "--save-all-logits", base])
        model: list[object] = ["-m", bench.stories()]
        theirs = [*model, "-c", 512, "--kl-divergence", "--kl-divergence-base", base]
        section.rows += _measure("compare with it", options, [*model, "--kl-base", base], theirs)


SECTIONS = {"stories": stories, "large": large, "wide": wide, "divergence": divergence}


def main() -> None:
    bench.report(bench.parser(__doc__, list(SECTIONS)).parse_args(), SECTIONS)


if __name__ == "__main__":
    main()
