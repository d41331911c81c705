"""A choice of types, tensor by tensor: bars while it is made, a grid of layers and kinds of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamacli.errors import printable
from llamacli.tasks.quantize_result import Quantized
from llamacli.tasks.target import Choice, Chosen
from llamacli.ui import columns
from llamacli.ui import quantize as whole
from llamacli.ui.output import Output, note
from llamacli.ui.progress import Bar

_STAGES = {"errors": "errors of types", "tensors": "trying tensors", "choice": "measuring the choice"}
_NAME = 32


class Progress:
    """One bar after the other."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._stage = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, stage: str, done: int, of: int, name: str) -> None:
        """`done` of `of` tensors in this stage; this one is next."""
        if self._bar is None or stage != self._stage or done == 0:
            if self._bar is not None:
                self._bar.close()
            self._bar, self._stage = Bar(_STAGES[stage], of, remaining=True), stage
        self._bar.update(done, f"{_STAGES[stage]} {printable(name, _NAME):{_NAME}}")


def show(choice: Choice, result: Quantized, output: Output) -> None:
    """On a terminal the grid, then the table of types; that alone in a pipe; --json both."""
    note(_summary(choice), style="dim")
    if output.mode == "json":
        output.document({**whole.document(result), "choice": document(choice)})
        return
    if output.mode == "human":
        _grid(choice, output)
    whole.show(result, output)


def document(choice: Choice) -> dict[str, Any]:
    """For --json."""
    return {name: value for name, value in vars(choice).items() if name not in ("kind", "options")}


def _summary(choice: Choice) -> str:
    measured = choice.measured if choice.measured is not None else choice.damage
    how = "measured" if choice.measured is not None else "foretold"
    on = choice.text or "its own text"
    share = 100 * choice.size / choice.target_size
    return (
        f"{choice.size:,} of {choice.target_size:,} bytes ({share:.1f}%); mean KL divergence {measured:.2g}, {how} on "
        f"{choice.tokens} tokens of {on}; {choice.passes} passes in {choice.seconds:.0f} s"
    )


def _grid(choice: Choice, output: Output) -> None:
    """A row for each layer, or for layers that follow each other and are alike; then what belongs to none."""
    layers: dict[int, dict[str, str]] = {}
    others: list[Chosen] = []
    for tensor in choice.tensors:
        if tensor.layer is None:
            others.append(tensor)
        else:
            layers.setdefault(tensor.layer, {})[tensor.kind] = tensor.type
    kinds = list(dict.fromkeys(tensor.kind for tensor in choice.tensors if tensor.layer is not None))
    if kinds:
        rows = _alike([(number, [types.get(kind, "") for kind in kinds]) for number, types in sorted(layers.items())])
        header = ["layer", *(kind.removesuffix(".weight") for kind in kinds)]
        columns.folded(header, rows, output, key=0, right=["layer"])
    if others:
        columns.show(["tensor", "type"], [[tensor.name, tensor.type] for tensor in others], output)
    output.text(b"\n")


def _alike(rows: Sequence[tuple[int, list[str]]]) -> list[list[str]]:
    found: list[tuple[int, int, list[str]]] = []
    for number, cells in rows:
        if found and found[-1][2] == cells and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number, cells)
        else:
            found.append((number, number, cells))
    return [[str(first) if first == last else f"{first}-{last}", *cells] for first, last, cells in found]
