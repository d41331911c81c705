"""What need not be evaluated again: the longest common prefix of a prompt and of what is held, in memory or on disk.

In memory the context itself says what it holds (`reuse`). From disk (`PromptCache`) the context is filled before, so
that the rest is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llamacli.engine import prompt_files
from llamacli.engine.context import Context
from llamacli.engine.fingerprint import fingerprint, identity
from llamacli.engine.model import Model
from llamacli.engine.native import C

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
        """`root` is the folder of all models, `paths` are the files of this one. `limit`: what all may take, in bytes;
        None: the usual.

        To be made before the model is opened: a file that is replaced in between is noticed.
        """
        self._root, self._limit, self._paths = root, limit, tuple(paths)
        self._identity = identity(self._paths)
        self._folder: Path | None = None

    def fill(self, context: Context, tokens: Sequence[int]) -> None:
        """Let an empty context hold what is stored of a prompt, if that spares more than a moment."""
        if context.tokens or not self._pays(context.model, len(tokens)):
            return
        folder = self._of(context) if self._root.is_dir() else None
        found = prompt_files.find(folder, tokens[:-1], _LEAST) if folder is not None else None
        if found is not None and found[1] * context.model.header.file_size > _LOADING * found[2]:
            loaded = prompt_files.load(found[0])
            if loaded is not None:
                context.restore(*loaded)

    def keep(self, context: Context, n_tokens: int, n_evaluated: int, seconds: float) -> None:
        """Store the first n_tokens that a context holds, if evaluating n_evaluated of them took long enough."""
        if seconds < _WORTH_SECONDS or len(context.tokens) < n_tokens or not self._pays(context.model, n_evaluated):
            return
        folder = self._of(context)
        if folder is None or identity(self._paths) != self._identity or context.keep(n_tokens) < n_tokens:
            return
        state = context.state()
        prompt_files.store(folder, context.tokens, state, model=str(self._paths[0].absolute()), limit=self._limit)

    def _pays(self, model: Model, n_tokens: int) -> bool:
        # A recurrent model's state serves only what goes on from its very end.
        recurrent = C.llama_model_is_recurrent(model.handle) or C.llama_model_is_hybrid(model.handle)
        return n_tokens > _LEAST and n_tokens * model.header.file_size > _QUICK and not recurrent

    def _of(self, context: Context) -> Path | None:
        """The folder for this context; None where the model's file is another one by now."""
        if self._folder is None and self._identity is not None and identity(self._paths) == self._identity:
            self._folder = self._root / prompt_files.key(self._parts(context))
        return self._folder

    def _parts(self, context: Context) -> dict[str, Any]:
        """All that the numbers depend on: every option but those that are known not to matter."""
        from importlib import metadata  # 10 ms

        options, model = context.options, context.model
        of_model = {k: v for k, v in asdict(model.options).items() if k not in ("path", "mmap", "mlock", "vocab_only")}
        sizes = ("n_ctx", "n_batch", "n_sequences", "kv_unified", "n_threads")
        of_context = {k: v for k, v in asdict(options).items() if k not in sizes}
        original = model.header.hparam("rope.scaling.original_context_length")
        library = Path(C.__file__).parent
        return {
            "model": [self._identity, fingerprint(*self._paths, head=model.header.data_offset)],
            "loras": [[identity([path]), fingerprint(path)] for path, _ in model.options.loras],
            "options": of_model,
            "context": of_context,
            # Some models turn their positions otherwise in a long context.
            "long": isinstance(original, int) and context.n_ctx > original,
            "library": [metadata.version("llama-cpp-python"), identity(sorted((library / "lib").glob("*")))],
        }
