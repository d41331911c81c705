"""What llama-quantize makes of the built-in model: sha256 of whole files, for every type.

    LLAMA_CPP_BIN=…/build/bin python tests/model/quantize_facts.py

writes llama_quantize.json beside this file, for the tiny.gguf that is here now. LLAMA_CPP_BIN holds llama-quantize, built
from the sources in llama-cpp-python's own distribution, Release, CPU.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

FACTS = Path(__file__).with_name("llama_quantize.json")
#: The name goes into the new file's metadata, so both sides must say the same.
IMATRIX = "tiny.imatrix.gguf"


def write_imatrix(path: Path, model: Path) -> None:
    """An importance matrix for every tensor of a model, of made-up numbers that are the same everywhere."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    writer = GGUFWriter(path, "")
    writer.kv_data[0].clear()
    writer.add_key_value("general.type", "imatrix", GGUFValueType.STRING)
    writer.add_key_value("imatrix.datasets", ["made up", "of nothing"], GGUFValueType.ARRAY, GGUFValueType.STRING)
    writer.add_key_value("imatrix.chunk_count", 7, GGUFValueType.UINT32)
    writer.add_key_value("imatrix.chunk_size", 512, GGUFValueType.UINT32)
    for k, tensor in enumerate(sorted(GGUFReader(model).tensors, key=lambda tensor: str(tensor.name))):
        if len(tensor.shape) == 2 and tensor.name != "token_embd.weight":
            i = np.arange(tensor.shape[0])
            sums = (1 + (i * (2 * k + 3)) % 17).astype(np.float32) * np.float32(0.25 * (k + 1))
            writer.add_tensor(f"{tensor.name}.in_sum2", sums.reshape(1, -1))
            writer.add_tensor(f"{tensor.name}.counts", np.array([[0 if k == 5 else 3584]], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    from llamacli.builtin import TINY
    from llamacli.tasks.quantize_types import TYPES

    tool = Path(os.environ["LLAMA_CPP_BIN"]) / "llama-quantize"
    files: dict[str, str | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_imatrix(Path(folder, IMATRIX), TINY)
        for kind in TYPES:
            for options in ([], ["--imatrix", IMATRIX]):
                command = [tool, *options, TINY, "out.gguf", kind.name]
                done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
                key = f"{kind.name} with an imatrix" if options else kind.name
                files[key] = sha256(Path(folder, "out.gguf")) if done.returncode == 0 else None
                print(key, files[key], file=sys.stderr)
    facts = {"tiny.gguf": sha256(TINY), "llama_quantize": files}
    FACTS.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
