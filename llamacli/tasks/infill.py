"""Fill in the middle: what stands before and after a gap, and the prompt that asks for what belongs into it."""

from __future__ import annotations

import re
from pathlib import Path

from llamacli.engine.model import Model
from llamacli.errors import UsageError
from llamacli.tasks.prompt import decode, read_file


def split(place: str, *, replace_invalid: bool = False) -> tuple[str, str]:
    """FILE:LINE[:COL] → the text before the gap, the text after it.

    The gap is before character COL of the line, counted from 1, or at the line's end. Raises UsageError, StorageError.
    """
    parts = re.fullmatch(r"(.+?):(\d+)(?::(\d+))?", place, re.DOTALL)
    if parts is None:
        raise UsageError(f"--infill {place}: FILE:LINE or FILE:LINE:COLUMN is wanted, such as part.py:12")
    path, line = Path(parts[1]), int(parts[2])
    text = decode(read_file(path, f"--infill {path}"), str(path), replace_invalid)
    starts = [0, *(match.end() for match in re.finditer(r"\r\n|\r|\n", text))]
    if not 1 <= line <= len(starts):
        raise UsageError(f"--infill {place}: {path} has lines 1 to {len(starts)}")
    start = starts[line - 1]
    length = len(re.match(r"[^\r\n]*", text[start:])[0])  # type: ignore[index]
    column = int(parts[3]) if parts[3] is not None else length + 1
    if not 1 <= column <= length + 1:
        raise UsageError(f"--infill {place}: line {line} has columns 1 to {length + 1}")
    return text[: start + column - 1], text[start + column - 1 :]


def prompt_tokens(model: Model, prefix: str, suffix: str) -> list[int]:
    """The prompt, as llama.cpp's server has it (`format_prompt_infill`): BOS where wanted, prefix, suffix, middle.

    Nothing is cut. Raises UsageError for a model without infill tokens.
    """
    tokens = model.fim_tokens
    if tokens is None:
        raise UsageError(
            f"{model.header.path}: this model cannot fill in the middle: its vocabulary has no tokens for it",
            hint="models for code often can",
        )
    before, after, middle = tokens
    parts = [model.tokenize(text, add_special=False) for text in (prefix, suffix)]
    return [*([model.bos] if model.adds_bos else []), before, *parts[0], after, *parts[1], middle]
