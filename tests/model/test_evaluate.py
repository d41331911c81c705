"""Questions with several answers: log-probabilities against an obvious implementation, scores against llama.cpp's."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_gguf import write_llama, write_mamba

from llamacli.builtin import TINY
from llamacli.engine.context import Context
from llamacli.engine.model import Model
from llamacli.engine.types import ContextOptions, ModelOptions
from llamacli.errors import UsageError
from llamacli.tasks import evaluate as task
from llamacli.tasks import evaluate_sets as sets
from llamacli.tasks.evaluate import Evaluation, Request, Running, Warned, evaluate, wilson
from llamacli.tasks.evaluate_results import Outcome, ResultsFile

ANIMALS = ("dog", "cat", "bird", "fish", "frog", "bear", "fox", "pig")
PLACES = ("park", "big house", "garden", "forest by the sea")
HELLASWAG = "".join(
    f"A story: Once upon a time, there was a little {animal}. He\n{i % 4}\nwent to the park.\nwas very happy.\n"
    f"{animal} {animal} tree of the green.\nplayed with the {animal} in the garden all day.\n"
    for i, animal in enumerate(ANIMALS)
)
WINOGRANDE = "".join(
    f'{i},"The {animal} did not like the {place}, because the _ was very big{" and old" * (i % 3)}.",'
    f"{animal},{place},{1 + i % 2}\n"
    for i, (animal, place) in enumerate(zip(ANIMALS, PLACES * 2, strict=True))
)
#: The gap near the end (the choices themselves are scored), and a choice that the other one begins with.
GAPS = '8,"Tom could not find the cat and the dog in the _.",house,garden,1\n9,"I like the _ today.",pen,pencil,2\n\n'
CHOICE = "".join(
    json.dumps({"query": f"Question: Where did the {animal} go?", "choices": PLACES[: 2 + i % 3], "gold": i % 2}) + "\n"
    for i, animal in enumerate(ANIMALS)
)
SETS: dict[str, str] = {"hellaswag": HELLASWAG, "winogrande": WINOGRANDE + GAPS, "choice": CHOICE}
ONE_THREAD = ContextOptions(n_ctx=0, n_threads=1)


def request(name: Any, **changes: Any) -> Request:
    made = Request(name, f"{name}.txt", SETS[name].encode(), ModelOptions(TINY), n=0, context=ONE_THREAD)
    return replace(made, **changes)


def measured(asked: Request) -> Evaluation:
    *_, last = evaluate(asked)
    assert isinstance(last, Evaluation)
    return last


def outcomes(asked: Request, path: Path) -> list[Outcome]:
    """Of all questions, in order."""
    path.unlink(missing_ok=True)
    assert measured(replace(asked, results=path)).complete
    rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    return [
        Outcome(**{k: v for k, v in row.items() if not k.startswith("correct")} | {"logprobs": tuple(row["logprobs"])})
        for row in rows
    ]


class Obvious:
    """One sequence at a time, nothing shared, nothing skipped, plain softmax."""

    def __init__(self, path: Path) -> None:
        self.model = Model(ModelOptions(path))

    def logprobs(self, tokens: Sequence[int]) -> list[float]:
        """log p of each token given those before it; that of the first is no number."""
        with Context(self.model, ContextOptions(n_ctx=len(tokens) + 8, n_threads=1)) as context:
            logits = context.logits(tokens).astype(np.float64)
        found = [math.nan]
        for row, token in zip(logits, tokens[1:], strict=False):
            found.append(float(row[token] - row.max() - np.log(np.exp(row - row.max()).sum())))
        return found

    def common(self, sequences: Sequence[Sequence[int]]) -> int:
        return next(
            (i for i in range(min(map(len, sequences))) if len({s[i] for s in sequences}) > 1),
            min(map(len, sequences)) - 1,
        )

    def hellaswag(self, before: str, choices: Sequence[str]) -> list[tuple[float, int]]:
        """(sum, tokens) of each choice."""
        whole = [self.model.tokenize(f"{before} {choice}") for choice in choices]
        n = self.common(whole)
        return [(sum(self.logprobs(tokens)[n:]), len(tokens) - n) for tokens in whole]

    def winogrande(self, sentence: str, choices: Sequence[str]) -> list[tuple[float, int]]:
        """As llama-perplexity, with its fault: see `_first_token_elsewhere`."""
        before, after = sentence.split("_")
        whole = [self.model.tokenize(before + choice + after) for choice in choices]
        n = self.common(whole)
        starts = [n, n]
        if all(len(tokens) - n > 3 for tokens in whole):
            starts = [len(self.model.tokenize(before + choice)) for choice in choices]
        ends = [len(tokens) - (len(tokens) - start > 1) for tokens, start in zip(whole, starts, strict=True)]
        found = [self.logprobs(tokens)[a:b] for tokens, a, b in zip(whole, starts, ends, strict=True)]
        if starts[1] == n:
            found[1][0] = self.logprobs([*whole[0], whole[1][n]])[-1]
        return [(sum(values), len(values)) for values in found]

    def choice(self, query: str, choices: Sequence[str]) -> list[tuple[float, int]]:
        """(sum, bytes); a space stands between."""
        n = len(self.model.tokenize(query))
        whole = [self.model.tokenize(f"{query} {choice}") for choice in choices]
        assert all(tokens[:n] == whole[0][:n] for tokens in whole)
        return [(sum(self.logprobs(t)[n:]), len(c.encode())) for t, c in zip(whole, choices, strict=True)]


@pytest.fixture(scope="module")
def obvious() -> Obvious:
    return Obvious(TINY)


def expected(name: str, model: Obvious) -> list[list[tuple[float, int]]]:
    if name == "hellaswag":
        lines = HELLASWAG.splitlines()
        return [model.hellaswag(lines[i], lines[i + 2 : i + 6]) for i in range(0, len(lines), 6)]
    if name == "winogrande":
        rows = [line.split('"') for line in SETS[name].splitlines() if line]
        return [model.winogrande(sentence, rest.split(",")[1:3]) for _, sentence, rest in rows]
    rows_ = [json.loads(line) for line in CHOICE.splitlines()]
    return [model.choice(row["query"], row["choices"]) for row in rows_]


def agree(found: Outcome, wanted: Sequence[tuple[float, int]]) -> None:
    assert found.lengths == [length for _, length in wanted]
    assert np.allclose(found.logprobs, [total for total, _ in wanted], atol=0.1, rtol=0.002), (found, wanted)


@pytest.mark.parametrize("n_batch", [2048, 24])
@pytest.mark.parametrize("name", list(SETS))
def test_each_log_probability(
    name: str, n_batch: int, obvious: Obvious, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups of questions, one by one, and questions that are larger than a batch."""
    wanted = expected(name, obvious)
    for group in (2000, 1):
        monkeypatch.setattr(task, "GROUP", group)
        asked = request(name, context=replace(ONE_THREAD, n_batch=n_batch, n_ubatch=n_batch))
        found = sorted(outcomes(asked, tmp_path / "results"), key=lambda outcome: outcome.item)
        assert [outcome.item for outcome in found] == list(range(len(wanted)))
        for outcome, pairs in zip(found, wanted, strict=True):
            agree(outcome, pairs)
            means = [total / length for total, length in pairs]
            if abs(sorted(means)[-1] - sorted(means)[-2]) > 0.05:
                assert outcome.predicted_norm == means.index(max(means))
            sums = [total for total, _ in pairs]
            if abs(sorted(sums)[-1] - sorted(sums)[-2]) > 0.1:
                assert outcome.predicted == sums.index(max(sums))


