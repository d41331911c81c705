"""Sets of questions with several answers, in the forms that llama-perplexity reads and as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llamacli.engine.branches import MOST_SEQUENCES
from llamacli.errors import UsageError, printable

Task = Literal["hellaswag", "winogrande", "choice"]
TASKS: tuple[Task, ...] = ("hellaswag", "winogrande", "choice")
#: How many questions llama-perplexity takes unless it is told; 0: all.
USUAL_COUNT = {"hellaswag": 400, "winogrande": 0, "choice": 0}
_LINES = 6  # of a HellaSwag question: what comes before, the number of the right ending, four endings


@dataclass(frozen=True)
class Question:
    """`before`, one of the choices, `after`: one text is true, that of the choice number `gold`."""

    before: str
    choices: tuple[str, ...]
    gold: int
    after: str = ""

    def text(self, choice: int) -> str:
        return self.before + self.choices[choice] + self.after

    @property
    def solved(self) -> str:
        return self.text(self.gold)


@dataclass(frozen=True)
class Set:
    """`left_out`: lines at the end that llama-perplexity does not read either."""

    questions: Sequence[Question]
    left_out: int = 0


def read(task: Task, data: bytes, name: str, delimiter: str | None = None) -> Set:
    """The questions of a file. Raises UsageError with the number of the first line that is wrong.

    `delimiter` stands between query and choice of the task `choice`; None: a space, unless white space ends the query.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _wrong(name, data.count(b"\n", 0, error.start) + 1, "it is no UTF-8") from error
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    if task == "hellaswag":
        found = Set(_hellaswag(text.removesuffix("\n").split("\n"), name))
    elif task == "winogrande":
        found = _winogrande(text, name)
    else:
        found = Set(list(_choices(text, name, delimiter)))
    if not found.questions:
        raise UsageError(f"{name} holds no questions")
    return found


def _wrong(name: str, line: int, what: str) -> UsageError:
    return UsageError(f"{name}, line {line}: {what}")


# --- forms of files ---------------------------------------------------------------------------------------------------


def _hellaswag(lines: list[str], name: str) -> list[Question]:
    if lines == [""]:
        return []
    if "" in lines:
        raise _wrong(name, lines.index("") + 1, f"it is empty, and each question is {_LINES} lines of text")
    golds = lines[1::_LINES]
    for i, gold in enumerate(golds):
        if gold not in ("0", "1", "2", "3"):
            what = f"the number of the right ending, 0 to 3, is wanted, not {printable(gold, 40)!r}"
            raise _wrong(name, i * _LINES + 2, what)
    if len(lines) % _LINES:
        start = len(lines) // _LINES * _LINES
        raise _wrong(name, start + 1, f"a question is {_LINES} lines, and the last one has {len(lines) - start}")
    endings = zip(*(lines[i::_LINES] for i in range(2, _LINES)), strict=True)
    return [
        Question(f"{before} ", choices, int(gold))
        for before, gold, choices in zip(lines[::_LINES], golds, endings, strict=True)
    ]


def _winogrande(text: str, name: str) -> Set:
    """index,sentence,choice 1,choice 2,answer: quotes may stand around the sentence, and `_` in it is the gap.

    llama-perplexity drops a file's final line break, and then a last line without one.
    """
    lines = text.removesuffix("\n").split("\n")
    questions = []
    for number, line in enumerate(lines[:-1], 1):
        if line.strip():
            questions.append(_sentence(line, name, number))
    left_out = 1 if lines[-1].strip() else 0
    if left_out and not questions:  # a file of one line is meant to be read
        return Set([_sentence(lines[-1], name, len(lines))])
    return Set(questions, left_out)


def _sentence(line: str, name: str, number: int) -> Question:
    commas, quoted = [], False
    for i, character in enumerate(line):
        if character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            commas.append(i)
            if len(commas) == 4:
                break
    if len(commas) != 4:
        raise _wrong(name, number, "index,sentence,choice,choice,answer are wanted")
    first, second, third, fourth = commas
    sentence = line[first + 1 : second]
    if sentence.startswith('"'):
        sentence = sentence[1:-1]
    before, gap, after = sentence.partition("_")
    choices, answer = (line[second + 1 : third], line[third + 1 : fourth]), line[fourth + 1 :].strip()
    if not gap:
        raise _wrong(name, number, "the sentence has no _ for the choices")
    if answer not in ("1", "2"):
        raise _wrong(name, number, f"the answer is 1 or 2, not {printable(answer, 40)!r}")
    if not all(choices):
        raise _wrong(name, number, "a choice is empty")
    return Question(before, choices, int(answer) - 1, after)


def _choices(text: str, name: str, delimiter: str | None) -> Iterator[Question]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _wrong(name, number, f"it is no JSON: {error}") from error
        if mistake := _mistake(row):
            raise _wrong(name, number, mistake)
        query = row["query"]
        between = delimiter if delimiter is not None else "" if not query or query[-1].isspace() else " "
        yield Question(query + between, tuple(row["choices"]), row["gold"])


def _mistake(row: Any) -> str | None:
    if not isinstance(row, dict):
        return "an object is wanted: query, choices, gold"
    for key in ("query", "choices", "gold"):
        if key not in row:
            return f"{key!r} is missing"
    query, choices, gold = row["query"], row["choices"], row["gold"]
    if not isinstance(query, str):
        return "'query' must be a text"
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        return "'choices' must be texts that are not empty"
    if not 2 <= len(choices) <= MOST_SEQUENCES:
        return f"'choices' has {len(choices)}; 2 to {MOST_SEQUENCES} can be compared"
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(choices):
        return f"'gold' must be the number of a choice, 0 to {len(choices) - 1}, not {printable(str(gold), 40)}"
    if any("\ud800" <= character <= "\udfff" for part in (query, *choices) for character in part):
        return "half a surrogate pair is no text"
    return None


# --- which questions, in which order ----------------------------------------------------------------------------------


def chosen(task: Task, n_all: int, n: int, seed: int) -> list[int]:
    """The numbers of n questions (0: of all), as llama-perplexity draws them with its seed 1.

    HellaSwag's are drawn always, so that the running score settles soon; others only where not all are wanted.
    """
    if task == "hellaswag":
        return shuffled(n_all, seed)[: n or n_all]
    if not 0 < n < n_all:
        return list(range(n_all))
    rest, order = list(range(n_all)), []
    draw = _mt19937(seed)
    for _ in range(n):
        fraction = np.float32(draw()) * np.float32(2**-32)
        j = min(int(fraction * np.float32(len(rest))), len(rest) - 1)
        order.append(rest[j])
        rest[j] = rest[-1]
        rest.pop()
    return order


def shuffled(n: int, seed: int) -> list[int]:
    """0 … n-1 in the order in which std::uniform_int_distribution of libstdc++ (Lemire's method) draws them."""
    rest, draw = list(range(n)), _mt19937(seed)
    order = []
    for size in range(n, 0, -1):
        product = draw() * size
        while product & 0xFFFFFFFF < (1 << 32) % size:
            product = draw() * size
        order.append(rest.pop(product >> 32))
    return order


def _mt19937(seed: int) -> Callable[[], int]:
    """std::mt19937's numbers."""

    def numbers() -> Iterator[int]:
        state: Any = np.random.RandomState(seed).get_state(legacy=False)  # seeded as C++ does it
        generator = np.random.MT19937()
        generator.state = state
        while True:
            yield from generator.random_raw(1024).tolist()

    return numbers().__next__
