"""The estimate of memory against what a process takes: python tests/benchmarks/memory.py [--shared FOLDER]

Three models of different shapes from the generator in the shared folder, in F16, Q8_0 and Q4_K_M. For each: the total
that `llamacli pull --dry-run --json` gives from the first bytes of the file on the stand-in of the Hub, and the peak
of the resident memory (ru_maxrss, the mapped file included) of a `llamacli complete` that fills the context, less that
of `python -c pass`. The KV cache is cleared when it is made, so all of it is resident; the prompt makes the rest so.

This process starts the others through a small one: a process inherits the peak of the one that starts it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))

from hub_server import HubServer  # noqa: E402

ALLOWED = 0.10
#: name: (vocabulary, arguments of the generator, llama.cpp's number of the file type, n_ctx)
MODELS = {
    "bench-F16": ("llama-spm", "--layers 8 --dim 1024 --heads 16 --kv-heads 4 --ffn 2816", 1, 2048),
    "wide-Q8_0": ("qwen2", "--layers 6 --dim 640 --heads 10 --kv-heads 2 --ffn 1792", 7, 4096),
    "deep-Q4_K_M": ("llama-spm", "--layers 16 --dim 1024 --heads 16 --kv-heads 8 --ffn 3072", 15, 1024),
}
LAUNCHER = """
import os, sys
null = os.open(os.devnull, os.O_RDWR)
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)])
_, status, usage = os.wait4(pid, 0)
print(status, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""
QUANTISE = """
import ctypes, sys
from llama_cpp import llama_cpp as C
silent = C.llama_log_callback(lambda *_: None)
C.llama_log_set(silent, None)
params = C.llama_model_quantize_default_params()
params.ftype, params.nthread = int(sys.argv[3]), 1
sys.exit(C.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(params)))
"""


def peak(*command: str) -> int:
    """Bytes of resident memory that a command had at most."""
    launcher = [sys.executable, "-S", "-E", "-I", "-c", LAUNCHER, sys.executable, *command]
    status, size = subprocess.run(launcher, capture_output=True, text=True, check=True).stdout.split()
    assert status == "0", command
    return int(size)


def make(folder: Path, shared: Path, name: str) -> Path:
    """A model of the table."""
    vocabulary, shape, file_type, n_ctx = MODELS[name]
    source, target = folder / "source.gguf", folder / f"{name}.gguf"
    generator = [sys.executable, shared / "tools/make_bench_model.py"]
    vocab = shared / f"data/vocab/ggml-vocab-{vocabulary}.gguf"
    subprocess.run([*generator, vocab, source, *shape.split(), "--context", str(n_ctx)], check=True)
    if file_type == 1:
        return source.rename(target)
    subprocess.run([sys.executable, "-c", QUANTISE, source, target, str(file_type)], check=True)
    source.unlink()
    return target


def estimate(hub: HubServer, folder: Path, model: Path, n_ctx: int) -> dict[str, int]:
    """What the dry run says of a model on the Hub."""
    hub.add(f"bench/{model.stem}", {model.name: model})
    settings = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(folder / "cache"), "HF_TOKEN": "", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "llamacli", "pull", "--dry-run", "--json", f"bench/{model.stem}", "-c", str(n_ctx)]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, check=True)
    return dict(json.loads(done.stdout)["memory"])


def main() -> None:
    """Print a line for each model; the exit code is 1 if one is further off than ALLOWED."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("LLAMACLI_SHARED") or REPOSITORY / ".." / "shared"
    parser.add_argument("--shared", type=Path, default=Path(default).resolve())
    shared = parser.parse_args().shared
    bare, worst = peak("-c", "pass"), 0.0
    print(f"bare interpreter: {bare / 1e6:.1f} MB")
    with tempfile.TemporaryDirectory() as name, HubServer() as hub:
        folder = Path(name)
        for model, (*_, n_ctx) in MODELS.items():
            path = make(folder, shared, model)
            prompt = folder / "prompt.txt"
            prompt.write_text("the" + " the" * (n_ctx - 24))  # as many tokens, in each of the vocabularies
            options = ["-c", str(n_ctx), "-n", "4", "--raw", "--temp", "0", "--no-stdin", "-f", str(prompt)]
            taken = peak("-m", "llamacli", "complete", "-m", str(path), *options) - bare
            parts = estimate(hub, folder, path, n_ctx)
            ratio = parts["total"] / taken
            worst = max(worst, abs(ratio - 1))
            sums = ", ".join(f"{part} {parts[part] / 1e6:.1f}" for part in PARTS if parts[part])
            print(f"{model}, {n_ctx} tokens: estimate {parts['total'] / 1e6:.1f} MB ({sums}),", end=" ")
            print(f"measured {taken / 1e6:.1f} MB, ratio {ratio:.3f}", flush=True)
            path.unlink()
    print(f"furthest off: {100 * worst:.1f} % of {100 * ALLOWED:.0f} % allowed")
    sys.exit(worst > ALLOWED)


PARTS = ("weights", "repacked", "kv_cache", "compute", "program")

if __name__ == "__main__":
    main()