def test_the_gaps_test_what_they_are_for(obvious: Obvious) -> None:
    """One question's choices are scored themselves, and in both llama-perplexity's fault shows."""
    for line, only_after in zip(GAPS.splitlines(), (False, False), strict=False):
        before, after = line.split('"')[1].split("_")
        choices = line.split(",")[-3:-1]
        whole = [obvious.model.tokenize(before + choice + after) for choice in choices]
        n = obvious.common(whole)
        assert all(len(tokens) - n > 3 for tokens in whole) == only_after


def test_several_workers_give_the_same(tmp_path: Path) -> None:
    one = outcomes(request("hellaswag"), tmp_path / "1")
    three = outcomes(request("hellaswag", context=ContextOptions(n_ctx=0, n_threads=3)), tmp_path / "3")
    assert [o.item for o in one] == [o.item for o in three]
    for a, b in zip(one, three, strict=True):
        assert np.allclose(a.logprobs, b.logprobs, atol=0.1)


def test_a_recurrent_model_shares_nothing(tmp_path: Path) -> None:
    path = write_mamba(tmp_path / "mamba.gguf")
    model = Obvious(path)
    found = sorted(outcomes(request("choice", model=ModelOptions(path)), tmp_path / "r"), key=lambda o: o.item)
    for outcome, line in zip(found, CHOICE.splitlines(), strict=True):
        row = json.loads(line)
        agree(outcome, model.choice(row["query"], row["choices"]))


