"""`llamacli eval` beside llama.cpp's llama-perplexity: whole processes, wall time and peak memory.

    LLAMA_CPP_BIN=…/bin evaluate.py              HellaSwag (400 questions) and Winogrande, 9 pairs
    LLAMA_CPP_BIN=…/bin evaluate.py -n 3 --only hellaswag

Both sides get the same model, file, -t and number of questions, and must come to the same score. The sets are those of
the folder LLAMACLI_SHARED. A ratio is the first column ÷ the second, for each pair. See `side_by_side.py`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import side_by_side as bench
from side_by_side import MB, Row, Section

#: task → file, questions (0: all), what llama-perplexity says of its score
TASKS = {
    "hellaswag": ("hellaswag_val_full.txt", 400, r"^400\t([\d.]+)%"),
    "winogrande": ("winogrande-eval.csv", 0, r"Final Winogrande score\(\d+ tasks\): ([\d.]+)"),
}


def measure(task: str, options: argparse.Namespace, section: Section) -> None:
    name, n, pattern = TASKS[task]
    file = bench.SHARED / "data" / "eval" / name
    if not file.exists():
        raise bench.SkippedError(f"no {file} (LLAMACLI_SHARED)")
    model = bench.stories()
    bench.read_once(model)
    bench.read_once(file)
    threads = ["-t", str(options.threads)]
    ours = [*bench.llamacli(), "eval", task, str(file), "-m", str(model), "-n", str(n), "--json", *threads]
    tool = bench.tool("llama-perplexity")
    theirs = [str(tool), f"--{task}", "-f", str(file), "-m", str(model), f"--{task}-tasks", str(n), *threads]
    theirs += options.tool_args
    measures = [partial(bench.run, ours), partial(bench.run, theirs) if tool else None]
    mine, others = bench.in_turns(task, options.pairs, *measures)
    for run in mine:
        _same_score(json.loads(run.stdout)["accuracy_norm"]["value"], others, pattern)
    section.rows += [
        Row("wall time", "s", [run.seconds for run in mine], [run.seconds for run in others]),
        Row("peak memory", "MB", [run.peak / MB for run in mine], [run.peak / MB for run in others]),
    ]
    section.notes += bench.no_comparison()


def _same_score(score: float, others: list[bench.Run], pattern: str) -> None:
    for run in others:
        found = re.findall(pattern, run.stdout + run.stderr, re.MULTILINE)
        if not found or abs(float(found[-1]) - 100 * score) > 1e-3:
            raise bench.FailedError(f"the scores differ: {100 * score:.4f} % and {found[-1:]}")


SECTIONS = {task: partial(measure, task) for task in TASKS}


def main() -> None:
    bench.report(bench.parser(__doc__, list(SECTIONS)).parse_args(), SECTIONS)


if __name__ == "__main__":
    main()
