"""Amounts for a person."""

from __future__ import annotations


def size(n_bytes: float) -> str:
    """Bytes: 6.5 MiB."""
    amount, units = float(n_bytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1023.95 and len(units) > 1:  # 1024.0 when rounded
        amount, units = amount / 1024, units[1:]
    return f"{amount:.0f} B" if units[0] == "B" else f"{amount:.1f} {units[0]}"


def age(seconds: float) -> str:
    """A time that has passed: 12 s, 5 min, 3 h, 4 days."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or (unit != "days" and seconds >= length):
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"
