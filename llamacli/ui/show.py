"""What a model is: a table of properties, one of its parts, one of its memory. Metadata and tensors as tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from llamacli.tasks.memory import Memory
from llamacli.tasks.show import ModelCard, Part, Shortened, Tensor, Token
from llamacli.ui.output import Output
from llamacli.units import size

#: Characters of a value of the metadata on a terminal.
_SHOWN = 200


def show(card: ModelCard, output: Output) -> None:
    if output.mode == "json":
        output.document(card)
    elif output.mode == "plain":
        output.table(("property", "value"), _flat(dataclasses.asdict(card)))
    else:
        output.table(("property", "value"), [row for row in _properties(card) if row[1]])
        if card.parts:
            output.text(b"\n")
            output.table(("part", "parameters", "share", "size", "tensors"), _parts(card.parts))
        if card.memory:
            output.text(b"\n")
            output.table((f"memory, {card.memory.n_ctx:,} tokens", "about"), memory_rows(card.memory))


def show_metadata(metadata: Mapping[str, object], output: Output) -> None:
    if output.mode == "json":
        output.document(metadata)
        return
    cut = _SHOWN if output.mode == "human" else None
    output.table(("key", "value"), [(key, _value(value, cut)) for key, value in metadata.items()])


def show_tensors(tensors: Sequence[Tensor], output: Output) -> None:
    if output.mode == "json":
        output.document(tensors)
        return
    header = ["name", "shape", "type", "bytes", "offset"]
    rows = [[t.name, "×".join(map(str, t.shape)), t.type, t.bytes, t.offset] for t in tensors]
    if len({t.file for t in tensors}) > 1:
        header, rows = [*header, "file"], [[*row, t.file] for row, t in zip(rows, tensors, strict=True)]
    output.table(header, rows)


def show_template(text: str, output: Output) -> None:
    """The text alone, without a line break of ours in a pipe."""
    if output.mode == "json":
        output.document({"chat_template": text})
        return
    output.text(text.encode() + (b"\n" if output.mode == "human" and not text.endswith("\n") else b""))


def _count(number: int) -> str:
    """Parameters for a person: 3.4 M."""
    for unit, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= unit:
            return f"{number / unit:.{1 if number < 100 * unit else 0}f} {letter}"
    return str(number)


def _properties(card: ModelCard) -> list[tuple[str, str]]:
    active = f", {_count(card.active_parameters)} active" if card.active_parameters < card.parameters else ""
    bits = f", {card.bits_per_weight:.2f} bits per weight" if card.bits_per_weight else ""
    files = f" in {len(card.files)} files" if len(card.files) > 1 else ""
    experts = f"{card.n_expert}, {card.n_expert_used} used for a token" if card.n_expert else ""
    heads = f", {card.n_head} heads ({card.n_head_kv or card.n_head} of keys and values)" if card.n_head else ""
    layers = f"{card.n_layer}, width {card.n_embd:,}{heads}" if card.n_layer and card.n_embd else ""
    words = card.vocabulary
    names = f"{words.model}, {words.pre}" if words and words.pre else words.model if words else ""
    return [
        ("model", card.model),
        ("name", card.name),
        ("architecture", card.architecture),
        ("licence", card.license),
        ("parameters", f"{_count(card.parameters)}{active}" if card.parameters else "none"),
        ("quantisation", f"{card.quant}{bits}" if card.parameters else ""),
        ("file size", f"{size(card.file_size)}{files}"),
        ("layers", layers),
        ("experts", experts),
        ("trained context", f"{card.n_ctx_train:,} tokens" if card.n_ctx_train else ""),
        ("vocabulary", f"{words.size:,} tokens, {words.kind} ({names})" if words else ""),
        ("BOS, EOS", f"{_token(card.bos)}, {_token(card.eos)}" if card.bos or card.eos else ""),
        ("chat template", _template(card)),
        ("sampling", ", ".join(f"{name} {value}" for name, value in card.sampling.items())),
    ]


def _token(token: Token | None) -> str:
    return f"{token.id} {token.text!r}" if token else "none"


def _template(card: ModelCard) -> str:
    template = card.chat_template
    if template is None:
        return "no" if card.parameters else ""
    kind = f"yes, {template.kind}" if template.kind else "yes"
    line = template.first_line
    return f"{kind}: {line[:60]}…" if len(line) > 60 else f"{kind}: {line}"


def _parts(parts: Sequence[Part]) -> list[tuple[str, ...]]:
    whole = sum(row.parameters for row in parts)
    rows: list[tuple[str, ...]] = []
    for name in dict.fromkeys(row.part for row in parts):
        mine = [row for row in parts if row.part == name]
        parameters = sum(row.parameters for row in mine)
        sizes = [f" ({size(row.bytes)})" if len(mine) > 1 else "" for row in mine]
        types = ", ".join(f"{row.tensors} × {row.type}{amount}" for row, amount in zip(mine, sizes, strict=True))
        share = f"{100 * parameters / whole:.1f} %"
        rows.append((name.replace("_", "-"), _count(parameters), share, size(sum(row.bytes for row in mine)), types))
    return _to_the_right(rows, 1, 2, 3)


def memory_rows(memory: Memory) -> list[tuple[str, ...]]:
    """What needs how much, and all of it together."""
    types = memory.type_k if memory.type_k == memory.type_v else f"{memory.type_k}, {memory.type_v}"
    rows: list[tuple[str, ...]] = [
        ("weights", size(memory.weights)),
        *([("repacked for this processor", size(memory.repacked))] if memory.repacked else []),
        (f"KV cache ({types})", size(memory.kv_cache)),
        ("compute buffers", size(memory.compute)),
        ("program and vocabulary", size(memory.program)),
        ("together", size(memory.total)),
    ]
    return [*_to_the_right(rows, 1), *(("note", remark) for remark in memory.remarks)]


def _to_the_right(rows: Sequence[tuple[str, ...]], *columns: int) -> list[tuple[str, ...]]:
    """Pad these columns, which hold numbers with units."""
    widths = {column: max(len(row[column]) for row in rows) for column in columns}
    return [tuple(cell.rjust(widths.get(i, 0)) for i, cell in enumerate(row)) for row in rows]


def _value(value: object, cut: int | None) -> str:
    if isinstance(value, Shortened):
        return f"{value.length} × [{', '.join(_value(item, 20 if cut else None) for item in value.first)}, …]"
    if isinstance(value, tuple):
        return f"[{', '.join(_value(item, cut) for item in value)}]"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return _cut(text, cut) if cut else text


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}… ({len(text):,} characters)"


def _flat(value: object, name: str = "") -> list[tuple[str, object]]:
    """The rows of a document: names joined by dots, parts by their name and type, nothing for what is not said."""
    if isinstance(value, Mapping):
        return [row for key, item in value.items() for row in _flat(item, f"{name}.{key}" if name else str(key))]
    if isinstance(value, (list, tuple)):
        rows = []
        for item in value:
            if isinstance(item, Mapping):  # a part
                rest = {key: item[key] for key in ("tensors", "parameters", "bytes")}
                rows += _flat(rest, f"{name}.{item['part']}.{item['type']}")
            else:
                rows += _flat(item, name)
        return rows
    return [] if value is None or value == "" else [(name, value)]
