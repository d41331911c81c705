"""What llama-quantize's options mean: PATTERN=TYPE, layers, KEY=TYPE:VALUE, and the words MODEL [OUT] TYPE."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llamacli.engine.quantize import MOST_KEY, MOST_VALUE
from llamacli.errors import UsageError, printable
from llamacli.tasks.prompt import decode, read_file
from llamacli.tasks.quantize_types import QuantType, is_type, quant_type, tensor_type
from llamacli.tasks.target import Target


@dataclass(frozen=True)
class Words:
    """MODEL [OUT] TYPE…"""

    model: str
    out: str | None
    types: tuple[QuantType, ...]


def words(given: Sequence[str], out: str | None, *, types: bool = True) -> Words:
    """The arguments; `out` is that of -o. The second is OUT where it is the name of no type, as for llama-quantize.

    Without `types` there is none: a target size stands for it. Raises UsageError.
    """
    if not given:
        raise UsageError("no model is named", hint="llamacli quantize MODEL [OUT] TYPE")
    model, *rest = given
    if not types:
        if rest and is_type(rest[-1]):
            raise UsageError(f"the target size chooses the types: leave {printable(rest[-1])} out")
        named = [*rest, *([out] if out is not None else [])]
        if len(named) > 1:
            raise UsageError(f"{printable(named[0])} and {printable(named[1])} both name the new file")
        return Words(model, named[0] if named else None, ())
    if rest and not is_type(rest[0]) and (len(rest) > 1 or rest[0].lower().endswith(".gguf") or "/" in rest[0]):
        if out is not None:
            raise UsageError(f"{printable(rest[0])} and -o {printable(out)} both name the new file")
        out, *rest = rest
    if not rest:
        raise UsageError("no type is named", hint="Q4_K_M is the usual one; llamacli quantize --types explains all")
    found = tuple(quant_type(text) for text in rest)
    twice = next((kind.name for i, kind in enumerate(found) if kind in found[:i]), None)
    if twice is not None:
        raise UsageError(f"the type {twice} is named twice")
    return Words(model, out, found)


def target(size: str | None, bits_per_weight: float | None) -> tuple[Target, str] | None:
    """Of --target-size or --target-bpw, and what it is called in a file's name. Raises UsageError."""
    if size is not None and bits_per_weight is not None:
        raise UsageError("--target-size and --target-bpw exclude each other")
    if size is not None:
        return Target(size=file_size(size)), size.replace(" ", "")
    if bits_per_weight is None:
        return None
    if not 0 < bits_per_weight < 32:
        raise UsageError(f"--target-bpw {bits_per_weight:g}: a number between 0 and 32 is wanted")
    return Target(bits_per_weight=bits_per_weight), f"{bits_per_weight:g}bpw"


_UNITS = {"b": 1, **{f"{p}b": 1000**i for i, p in enumerate("kmgt", 1)}}
_UNITS |= {f"{p}ib": 1024**i for i, p in enumerate("kmgt", 1)}


def file_size(text: str) -> int:
    """ "4GiB", "4.2 MB", "1858048" → bytes; 4G is refused, since it means one or the other. Raises UsageError."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?) ?([kmgt]i?b|b)?", text.strip(), re.IGNORECASE)
    n_bytes = int(float(found[1]) * _UNITS[(found[2] or "b").lower()]) if found else 0
    if not 0 < n_bytes < 1 << 62:
        raise UsageError(
            f"--target-size {printable(text)}: a size is wanted, such as 4GiB (1024³ bytes each) or 4GB (1000³)"
        )
    return n_bytes


def only_one(types: Sequence[QuantType]) -> QuantType:
    """Raises UsageError where there are several."""
    if len(types) > 1:
        names = ", ".join(kind.name for kind in types)
        raise UsageError(
            f"{len(types)} types: {names}; one file has one",
            hint="threads are set by -t N; --report TEXT makes several",
        )
    return types[0]


def one_type(option: str, text: str | None) -> int | None:
    """A tensor's type that may be missing. Raises UsageError."""
    return None if text is None else tensor_type(option, text)


def tensor_types(given: Sequence[str], file: Path | None) -> tuple[tuple[str, int], ...]:
    """(regex, type) of --tensor-type, then of the file, whose entries stand apart by white space. Raises UsageError."""
    found = [("--tensor-type", text) for text in given]
    if file is not None:
        found += [(str(file), text) for text in decode(read_file(file, str(file)), str(file), None).split()]
    pairs = []
    for option, text in found:
        pattern, equals, kind = text.rpartition("=")
        if not equals or not pattern or not kind:
            raise UsageError(f"{option} {printable(text)}: PATTERN=TYPE is wanted, such as ffn_down=q6_k")
        pairs.append((pattern, tensor_type(f"{option} {printable(text)}", kind)))
    return tuple(pairs)


def layers(text: str | None) -> tuple[int, ...]:
    """ "20,21,22" → their numbers, sorted. Raises UsageError."""
    if text is None:
        return ()
    if not re.fullmatch(r"\d{1,6}(,\d{1,6})*", text):
        raise UsageError(f"--prune-layers {printable(text)}: numbers of layers are wanted, such as 20,21,22")
    return tuple(sorted({int(number) for number in text.split(",")}))


def overrides(given: Sequence[str]) -> tuple[tuple[str, int | float | bool | str], ...]:
    """KEY=TYPE:VALUE → (key, value). Raises UsageError."""
    return tuple(_override(text) for text in given)


def _override(text: str) -> tuple[str, int | float | bool | str]:
    def wrong(what: str) -> UsageError:
        return UsageError(f"--override-kv {printable(text)}: {what}")

    key, _, rest = text.partition("=")
    kind, colon, value = rest.partition(":")
    if not key or not colon or kind not in ("int", "float", "bool", "str"):
        raise wrong("KEY=TYPE:VALUE is wanted, with the type int, float, bool or str, such as general.name=str:Mine")
    if key == "general.alignment" or key.startswith("split."):
        raise wrong("llama.cpp lays the file out as it does, whatever its metadata say of that")
    if len(key.encode("utf-8", "surrogateescape")) > MOST_KEY:
        raise wrong(f"a key has at most {MOST_KEY} bytes")
    if kind == "str":
        if len(value.encode("utf-8", "surrogateescape")) > MOST_VALUE:
            raise wrong(f"a text has at most {MOST_VALUE} bytes")
        return key, value
    if kind == "bool":
        if value not in ("true", "false"):
            raise wrong("a bool is true or false")
        return key, value == "true"
    try:
        number = int(value) if kind == "int" else float(value)
    except ValueError:
        raise wrong(f"{printable(value)!r} is no {'whole ' if kind == 'int' else ''}number") from None
    if kind == "int" and not 0 <= number < 1 << 32:  # llama.cpp stores it as a uint32
        raise wrong("an int is between 0 and 4294967295")
    if not math.isfinite(number):
        raise wrong("a number is finite")
    return key, number
