"""What showing an answer as Markdown costs: python tests/benchmarks/markdown.py [--pace TOKENS_PER_SECOND]

Answers of about 4,000 tokens (of about four characters) are fed to MarkdownStream token by token, as a model of 20
tokens a second would: a mixed one, and some of one huge block each. Nobody waits: the clock that MarkdownStream reads
jumps ahead between tokens, but what its own work takes is measured. The time per token is given for the first and the
last tenth, and the share of all the time the model would take. The terminal takes what is written at once (80 × 24
cells); a real one has work of its own.

The exit code is 1 if a mixed answer's last tenth costs more than RATIO times its first or more than MOST a token, or
if a huge block takes more than SHARE of the time.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))

from llamacli.ui.markdown import MarkdownStream  # noqa: E402

N_TOKENS = 4000  # and up to 200 more, so that the mixed answer is whole
RATIO, MOST, SHARE = 1.5, 0.005, 0.11
PARAGRAPH = (
    "A **prime number** is a natural number greater than 1 that has *no positive divisors* other than 1 and itself. "
    "Use `is_prime(n)` to test one; see [Wikipedia](https://en.wikipedia.org/wiki/Prime_number) for the history of "
    "this idea, which is older than most of what is taught in schools today, and for its many applications. "
)
CODE = '''def sieve(n: int) -> list[int]:
    """The primes below n, by Eratosthenes."""
    composite = bytearray(n)
    for d in range(2, int(n**0.5) + 1):
        if not composite[d]:
            composite[d * d :: d] = b"\\x01" * len(range(d * d, n, d))  # every multiple
    return [d for d in range(2, n) if not composite[d]]


'''
ROW = "| Trial division | O(√n) | simple, and good enough for small numbers |\n"
TABLE = "| Method | Time | Remarks |\n|:--|--:|---|\n"
LIST = (
    "- First, an item of some length that is wrapped onto a second line on most terminals of our time\n"
    "- Then a **second** one\n  - with `nested` items\n  - of its own\n- and a third\n\n"
)


class Terminal(io.StringIO):
    """Takes everything, keeps nothing."""

    encoding = "utf-8"
    written = 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.written += len(text)
        return len(text)


def mixed() -> str:
    """Ten times the same heading, paragraph, list, code and table, about 400 tokens.

    So the first and the last tenth are one part each: of other parts, the tenth with more prose would be the cheaper.
    """
    return f"## Primes\n\n{PARAGRAPH}\n\n{LIST}```python\n{CODE}```\n\n{TABLE}{ROW * 4}\n" * 10


def tokens(text: str) -> list[str]:
    """About as a model's: up to six characters, with the space before a word."""
    return re.findall(r" ?\w{1,6}|\s+|[^\w\s]{1,2}", text)


def measure(text: str, pace: float) -> tuple[list[float], float, int]:
    """Seconds of each token, seconds of `finish`, and characters written."""
    file = Terminal()
    skipped = 0.0
    stream = MarkdownStream(file, clock=lambda: time.perf_counter() + skipped)
    spent = []
    for token in tokens(text)[: N_TOKENS + 200]:
        began = time.perf_counter()
        stream.feed(token)
        spent.append(time.perf_counter() - began)
        skipped += max(1 / pace - spent[-1], 0)
    began = time.perf_counter()
    stream.finish()
    return spent, time.perf_counter() - began, file.written


def main() -> None:
    """Print a line for each answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pace", type=float, default=20, help="tokens a second (default: 20)")
    pace = parser.parse_args().pace
    os.environ["TERM"] = "xterm-256color"
    os.environ.pop("NO_COLOR", None)
    answers = {
        "mixed": mixed(),
        "one paragraph": PARAGRAPH * 200,
        "one table": TABLE + ROW * 1000,
        "one block of code": "```python\n" + CODE * 200,
        "one list": LIST.strip() * 200,
        "Chinese paragraph": "素数是指在大于1的自然数中，除了1和它本身以外不再有其他因数的自然数。" * 800,
    }
    measure(answers["mixed"][:2000], pace)  # imports, caches
    failed = False
    for name, text in answers.items():
        spent, last, written = measure(text, pace)
        tenth = len(spent) // 10
        first, final = (1000 * sum(part) / tenth for part in (spent[:tenth], spent[-tenth:]))
        share = sum(spent) * pace / len(spent)
        print(
            f"{name}: {len(spent)} tokens; per token first tenth {first:.2f} ms, last tenth {final:.2f} ms (ratio "
            f"{final / first:.2f}), all {1000 * sum(spent) / len(spent):.2f} ms, slowest {1000 * max(spent):.0f} ms, "
            f"finish {1000 * last:.0f} ms; {100 * share:.1f} % of the time at {pace:g} tokens/s; {written:,} characters"
        )
        failed |= share > SHARE or (name == "mixed" and (final > RATIO * first or sum(spent) / len(spent) > MOST))
    sys.exit(failed)


if __name__ == "__main__":
    main()
