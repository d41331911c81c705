"""How a model is quantised: what names say, and what files say."""

from __future__ import annotations

import re

from llamacli.models.ggml_types import type_name
from llamacli.models.gguf import Header

#: Which quantisation `user/repo` means, as for llama.cpp's -hf.
USUAL = "Q4_K_M"

#: enum llama_ftype (llama.h), by the names that files carry.
_FILE_TYPES = """
    F32 F16 Q4_0 Q4_1 Q4_1_F16 Q4_2 Q4_3 Q8_0 Q5_0 Q5_1 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K
    IQ2_XXS IQ2_XS Q2_K_S IQ3_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ3_M IQ2_S IQ2_M IQ4_XS IQ1_M BF16 Q4_0_4_4 Q4_0_4_8
    Q4_0_8_8 TQ1_0 TQ2_0 MXFP4_MOE NVFP4 Q1_0 Q2_0
"""
_QUANT = re.compile(
    r"(?<![a-z0-9])((?:UD-)?(?:I?Q[1-8]|TQ[12])(?:_(?:[0-9]|K|S|M|L|XL|NL|XS|XXS|XXL))*|BF16|FP?16|FP?32"
    r"|MXFP4(?:_MOE)?|NVFP4)(?![a-z0-9])",
    re.IGNORECASE,
)


def quant_of_name(name: str) -> str:
    """What a file's name says, or else that of its folder; "" where none does."""
    for part in reversed(name.split("/")):
        if found := _QUANT.findall(part):
            return re.sub("^FP", "F", str(found[-1]).upper())
    return ""


def quant_of_file(header: Header) -> str:
    """How a file is quantised: by its name, which may know more ("UD-Q4_K_XL"), else by general.file_type, else by the
    type that holds most of its bytes; "" without tensors.
    """
    if found := quant_of_name(header.path.name):
        return found
    file_type = header.metadata.get("general.file_type")
    names = _FILE_TYPES.split()
    if isinstance(file_type, int) and 0 <= file_type < len(names):
        return names[file_type]
    n_bytes: dict[str, int] = {}
    for tensor in header.tensors:
        kind = type_name(tensor.type)
        n_bytes[kind] = n_bytes.get(kind, 0) + tensor.n_bytes
    return max(n_bytes, key=lambda kind: n_bytes[kind], default="")


def renamed(stem: str, quant: str) -> str:
    """A file's name without ".gguf", for another quantisation: "model-F16" and "Q4_K_M" give "model-Q4_K_M"."""
    found = list(_QUANT.finditer(stem))
    if found and found[-1].end() == len(stem):
        stem = stem[: found[-1].start()].rstrip("-._ ")
    return f"{stem}-{quant}" if stem else quant
