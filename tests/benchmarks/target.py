"""Types chosen for a size beside llama.cpp's mixtures of that size: python tests/benchmarks/target.py [MODEL TEXT]

Prints the table of the README: for each mixture its file and that of `quantize --target-size` with its size, each
with the mean KL divergence from the original on held-out text. Without a model it is the built-in one, on documents of
another seed than its training text; --calibrate FILE as for quantize.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from llamacli.builtin import TINY
from llamacli.builtin.corpus import documents

STOCK = ("Q3_K_M", "Q4_K_M", "Q5_K_M")
HELD_OUT_SEED, N_DOCUMENTS = 999, 600


def held_out(kinds: str) -> str:
    """Documents as plain text: stories alone, or all with a line for each turn."""
    texts = []
    for document in itertools.islice(documents(HELD_OUT_SEED), N_DOCUMENTS if kinds == "all" else 20 * N_DOCUMENTS):
        if "text" in document:
            texts.append(document["text"])
        elif "turns" in document and kinds == "all":
            texts += [content for _, content in document["turns"]]
    return "\n".join(texts)


def llamacli(*words: object) -> Any:
    """The JSON document of a command."""
    command = [sys.executable, "-m", "llamacli", *map(str, words), "--json"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", default=TINY)
    parser.add_argument("texts", type=Path, nargs="*", help="held-out text")
    parser.add_argument("--calibrate", type=Path)
    parser.add_argument("--chunks", type=int, default=40)
    arguments = parser.parse_args()
    calibrate = ("--calibrate", arguments.calibrate) if arguments.calibrate else ()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = arguments.texts
        if not texts:
            texts = [folder / "all kinds", folder / "stories"]
            for text in texts:
                text.write_text(held_out("all" if text.name == "all kinds" else "stories"))
        rows = []
        models = []
        for kind in STOCK:
            stock = llamacli("quantize", arguments.model, folder / f"{kind}.gguf", kind, *calibrate)
            wanted = folder / f"{kind}-size.gguf"
            ours = llamacli("quantize", arguments.model, wanted, "--target-size", stock["size"], *calibrate)
            rows.append((kind, stock["size"], ours["size"]))
            models += ["-m", folder / f"{kind}.gguf", "-m", wanted]
        klds = []
        for text in texts:
            found = llamacli("perplexity", "--against", arguments.model, *models, text, "--chunks", arguments.chunks)
            klds.append([result["statistics"]["Mean KLD"] for result in found["results"]])
        print("| size of | bytes | chosen | " + " | ".join(f"{t.name}: mixture | chosen" for t in texts) + " |")
        print("|" + " --- |" * (3 + 2 * len(texts)))
        for i, (kind, stock_size, our_size) in enumerate(rows):
            cells = [f"{kld['value']:.5f} ± {kld['error']:.5f}" for found in klds for kld in found[2 * i : 2 * i + 2]]
            used = f"{our_size:,} ({100 * our_size / stock_size:.2f} %)"
            print(f"| {kind} | {stock_size:,} | {used} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
