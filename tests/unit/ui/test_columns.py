"""Tables that are wider than the terminal."""

from __future__ import annotations

import pytest

from llamacli.ui import columns
from llamacli.ui.output import Output

HEADER = ["layer", "attn_q", "attn_k", "type"]
ROWS = [["0-3", "Q4_K", "Q5_K", "first"], ["4", "Q6_K", "Q8_0", "second"]]


@pytest.mark.parametrize(
    ("width", "key", "expected"),
    [
        (80, -1, "layer  attn_q  attn_k  type\n  0-3  Q4_K    Q5_K    first\n    4  Q6_K    Q8_0    second\n"),
        (
            21,
            -1,
            "layer  attn_q  type\n  0-3  Q4_K    first\n    4  Q6_K    second\n\n"
            "attn_k  type\nQ5_K    first\nQ8_0    second\n",
        ),
        (
            21,
            0,
            "layer  attn_q  attn_k\n  0-3  Q4_K    Q5_K\n    4  Q6_K    Q8_0\n\n"
            "layer  type\n  0-3  first\n    4  second\n",
        ),
        (
            3,
            0,
            "layer  attn_q\n  0-3  Q4_K\n    4  Q6_K\n\nlayer  attn_k\n  0-3  Q5_K\n    4  Q8_0\n\n"
            "layer  type\n  0-3  first\n    4  second\n",
        ),
    ],
)
def test_what_does_not_fit_stands_below(
    width: int, key: int, expected: str, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    columns.folded(HEADER, ROWS, Output(), key=key, right=["layer"])
    assert capsysbinary.readouterr().out.decode() == expected
