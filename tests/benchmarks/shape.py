"""What a shape costs at a vocabulary of 152k tokens: python tests/benchmarks/shape.py [-n PAIRS]

`start`: from an open model to a matcher, the vocabulary read. `token`: what sampling takes with the shape and without,
on the same logits, with nothing decoded; the difference is the shape's. `misfit`: the same where the first token that
is drawn never fits, so that the whole mask is needed: what a model costs that knows nothing of the shape.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import side_by_side as bench
from side_by_side import Row, Section

TOKENS = 300
SHAPES = {
    "schema": '{"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}, '
    '"tags": {"type": "array", "items": {"enum": ["a", "b"]}}}, "required": ["name", "age", "tags"]}',
    "choices": '["positive", "negative", "neither"]',
    "regex": "([A-Z][a-z]+ ){1,20}\\.",
    "grammar": 'root ::= "[" (string ("," string)*)? "]" | "(" root ")"\nstring ::= "\\"" [^"\\\\\\x00-\\x1f]* "\\""',
}


def start(options: argparse.Namespace, section: Section) -> None:
    section.columns = ("llamacli", "")
    path = bench.model(options.models, "wide")
    for kind in SHAPES:
        times = [bench.in_child(_start, path, kind) for _ in range(options.pairs)]
        section.rows.append(Row(kind, "s", times))


def _start(path: Path, kind: str) -> float:
    from llamacli.engine.model import Model
    from llamacli.engine.types import ModelOptions, Shape

    with Model(ModelOptions(path, vocab_only=True)) as model:
        began = time.perf_counter()
        from llamacli.engine.shape import Shapes

        Shapes(model).matcher(Shape(kind, SHAPES[kind], kind))  # type: ignore[arg-type]
        return time.perf_counter() - began


def token(options: argparse.Namespace, section: Section, *, misfit: bool) -> None:
    section.columns = ("shaped", "free")
    path = bench.model(options.models, "wide")
    for kind in SHAPES:
        pairs = [bench.in_child(_token, path, kind, misfit) for _ in range(options.pairs)]
        section.rows.append(Row(kind, "ms", [shaped for shaped, _ in pairs], [free for _, free in pairs]))


def _token(path: Path, kind: str, misfit: bool) -> tuple[float, float]:
    """Milliseconds a token, with the shape and without."""
    from llamacli.engine.context import Context
    from llamacli.engine.model import Model
    from llamacli.engine.sampling import Sampler
    from llamacli.engine.shape import Shapes
    from llamacli.engine.types import ContextOptions, ModelOptions, Sampling, Shape

    sampling = Sampling(seed=1)
    with Model(ModelOptions(path)) as model, Context(model, ContextOptions(n_ctx=256)) as context:
        context.evaluate(model.tokenize("Once upon a time"))
        shapes, shape = Shapes(model), Shape(kind, SHAPES[kind], kind)  # type: ignore[arg-type]
        matcher = shapes.matcher(shape)
        spent = 0.0
        with Sampler(model, sampling, 1, 256) as sampler:
            sampler.sample_within(context, -1, lambda _: True, matcher.allowed)  # its buffers are made
            for _ in range(TOKENS):
                began = time.perf_counter()
                fits = (lambda _: False) if misfit else matcher.allows
                drawn = sampler.sample_within(context, -1, fits, matcher.allowed)
                ends = model.ends_generation(drawn)
                if not ends:
                    matcher.accept(drawn)
                spent += time.perf_counter() - began
                if ends or matcher.ended:
                    matcher = shapes.matcher(shape)
            began = time.perf_counter()
            for _ in range(TOKENS):
                sampler.sample(context)
            free = time.perf_counter() - began
    return spent / TOKENS * 1000, free / TOKENS * 1000


SECTIONS = {"start": start, "token": partial(token, misfit=False), "misfit": partial(token, misfit=True)}


def main() -> None:
    bench.report(bench.parser(__doc__, list(SECTIONS)).parse_args(), SECTIONS)


if __name__ == "__main__":
    main()
