"""Model: open a GGUF file, tokenize, ask what it is, close."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from llamacli import signals
from llamacli.engine import amx, native, offload
from llamacli.engine.native import C
from llamacli.engine.types import ContextOptions, Device, ModelOptions, Prompt, SpecialToken
from llamacli.errors import BadModelFile, ContextFull, EngineError, OutOfMemory, UsageError, printable
from llamacli.models import gguf, gguf_checks

#: Called with 0.0 … 1.0 while the weights are loaded.
Progress = Callable[[float], None]

_MOST_CTX = 1 << 27  # tokens; ten times the longest context of any model so far
_CONTROL, _USER_DEFINED = 3, 4  # enum llama_token_type
_NAMED_TOKENS = ("bos", "eos", "eot", "sep", "pad", "fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep")
_LSTRIP, _RSTRIP = 1 << 7, 1 << 8  # llama_token_attr


class _Override(ctypes.Structure):
    """struct llama_model_tensor_buft_override"""

    _fields_ = [("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p)]


class Model:
    """An open model. Close it, or use it as a context manager."""

    def __init__(
        self, options: ModelOptions, *, context: ContextOptions | None = None, progress: Progress | None = None
    ) -> None:
        """Load `options.path`. `context` is the context that will be made, for the choice of GPU layers.

        Raises ModelNotFound, UsageError, BadModelFile, OutOfMemory; signals.Ended where a signal came.
        """
        self.options = options
        self.header = gguf.read_header(options.path)
        gguf_checks.check(self.header, weights=not options.vocab_only)
        self._loras: list[tuple[Any, float]] = []
        self._keep: list[Any] = []  # arrays that native parameters point to
        params = self._parameters(options, context, progress)
        native.take_errors()
        with signals.deferred(), native.loading(options.path):
            self.handle = C.llama_model_load_from_file(os.fsencode(options.path), params)
        signals.check()
        if not self.handle:
            raise _load_error(options)
        try:
            for path, scale in options.loras:
                self._load_lora(path, scale)
        except BaseException:
            self.close()
            raise
        self.vocab = C.llama_model_get_vocab(self.handle)
        self.n_vocab = C.llama_vocab_n_tokens(self.vocab)
        trained = C.llama_model_n_ctx_train(self.handle)
        #: What the model was trained with; a few recurrent models name none, and damaged files name nonsense.
        self.n_ctx_train: int = trained if 0 < trained < _MOST_CTX else 0
        self._pieces: dict[int, bytes] = {}
        self._visible: frozenset[int] = frozenset()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        if self.handle:
            C.llama_model_free(self.handle)  # frees its adapters too
            self.handle = None

    # --- loading --------------------------------------------------------------------------------------------------

    def _parameters(self, options: ModelOptions, context: ContextOptions | None, progress: Progress | None) -> Any:
        params = C.llama_model_default_params()
        params.vocab_only = options.vocab_only
        params.use_extra_bufts = options.repack and not options.vocab_only and amx.works()
        # enum llama_load_mode: 0 plain, 1 mapped, 2 locked, 3 both
        params.load_mode = (1 if options.mmap else 0) + (2 if options.mlock else 0)

        def on_progress(fraction: float, _: object) -> bool:
            if progress is not None:
                progress(fraction)
            return not signals.flag[0]

        callback = C.llama_progress_callback(on_progress)
        params.progress_callback = callback
        self._keep.append(callback)

        gpus = self._choose_devices(options, params)
        if options.tensor_split:
            size = C.llama_max_devices()
            if len(options.tensor_split) > size:
                raise UsageError(f"--tensor-split has {len(options.tensor_split)} parts, but at most {size} devices")
            split = (ctypes.c_float * size)(*options.tensor_split)
            params.tensor_split = split
            self._keep.append(split)
        if options.main_gpu is not None:
            if options.main_gpu >= len(gpus):
                raise UsageError(
                    f"--main-gpu {options.main_gpu}: there are {len(gpus)} GPUs, counted from 0",
                    hint="llamacli devices lists them",
                )
            params.split_mode = 0  # LLAMA_SPLIT_MODE_NONE: the whole model on that one
            params.main_gpu = options.main_gpu
            gpus = [gpus[options.main_gpu]]
        self._override_buffers(options, params)
        free = offload.shared_out([gpu.memory_free for gpu in gpus], options.tensor_split)
        #: Layers on the GPUs, the output counted as one; -1 means all.
        self.n_gpu_layers: int = self._gpu_layers(options, context, free)
        params.n_gpu_layers = self.n_gpu_layers
        return params

    def _choose_devices(self, options: ModelOptions, params: Any) -> list[Device]:
        """Set the devices to offload to, always, so that they are the ones that the layers are counted for."""
        table = [(handle, device) for handle, device in native.device_table() if device.kind in ("gpu", "igpu")]
        if options.devices and options.devices != ("none",):
            known = {device.name.lower(): (handle, device) for handle, device in table}
            unknown = [name for name in options.devices if name.lower() not in known]
            if unknown:
                names = ", ".join(device.name for _, device in table)
                raise UsageError(
                    f"--device {', '.join(unknown)}: no such device to offload to; there are {names or 'none'}",
                    hint="llamacli devices lists them; --device none keeps to the CPU",
                )
            chosen = [known[name.lower()] for name in options.devices]
        elif options.devices:
            chosen = []
        else:  # an integrated GPU only where there is no other, as in llama.cpp
            chosen = [row for row in table if row[1].kind == "gpu"] or table
        array = (ctypes.c_void_p * (len(chosen) + 1))(*(handle for handle, _ in chosen), None)
        params.devices = ctypes.cast(array, ctypes.c_void_p)
        self._keep.append(array)
        return [device for _, device in chosen]

    def _override_buffers(self, options: ModelOptions, params: Any) -> None:
        experts = [(rf"blk\.{i}\.ffn_(up|down|gate|gate_up)_(ch|)exps", "CPU") for i in range(options.n_cpu_moe)]
        overrides = [*options.override_tensor, *experts]
        if not overrides:
            return
        buffers = native.buffer_types()
        rows = []
        for pattern, name in overrides:
            if name not in buffers:
                raise UsageError(f"--override-tensor: no buffer type {name}; there are {', '.join(sorted(buffers))}")
            rows.append(_Override(pattern.encode(), buffers[name]))
        array = (_Override * (len(rows) + 1))(*rows, _Override(None, None))
        params.tensor_buft_overrides = ctypes.cast(array, ctypes.c_void_p)
        self._keep.append(array)

    def _gpu_layers(self, options: ModelOptions, context: ContextOptions | None, free: Sequence[int]) -> int:
        if options.n_gpu_layers is not None:
            return options.n_gpu_layers
        if not free or options.vocab_only:
            return 0
        context = context or ContextOptions(n_ctx=4096)
        count = getattr(self.header.metadata.get("tokenizer.ggml.tokens"), "count", 0)
        n_vocab = count if isinstance(count, int) else 0  # a text in its place has a method of that name
        shape = offload.Shape.of(self.header.metadata, self.header.tensors, n_vocab)
        return offload.layers_that_fit(
            shape,
            free,
            n_ctx=context.n_ctx,
            n_ubatch=context.n_ubatch,
            type_k=context.type_k,
            type_v=context.type_v,
        )

    def _load_lora(self, path: Path, scale: float) -> None:
        native.take_errors()
        with native.loading(path):
            adapter = C.llama_adapter_lora_init(self.handle, os.fsencode(path))
        if not adapter:
            raise BadModelFile(f"{path}: not a LoRA adapter for this model: {_reason()}")
        self._loras.append((adapter, scale))

    def apply_loras(self, context: Any) -> None:
        """Set this model's adapters on a native context."""
        if self._loras:
            n = len(self._loras)
            adapters = (C.llama_adapter_lora_p_ctypes * n)(*(adapter for adapter, _ in self._loras))
            scales = (ctypes.c_float * n)(*(scale for _, scale in self._loras))
            if C.llama_set_adapters_lora(context, adapters, n, scales) != 0:
                raise EngineError("llama.cpp could not apply the LoRA adapters")

    # --- what it is -----------------------------------------------------------------------------------------------

    def metadata(self, key: str) -> str | None:
        """A scalar of the GGUF's metadata as text, as llama.cpp reads it."""
        buffer = ctypes.create_string_buffer(512)
        size = C.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if size >= 0 else None

    @cached_property
    def chat_template(self) -> str | None:
        """The GGUF's own Jinja template. Raises BadModelFile where it is no UTF-8."""
        source = C.llama_model_chat_template(self.handle, None)
        if not source:
            return None
        try:
            return str(source.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise BadModelFile(
                f"{self.header.path}: its chat template is no UTF-8 (byte {error.start})",
                hint="--raw continues the text without a template",
            ) from error

    @cached_property
    def special_tokens(self) -> tuple[SpecialToken, ...]:
        """The vocabulary's control tokens."""
        types = self.header.metadata.get("tokenizer.ggml.token_type")
        kinds = types.values() if isinstance(types, gguf.Array) else []
        ids = {i for i, kind in enumerate(kinds) if kind == _CONTROL}
        # llama.cpp makes control tokens of some that the file calls plain: those it ends a turn or fills a gap with.
        for name in _NAMED_TOKENS:
            ids.add(getattr(C, f"llama_vocab_{name}")(self.vocab))
        found = []
        for i in sorted(ids):
            if 0 <= i < self.n_vocab and C.llama_vocab_is_control(self.vocab, i):
                text = self.token_text(i)
                attributes = C.llama_vocab_get_attr(self.vocab, i)
                if text:
                    found.append(SpecialToken(i, text, bool(attributes & _LSTRIP), bool(attributes & _RSTRIP)))
        return tuple(found)

    def tokens_of(self, template: str) -> tuple[SpecialToken, ...]:
        """The control tokens, and those "user-defined" ones that a template writes: Gemma's `<start_of_turn>`.

        llama.cpp reads the latter out of any text; in a user's they must stay text too (`Prompt.apart`).
        """
        marks = [
            SpecialToken(i, text, bool(attributes & _LSTRIP), bool(attributes & _RSTRIP))
            for i, text, attributes in self._user_defined
            if len(text) > 2 and text in template and not text.isspace()
        ]
        return (*self.special_tokens, *marks)

    @cached_property
    def _user_defined(self) -> list[tuple[int, str, int]]:
        types = self.header.metadata.get("tokenizer.ggml.token_type")
        kinds = types.values() if isinstance(types, gguf.Array) else []
        ids = [i for i, kind in enumerate(kinds) if kind == _USER_DEFINED and i < self.n_vocab]
        known = {token.id for token in self.special_tokens}
        return [(i, self.token_text(i), C.llama_vocab_get_attr(self.vocab, i)) for i in ids if i not in known]

    @property
    def has_channels(self) -> bool:
        """Whether the model marks its reasoning by gpt-oss's channels."""
        return any(token.text == "<|channel|>" for token in self.special_tokens)

    def token_text(self, token: int) -> str:
        """A token as the vocabulary spells it, "" for one that does not exist."""
        text = C.llama_vocab_get_text(self.vocab, token) if 0 <= token < self.n_vocab else None
        return str(text.decode("utf-8", "replace")) if text else ""

    @property
    def description(self) -> str:
        """Family, size and quantisation in llama.cpp's words: "llama 1B Q4_K - Medium"."""
        buffer = ctypes.create_string_buffer(128)
        C.llama_model_desc(self.handle, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    @property
    def n_bytes(self) -> int:
        """Of all weights."""
        return int(C.llama_model_size(self.handle))

    @property
    def n_params(self) -> int:
        return int(C.llama_model_n_params(self.handle))

    @property
    def bos(self) -> int:
        return int(C.llama_vocab_bos(self.vocab))

    @property
    def eos(self) -> int:
        return int(C.llama_vocab_eos(self.vocab))

    @property
    def adds_bos(self) -> bool:
        return bool(C.llama_vocab_get_add_bos(self.vocab))

    @property
    def adds_eos(self) -> bool:
        return bool(C.llama_vocab_get_add_eos(self.vocab))

    def turns_long(self, n_ctx: int) -> bool:
        """Whether a context of this size turns positions by the factors for long texts, which some models have beside
        those for short ones: what was evaluated with the others is of no use there.
        """
        original = self.header.hparam("rope.scaling.original_context_length")
        return isinstance(original, int) and n_ctx > original

    @property
    def writes_text(self) -> bool:
        """False for encoders (embeddings, reranking) and for encoder-decoders, which this engine does not drive."""
        if not C.llama_model_has_decoder(self.handle) or C.llama_model_has_encoder(self.handle):
            return False
        return not any(k.endswith(".attention.causal") and v is False for k, v in self.header.metadata.items())

    # --- tokens ---------------------------------------------------------------------------------------------------

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Ids of `text`. `add_special` adds BOS and EOS where the vocabulary says so; `parse_special` lets the text
        name control tokens.
        """
        data = text.encode("utf-8", "replace")
        size = len(data) + 8
        while True:
            buffer = (ctypes.c_int32 * size)()
            n = C.llama_tokenize(self.vocab, data, len(data), buffer, size, add_special, parse_special)
            if n >= 0:
                return buffer[:n]
            if n == -(1 << 31):
                raise ContextFull(f"a text of {len(data)} bytes is more than the tokenizer can count")
            size = -n

    def tokenize_more(self, text: str) -> list[int]:
        """Ids of a text that goes on from another: without the space that SentencePiece puts in front of one.

        Raises UsageError where the vocabulary cannot spell it.
        """
        tokens = self.tokenize(text, add_special=False)
        if b"".join(map(self.piece, tokens)) == text.encode():
            return tokens
        tokens = self.tokenize(f"\n{text}", add_special=False)  # that space then stands before the line break
        for i in range(len(tokens)):
            if b"".join(map(self.piece, tokens[i:])) == text.encode():
                return tokens[i:]
        raise UsageError(f"{self.header.path}: its vocabulary cannot spell {printable(text)!r}")

    @property
    def fim_tokens(self) -> tuple[int, int, int] | None:
        """What stands before a prefix, before a suffix, and before what belongs between; None without infill."""
        prefix, suffix, middle = (int(getattr(C, f"llama_vocab_fim_{n}")(self.vocab)) for n in ("pre", "suf", "mid"))
        return (prefix, suffix, middle) if min(prefix, suffix, middle) >= 0 else None

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """The tokens that end the generation."""
        return tuple(token for token in range(self.n_vocab) if self.ends_generation(token))

    def tokenize_prompt(self, prompt: Prompt) -> list[int]:
        """Ids of a rendered template: its control tokens as they are, the text between them as plain text.

        BOS is added where the vocabulary wants one and the template did not write it: never twice.
        """
        tokens: list[int] = []
        if self.adds_bos and prompt.fragments[:1] != (self.bos,):
            tokens.append(self.bos)
        for fragment in prompt.fragments:
            if isinstance(fragment, int):
                tokens.append(fragment)
            else:
                for part in _apart(fragment, prompt.apart):
                    tokens += self.tokenize(part, add_special=False)
        return tokens

    def at_least_tokens(self, n_bytes: int) -> int:
        """A lower bound of the tokens that a text of n_bytes makes: every token as long as the longest."""
        longest = max((len(C.llama_vocab_get_text(self.vocab, i) or b"") for i in range(self.n_vocab)), default=1)
        return n_bytes // max(longest, 1)

    def show_tokens(self, texts: Sequence[str]) -> None:
        """Let `piece` give the text of these control tokens, which are silent otherwise."""
        wanted = set(texts)
        self._show(frozenset(token.id for token in self.special_tokens if token.text in wanted))

    def show_all_tokens(self) -> None:
        self._show(frozenset(token.id for token in self.special_tokens))

    def _show(self, tokens: frozenset[int]) -> None:
        if tokens != self._visible:  # other threads may be reading the pieces
            self._visible = tokens
            self._pieces.clear()

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to the text; b"" for control tokens, unless made visible."""
        known = self._pieces.get(token)
        if known is not None:
            return known
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = C.llama_token_to_piece(self.vocab, token, buffer, size, 0, token in self._visible)
            if n >= 0:
                break
            size = -n
        self._pieces[token] = known = buffer.raw[:n]
        return known

    def ends_generation(self, token: int) -> bool:
        return bool(C.llama_vocab_is_eog(self.vocab, token))


def _apart(text: str, marks: Sequence[str]) -> list[str]:
    """A text cut after the first character of each mark in it, so that none is read as one token."""
    marks = [mark for mark in marks if mark in text]
    if not marks:
        return [text]
    pattern = "|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True))
    cuts = [0, *(match.start() + 1 for match in re.finditer(pattern, text)), len(text)]
    return [text[start:end] for start, end in pairwise(cuts) if start < end]


def _reason() -> str:
    """The most telling of the captured error lines."""
    lines = native.take_errors()
    for line in lines:
        for mark in ("error loading model: ", "failed to load model: ", "failed to apply lora adapter: "):
            if mark in line:
                return printable(line.split(mark)[-1])
    return printable(re.sub(r"^\w+: ", "", lines[0])) if lines else "llama.cpp gave no reason"


def _load_error(options: ModelOptions) -> Exception:
    reason = _reason()
    if "regular expression" in reason:  # C++'s dialect: only the library can tell
        return UsageError(f"--override-tensor: {reason}")
    if re.search(r"alloc|out of memory|memory", reason, re.IGNORECASE):
        return OutOfMemory(
            f"{options.path}: not enough memory: {reason}",
            hint="a smaller quantization, or fewer layers on the GPU (-ngl N)",
        )
    if "unknown model architecture" in reason:
        return BadModelFile(
            f"{options.path}: {reason}", hint="a newer llama-cpp-python may know it: pip install -U llama-cpp-python"
        )
    return BadModelFile(f"{options.path}: {reason}")
