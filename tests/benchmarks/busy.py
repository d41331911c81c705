"""Tokens per second beside other processes that compute: python tests/benchmarks/busy.py [PAIRS]

As many busy loops as there are cores run all the time. In turns: as it is, and as it was before threads waited asleep
on a busy machine (GOMP_SPINCOUNT as GNU's OpenMP has it by default). The exit code is 1 where that is no gain.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

TINY = Path(__file__).parents[2] / "llamacli/builtin/tiny.gguf"


def speed(**env: str) -> float:
    """Tokens per second of the generation, in a process of its own."""
    command = [sys.executable, "-m", "llamacli", "complete", "-m", str(TINY), "--raw", "--json", "-n", "60"]
    command += ["--logit-bias", "2-inf", "--temp", "0", "--no-stdin", "Once upon a time"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, **env}, check=True)
    return float(json.loads(done.stdout)["timings"]["generation_per_second"])


def main() -> int:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        found = [(speed(), speed(GOMP_SPINCOUNT="300000")) for _ in range(pairs)]
    finally:
        for loop in loops:
            loop.kill()
    gains = [now / before for now, before in found]
    now, before = (statistics.median(column) for column in zip(*found, strict=True))
    gain = f"median gain {statistics.median(gains):.1f} × of {pairs} pairs"
    print(f"beside {len(loops)} busy processes: {now:.0f} tokens/s, spinning {before:.0f}; {gain}")
    return int(statistics.median(gains) < 1)


if __name__ == "__main__":
    sys.exit(main())
