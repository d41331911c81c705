"""`llamacli batch`: 16 prompts side by side against one after the other; and a stored prompt against an evaluated one.

    batch.py                              everything, 9 pairs
    batch.py -n 3 --only stories          one section, 3 pairs

stories     1,000 prompts, 32 tokens each, with stories260K.
1.1B        64 prompts, 64 tokens each, with random weights of that shape: `--prompts` says how many.
cache       a prompt of 1,500 tokens that is there on disk, with another ending, against its evaluation: seconds to the
            first token (loading the model and what is stored, then the prompt), and whole processes of 4 tokens.

Tokens per second are those of the answers over all the time since the model is loaded, prompts included. Both sides get
the same lines, and may not end a text early; how many texts differ is noted. A ratio is the first column ÷ the second.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import side_by_side as bench
from side_by_side import Row, Section

N_PREFIX = 1500  # tokens


def _sentences(n: int) -> list[str]:
    path = bench.SHARED / "data" / "text" / "tinystories_valid_100.txt"
    if not path.exists():
        raise bench.SkippedError(f"no {path} (LLAMACLI_SHARED)")
    found = [text.strip() for text in re.split(r"(?<=[.!?])\s+", path.read_text())]
    return [text for text in found if 15 < len(text) < 160][:n]


def measure(model: Path, n: int, n_tokens: int, options: argparse.Namespace, section: Section) -> None:
    """n prompts, n_tokens for each."""
    section.columns = ("16 at once", "1 at once")
    bench.read_once(model)
    never = [argument for token in bench.end_tokens(model) for argument in ("--logit-bias", f"{token}-inf")]
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "in.jsonl"
        lines.write_text("".join(json.dumps(text) + "\n" for text in _sentences(n)))
        command = [*bench.llamacli(), "batch", str(lines), "-m", str(model), "--raw", "-v", "--temp", "0", *never]
        command += ["-n", str(n_tokens), "-t", str(options.threads)]
        many, one = bench.in_turns(
            section.name,
            options.pairs,
            partial(bench.run, [*command, "-np", "16"]),
            partial(bench.run, [*command, "-np", "1"]),
        )
    section.rows += [
        Row(
            "answers",
            "tokens/s",
            [_speed(run, n * n_tokens) for run in many],
            [_speed(run, n * n_tokens) for run in one],
        ),
        Row("whole process", "s", [run.seconds for run in many], [run.seconds for run in one]),
        Row("peak memory", "MB", [run.peak / bench.MB for run in many], [run.peak / bench.MB for run in one]),
    ]
    texts = [[json.loads(line)["text"] for line in runs[0].stdout.splitlines()] for runs in (many, one)]
    differ = sum(a != b for a, b in zip(*texts, strict=True))
    section.notes.append(f"{differ} of {n} texts differ")


def _speed(run: bench.Run, n_tokens: int) -> float:
    found = re.search(r"answers (\d+) tokens, ([\d.]+)/s", run.stderr)
    if not found or int(found[1]) != n_tokens:
        raise bench.FailedError(f"{n_tokens} tokens were expected: {run.stderr}")
    return float(found[2])


def stories(options: argparse.Namespace, section: Section) -> None:
    measure(bench.stories(), 1000, 32, options, section)


def large(options: argparse.Namespace, section: Section) -> None:
    measure(bench.model(options.models, "b1b", "q4km"), options.prompts, 64, options, section)


def cache(options: argparse.Namespace, section: Section) -> None:
    section.columns = ("stored", "evaluated")
    model = bench.model(options.models, "b1b", "q4km")
    text = bench.SHARED / "data" / "text" / "wizard_of_oz.txt"
    if not text.exists():
        raise bench.SkippedError(f"no {text} (LLAMACLI_SHARED)")
    bench.read_once(model)
    first: list[list[float]] = [[], []]
    whole: list[list[float]] = [[], []]
    for i in range(options.pairs):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = folder
            prefix = Path(folder) / "prefix.txt"
            prefix.write_text(text.read_text()[3000 : 3000 + 4 * N_PREFIX])
            for column, question in ((1, "What is this about?"), (0, f"Who is in it, of these {i}?")):
                command = [*bench.llamacli(), "complete", "-m", str(model), "--raw", "-f", str(prefix), question]
                run = bench.run([*command, "-n", "4", "--json", "-t", str(options.threads)])
                found = json.loads(run.stdout)
                if (found["cached_tokens"] >= N_PREFIX) != (column == 0):
                    raise bench.FailedError(f"{found['cached_tokens']} tokens of {found['prompt_tokens']} were stored")
                first[column].append(found["timings"]["load"] + found["timings"]["prompt"])
                whole[column].append(run.seconds)
    section.rows += [Row("first token", "s", *first), Row("whole process", "s", *whole)]
    section.notes.append(f"the prompt has {found['prompt_tokens']} tokens")


SECTIONS = {"stories": stories, "1.1B": large, "cache": cache}


def main() -> None:
    parser = bench.parser(__doc__, list(SECTIONS))
    parser.add_argument("--prompts", type=int, default=64, metavar="N", help="of the 1.1B shape (default 64)")
    bench.report(parser.parse_args(), SECTIONS)


if __name__ == "__main__":
    main()
