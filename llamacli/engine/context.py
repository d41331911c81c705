"""Context: decode batches of tokens, several sequences, the KV cache. Knows nothing of text."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llamacli import signals
from llamacli.engine import native, offload
from llamacli.engine.model import Model
from llamacli.engine.native import C
from llamacli.engine.threads import physical_cores
from llamacli.engine.types import KV_TYPES, ContextOptions
from llamacli.errors import ContextFull, EngineError, OutOfMemory, UsageError, printable

if TYPE_CHECKING:
    import numpy as np

_FLASH = {"auto": -1, "off": 0, "on": 1}  # enum llama_flash_attn_type
#: Metadata of models whose KV cache is smaller than the plain estimate, which then says nothing.
_SMALLER_KV = ("attention.sliding_window", "attention.kv_lora_rank", "ssm.state_size", "full_attention_interval")


class Context:
    """A KV cache and the buffers to compute with. Close it, or use it as a context manager.

    `tokens` are those of sequence 0, in order; what else is done to that sequence is not recorded.
    """

    def __init__(self, model: Model, options: ContextOptions, on_node: Any = None) -> None:
        """`on_node`: a native callback that is shown each node of the graph. Raises UsageError for options that exclude
        each other, OutOfMemory, EngineError.
        """
        self.model = model
        self._on_node = on_node
        self.tokens: list[int] = []
        self._many: Any = None
        self._one = (ctypes.c_int32 * 1)()
        self._batch_of_one = C.llama_batch_get_one(self._one, 1)
        if options.type_v.startswith(("q", "iq")) and options.flash_attn == "off":
            raise UsageError(
                f"a quantised V cache ({options.type_v}) needs flash attention", hint="-fa on, or -ctv f16"
            )
        self._open(options)

    def _open(self, options: ContextOptions) -> None:
        _refuse_impossible(self.model, options)
        params = C.llama_context_default_params()
        params.n_ctx = options.n_ctx
        params.n_batch = max(options.n_batch, options.n_sequences)
        params.n_ubatch = max(min(options.n_ubatch, options.n_batch), options.n_sequences)
        params.n_seq_max = options.n_sequences
        # In one cache a shared prompt can be copied, and room is shared.
        params.kv_unified = options.n_sequences > 1 if options.kv_unified is None else options.kv_unified
        params.n_threads = params.n_threads_batch = options.n_threads or physical_cores()
        params.flash_attn_type = _FLASH[options.flash_attn]
        params.type_k = KV_TYPES[options.type_k].id
        params.type_v = KV_TYPES[options.type_v].id
        params.swa_full = options.swa_full
        params.no_perf = True
        params.abort_callback = native.interrupted_callback
        params.abort_callback_data = native.interrupted_address
        if self._on_node is not None:
            params.cb_eval = self._on_node
        native.take_errors()
        with signals.deferred():
            self.handle = C.llama_init_from_model(self.model.handle, params)
        signals.check()
        if not self.handle:
            raise _no_context(options)
        try:
            self.model.apply_loras(self.handle)
        except BaseException:
            self.close()
            raise
        self.options = options
        self.n_ctx = int(C.llama_n_ctx(self.handle))
        self.n_batch = int(C.llama_n_batch(self.handle))

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        if self.handle:
            if self._many is not None:
                C.llama_batch_free(self._many)
                self._many = None
            C.llama_free(self.handle)
            self.handle = None

    def resize(self, n_ctx: int) -> None:
        """A context of n_ctx tokens that holds the same ones; nothing is computed again.

        Where the model turns positions in another way in a context of that size, it is empty. Raises OutOfMemory where
        there is no room for it; the context is then as it was.
        """
        state, tokens = self.state(), [*self.tokens]
        long = self.model.turns_long(self.n_ctx)
        before = self.options
        self.close()
        try:
            self._open(replace(before, n_ctx=n_ctx))
        except OutOfMemory:
            self._open(before)
            raise
        finally:
            # Where they do not fit, they are evaluated again when they are needed.
            if self.handle and self.model.turns_long(self.n_ctx) == long:
                self.restore(state, tokens)
            elif self.handle:
                self.clear()

    def state(self) -> Any:
        """The KV cache of sequence 0, as bytes."""
        buffer = (ctypes.c_uint8 * C.llama_state_seq_get_size(self.handle, 0))()
        C.llama_state_seq_get_data(self.handle, buffer, len(buffer), 0)
        return buffer

    def restore(self, state: Any, tokens: Sequence[int] = ()) -> bool:
        """Take over a `state` in place of sequence 0: that of `tokens`, where the context is to know them.

        `state` is any writable buffer. False where it does not fit this context, whose sequence 0 is then empty.
        """
        buffer = (ctypes.c_uint8 * len(state)).from_buffer(state)
        self.remove_sequence(0)
        if len(tokens) <= self.n_ctx and C.llama_state_seq_set_data(self.handle, buffer, len(state), 0):
            self.tokens = [*tokens]
            return True
        self.remove_sequence(0)  # what was read before it failed
        native.take_errors()
        return False

    def keep(self, n: int) -> int:
        """Forget all but the first n tokens of sequence 0; how many are left: none where the model cannot do that.

        Recurrent models cannot: their state is that after the last token.
        """
        if n < len(self.tokens):
            memory = C.llama_get_memory(self.handle)
            if n == 0 or not C.llama_memory_seq_rm(memory, 0, n, -1):
                C.llama_memory_seq_rm(memory, 0, -1, -1)
                n = 0
            del self.tokens[n:]
        return len(self.tokens)

    def evaluate(self, tokens: Sequence[int], progress: Callable[[int, int], None] | None = None) -> bool:
        """Append `tokens` to sequence 0, in batches of n_batch; the logits of the last one are kept.

        Returns False if a signal came in between. `progress` is told how many tokens are done, of how many.
        """
        # Smaller calls only where somebody watches: the library cuts batches into ubatches anyway.
        size = self.n_batch if progress is None else min(self.n_batch, int(C.llama_n_ubatch(self.handle)))
        if progress is not None:
            progress(0, len(tokens))
        for start in range(0, len(tokens), size):
            part = tokens[start : start + size]
            array = (ctypes.c_int32 * len(part))(*part)
            if not self.decode(C.llama_batch_get_one(array, len(part))):
                self._after_abort(part)
                return False
            self.tokens += part
            if progress is not None:
                progress(start + len(part), len(tokens))
        return True

    def _after_abort(self, tokens: Sequence[int]) -> None:
        """Of the last batch, what was computed before the signal stays."""
        if C.llama_model_is_recurrent(self.model.handle) or C.llama_model_is_hybrid(self.model.handle):
            self.keep(0)  # the state may be that of a token in the middle
            return
        n = int(C.llama_memory_seq_pos_max(C.llama_get_memory(self.handle), 0)) + 1
        self.tokens += tokens[: max(n - len(self.tokens), 0)]

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """Append `tokens` to sequence 0, at most n_batch of them: the logits after each, float32 (n_tokens, n_vocab).

        The array is a copy. Raises signals.Ended where a signal came in between.
        """
        import numpy as np

        batch = C.llama_batch_init(len(tokens), 0, 1)
        start = int(C.llama_memory_seq_pos_max(C.llama_get_memory(self.handle), 0)) + 1
        try:
            batch.n_tokens = len(tokens)
            for i, token in enumerate(tokens):
                batch.token[i] = token
                batch.pos[i] = start + i
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = 0
                batch.logits[i] = 1
            with signals.deferred():
                self.decode(batch)
            signals.check()
            self.tokens += tokens
        finally:
            C.llama_batch_free(batch)
        rows = C.llama_get_logits(self.handle)
        return np.ctypeslib.as_array(rows, (len(tokens), self.model.n_vocab)).copy()

    def has_numbers(self, row: int = -1) -> bool:
        """Whether the logits of a row (-1: the last) are numbers; damaged weights make them NaN."""
        first = float(C.llama_get_logits_ith(self.handle, row)[0])
        return first == first

    def step(self, token: int) -> bool:
        """Append one token to sequence 0. Returns False if a signal came in between."""
        self._one[0] = token
        if not self.decode(self._batch_of_one):
            return False
        self.tokens.append(token)
        return True

    def step_many(self, tokens: Sequence[tuple[int, int, int]]) -> bool:
        """Append one token to each of several sequences: (sequence, token, position). Row i of the logits is its."""
        if self._many is None:
            self._many = C.llama_batch_init(max(self.n_batch, len(tokens)), 0, 1)
        batch = self._many
        batch.n_tokens = len(tokens)
        for i, (sequence, token, position) in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = 1
        return self.decode(batch)

    def copy_sequence(self, source: int, target: int) -> None:
        """Let `target` begin with all tokens of `source`; nothing is computed."""
        C.llama_memory_seq_cp(C.llama_get_memory(self.handle), source, target, -1, -1)

    def clear(self) -> None:
        """Forget all sequences."""
        C.llama_memory_clear(C.llama_get_memory(self.handle), True)
        self.tokens.clear()

    def remove_sequence(self, sequence: int) -> None:
        C.llama_memory_seq_rm(C.llama_get_memory(self.handle), sequence, -1, -1)
        if sequence == 0:
            self.tokens.clear()

    def decode(self, batch: Any) -> bool:
        """Evaluate a llama_batch. Returns False if a signal came in between. Raises ContextFull, EngineError."""
        status = C.llama_decode(self.handle, batch)
        if status == 0:
            return True
        if status == 2:  # the abort callback
            return False
        if status == 1:
            raise ContextFull(f"no room for {batch.n_tokens} more tokens in a context of {self.n_ctx}")
        reasons = native.take_errors()
        raise EngineError(f"llama.cpp could not evaluate the tokens ({status}): {printable('; '.join(reasons[-2:]))}")


def _refuse_impossible(model: Model, options: ContextOptions) -> None:
    """A KV cache larger than the memory is granted, and the process killed while it is cleared: refuse it."""
    metadata = model.header.metadata
    if any(key.endswith(_SMALLER_KV) for key in metadata):
        return
    shape = offload.Shape.of(metadata, (), model.n_vocab)
    needed = shape.n_layer * shape.kv_bytes(options.n_ctx, options.type_k, options.type_v)
    present = sum(device.memory_free for device in native.devices() if device.kind in ("cpu", "gpu", "igpu"))
    if needed > present:
        raise OutOfMemory(
            f"a context of {options.n_ctx} tokens needs {needed / 2**30:.1f} GiB for its KV cache, "
            f"and {present / 2**30:.1f} GiB are free",
            hint="a smaller -c, or -ctk q8_0 -ctv q8_0",
        )


def _no_context(options: ContextOptions) -> Exception:
    reason = printable("; ".join(native.take_errors()[-2:])) or "llama.cpp gave no reason"
    if "does not divide" in reason or "n_seq_max" in reason:
        return UsageError(f"this model's context cannot be made so: {reason}")
    if "alloc" in reason or "memory" in reason:
        return OutOfMemory(
            f"not enough memory for a context of {options.n_ctx} tokens: {reason}",
            hint="a smaller -c, or -ctk q8_0 -ctv q8_0",
        )
    return EngineError(f"llama.cpp could not make a context of {options.n_ctx} tokens: {reason}")
