"""Quantising: a bar with the tensor's name, the table of what became of the tensors, the types."""

from __future__ import annotations

from typing import Any

from llamacli.errors import printable
from llamacli.tasks.quantize_result import Quantized, Tensor, TypeRow
from llamacli.tasks.quantize_types import QuantType
from llamacli.ui import columns
from llamacli.ui.output import Output, note
from llamacli.ui.progress import Bar
from llamacli.units import size

#: So many fallbacks are named.
_NAMED = 5
#: Characters of a tensor's name in front of the bar, which would jump if they were more or fewer.
_LABEL = 28
_HEADER = ("file", "type", "tensors", "weights", "bytes_before", "bytes", "bits_per_weight", "fallbacks")


class Progress:
    """A bar of the source's bytes."""

    def __init__(self) -> None:
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, done: int, total: int, name: str) -> None:
        """`done` of `total` bytes; this tensor is next."""
        if self._bar is None:
            self._bar = Bar("quantizing", total, transfer=True)
        self._bar.update(done, f"{printable(name, _LABEL):{_LABEL}}")


def show(result: Quantized, output: Output) -> None:
    """A table on a terminal, a row for each type and one for the whole in a pipe, --json all tensors."""
    for warning in result.warnings:
        note(f"warning: {warning}", style="hint")
    if result.obstacle is not None:
        note(f"warning: this is not possible as it is: {result.obstacle}", style="hint")
    if output.mode == "json":
        output.document(document(result))
    elif output.mode == "plain":
        output.tsv(_HEADER, [*(_tsv_row(result, row) for row in result.types), _tsv_total(result)])
    else:
        _table(result, output)


def document(result: Quantized) -> dict[str, Any]:
    """For --json."""
    return {**vars(result), "types": result.types, "fallbacks": [tensor.name for tensor in result.fallbacks]}


def _tsv_row(result: Quantized, row: TypeRow) -> tuple[object, ...]:
    return (_place(result), row.type, row.tensors, row.weights, row.bytes_before, row.bytes, _bits(row), row.fallbacks)


def _tsv_total(result: Quantized) -> tuple[object, ...]:
    """`size` is that of the files, so it is more than the sum."""
    whole = (len(result.tensors), result.weights, result.size_before, result.size)
    return (_place(result), "all", *whole, f"{result.bits_per_weight:.4f}", len(result.fallbacks))


def _place(result: Quantized) -> str | None:
    return str(result.files[0]) if result.files else None


def _bits(row: TypeRow) -> str:
    return f"{8 * row.bytes / row.weights:.4f}"


def _table(result: Quantized, output: Output) -> None:
    header = ["tensors", "before", "after", "bits/weight", "type"]
    rows = [
        [str(row.tensors), size(row.bytes_before), size(row.bytes), f"{8 * row.bytes / row.weights:.2f}", row.type]
        for row in result.types
    ]
    files = ", ".join(map(str, result.files)) or f"{result.type}, not written"
    whole = [str(len(result.tensors)), size(result.size_before), size(result.size), f"{result.bits_per_weight:.2f}"]
    columns.show(header, [*rows, [*whole, files]], output, right=header[:-1])
    lines = [f"{result.size:,} bytes; it was {result.bits_per_weight_before:.2f} bits per weight"]
    lines += _fallbacks(result.fallbacks)
    output.text(("\n".join(lines) + "\n").encode("utf-8", "replace"))


def _fallbacks(tensors: tuple[Tensor, ...]) -> list[str]:
    """A line for each pair of types."""
    lines = []
    for wanted, kind in sorted({(tensor.wanted, tensor.type) for tensor in tensors}):
        names = [tensor.name for tensor in tensors if (tensor.wanted, tensor.type) == (wanted, kind)]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        lines.append(f"{kind} instead of {wanted}, whose blocks do not fit the rows: {', '.join(names[:_NAMED])}{more}")
    return lines


def show_types(types: tuple[QuantType, ...], output: Output) -> None:
    """Best first, as they stand in the table."""
    if output.mode == "json":
        output.document([kind._asdict() for kind in types])
        return
    if output.mode == "plain":
        output.tsv(QuantType._fields, [[*kind[:3], str(kind.imatrix).lower(), kind.purpose] for kind in types])
        return
    rows = [
        [kind.name, f"{kind.bits_per_weight:.2f}" if kind.name != "COPY" else "", "needed" if kind.imatrix else "",
         kind.purpose]
        for kind in types
    ]  # fmt: skip
    columns.show(["type", "bits/weight", "imatrix", "for"], rows, output, right=["bits/weight"])
    output.text(b"bits/weight: of Llama 3 8B; most types are mixtures, and small models get more\n")