def test_shots_are_other_questions_with_their_answers(obvious: Obvious, tmp_path: Path) -> None:
    asked = request("choice", shots=2, seed=5)
    rows = [json.loads(line) for line in CHOICE.splitlines()]
    solved = [f"{row['query']} {row['choices'][row['gold']]}\n\n" for row in rows]
    *shown, spare = sets.shuffled(len(rows), 6)[:3]
    found = outcomes(asked, tmp_path / "results")
    assert len(found) == len(rows)
    for outcome in found:
        before = "".join(solved[spare if shot == outcome.item else shot] for shot in shown)
        row = rows[outcome.item]
        agree(outcome, obvious.choice(before + row["query"], row["choices"]))


def test_what_is_shared_is_evaluated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a question, and from question to question what is shown first."""
    evaluated: list[int] = []
    trees: list[Sequence[task.Branch]] = []
    evaluate_one, decode = task.Branches.evaluate, task.Branches._evaluate

    def recorded(self: task.Branches, group: Any) -> Any:
        trees.extend(group)
        return evaluate_one(self, group)

    def counted(self: Any, context: Any, n: int, *rest: Any) -> bool:
        evaluated.append(n)
        return decode(self, context, n, *rest)

    monkeypatch.setattr(task.Branches, "evaluate", recorded)
    monkeypatch.setattr(task.Branches, "_evaluate", counted)
    monkeypatch.setattr(task, "GROUP", 1)
    assert measured(request("choice", shots=2)).scored == len(trees) == 8
    alone = [sum(branch.n_read for branch in tree) for tree in trees]
    once = [task.n_tokens(tree) for tree in trees]
    shown = max(task.shared([a[0].tokens, b[0].tokens]) for a, b in pairwise(trees))
    assert sum(once) < 0.6 * sum(alone)
    assert sum(evaluated) < sum(once) - 3 * shown
    assert shown > 20


def test_bytes_and_the_delimiter(obvious: Obvious, tmp_path: Path) -> None:
    line = json.dumps({"query": "Where is it?", "choices": ["in the é park", "home"], "gold": 0})
    asked = request("choice", data=line.encode(), delimiter="\nAnswer: ")
    (outcome,) = outcomes(asked, tmp_path / "results")
    assert outcome.lengths == [len("in the é park".encode()), 4]
    agree(outcome, obvious.choice("Where is it?\nAnswer:", ["in the é park", "home"]))


# --- which questions --------------------------------------------------------------------------------------------------


def test_the_generator_is_that_of_the_standard() -> None:
    """[rand.predef]: the 10000th number of a default mt19937 (seed 5489) is 4123659995."""
    draw = sets._mt19937(5489)
    assert [draw() for _ in range(10_000)][-1] == 4123659995


def test_draws() -> None:
    assert sets.chosen("hellaswag", 10042, 400, 1)[0] == 1791095845 * 10042 >> 32
    assert sorted(sets.chosen("hellaswag", 100, 0, 1)) == list(range(100))
    assert sets.chosen("winogrande", 100, 0, 1) == sets.chosen("choice", 100, 100, 7) == list(range(100))
    some = sets.chosen("choice", 100, 30, 1)
    assert len({*some}) == 30
    assert some[0] == 1791095845 * 100 >> 32
    assert sets.chosen("choice", 100, 30, 2) != some


def test_as_many_as_wanted() -> None:
    assert measured(request("choice", n=3)).scored == 3
    events = list(evaluate(request("choice", n=30)))
    assert any(isinstance(e, Warned) and "8 questions, not 30" in e.message for e in events)
    assert [e.done for e in events if isinstance(e, Running)][-1] == 8


def test_the_last_line_that_llama_perplexity_does_not_read() -> None:
    events = list(evaluate(request("winogrande", data=WINOGRANDE.encode())))
    assert isinstance(events[-1], Evaluation)
    assert events[-1].n == 7
    assert any(isinstance(e, Warned) and "last line" in e.message for e in events)


# --- what is wrong ----------------------------------------------------------------------------------------------------

ROW = {"query": "a", "choices": ["b", "c"], "gold": 0}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("hellaswag", HELLASWAG.replace("\n2\n", "\n7\n", 1), "line 14: .*0 to 3"),
        ("hellaswag", "\n".join(HELLASWAG.splitlines()[:-2]), "line 43: .*has 4"),
        ("hellaswag", HELLASWAG.replace("was very happy.", "", 1), "line 4: it is empty"),
        ("hellaswag", "", "no questions"),
        ("winogrande", WINOGRANDE.replace("_", "-", 3).replace("-", "_", 2) + "\n", "line 3: .*no _"),
        ("winogrande", WINOGRANDE + "10,no commas here\n\n", "line 9: .*index"),
        ("winogrande", WINOGRANDE.replace("dog,park,1", "dog,park,3"), "line 1: the answer is 1 or 2"),
        ("winogrande", WINOGRANDE.replace("dog,park,1", ",park,1"), "line 1: a choice is empty"),
        ("choice", CHOICE + '{"query": "a",\n', "line 9: it is no JSON"),
        ("choice", CHOICE + "[1]\n", "line 9: an object"),
        ("choice", json.dumps({**ROW, "gold": 2}), "line 1: 'gold'"),
        ("choice", json.dumps({**ROW, "gold": True}), "line 1: 'gold'"),
        ("choice", json.dumps({**ROW, "choices": ["b"]}), "line 1: 'choices' has 1"),
        ("choice", json.dumps({**ROW, "choices": ["b", " "]}), "line 1: .*not empty"),
        ("choice", json.dumps({"query": "a", "gold": 0}), "line 1: 'choices' is missing"),
        ("choice", json.dumps({**ROW, "query": "\ud800"}), "line 1: half"),
    ],
)
def test_damaged_lines(name: Any, data: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        measured(request(name, data=data.encode()))


def test_no_utf8() -> None:
    with pytest.raises(UsageError, match="line 2: it is no UTF-8"):
        measured(request("choice", data=b"\n\xff\n"))


def test_too_few_for_the_shots() -> None:
    with pytest.raises(UsageError, match="--shots 8: there are 7"):
        measured(request("choice", shots=8))


def test_a_prompt_longer_than_the_context_is_counted(tmp_path: Path) -> None:
    long = json.dumps({"query": "the dog " * 40, "choices": ["ran", "sat"], "gold": 0}) + "\n"
    asked = request("choice", data=(long + CHOICE).encode(), n_ctx=40)
    result = measured(asked)
    assert (result.n, result.scored, result.skipped) == (9, 8, {task.TOO_LONG: 1})
    assert outcomes(asked, tmp_path / "r")[0] == Outcome(0, 0, skipped=task.TOO_LONG, lengths=[], logprobs=())
    assert measured(replace(asked, n_ctx=None)).scored == 9


def test_without_bos_what_has_nothing_before_it_is_counted(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "nobos.gguf", metadata_overrides={"tokenizer.ggml.add_bos_token": False})
    data = '0,"_ is the last one of them all.",Tom,Ann,1\n' + WINOGRANDE
    result = measured(request("winogrande", data=data.encode(), model=ModelOptions(path)))
    assert result.skipped.get(task.NOTHING_BEFORE, 0) <= 1
    rows = [{"query": "", "choices": ["then", "an"], "gold": 0}, {"query": "the", "choices": ["in", "a"], "gold": 1}]
    lines = "\n".join(map(json.dumps, rows))
    result = measured(request("choice", data=lines.encode(), model=ModelOptions(path), delimiter=""))
    assert (result.scored, result.skipped) == (1, {task.NOTHING_BEFORE: 1})
    with_bos = write_llama(tmp_path / "bos.gguf")
    assert measured(request("choice", data=lines.encode(), model=ModelOptions(with_bos), delimiter="")).scored == 2


def test_eos_is_no_part_of_the_text(tmp_path: Path) -> None:
    plain = write_llama(tmp_path / "plain.gguf")
    ending = write_llama(tmp_path / "eos.gguf", metadata_overrides={"tokenizer.ggml.add_eos_token": True})
    found = [outcomes(request("hellaswag", model=ModelOptions(path)), tmp_path / "r") for path in (plain, ending)]
    assert [o.lengths for o in found[0]] == [o.lengths for o in found[1]]
    assert found[0] == found[1]


# --- results as a file ------------------------------------------------------------------------------------------------


def test_a_run_goes_on_wherever_it_was_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any byte: nothing is lost, nothing is done twice, and the figures are the same."""
    monkeypatch.setattr(task, "GROUP", 1)
    path = tmp_path / "results.jsonl"
    asked = request("hellaswag", results=path)
    whole = measured(asked)
    data = path.read_bytes()
    rows = [json.loads(line) for line in data.splitlines()[1:]]
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for cut in (0, 5, ends[0], ends[0] + 1, ends[2] - 1, ends[2], ends[5] + 40, len(data) - 1, len(data)):
        path.write_bytes(data[:cut])
        result = measured(asked)
        assert result.resumed == max(sum(end <= cut for end in ends) - 1, 0)
        assert (result.accuracy, result.accuracy_norm, result.complete) == (whole.accuracy, whole.accuracy_norm, True)
        assert [json.loads(line) for line in path.read_bytes().splitlines()[1:]] == rows


