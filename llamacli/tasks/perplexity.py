"""Perplexity of models on texts, by llama-perplexity's algorithm, and how far models' predictions are apart."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from llamacli import signals
from llamacli.engine.types import ContextOptions, ModelOptions
from llamacli.errors import UsageError
from llamacli.tasks import logits_file
from llamacli.tasks.chunked import Estimate, Perplexity, Reader, Run
from llamacli.tasks.files import refuse
from llamacli.tasks.prompt import decode, read_file

#: Tokens of a chunk, as everybody's figures have it.
N_CTX = 512
#: A chunk's second half must have a token to score.
LEAST_CTX = 4


@dataclass(frozen=True)
class Text:
    """A text and where it came from."""

    name: str
    text: str


@dataclass(frozen=True)
class Request:
    """What to measure. `context` holds all about the context but its size; `n_ctx` 0 is the trained size.

    The models are compared with `against`, with the file `kl_base`, or, where there are several, with the first. With
    `kl_base_nll`, the `token_nll` of the run that wrote the file, their perplexities are compared exactly.
    """

    models: Sequence[ModelOptions]
    texts: Sequence[Text]
    against: ModelOptions | None = None
    kl_base: Path | None = None
    kl_base_nll: np.ndarray | None = None
    save_logits: Path | None = None
    force: bool = False
    n_ctx: int | None = None
    most_chunks: int | None = None
    context: ContextOptions = field(default_factory=lambda: ContextOptions(n_ctx=0))


@dataclass(frozen=True)
class Warned:
    """What a person should know."""

    message: str


@dataclass(frozen=True)
class Started:
    """Models and texts fit together; so many chunks will be evaluated by one model or several at once."""

    n_chunk: int


Event = Warned | Started | Estimate | Perplexity


def read_text(source: Path | bytes, replace_invalid: bool | None) -> Text:
    """A file, or what came through standard input; as for llama-perplexity without one final line break.

    Raises UsageError where it is missing or no UTF-8, StorageError.
    """
    if isinstance(source, bytes):
        title, data = "standard input", source
    else:
        title, data = str(source), read_file(source, str(source))
    return Text(title, decode(data.removesuffix(b"\n"), title, replace_invalid))


def perplexity(request: Request, loading: Callable[[float], None] | None = None) -> Iterator[Event]:
    """Measure: warnings, Started, an Estimate after each chunk of each model, a Perplexity at each end.

    A signal, where it is deferred, ends the chunks: what was measured until then is the result, unless there is none.
    Raises UsageError for what does not fit together, and what models, contexts and files raise.
    """
    _refuse_contradictions(request)
    with contextlib.ExitStack() as stack:
        base_file = stack.enter_context(logits_file.Reader(request.kl_base)) if request.kl_base else None
        readers = []
        for options in (*((request.against,) if request.against else ()), *request.models):
            reader = Reader(options, request.context, loading)
            stack.callback(reader.close)
            readers.append(reader)
            signals.check()
        jobs = list(_jobs(request, readers, base_file))
        runs = [job for job in jobs if isinstance(job, Run)]
        yield from (job for job in jobs if isinstance(job, Warned))
        yield Started(sum(len(run.chunks) for run in runs))
        for run in runs:
            yield from run.measure(request.context, request.save_logits, force=request.force)
            if signals.flag[0]:
                break


def _refuse_contradictions(request: Request) -> None:
    if request.kl_base and request.against:
        raise UsageError("--kl-base and --against exclude each other: both name what to compare with")
    if request.save_logits and (len(request.models) > 1 or len(request.texts) != 1 or request.against):
        raise UsageError("--save-logits writes what one model makes of one text")
    if request.save_logits and request.kl_base:
        raise UsageError("--save-logits and --kl-base exclude each other")
    if request.save_logits:
        refuse(request.save_logits, force=request.force)
    if request.kl_base and len(request.texts) > 1:
        raise UsageError(f"--kl-base holds the tokens of one text; there are {len(request.texts)}")
    if not request.texts and not request.kl_base:
        raise UsageError("there is no text", hint="name a file, or - for standard input")


def _jobs(request: Request, readers: Sequence[Reader], base_file: logits_file.Reader | None) -> Iterator[Run | Warned]:
    """What is evaluated together: a text's chunks, and the models that make the same tokens of it."""
    n_ctx = _chunk_size(request, readers, base_file)
    for reader in readers:
        if 0 < reader.model.n_ctx_train < n_ctx:
            yield Warned(
                f"chunks of {n_ctx} tokens, but {reader.name} was trained with {reader.model.n_ctx_train}: "
                "beyond that its predictions fall apart"
            )
    if base_file is not None:
        yield _against_file(request, readers, base_file)
        return
    for text in request.texts:
        tokens = [reader.tokenize(text.text) for reader in readers]
        alike = [readers[0]]
        apart: list[Run] = []
        for reader, found in zip(readers[1:], tokens[1:], strict=True):
            reason = _difference(readers[0], reader, tokens[0], found)
            if reason is None:
                alike.append(reader)
                continue
            if request.against is not None:
                raise UsageError(f"{reader.name} cannot be compared with {readers[0].name}: {reason}")
            yield Warned(f"{reader.name} cannot be compared with {readers[0].name}: {reason}")
            apart.append(Run(text.name, [reader], _cut(found, n_ctx, request, text, reader)))
        chunks = _cut(tokens[0], n_ctx, request, text, readers[0])
        yield Run(text.name, alike, chunks, base_is_shown=request.against is None)
        yield from apart


