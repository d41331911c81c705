"""Fenced code blocks."""

from __future__ import annotations

import pytest

from llamacli.tasks.extract import code, code_blocks


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        (b"no block", []),
        (b"```\na\n```", [b"a"]),
        (b"x\n```python\na\n\nb\n```\ny\n~~~\nc\n~~~", [b"a\n\nb", b"c"]),
        (b"````\n```\ninner\n```\n````", [b"```\ninner\n```"]),
        (b"```\n~~~\n```", [b"~~~"]),
        (b"```\nnot closed\nto the end", [b"not closed\nto the end"]),
        (b"  ```\n  a\n   b\n c\n  ```", [b"a\n b\nc"]),
        (b"1. Do:\n\n    ```py\n    if a:\n        b\n    ```\n2. Done", [b"if a:\n    b"]),
        (b"```md\n    ```\n```", [b"    ```"]),
        (b"```inline``` code", []),
        (b"``` py\r\na\r\n```\r\n", [b"a"]),
        (b"```\n``` no end\n```", [b"``` no end"]),
        (b"```\n```", [b""]),
        (b"```\n\xff\x85 bytes\n```", [b"\xff\x85 bytes"]),
    ],
)
def test_blocks(text: bytes, blocks: list[bytes]) -> None:
    assert code_blocks(text) == blocks


def test_first_and_last() -> None:
    text = b"```\na\n```\n```\nb\n```"
    assert (code(text), code(text, last=True), code(b"none")) == (b"a", b"b", None)