def test_what_is_complete_needs_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = request("choice", results=tmp_path / "r")
    whole = measured(asked)
    monkeypatch.setattr(task, "Model", None)
    assert replace(measured(asked), seconds=0, resumed=0) == replace(whole, seconds=0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 2}, "seed 1, not 2"),
        ({"shots": 1}, "shots 0, not 1"),
        ({"n": 3}, "n 8, not 3"),
        ({"n_ctx": 512}, "n_ctx None, not 512"),
        ({"data": CHOICE.replace("dog", "cow").encode()}, "file "),
        ({"context": replace(ONE_THREAD, type_k="f32")}, "cache_types"),
    ],
)
def test_another_run_is_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    path = tmp_path / "r"
    measured(request("choice", results=path))
    data = path.read_bytes()
    with pytest.raises(UsageError, match="another run.*" + named):
        measured(request("choice", results=path, **change))
    assert path.read_bytes() == data


def test_other_weights_are_refused(tmp_path: Path) -> None:
    """Under the same name and of the same size."""
    model, path = tmp_path / "m.gguf", tmp_path / "r"
    write_llama(model)
    asked = request("choice", model=ModelOptions(model), results=path)
    measured(asked)
    measured(replace(asked, context=replace(ONE_THREAD, n_threads=2)))  # no matter
    write_llama(model, seed=1)
    with pytest.raises(UsageError, match=r"another run.*weights"):
        measured(asked)


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    for data in (b"dear diary\nall is well\n", b"dear diary", b'{"a": 1}\n'):
        path.write_bytes(data)
        with pytest.raises(UsageError, match="no results of eval"):
            measured(request("choice", results=path))
        assert path.read_bytes() == data
    with pytest.raises(UsageError, match="folder"):
        measured(request("choice", results=tmp_path))


