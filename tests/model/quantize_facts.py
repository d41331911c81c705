"""What llama-quantize makes of the built-in model: sha256 of whole files, for every type.

    LLAMA_CPP_BIN=…/build/bin python tests/model/quantize_facts.py

writes llama_quantize.json beside this file, for the tiny.gguf that is here now. LLAMA_CPP_BIN holds llama-quantize,
built from the sources in llama-cpp-python's own distribution, Release, CPU.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

FACTS = Path(__file__).with_name("llama_quantize.json")
#: The name goes into the new file's metadata, so both sides must say the same.
IMATRIX = "tiny.imatrix.gguf"
SPLIT = "tiny-00001-of-00003.gguf"


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


#: Options that both programs take, with a type; the model is tiny, in three parts where they say so.
OPTIONS = (
    ("--pure", "q4_k"),
    ("--leave-output-tensor", "--output-tensor-type", "q8_0", "15"),
    ("--token-embedding-type", "q5_1", "--allow-requantize", "iq4_xs"),
    (
        "--tensor-type",
        "attn_V=q8_0",
        "--tensor-type",
        r"\.([024])\.ffn_down=iq4_nl",
        "--tensor-type",
        "ffn=q5_K",
        "q4_0",
    ),
    ("--tensor-type-file", "types.txt", "--max-buffer-size", "1", "q5_k_s"),
    ("--prune-layers", "3,1", "q6_K"),
    ("--prune-layers", "0,4", "--imatrix", IMATRIX, "q2_k_s"),
    ("--override-kv", "general.name=str:Mine", "--override-kv", "llama.rope.freq_base=float:5000.5", "q8_0"),
    ("--override-kv", "a.b=bool:true", "--override-kv", "general.x=int:7", "--imatrix", IMATRIX, "copy"),
    ("--imatrix", IMATRIX, "--include-weights", "attn_", "--include-weights", "ffn_up", "Q4_1"),
    ("--imatrix", IMATRIX, "--exclude-weights", "blk.0", "Q3_K_S"),
    ("--imatrix", "old.dat", "--pure", "Q4_K"),
    ("--tensor-type", "ffn_up=nvfp4", "--tensor-type", "ffn_gate=mxfp4", "Q8_0"),
    (SPLIT, "q4_k_s"),
    ("--keep-split", SPLIT, "q4_k_s"),
    ("--keep-split", "--prune-layers", "2", SPLIT, "q5_0"),
)


def prepare(folder: Path, model: Path) -> None:
    """The files that the options name."""
    write_imatrix(folder / IMATRIX, model)
    write_old_imatrix(folder / "old.dat", folder / IMATRIX)
    write_split(folder / "tiny.gguf", model)
    (folder / "types.txt").write_text("attn_q=q3_k attn_k=q3_k\nblk.1.=q8_0\n")


def write_old_imatrix(path: Path, source: Path) -> None:
    """`source` in the format before GGUF: means times the number of chunks, which is 7."""
    from gguf import GGUFReader

    entries = [tensor for tensor in GGUFReader(source).tensors if tensor.name.endswith(".in_sum2")]
    data = struct.pack("<i", len(entries))
    for tensor in entries:
        name, values = str(tensor.name).removesuffix(".in_sum2").encode(), tensor.data.ravel()
        data += struct.pack("<i", len(name)) + name + struct.pack("<ii", 7, values.size) + values.tobytes()
    path.write_bytes(data + struct.pack("<ii", 7, 4) + b"text")


def write_split(path: Path, model: Path) -> None:
    """`model` in three parts, `path`'s name before their numbers."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    reader = GGUFReader(model)
    writer = GGUFWriter(path, "", split_max_tensors=-(-len(reader.tensors) // 3))
    writer.kv_data[0].clear()
    for name, field in reader.fields.items():
        if not name.startswith("GGUF."):
            kind = field.types[0]
            element = field.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, element)
    for tensor in reader.tensors:
        writer.add_tensor(str(tensor.name), tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def arguments(options: Sequence[str], model: Path) -> list[str]:
    """The command line without the program."""
    *flags, kind = options
    named = SPLIT if SPLIT in flags else str(model)
    return [*(flag for flag in flags if flag != SPLIT), named, "out.gguf", kind]


def made(folder: Path) -> dict[str, str]:
    """Names and sha256 of what was written, which is removed."""
    found = {path.name: sha256(path) for path in sorted(folder.glob("out*"))}
    for name in found:
        (folder / name).unlink()
    return found


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    from llamacli.builtin import TINY
    from llamacli.tasks.quantize_types import TYPES

    tool = Path(os.environ["LLAMA_CPP_BIN"]) / "llama-quantize"
    files: dict[str, str | None] = {}
    options: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, TINY)
        for kind in TYPES:
            for given in ([], ["--imatrix", IMATRIX]):
                key = f"{kind.name} with an imatrix" if given else kind.name
                files[key] = _run(tool, folder, [*given, str(TINY), "out.gguf", kind.name]).get("out.gguf")
        for chosen in OPTIONS:
            options[" ".join(chosen)] = _run(tool, folder, arguments(chosen, TINY))
    facts = {"tiny.gguf": sha256(TINY), "types": files, "options": options}
    FACTS.write_text(json.dumps(facts, indent=1) + "\n")


def _run(tool: Path, folder: Path, arguments: Sequence[str]) -> dict[str, str]:
    done = subprocess.run([tool, *arguments], cwd=folder, capture_output=True, check=False)
    found = made(folder)
    print(*arguments, "→", found if done.returncode == 0 else f"code {done.returncode}", file=sys.stderr)
    return found if done.returncode == 0 else {}


if __name__ == "__main__":
    main()
