"""llamacli bench beside llama-bench: the tokens per second that each of them reports, in turns.

    LLAMA_CPP_BIN=…/build/bin python tests/benchmarks/bench.py [-n PAIRS] [--only SECTION] [--json]

stories   the trained 260K model, pp512 and tg128.
tiny      the built-in model, pp512 and tg128.
large     a 1.1B shape, Q4_K_M, pp128 and tg32.

A ratio is llamacli ÷ llama-bench, for each pair. See `side_by_side.py` for the models and the tools.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import side_by_side as bench
from side_by_side import Row, Section

#: (n_prompt, n_gen) → tokens per second
Speeds = dict[tuple[int, int], float]


def _speeds(command: list[str], key: str) -> Speeds:
    found = json.loads(bench.run(command).stdout)
    rows = found["results"] if isinstance(found, dict) else found
    return {(row["n_prompt"], row["n_gen"]): row[key] for row in rows}


def _measure(
    label: str, options: argparse.Namespace, model: Path, sizes: tuple[int, int], repetitions: int
) -> list[Row]:
    tool = bench.tool("llama-bench")
    n_prompt, n_gen = sizes
    common = ["-m", model, "-p", n_prompt, "-n", n_gen, "-r", repetitions, "-t", options.threads]
    our_command = [str(a) for a in [*bench.llamacli(), "bench", *common, "--json"]]
    their_command = [str(a) for a in [tool, *common, "-o", "json", *options.tool_args]]
    bench.read_once(model)
    mine, other = bench.in_turns(
        label,
        options.pairs,
        partial(_speeds, our_command, "tokens_per_second"),
        partial(_speeds, their_command, "avg_ts") if tool else None,
    )
    tests = {f"pp{n_prompt}": (n_prompt, 0), f"tg{n_gen}": (0, n_gen)}
    return [
        Row(f"{label}, {name}", "tokens/s", [speeds[test] for speeds in mine], [speeds[test] for speeds in other])
        for name, test in tests.items()
    ]


def stories(options: argparse.Namespace, section: Section) -> None:
    section.notes += bench.no_comparison()
    section.rows += _measure("stories260K", options, bench.stories(), (512, 128), 20)


def tiny(options: argparse.Namespace, section: Section) -> None:
    from llamacli.builtin import TINY

    section.notes += bench.no_comparison()
    section.rows += _measure("tiny", options, TINY, (512, 128), 10)


def large(options: argparse.Namespace, section: Section) -> None:
    section.notes += bench.no_comparison()
    section.rows += _measure("1.1B Q4_K_M", options, bench.model(options.models, "b1b", "q4km"), (128, 32), 2)


SECTIONS = {"stories": stories, "tiny": tiny, "large": large}


def main() -> None:
    bench.report(bench.parser(__doc__, list(SECTIONS)).parse_args(), SECTIONS)


if __name__ == "__main__":
    main()
