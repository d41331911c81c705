"""What llama-perplexity makes of a story with the built-in model, and with the same in Q4_0.

    LLAMA_CPP_BIN=…/build/bin python tests/model/perplexity_facts.py

writes llama_perplexity.json beside this file, for the tiny.gguf that is here now. LLAMA_CPP_BIN holds llama-perplexity,
llama-imatrix and llama-quantize, built from the sources in llama-cpp-python's own distribution.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

FACTS = Path(__file__).with_name("llama_perplexity.json")
NAMES = ("Lily", "Tom", "Anna", "the dog", "Max")
THINGS = ("ball", "kite", "red hat", "book", "apple", "boat", "drum")
STORY = " ".join(
    f"One day {NAMES[i % 5]} found a {THINGS[i * 3 % 7]} and gave it to {NAMES[i * 2 % 5 - 1]}, "
    f"who had {i} of them. They played until it was dark."
    for i in range(60)
)
#: n_ctx and n_batch.
SIZES = ((128, 2048), (256, 64))
_STATISTIC = re.compile(r"^(.*?) *: +(-?[\d.]+)%?(?: +± +([\d.]+))? ?%?$", re.MULTILINE)


def read() -> dict[str, Any]:
    """The figures. Raises AssertionError where they are of other weights."""
    from llamacli.builtin import TINY

    found: dict[str, Any] = json.loads(FACTS.read_text())
    ours = hashlib.sha256(TINY.read_bytes()).hexdigest()
    assert found["tiny_sha256"] == ours, (
        "tiny.gguf has changed: LLAMA_CPP_BIN=… python tests/model/perplexity_facts.py renews the figures"
    )
    return found


def main() -> None:
    from llamacli.builtin import TINY
    from llamacli.tasks.imatrix_file import read_imatrix

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text, base, quantized = folder / "text", folder / "base", folder / "q4_0.gguf"
        text.write_text(STORY)
        _run("llama-quantize", "--allow-requantize", TINY, quantized, "q4_0")
        figures = []
        for n_ctx, n_batch in SIZES:
            said = _run("llama-perplexity", "-m", TINY, "-f", text, "-c", n_ctx, "-b", n_batch, "-t", 1, until="Final")
            running = [float(found) for found in re.findall(r"\[\d+\]([\d.]+)", said)]
            (final,) = re.findall(r"Final estimate: PPL = ([\d.]+) \+/- ([\d.]+)", said)
            figures.append({"n_ctx": n_ctx, "n_batch": n_batch, "running": running, "final": [*map(float, final)]})
        _run("llama-perplexity", "-m", TINY, "-f", text, "-c", 128, "-t", 1, "--save-all-logits", base)
        said = _run(
            "llama-perplexity", "-m", quantized, "-c", 128, "-t", 1, "--kl-divergence", "--kl-divergence-base", base
        )
        matrix = folder / "imatrix.gguf"
        _run("llama-imatrix", "-m", TINY, "-f", text, "-c", 128, "-t", 1, "-o", matrix)
        imatrix = read_imatrix(matrix)
    facts: dict[str, Any] = {
        "tiny_sha256": hashlib.sha256(TINY.read_bytes()).hexdigest(),
        "perplexity": figures,
        "q4_0": {
            " ".join(found[1].split()): [float(x) for x in found.groups()[1:] if x]
            for found in _STATISTIC.finditer(said[said.index("Mean PPL(Q)") :])
        },
        "imatrix": {
            name: [float(imatrix.sums[name].sum(dtype="float64")), imatrix.counts[name].tolist()]
            for name in sorted(imatrix.sums)
        },
    }
    FACTS.write_text(json.dumps(facts, indent=1) + "\n")


def _run(tool: str, *arguments: object, until: str = "") -> str:
    """What it says, which must contain `until`: the tool's log may lose its last lines, so again."""
    command = [str(Path(os.environ["LLAMA_CPP_BIN"]) / tool), *map(str, arguments)]
    while True:
        done = subprocess.run(command, capture_output=True, check=True)
        said = (done.stdout + done.stderr).decode()
        if until in said:
            return said


if __name__ == "__main__":
    main()
