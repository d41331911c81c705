"""A stream of completion events folded into one result, and what its end means for the process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llamacli import signals
from llamacli.engine.types import Finish, FinishReason, TokenLogprob
from llamacli.errors import ContextFull
from llamacli.tasks.complete import Event, Mode, Started, Weighed

if TYPE_CHECKING:
    from llamacli.tasks.weigh import Weight


@dataclass(frozen=True)
class Choice:
    """One answer. `text` is None where the answer has not its whole shape, and a part of it was not asked for."""

    index: int
    text: str | None
    reasoning: str | None
    finish_reason: FinishReason
    stop: str | None  # the stop string that ended it
    seed: int
    completion_tokens: int
    whole: bool | None = None  # whether it has its shape, where it was to have one
    logprobs: tuple[Token, ...] | None = None


@dataclass(frozen=True)
class Alternative:
    """A token that could have stood there. `bytes`: as numbers, where they are no UTF-8 and `token` is not exact."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None


@dataclass(frozen=True)
class Token(Alternative):
    """A token of the answer. `logprob` is the natural logarithm of the probability that the model itself gave it."""

    top_logprobs: tuple[Alternative, ...]


@dataclass(frozen=True)
class Timings:
    """Seconds, and tokens per second."""

    load: float
    prompt: float
    generation: float
    prompt_per_second: float
    generation_per_second: float


@dataclass(frozen=True)
class Completion:
    """The whole result, as `--json` shows it. `choices` is there with several samples only, `text` as in Choice."""

    model: str
    mode: Mode
    prompt_tokens: int
    cached_tokens: int  # of the prompt: they were loaded from the cache of evaluated prompts
    completion_tokens: int
    text: str | None
    reasoning: str | None
    finish_reason: FinishReason
    stop: str | None
    seed: int
    n_ctx: int
    timings: Timings
    sampling: Mapping[str, Any]
    whole: bool | None = None
    logprobs: tuple[Token, ...] | None = None
    probabilities: tuple[Weight, ...] | None = None
    choices: tuple[Choice, ...] | None = None

    def endings(self) -> list[Ending]:
        answers = self.choices or (self,)
        return [
            Ending(
                answer.finish_reason,
                self.n_ctx,
                answer.completion_tokens,
                answer.reasoning is not None,
                bool(answer.text),
                answer.whole is not False,
            )
            for answer in answers
        ]


@dataclass(frozen=True)
class Ending:
    """How one answer ended, for `verdict`."""

    reason: FinishReason
    n_ctx: int
    n_tokens: int
    reasoned: bool
    answered: bool
    whole: bool = True


def fold(events: Iterable[Event], *, logprobs: bool = False, partial: bool = True) -> Completion:
    """The blocking form of `complete`. `partial`: keep the text of an answer that has not its whole shape."""
    started: Started | None = None
    texts: dict[int, list[bytes]] = {}
    thoughts: dict[int, list[bytes]] = {}
    ends: dict[int, Finish] = {}
    weights: tuple[Weight, ...] | None = None
    for event in events:
        if isinstance(event, Started):
            started = event
            continue
        if isinstance(event, Weighed):
            weights = event.weights
            continue
        index, item = event
        if isinstance(item, Finish):
            ends[index] = item
        else:
            (thoughts if item.reasoning else texts).setdefault(index, []).append(item.data)
    assert started is not None
    choices = tuple(
        _choice(
            index,
            end,
            b"".join(texts.get(index, [])),
            b"".join(thoughts[index]) if index in thoughts else None,
            logprobs=logprobs,
            partial=partial,
        )
        for index, end in sorted(ends.items())
    )
    return _completion(started, choices, ends, weights)


def _choice(index: int, end: Finish, text: bytes, thoughts: bytes | None, *, logprobs: bool, partial: bool) -> Choice:
    shown = partial or end.whole is not False
    return Choice(
        index=index,
        text=text.decode("utf-8", "replace") if shown else None,
        reasoning=thoughts.decode("utf-8", "replace") if thoughts is not None else None,
        finish_reason=end.reason,
        stop=end.stop,
        seed=end.seed,
        completion_tokens=end.stats.completion_tokens,
        whole=end.whole,
        logprobs=shown_tokens(end) if logprobs and shown else None,
    )


def shown_tokens(end: Finish) -> tuple[Token, ...]:
    """Those of an answer, where their probabilities were asked for."""
    return tuple(map(_token, end.logprobs))


def _token(token: TokenLogprob) -> Token:
    return Token(*_shown(token), tuple(Alternative(*_shown(other)) for other in token.top))


def _shown(token: TokenLogprob) -> tuple[str, float, tuple[int, ...] | None]:
    text = token.piece.decode("utf-8", "replace")
    return text, token.logprob, None if text.encode() == token.piece else tuple(token.piece)


def _completion(
    started: Started, choices: tuple[Choice, ...], ends: Mapping[int, Finish], weights: tuple[Weight, ...] | None
) -> Completion:
    first, stats = choices[0], [end.stats for end in ends.values()]
    n_tokens = sum(s.completion_tokens for s in stats)
    prompt = max(s.prompt_seconds for s in stats)
    generation = max(s.generation_seconds for s in stats)
    decodes = sum(s.decodes for s in stats) if len(stats) == 1 else max(n_tokens - len(stats), 0)
    return Completion(
        model=started.model,
        mode=started.mode,
        prompt_tokens=started.n_prompt,
        cached_tokens=started.n_prompt - max(s.evaluated_tokens for s in stats),
        completion_tokens=n_tokens,
        text=first.text,
        reasoning=first.reasoning,
        finish_reason=first.finish_reason,
        stop=first.stop,
        seed=first.seed,
        n_ctx=started.n_ctx,
        timings=Timings(
            load=round(stats[0].load_seconds, 4),
            prompt=round(prompt, 4),
            generation=round(generation, 4),
            prompt_per_second=round(max(s.evaluated_tokens for s in stats) / prompt, 2) if prompt else 0.0,
            generation_per_second=round(decodes / generation, 2) if generation else 0.0,
        ),
        sampling={name: value for name, value in vars(started.sampling).items() if name != "seed"},
        whole=first.whole,
        logprobs=first.logprobs,
        probabilities=weights,
        choices=choices if len(choices) > 1 else None,
    )


def verdict(endings: Iterable[Ending]) -> None:
    """What the ends of the answers mean for the process: nothing, a signal, or ContextFull (code 8)."""
    for end in endings:
        if end.reason == "interrupted":
            signals.check()
        if end.reason == "context":
            raise ContextFull(
                f"the context of {end.n_ctx} tokens is full; the text ends there",
                hint="-n N ends earlier; -c N makes room, up to the size the model was trained with",
            )
        if end.reasoned and not end.answered:
            if end.reason == "stop":
                raise ContextFull("the model ended inside its reasoning; there is no answer", hint="try --no-think")
            raise ContextFull(
                f"after {end.n_tokens} tokens the model was still reasoning; there is no answer",
                hint="a larger -n, or --no-think",
            )
        if not end.whole:
            raise ContextFull(
                f"after {end.n_tokens} tokens the answer has not its whole shape",
                hint="a larger -n; --partial prints what there is",
            )
