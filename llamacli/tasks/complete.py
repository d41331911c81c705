"""Complete a text or answer as an assistant: a request in, a stream of events out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from llamacli.engine.context import Context
from llamacli.engine.generate import Limits, generate, generate_many
from llamacli.engine.model import Model
from llamacli.engine.prompt_cache import PromptCache
from llamacli.engine.sampling import resolve
from llamacli.engine.text import MARKER_TOKENS, Reasoning
from llamacli.engine.types import Chunk, ContextOptions, Finish, Message, ModelOptions, Prompt, Sampling, Shape
from llamacli.errors import ContextFull, UsageError
from llamacli.models.reference import name
from llamacli.tasks.infill import prompt_tokens
from llamacli.tasks.rendering import render, variables_of

if TYPE_CHECKING:
    from llamacli.tasks.weigh import Choices, Weight

Mode = Literal["chat", "text", "infill"]
#: Room for an answer whose length is not limited, tokens.
ANSWER_ROOM = 4096


@dataclass(frozen=True)
class Request:
    """What to complete, and how. `n_ctx` None fits the context to the prompt and the answer, 0 is the trained size.

    `suffix`: what follows the gap that the answer fills; `prompt` is then what stands before it. `logprobs`: how many
    of the most probable tokens to name at each place, None for no probabilities. `weigh`: say how probable each choice
    is, for a shape of choices and one sample.
    """

    model: ModelOptions
    prompt: str
    system: str | None = None
    suffix: str | None = None
    raw: bool = False
    chat: bool = False
    special: bool = False
    think: str | None = None  # "off", "on" or an effort: low, medium, high
    unasked: frozenset[str] = frozenset()  # "system", "think": of settings, and give way where there is no template
    template: str | None = None  # in place of the model's own
    template_args: Mapping[str, object] = field(default_factory=dict)
    earlier: tuple[Message, ...] = ()  # the conversation that the prompt goes on with
    sampling: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    shape: Shape | None = None
    weigh: bool = False
    logprobs: int | None = None
    samples: int = 1
    n_ctx: int | None = None
    context: ContextOptions = field(default_factory=lambda: ContextOptions(n_ctx=0))
    cache: PromptCache | None = None  # of evaluated prompts, on disk


@dataclass(frozen=True)
class Started:
    """The model is open and the prompt is known."""

    model: str
    mode: Mode
    prompt: str
    n_prompt: int
    n_ctx: int
    n_ctx_train: int
    samples: int
    sampling: Sampling


@dataclass(frozen=True)
class Progress:
    """Loading (a fraction of 1) or reading the prompt (tokens done, of how many)."""

    loading: Callable[[float], None] | None = None
    prompt: Callable[[int, int], None] | None = None


@dataclass(frozen=True)
class Weighed:
    """How probable each choice is."""

    weights: tuple[Weight, ...]


#: The last: (number of the sample, what happened to it)
Event = Started | Weighed | tuple[int, Chunk | Finish]


def complete(request: Request, progress: Progress = Progress()) -> Iterator[Event]:
    """Started, then chunks, then a Finish for each sample, then Weighed where that was asked for.

    Several samples come one after the other, when complete. A shape is checked before the model is loaded.

    Raises UsageError, ModelNotFound, BadModelFile, ContextFull, EngineError, OutOfMemory.
    """
    began = time.perf_counter()
    if request.shape is not None:
        from llamacli.engine.shape import Shapes, check

        check(request.shape)
    planned = replace(request.context, n_ctx=_planned_size(request))
    with Model(request.model, context=planned, progress=progress.loading) as model:
        if not model.writes_text:
            raise UsageError(f"{request.model.path}: this model reads text but does not write it")
        mode = choose_mode(request, model)
        sampling = resolve(request.sampling, model)
        prompt, tokens = prompt_of(request, model, mode)
        choices = _choices(request, model)
        options = _context_options(request, model, len(tokens))
        n_ctx = _answer_limit(request, options, len(tokens))
        if choices is not None:
            n_sequences = max(options.n_sequences, choices.n_sequences)
            options = replace(options, n_ctx=options.n_ctx + choices.n_tokens, n_sequences=n_sequences, kv_unified=True)
        if request.cache is not None:
            options = request.cache.planned(model, options, tokens)
        matcher = Shapes(model).matcher(request.shape) if request.shape is not None else None
        with Context(model, options) as context:
            n_ctx = min(n_ctx, context.n_ctx)
            limits = Limits(request.max_tokens, n_ctx, request.stops)
            if request.cache is not None:
                request.cache.fill(context, tokens)
            load_seconds = time.perf_counter() - began
            yield Started(
                model=name(request.model.path),
                mode=mode,
                prompt=request.prompt,
                n_prompt=len(tokens),
                n_ctx=n_ctx,
                n_ctx_train=model.n_ctx_train,
                samples=request.samples,
                sampling=sampling,
            )

            def splitter() -> Reasoning | None:
                return Reasoning(prompt.text, channels=model.has_channels) if mode == "chat" else None

            if request.samples > 1:
                for index, chunks, finish in generate_many(
                    context,
                    tokens,
                    sampling,
                    limits,
                    request.samples,
                    reasoning=splitter,
                    matcher=matcher,
                    logprobs=request.logprobs,
                    load_seconds=load_seconds,
                    progress=progress.prompt,
                ):
                    for chunk in chunks:
                        yield index, chunk
                    yield index, finish
                return
            for item in generate(
                context,
                tokens,
                sampling,
                limits,
                reasoning=splitter(),
                matcher=matcher,
                logprobs=request.logprobs,
                load_seconds=load_seconds,
                progress=progress.prompt,
            ):
                yield 0, item
            if isinstance(item, Finish) and request.cache is not None and item.reason != "interrupted":
                stats = item.stats  # the answer is there by now
                request.cache.keep(context, len(tokens), stats.evaluated_tokens, stats.prompt_seconds)
            if choices is not None and isinstance(item, Finish) and item.reason != "interrupted":
                weights = choices.weigh(context, options, [*tokens, *item.tokens[: item.n_before]])
                if weights is not None:
                    yield Weighed(weights)


def choose_mode(request: Request, model: Model) -> Mode:
    """`chat` where the model has a template and neither `raw` nor a suffix forbids it.

    Raises UsageError where `chat` insists.
    """
    if request.suffix is not None:
        return "infill"
    if request.raw:
        return "text"
    if request.template is not None or model.chat_template:
        return "chat"
    if request.chat:
        raise UsageError(
            f"{request.model.path} has no chat template, so it cannot answer as an assistant",
            hint="without --chat the text itself is continued",
        )
    if request.system is not None and "system" not in request.unasked:
        raise UsageError(
            f"{request.model.path} has no chat template, so it knows no system message",
            hint="put the text into the prompt",
        )
    if request.think is not None and "think" not in request.unasked:
        raise UsageError(f"{request.model.path} has no chat template, so --think and --no-think reach nobody")
    if request.earlier:
        raise UsageError(
            f"{request.model.path} has no chat template, so it knows no conversation", hint="--chat-template gives one"
        )
    return "text"


def prompt_of(request: Request, model: Model, mode: Mode) -> tuple[Prompt, list[int]]:
    """The prompt as text and as tokens. Raises ContextFull, BadModelFile."""
    limit = max(model.n_ctx_train or 1 << 20, request.n_ctx or 0)
    n_bytes = len((request.prompt + (request.suffix or "")).encode("utf-8", "replace"))
    # Tokenising a text of 100 MB takes minutes, and no context holds it.
    if n_bytes > 1 << 20 and (at_least := model.at_least_tokens(n_bytes)) > limit:
        raise ContextFull(f"the prompt has at least {at_least} tokens, and the context holds {limit}")
    if mode == "infill":
        return Prompt((), request.prompt), prompt_tokens(model, request.prompt, request.suffix or "")
    if mode == "text":
        if request.special:
            model.show_all_tokens()
        prompt = Prompt((request.prompt,), request.prompt)
        return prompt, _trim_eos(model, model.tokenize(request.prompt, parse_special=request.special))
    model.show_tokens(MARKER_TOKENS)
    messages = [*request.earlier, Message("user", request.prompt)]
    if request.system is not None:
        messages.insert(0, Message("system", request.system))
    prompt = render(
        model, messages, template=request.template, variables=variables_of(request.think, request.template_args)
    )
    return prompt, model.tokenize_prompt(prompt)


def _choices(request: Request, model: Model) -> Choices | None:
    if not request.weigh or request.samples > 1 or request.shape is None or request.shape.kind != "choices":
        return None
    from llamacli.tasks.weigh import Choices

    return Choices(model, json.loads(request.shape.source))


def _trim_eos(model: Model, tokens: list[int]) -> list[int]:
    """Some vocabularies end every text with EOS: a text that is to go on must not."""
    return tokens[:-1] if len(tokens) > 1 and tokens[-1] == model.eos and model.adds_eos else tokens


def _planned_size(request: Request) -> int:
    """The context's size before the prompt is tokenised, for the choice of GPU layers: about two bytes a token."""
    if request.n_ctx:
        return request.n_ctx
    answer = ANSWER_ROOM if request.max_tokens is None else request.max_tokens
    texts = [request.prompt, request.suffix or "", *(message.content for message in request.earlier)]
    return sum(len(text.encode("utf-8", "replace")) for text in texts) // 2 + answer * request.samples


def context_size(request: Request, model: Model, n_prompt: int) -> int:
    """The context of one answer, in tokens: what was asked for, or what fits the prompt and the answer."""
    answer = ANSWER_ROOM if request.max_tokens is None else request.max_tokens
    trained = model.n_ctx_train or 1 << 20
    size = request.n_ctx if request.n_ctx is not None else min(n_prompt + max(answer, 1), trained)
    return size or trained


def _context_options(request: Request, model: Model, n_prompt: int) -> ContextOptions:
    size = context_size(request, model, n_prompt)
    room = max(size - n_prompt, 1)
    return replace(request.context, n_ctx=size + room * (request.samples - 1), n_sequences=request.samples)


def _answer_limit(request: Request, options: ContextOptions, n_prompt: int) -> int:
    """Positions that one answer may use, its prompt included."""
    if options.n_sequences == 1:
        return options.n_ctx
    room = (options.n_ctx - n_prompt) // options.n_sequences
    return n_prompt + max(room, 0)
