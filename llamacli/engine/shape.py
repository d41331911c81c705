"""Shapes: a JSON schema, a grammar, a regular expression or a list of choices → which tokens may come next.

The only user of llguidance. A shape is checked without a model (`check`), then compiled for one model's vocabulary
(`Shapes`), and each answer has its own `Matcher`. Matching is by bytes, whatever the tokens: a token fits if its
bytes go on with some text of the shape. Of the control tokens only those that end the generation ever fit.
"""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import llguidance
import numpy as np

from llamacli.engine import json_schema
from llamacli.engine.gbnf import GrammarError
from llamacli.engine.gbnf_lark import to_lark
from llamacli.engine.json_schema import SchemaError
from llamacli.engine.model import Model
from llamacli.engine.native import C
from llamacli.engine.types import Shape
from llamacli.errors import UsageError, printable

_CONTROL, _USER_DEFINED = 1 << 3, 1 << 4  # llama_token_attr
#: llguidance's mark in front of a token that is no text.
_NO_TEXT = b"\xff"
#: Between the parts of a JSON text. Weak models would go on with line breaks for ever.
_SPACE = r" |\n[ \t]{0,40}"
_JSON_OPTIONS = {"whitespace_pattern": _SPACE, "coerce_one_of": False, "lenient": False}
#: By itself llguidance forces the tokenizer's own tokens on the model where only one text can follow.
_HEAD = '%llguidance {"no_forcing": true}\n'
#: Schemas in a schema that are compiled one by one to find where an error is.
_MOST_TRIED = 500
#: Compiled shapes that are kept.
_MOST_KEPT = 64
#: What stands there counts where it is referred to.
_SHELVES = ("/$defs", "/definitions")


def check(shape: Shape) -> None:
    """Raise UsageError, with the parser's message and the place, for a shape that cannot be used."""
    grammar = _grammar(shape)
    error = _error_of(grammar)
    if error is not None:
        raise UsageError(f"{shape.name}: {_located(shape, error)}")


def _grammar(shape: Shape) -> str:
    """The shape as llguidance takes it. Raises UsageError."""
    try:
        match shape.kind:
            case "schema":
                start = f"start: %json {_json(json_schema.parse(shape.source))}"
            case "grammar":
                start = to_lark(shape.source)
            case "regex":
                if not shape.source:
                    raise UsageError(f"{shape.name}: an empty expression, which only an empty answer fits")
                if not json_schema.is_expression(shape.source):
                    raise UsageError(f"{shape.name}: the expression ends with half an escape, a single \\")
                start = f"start: /{_in_lark(shape.source)}/"
            case "choices":
                labels = (json.dumps(label, ensure_ascii=False) for label in json.loads(shape.source))
                start = f"start: LABEL\nLABEL: {' | '.join(labels)}"
    except (GrammarError, SchemaError, ValueError) as error:
        raise UsageError(f"{shape.name}: {printable(str(error))}") from None
    return _HEAD + start


def _json(schema: json_schema.Schema) -> str:
    """With the options that hold for all of it."""
    if schema is False:
        raise SchemaError("nothing fits false")
    return json.dumps({"x-guidance": _JSON_OPTIONS, **({} if schema is True else schema)}, ensure_ascii=False)


def _error_of(grammar: str) -> str | None:
    """What is wrong with it, found without a model: with a vocabulary of single bytes."""
    matcher = llguidance.LLMatcher(_bytes_vocabulary(), grammar, log_level=0)
    if not matcher.is_error():
        matcher.compute_bitmask()  # the first step may show more
    if not matcher.is_error():
        return None
    error = str(matcher.get_error())
    return "no text fits it" if error.startswith("NoExtension") else error


@cache
def _bytes_vocabulary() -> Any:
    return _tokenizer([*(bytes([i]) for i in range(255)), _NO_TEXT + b"end"], [255], [])


def _tokenizer(pieces: list[bytes], ends: Sequence[int], slices: list[str] | None) -> Any:
    return llguidance.LLTokenizer(_Pieces(pieces, ends[0]), eos_token=[*ends], slices=slices)  # type: ignore[arg-type]


class _Pieces:
    """What llguidance asks of a tokenizer. It never has to tokenise here: nothing is written ahead of the model."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    special_token_ids: tuple[int, ...] = ()

    def __init__(self, tokens: list[bytes], eos: int) -> None:
        self.tokens, self.eos_token_id = tokens, eos

    def __call__(self, text: bytes | str) -> list[int]:
        return []


# --- errors -------------------------------------------------------------------------------------------------------


def _located(shape: Shape, error: str) -> str:
    if shape.kind == "schema":
        return _where(shape, error)
    caret = re.search(r"regex parse error:\n.*\n    ( *)\^", error)
    # What stands between slashes is drawn with its own slashes and line breaks escaped: its columns are others.
    if shape.kind == "regex" and caret and not {"/", "\n"} & set(shape.source):
        return f"character {_typed_before(shape.source, len(caret[1])) + 1}: {_last(error)}"
    return _last(error)


def _typed_before(expression: str, n: int) -> int:
    """How many characters stand before what has `n` before it in llguidance's writing, in which \\d is [0-9]."""
    lengths = (len(_in_lark(expression[:k])) for k in range(1, len(expression) + 1))
    return sum(length <= n for length in lengths)


def _in_lark(expression: str) -> str:
    return str(llguidance.regex_to_lark(expression, use_ascii="d"))


