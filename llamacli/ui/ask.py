"""A question to the person at the terminal."""

from __future__ import annotations

import sys

from llamacli.ui.output import is_terminal
from llamacli.ui.sanitize import for_terminal


def possible() -> bool:
    """Whether somebody is there: standard input and stderr are terminals."""
    return is_terminal(sys.stdin) and is_terminal(sys.stderr)


def yes(question: str, *, enter: bool = True) -> bool:
    """Ask on stderr; Enter is yes, or with `enter` false no, and the end of input is no."""
    sys.stderr.write(for_terminal(f"{question} [{'Y/n' if enter else 'y/N'}] "))
    sys.stderr.flush()
    answer = sys.stdin.readline()
    return answer != "" and answer.strip().lower() in ("y", "yes", *([""] if enter else []))
