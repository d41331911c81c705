"""Amounts for a person."""

from __future__ import annotations


def size(n_bytes: float) -> str:
    """Bytes: 6.5 MiB."""
    amount, units = float(n_bytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1023.95 and len(units) > 1:  # 1024.0 when rounded
        amount, units = amount / 1024, units[1:]
    return f"{amount:.0f} B" if units[0] == "B" else f"{amount:.1f} {units[0]}"