def test_two_processes_cannot_write_one_file(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with (
        ResultsFile(tmp_path / "r", {"a": 1}),
        pytest.raises(UsageError, match="another process"),
        ResultsFile(tmp_path / "r", {"a": 1}),
    ):
        pass


# --- llama.cpp's figures ----------------------------------------------------------------------------------------------


def test_wilson() -> None:
    """llama-perplexity's interval of 96 among 400."""
    found = wilson(96, 400)
    assert found.value == 0.24
    assert found.low == pytest.approx(0.200746, abs=1e-6)
    assert found.high == pytest.approx(0.284200, abs=1e-6)
    assert wilson(0, 0).value is None
    assert wilson(0, 5).low == pytest.approx(0)


def reference(shared: Path, name: str) -> dict[str, float]:
    figures = json.loads((shared / "data/reference/llama.cpp.json").read_text())["tasks"]
    found: dict[str, float] = figures[name]
    return found


@pytest.mark.parametrize(
    ("n", "name"),
    [
        pytest.param(None, "hellaswag 400 tasks", marks=pytest.mark.slow),
        pytest.param(0, "hellaswag all 10042 tasks", marks=pytest.mark.slow),
    ],
)
def test_hellaswag_as_llama_perplexity(shared: Path, stories: Path, n: int | None, name: str) -> None:
    data = (shared / "data/eval/hellaswag_val_full.txt").read_bytes()
    found = measured(Request("hellaswag", "hellaswag", data, ModelOptions(stories), n=n)).accuracy_norm
    wanted = reference(shared, name)
    assert 100 * (found.value or 0) == pytest.approx(wanted["acc_norm"], abs=1e-8)
    assert 100 * (found.low or 0) == pytest.approx(wanted["low"], abs=1e-4)
    assert 100 * (found.high or 0) == pytest.approx(wanted["high"], abs=1e-4)


def test_winogrande_as_llama_perplexity(shared: Path, stories: Path) -> None:
    data = (shared / "data/eval/winogrande-eval.csv").read_bytes()
    result = measured(Request("winogrande", "winogrande", data, ModelOptions(stories)))
    wanted = reference(shared, "winogrande")
    assert result.scored == wanted["tasks"]
    assert 100 * (result.accuracy_norm.value or 0) == pytest.approx(wanted["score"], abs=1e-4)
    assert 100 * (result.accuracy_norm.error or 0) == pytest.approx(wanted["error"], abs=1e-4)


@pytest.mark.parametrize("name", ["arc_easy", "piqa", "boolq"])
def test_the_sets_can_be_read(shared: Path, stories: Path, name: str) -> None:
    data = (shared / f"data/eval/{name}.jsonl").read_bytes()
    result = measured(Request("choice", name, data, ModelOptions(stories), n=20))
    assert result.scored + sum(result.skipped.values()) == 20
    assert result.accuracy_norm.value is not None