def _chunk_size(request: Request, readers: Sequence[Reader], base_file: logits_file.Reader | None) -> int:
    n_ctx = N_CTX if request.n_ctx is None else request.n_ctx
    if base_file is not None:
        if request.n_ctx is not None and n_ctx != base_file.n_ctx:
            raise UsageError(
                f"--ctx-size {n_ctx}, but {base_file.path} was made with {base_file.n_ctx}",
                hint=f"leave it out, or say -c {base_file.n_ctx}",
            )
        return base_file.n_ctx
    if n_ctx == 0:
        sizes = {reader.model.n_ctx_train for reader in readers}
        n_ctx = min(sizes)
        if len(sizes) > 1 or n_ctx == 0:
            raise UsageError("-c 0 is the size that the model was trained with: say which size", hint="-c 512")
    if n_ctx < LEAST_CTX:
        raise UsageError(f"--ctx-size {n_ctx}: chunks have at least {LEAST_CTX} tokens")
    return n_ctx


def _difference(first: Reader, other: Reader, tokens: np.ndarray, others: np.ndarray) -> str | None:
    """Why two models cannot be compared token by token."""
    if first.model.n_vocab != other.model.n_vocab:
        return f"their vocabularies have {first.model.n_vocab} and {other.model.n_vocab} tokens"
    if not np.array_equal(tokens, others):
        return "they split the text differently"
    return None


def _cut(tokens: np.ndarray, n_ctx: int, request: Request, text: Text, reader: Reader) -> np.ndarray:
    """(n_chunk, n_ctx). Raises UsageError where there are fewer than two."""
    if len(tokens) < 2 * n_ctx:
        hint = f"a longer text, or a smaller -c: {len(tokens) // 2} at most" if len(tokens) // 2 >= LEAST_CTX else None
        raise UsageError(
            f"{text.name} is too short: {reader.name} makes {len(tokens)} tokens of it, "
            f"and two chunks of {n_ctx} need {2 * n_ctx}",
            hint=hint or "a longer text",
        )
    n_chunk = min(len(tokens) // n_ctx, request.most_chunks or len(tokens))
    return tokens[: n_chunk * n_ctx].reshape(n_chunk, n_ctx)


def _against_file(request: Request, readers: Sequence[Reader], base: logits_file.Reader) -> Run:
    for reader in readers:
        if reader.model.n_vocab != base.n_vocab:
            raise UsageError(
                f"{reader.name} has a vocabulary of {reader.model.n_vocab} tokens, "
                f"and {base.path} was made with {base.n_vocab}"
            )
        for text in request.texts:
            tokens = reader.tokenize(text.text)[: base.tokens.size]
            if not np.array_equal(tokens, base.tokens.ravel()):
                raise UsageError(
                    f"{text.name} is not the text that {base.path} was made of, or {reader.name} splits it differently",
                    hint="leave the text out: the file holds its tokens",
                )
    title = request.texts[0].name if request.texts else str(base.path)
    return Run(title, list(readers), base.tokens[: request.most_chunks], file=base, base_nll=request.kl_base_nll)
