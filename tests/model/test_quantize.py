"""Quantised models are llama-quantize's, byte by byte: figures of the shared folder, and whole files of the built-in
model.
"""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import pytest
import quantize_facts as facts
from gguf import GGUFReader

from llamacli.builtin import TINY
from llamacli.tasks.imatrix_file import read_imatrix
from llamacli.tasks.quantize import plan, quantize
from llamacli.tasks.quantize_request import Imatrix, QuantizeOptions
from llamacli.tasks.quantize_types import TYPES, quant_type

x86 = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="the figures are those of x86-64"
)


def tensors_sha256(path: Path) -> str:
    """As data/reference/llama.cpp.json defines it."""
    lines = [
        f"{tensor.name} {tensor.tensor_type.name} {hashlib.sha256(tensor.data.tobytes()).hexdigest()}\n"
        for tensor in sorted(GGUFReader(path).tensors, key=lambda tensor: str(tensor.name))
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


# --- llama-quantize's own bytes -------------------------------------------------------------------------------------


@x86
def test_every_type_of_the_reference(shared: Path, stories: Path, tmp_path: Path) -> None:
    reference = json.loads((shared / "data/reference/llama.cpp.json").read_text())["quantize"]
    seen = 0
    for name, expected in reference.items():
        if name == "_note":
            continue
        kind, _, imatrix = name.partition(" with ")
        path = shared / "data" / imatrix
        options = QuantizeOptions(imatrix=Imatrix(path, read_imatrix(path)) if imatrix else None)
        made = quantize(stories, tmp_path / name.replace("/", "-"), quant_type(kind), options)
        assert tensors_sha256(made.files[0]) == expected["tensors_sha256"], name
        assert {row.type: row.tensors for row in made.types} == expected["tensor_types"]
        if not imatrix:  # there the length of the file's name counts
            assert made.size == made.files[0].stat().st_size == expected["file_bytes"]
        seen += 1
    assert seen == 17


def known_facts() -> dict[str, Any]:
    known: dict[str, Any] = json.loads(facts.FACTS.read_text())
    if known["tiny.gguf"] != facts.sha256(TINY):
        pytest.fail("tiny.gguf has changed: LLAMA_CPP_BIN=… python tests/model/quantize_facts.py renews the figures")
    return known


def whole_file(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """sha256 without and with an imatrix, as llama_quantize.json has them."""
    known = known_facts()
    monkeypatch.chdir(folder)
    imatrix = Path(facts.IMATRIX)
    facts.write_imatrix(imatrix, TINY)
    found = {}
    for key, given in ((kind, None), (f"{kind} with an imatrix", Imatrix(imatrix, read_imatrix(imatrix)))):
        assert key in known["types"]
        planned = plan(TINY, quant_type(kind), QuantizeOptions(imatrix=given))
        found[key] = None
        if planned.obstacle is None:
            made = quantize(TINY, Path("out.gguf"), quant_type(kind), QuantizeOptions(imatrix=given, force=True))
            assert made.size == planned.size
            found[key] = facts.sha256(made.files[0])
        assert found[key] == known["types"][key], key
    return found


SOON = ("Q8_0", "Q5_0", "Q4_K_M", "Q2_K", "Q2_K_S", "COPY")


@x86
@pytest.mark.parametrize("kind", SOON)
def test_whole_files(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = whole_file(kind, tmp_path, monkeypatch)
    assert (found[kind] is None) == quant_type(kind).imatrix


@x86
@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind.name for kind in TYPES if kind.name not in SOON])
def test_whole_files_of_the_others(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = whole_file(kind, tmp_path, monkeypatch)
    assert (found[kind] is None) == quant_type(kind).imatrix


@x86
@pytest.mark.parametrize("options", facts.OPTIONS, ids=" ".join)
def test_whole_files_with_options(
    options: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The same command line gives the same files."""
    from llamacli.cli import app

    expected = known_facts()["options"][" ".join(options)]
    facts.prepare(tmp_path, TINY)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        app(["quantize", *facts.arguments(options, TINY)])
    assert not ended.value.code
    last = capfd.readouterr().out.splitlines()[-1].split("\t")
    assert int(last[5]) == sum(path.stat().st_size for path in tmp_path.glob("out*"))
    assert facts.made(tmp_path) == expected
    assert expected