def _last(error: str) -> str:
    """The line that says it; the others show the place by a drawing."""
    if "lookarounds not supported" in error:
        return "\\b, \\B, and ^ or $ in the middle of an expression are not supported"
    lines = [line for line in error.splitlines() if line.strip()]
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return printable(
        re.sub(r"^(at )?\d+\(\d+\): ", "", said[0] if said else lines[0]) if lines else "no reason was given"
    )


def _where(shape: Shape, error: str) -> str:
    """The innermost schema that has an error by itself."""
    schema = json_schema.parse(shape.source)
    found, message = "the top", error
    for tried, (pointer, inner) in enumerate(json_schema.subschemas(schema)):
        if tried == _MOST_TRIED:
            break
        innermost = "" if found == "the top" else found
        if isinstance(inner, dict) and pointer.startswith(innermost) and not pointer.startswith(_SHELVES):
            inner_error = _error_of(f"{_HEAD}start: %json {_json(json_schema.alone(schema, pointer))}")
            if pointer and inner_error is not None:
                found, message = pointer, inner_error
    return f"at {found}: {_plain(message)}"


def _plain(error: str) -> str:
    """llguidance's words for what people write."""
    if "oneOf constraints are not supported" in error:
        return (
            'this "oneOf" is not supported: two of its schemas may fit at once, or that cannot be excluded; "anyOf" is'
        )
    return re.sub(r"^.*?failed to compile JSON schema: |Unsatisfiable schema: ", "", _last(error))


# --- a model's vocabulary -----------------------------------------------------------------------------------------


class Shapes:
    """Compiles shapes for one model. Its vocabulary is read once, when the first shape needs it."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._tokenizers: dict[bool, Any] = {}
        self._compiled: dict[Shape, Any] = {}

    def matcher(self, shape: Shape) -> Matcher:
        """A matcher at the beginning of an answer. Raises UsageError."""
        if shape not in self._compiled:
            check(shape)
            # Slices make masks of long texts cheap and take time to build; most expressions have no use for them.
            compiled = llguidance.LLMatcher(
                self._tokenizer(shape.kind in ("schema", "grammar")), _grammar(shape), log_level=0
            )
            if compiled.is_error():
                raise UsageError(f"{shape.name}: {_located(shape, str(compiled.get_error()))}")
            if len(self._compiled) >= _MOST_KEPT:
                del self._compiled[next(iter(self._compiled))]  # the oldest
            self._compiled[shape] = compiled
        return Matcher(self._compiled[shape].deep_copy(), self._model.n_vocab, shape.name)

    def _tokenizer(self, sliced: bool) -> Any:
        if sliced not in self._tokenizers:
            pieces, ends = _vocabulary(self._model)
            self._tokenizers[sliced] = _tokenizer(pieces, ends, None if sliced else [])
        return self._tokenizers[sliced]


def _vocabulary(model: Model) -> tuple[list[bytes], tuple[int, ...]]:
    """The bytes of each token, those that are no text marked; and the tokens that end the generation."""
    vocab, piece, attributes = model.vocab, C.llama_token_to_piece, C.llama_vocab_get_attr
    buffer = ctypes.create_string_buffer(256)
    pieces: list[bytes] = []
    for token in range(model.n_vocab):
        n = piece(vocab, token, buffer, 256, 0, True)
        text = buffer.raw[:n] if n >= 0 else model.piece(token)
        if (kind := attributes(vocab, token)) & (_CONTROL | _USER_DEFINED) and _is_mark(kind, text):
            text = _NO_TEXT + text
        pieces.append(text)
    ends = model.end_tokens
    if not ends:
        raise UsageError(
            f"{model.header.path}: its vocabulary has no token that ends a text, so no shape can be finished with it"
        )
    return pieces, ends


def _is_mark(kind: int, text: bytes) -> bool:
    """Control tokens; and Gemma's `<start_of_turn>`, which the vocabulary calls user-defined."""
    return bool(kind & _CONTROL) or (text.startswith(b"<") and text.endswith(b">"))


class Matcher:
    """How far one answer has come in its shape."""

    def __init__(self, native: Any, n_vocab: int, name: str) -> None:
        self._native, self._n_vocab, self._name = native, n_vocab, name
        self._mask = np.zeros(-(-n_vocab // 32), np.int32)

    def copy(self) -> Matcher:
        """Another one that has come as far."""
        return Matcher(self._native.deep_copy(), self._n_vocab, self._name)

    def allows(self, token: int) -> bool:
        """Whether this token may come next; one that ends the generation may where the answer is whole."""
        return bool(self._native.validate_tokens([token]) == 1)

    def allowed(self) -> np.ndarray:
        """The tokens that may come next, int64, rising. Raises UsageError where the shape has become too complex."""
        self._native.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        self._refuse_errors()
        bits = np.unpackbits(self._mask.view(np.uint8), count=self._n_vocab, bitorder="little")
        tokens = np.flatnonzero(bits.view(bool))
        if not len(tokens):
            raise UsageError(f"{self._name}: the answer cannot go on: no token of this vocabulary fits")
        return tokens

    def accept(self, token: int) -> None:
        """The token has come. Raises UsageError where the shape has become too complex."""
        self._native.consume_token(token)
        self._refuse_errors()

    @property
    def whole(self) -> bool:
        """Whether the answer so far fits the shape; it may still go on."""
        return bool(self._native.is_accepting()) or (self.ended and not self._native.is_error())

    @property
    def ended(self) -> bool:
        """Whether nothing more can follow."""
        return bool(self._native.is_stopped())

    def _refuse_errors(self) -> None:
        if self._native.is_error():
            raise UsageError(f"{self._name}: {_last(str(self._native.get_error()))}")
