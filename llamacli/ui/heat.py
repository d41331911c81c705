"""How surprising a piece of text was, as a colour."""

from __future__ import annotations

#: From so many bits on: background and foreground, of the 256 colours. Light to dark, readable on any background.
_SCALE = (
    (0.0, 194, 16),
    (1.0, 230, 16),
    (2.0, 222, 16),
    (4.0, 215, 16),
    (7.0, 208, 16),
    (10.0, 196, 231),
    (14.0, 88, 231),
)


def legend() -> str:
    """What the colours mean."""
    return "bits from: " + "".join(f"{colour(bits)} {bits:g} \x1b[0m" for bits, _, _ in _SCALE)


def colour(bits: float | None) -> str:
    """The colours of text that was so surprising; None for what is not scored."""
    if bits is None:
        return "\x1b[2m"
    _, background, foreground = [step for step in _SCALE if step[0] <= bits][-1]
    return f"\x1b[48;5;{background};38;5;{foreground}m"
