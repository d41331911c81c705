"""Devices as a table, with what to install where a GPU lies idle."""

from __future__ import annotations

from llamacli.tasks.devices import Devices
from llamacli.ui.output import Output, note

_GIB = 1 << 30


def show(result: Devices, output: Output) -> None:
    if output.mode == "json":
        output.document(result)
        return
    if output.mode == "human":
        note(f"{result.bindings} · backends: {', '.join(result.backends)} · {result.threads} threads", style="dim")
        note(" ".join(result.features), style="dim")
    rows = [
        (d.name, d.kind, d.backend, d.description, f"{d.memory_free / _GIB:.1f}", f"{d.memory_total / _GIB:.1f}")
        for d in result.devices
    ]
    output.table(("device", "kind", "backend", "description", "free GiB", "GiB"), rows)
    for missing in result.missing:
        note(f"hint: {missing.what} is not used: {missing.why}. To compile another build:", style="hint")
        note(f"  {missing.install}")
