"""An open model with its context: what a chat talks to, and may come back to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from llamacli import signals
from llamacli.engine.context import Context
from llamacli.engine.model import Model
from llamacli.engine.prompt_cache import PromptCache
from llamacli.engine.text import MARKER_TOKENS
from llamacli.engine.types import ContextOptions, ModelOptions, Prompt
from llamacli.errors import ContextFull, OutOfMemory, UsageError
from llamacli.tasks.conversation import Turn, messages
from llamacli.tasks.rendering import render

#: Tokens of a context at first, unless the model was trained with fewer; and where memory is short.
START_CTX, SMALLEST_CTX = 8192, 1024
#: It grows to multiples of this; llama.cpp rounds up to it anyway.
STEP_CTX = 256
#: Where a model does not say what it was trained with.
MOST_CTX = 1 << 20


class Loaded:
    """Close it when done. `n_ctx` is how many tokens the context may hold now; it grows, unless a size was given."""

    def __init__(
        self,
        name: str,
        options: ModelOptions,
        context: ContextOptions,
        n_ctx: int | None,
        progress: Callable[[float], None] | None = None,
        cache: PromptCache | None = None,
    ) -> None:
        """`n_ctx`: the size that was asked for, 0 for the trained one. Raises what Model and Context raise."""
        self.name, self.options, self._cache = name, options, cache
        self.spent = 0.0  # seconds, for what the context holds
        self._recalled = 0
        self.model = Model(options, context=replace(context, n_ctx=n_ctx or START_CTX), progress=progress)
        try:
            if not self.model.writes_text:
                raise UsageError(f"{name}: this model reads text but does not write it")
            self.model.show_tokens(MARKER_TOKENS)
            trained = self.model.n_ctx_train or MOST_CTX
            self.n_ctx = min(START_CTX, trained) if n_ctx is None else n_ctx or trained
            self._most = trained if n_ctx is None else self.n_ctx
            self.context = self._begin(context, smallest=self.n_ctx if n_ctx is not None else SMALLEST_CTX)
        except BaseException:
            self.model.close()
            raise

    def _begin(self, options: ContextOptions, smallest: int) -> Context:
        """A context, of half the size as long as memory is short."""
        while True:
            try:
                return Context(self.model, replace(options, n_ctx=self.n_ctx))
            except OutOfMemory:
                if self.n_ctx // 2 < smallest:
                    raise
                self.n_ctx //= 2

    def recall(self, tokens: Sequence[int]) -> None:
        """Before the first answer: what an earlier process has evaluated of this prompt."""
        if self._cache is not None and not self.context.tokens:
            self._cache.fill(self.context, tokens)
            self._recalled = len(self.context.tokens)

    def close(self) -> None:
        if self._cache is not None and not signals.flag[0]:
            n = len(self.context.tokens)
            self._cache.keep(self.context, n, n - self._recalled, self.spent)
        self.context.close()
        self.model.close()

    def grow(self, n_tokens: int) -> bool:
        """Whether the context now holds n_tokens: twice its size where memory allows, the trained size at most."""
        if n_tokens <= self.n_ctx:
            return True
        if n_tokens > self._most:
            return False
        least = -(-n_tokens // STEP_CTX) * STEP_CTX
        for size in sorted({min(size, self._most) for size in (max(2 * self.n_ctx, least), least)}, reverse=True):
            try:
                self.context.resize(size)
            except OutOfMemory:
                continue
            self.n_ctx = size
            return True
        self._most = max(self.n_ctx, least - STEP_CTX)  # not tried again at every token
        return False

    def prompt(
        self, system: str | None, turns: Sequence[Turn], *, template: str | None, variables: Mapping[str, object]
    ) -> tuple[Prompt, list[int]]:
        """These turns as a prompt for the next answer, and its tokens. Raises BadModelFile, UsageError, ContextFull."""
        if template is None and not self.model.chat_template:
            raise UsageError(
                f"{self.name} has no chat template, so it cannot hold a conversation",
                hint="--chat-template NAME gives one; llamacli complete continues a text without",
            )
        n_bytes = sum(len(turn.content) for turn in turns)
        # Tokenising a text of 100 MB takes minutes, and no context holds it.
        if n_bytes > 1 << 20 and turns and (n := self.model.at_least_tokens(len(turns[-1].content))) > self._most:
            raise ContextFull(f"the message has at least {n} tokens, and the context holds {self._most}")
        rendered = render(self.model, messages(system, turns), template=template, variables=variables)
        own = [turn for turn in turns if turn.model == self.name and turn.tokens]
        return rendered, self.model.tokenize_prompt(_with_tokens(rendered, own))

    def spelt(self, tokens: Sequence[int]) -> bytes:
        """The text of tokens."""
        return b"".join(self.model.piece(token) for token in tokens)


def _with_tokens(prompt: Prompt, answers: Sequence[Turn]) -> Prompt:
    """The same prompt, but answers are the tokens that were sampled: those the context holds. Text may give others.

    An answer is known by what stands before it, which is the prompt's own end. Where a template edits answers, or
    writes more between two control tokens, they stay text.
    """
    last = prompt.fragments[-1]
    before = last if isinstance(last, str) else ""
    waiting = [*answers]
    fragments: list[str | int] = []
    for fragment in prompt.fragments:
        known = next((i for i, turn in enumerate(waiting) if fragment == before + turn.content), None)
        if known is None:
            fragments.append(fragment)
        else:
            fragments += [*([before] if before else []), *waiting[known].tokens]
            del waiting[: known + 1]
    return replace(prompt, fragments=tuple(fragments))
