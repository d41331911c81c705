"""The types that a model can be quantised to: llama-quantize's names, aliases and numbers. Standard library only."""

from __future__ import annotations

import difflib
from typing import NamedTuple

from llamacli.errors import UsageError, printable
from llamacli.models.ggml_types import GGML_TYPES


class QuantType(NamedTuple):
    """A type of a whole file. `ftype`: enum llama_ftype. `bits_per_weight`: of Llama 3 8B, since most are mixtures.

    `imatrix`: whether a model's own weights need an importance matrix.
    """

    name: str
    ftype: int
    bits_per_weight: float
    imatrix: bool
    purpose: str


TYPES = (
    QuantType("F32", 0, 32.00, False, "every number as it was computed: for a further quantisation, not for use"),
    QuantType("F16", 1, 16.00, False, "half precision: the usual original; numbers above 65504 do not fit"),
    QuantType("BF16", 32, 16.00, False, "the original of models that were trained in it: wide range, short mantissa"),
    QuantType("Q8_0", 7, 8.50, False, "hardly to be told from the original, at half its size"),
    QuantType("Q6_K", 18, 6.56, False, "nearly as good as Q8_0; where memory is no question"),
    QuantType("Q5_K_M", 17, 5.70, False, "very small loss"),
    QuantType("Q5_K_S", 16, 5.57, False, "very small loss, without Q5_K_M's better tensors"),
    QuantType("Q5_1", 9, 6.04, False, "an older type, larger than Q5_K_M and no better; rows need 32s only"),
    QuantType("Q5_0", 8, 5.57, False, "an older type, behind Q5_K_S; rows need 32s only"),
    QuantType("Q4_K_M", 15, 4.89, False, "the usual choice: small loss at less than a third of the original"),
    QuantType("Q4_K_S", 14, 4.67, False, "a little smaller and a little worse than Q4_K_M"),
    QuantType("Q4_1", 3, 5.10, False, "an older type, larger than Q4_K_M and no better; rows need 32s only"),
    QuantType("Q4_0", 2, 4.64, False, "an older type: fast on many processors, behind Q4_K_S; rows need 32s only"),
    QuantType("IQ4_NL", 25, 4.68, False, "non-linear 4 bits; rows need 32s only, so it fits where K-quants do not"),
    QuantType("IQ4_XS", 30, 4.46, False, "the smallest with 4 bits: close to Q4_K_S, slower on CPUs"),
    QuantType("Q3_K_L", 13, 4.30, False, "visible loss; IQ4_XS is hardly larger and better"),
    QuantType("Q3_K_M", 12, 4.00, False, "visible loss: where Q4 does not fit"),
    QuantType("Q3_K_S", 11, 3.64, False, "high loss; IQ3_M is better at this size"),
    QuantType("IQ3_M", 27, 3.76, False, "the best near 3.7 bits, slower on CPUs"),
    QuantType("IQ3_S", 26, 3.66, False, "a little smaller than IQ3_M, and better than Q3_K_S"),
    QuantType("IQ3_XS", 22, 3.50, True, "between IQ3_S and IQ3_XXS"),
    QuantType("IQ3_XXS", 23, 3.25, True, "high loss: the smallest that many models bear"),
    QuantType("Q2_K", 10, 3.16, False, "high loss; with an imatrix IQ3_XXS is better"),
    QuantType("Q2_K_S", 21, 2.97, True, "very high loss; IQ2_M is better at this size"),
    QuantType("IQ2_M", 29, 2.93, True, "very high loss: for large models that fit no other way"),
    QuantType("IQ2_S", 28, 2.74, True, "very high loss"),
    QuantType("IQ2_XS", 20, 2.59, True, "very high loss"),
    QuantType("IQ2_XXS", 19, 2.38, True, "extreme loss: large models only"),
    QuantType("IQ1_M", 31, 2.15, True, "extreme loss: very large models only"),
    QuantType("IQ1_S", 24, 2.00, True, "extreme loss: the smallest there is"),
    QuantType("TQ2_0", 37, 2.52, False, "for models trained with the weights -1, 0 and 1 (BitNet, TriLM): fast"),
    QuantType("TQ1_0", 36, 2.19, False, "the same, packed closer and slower"),
    QuantType("Q2_0", 41, 2.68, False, "for models trained with 2-bit weights in groups of 64"),
    QuantType("Q1_0", 40, 1.48, False, "for models trained with 1-bit weights in groups of 128"),
    QuantType(
        "MXFP4_MOE", 38, 8.50, False, "experts in 4-bit floats (gpt-oss), all else in Q8_0; no use without experts"
    ),
    QuantType(
        "COPY", 0, 0.0, False, "no tensor is changed: with --prune-layers, --override-kv, or to join a split model"
    ),
)
_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
_BY_NAME = {kind.name: kind for kind in TYPES}
_BY_NAME |= {alias: _BY_NAME[name] for alias, name in _ALIASES.items()}
#: llama-quantize takes numbers too; 0 is F32.
_BY_NUMBER = {kind.ftype: kind for kind in TYPES if kind.name != "COPY"}

_WRITTEN = """
    F32 F16 BF16 Q1_0 Q2_0 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 MXFP4 Q2_K Q3_K Q4_K Q5_K Q6_K TQ1_0 TQ2_0 IQ1_S IQ1_M IQ2_XXS
    IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_NL IQ4_XS NVFP4
"""
#: What single tensors can be given: the types that ggml_quantize_chunk writes; another one aborts it.
TENSOR_TYPES = {kind.name: number for number, kind in GGML_TYPES.items() if kind.name in _WRITTEN.split()}


def is_type(text: str) -> bool:
    """Whether llama-quantize, too, would take this word for a type, not for a file's name."""
    return text.upper() in _BY_NAME or (text.isascii() and text.isdecimal() and int(text) in _BY_NUMBER)


def quant_type(text: str) -> QuantType:
    """A type by its name in any case, its alias or its number. Raises UsageError with the nearest name."""
    if not is_type(text):
        raise UsageError(f"there is no type {printable(text, 60)}", hint=_hint(text, list(_BY_NAME)))
    return _BY_NUMBER[int(text)] if text.isdecimal() else _BY_NAME[text.upper()]


def tensor_type(option: str, text: str) -> int:
    """The number of a tensor's type. Raises UsageError with the nearest name."""
    number = TENSOR_TYPES.get(text.upper())
    if number is None:
        known = [name.lower() for name in TENSOR_TYPES]
        mixture = _BY_NAME.get(text.upper())
        why = " (that is a mixture)" if mixture else ""
        raise UsageError(
            f"{option}: there is no tensor type {printable(text, 60)}{why}", hint=_hint(text, known, tensors=True)
        )
    return number


def _hint(text: str, known: list[str], *, tensors: bool = False) -> str:
    near = difflib.get_close_matches(text.lower(), [name.lower() for name in known], 1, 0.5)
    meant = f"did you mean {near[0] if tensors else near[0].upper()}? " if near else ""
    return meant + (f"there are {', '.join(known)}" if tensors else "llamacli quantize --types explains all")
