"""What need not be evaluated again: the longest common prefix of a prompt and of what is held, in memory or on disk.

In memory the context itself says what it holds (`reuse`). From disk (`PromptCache`) the context is filled before, so
that the rest is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from llamacli.engine import native, prompt_files
from llamacli.engine.context import Context
from llamacli.engine.fingerprint import fingerprint, identity
from llamacli.engine.model import Model
from llamacli.engine.native import C
from llamacli.engine.types import ContextOptions

#: Seconds of evaluation that a file must spare to be written; it is read again in a tenth of them.
_WORTH_SECONDS = 0.5
#: Bytes of weights times tokens below which a prompt is quick on any machine: nothing is looked for.
_QUICK = 5_000_000_000
#: A byte of a state is loaded in the time in which so many bytes of weights are multiplied with one token.
_LOADING = 600
#: Tokens that a file must share with a prompt.
_LEAST = 32


def reuse(context: Context, tokens: Sequence[int]) -> int:
    """How many of `tokens` the context holds already; what it holds beyond them is forgotten.

    At least one token is left to evaluate, for its logits.
    """
    return context.keep(min(common_prefix(context.tokens, tokens), len(tokens) - 1))


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The length of the longest beginning of both."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class PromptCache:
    """The stored prompts of one model, for contexts of one kind."""

    def __init__(self, root: Path, limit: int | None, paths: Sequence[Path]) -> None:
        """`root` is the folder of all models, `paths` are the files of this one, adapters too.

        `limit`: what all models' may take, in bytes; None: the usual.

        To be made before the model is opened: a file that is replaced in between is noticed.
        """
        self._root, self._limit, self._paths = root, limit, tuple(paths)
        self._identity = identity(self._paths)
        self._folders: dict[bool, Path] = {}  # by how positions are turned there

    def planned(self, model: Model, options: ContextOptions, tokens: Sequence[int]) -> ContextOptions:
        """The options of a context that can be filled: what is stored may be longer than the prompt that it begins."""
        found = self._find(model, options, tokens)
        if found is None or found.n_tokens <= options.n_ctx:
            return options
        larger = replace(options, n_ctx=found.n_tokens)
        return larger if model.turns_long(larger.n_ctx) == model.turns_long(options.n_ctx) else options

    def fill(self, context: Context, tokens: Sequence[int]) -> None:
        """Let an empty context hold what is stored of a prompt, if that spares more than a moment."""
        found = self._find(context.model, context.options, tokens) if not context.tokens else None
        loaded = prompt_files.load(found.path) if found is not None and found.n_tokens <= context.n_ctx else None
        if loaded is not None:
            tokens, state = loaded
            context.restore(state, tokens)

    def _find(self, model: Model, options: ContextOptions, tokens: Sequence[int]) -> prompt_files.Found | None:
        if not self._root.is_dir() or not self._pays(model, len(tokens)):
            return None
        folder = self._of(model, options)
        found = prompt_files.find(folder, tokens[:-1], _LEAST) if folder is not None else None
        pays = found is not None and found.n_shared * model.header.file_size > _LOADING * found.n_state
        return found if pays else None

    def keep(self, context: Context, n_tokens: int, n_evaluated: int, seconds: float) -> None:
        """Store the first n_tokens that a context holds, if evaluating n_evaluated of them took long enough."""
        if seconds < _WORTH_SECONDS or len(context.tokens) < n_tokens or not self._pays(context.model, n_evaluated):
            return
        folder = self._of(context.model, context.options)
        if folder is None or context.keep(n_tokens) < n_tokens:
            return
        state = context.state()
        prompt_files.store(folder, context.tokens, state, model=str(self._paths[0].absolute()), limit=self._limit)

    def _pays(self, model: Model, n_tokens: int) -> bool:
        # A recurrent model's state serves only what goes on from its very end.
        recurrent = C.llama_model_is_recurrent(model.handle) or C.llama_model_is_hybrid(model.handle)
        return n_tokens > _LEAST and n_tokens * model.header.file_size > _QUICK and not recurrent

    def _of(self, model: Model, options: ContextOptions) -> Path | None:
        """The folder for such contexts; None where the model's file is another one by now."""
        if self._identity is None or identity(self._paths) != self._identity:
            return None
        long = model.turns_long(options.n_ctx)
        if long not in self._folders:
            self._folders[long] = self._root / prompt_files.key(self._parts(model, options))
        return self._folders[long]

    def _parts(self, model: Model, options: ContextOptions) -> dict[str, Any]:
        """All that the numbers depend on: every option but those that are known not to matter."""
        from importlib import metadata  # 10 ms

        of_model = {k: v for k, v in asdict(model.options).items() if k not in ("path", "mmap", "mlock", "vocab_only")}
        sizes = ("n_ctx", "n_batch", "n_sequences", "kv_unified", "n_threads")
        of_context = {k: v for k, v in asdict(options).items() if k not in sizes}
        return {
            "files": [self._identity, fingerprint(*self._paths, head=model.header.data_offset)],
            "options": of_model,
            "context": of_context,
            "long": model.turns_long(options.n_ctx),
            "library": [metadata.version("llama-cpp-python"), identity(_library())],
        }


def _library() -> list[Path]:
    """llama.cpp's own files, wherever they were loaded from (LLAMA_CPP_LIB_PATH)."""
    return sorted(native.folder().glob("*"))
