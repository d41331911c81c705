"""`llamacli show`: human, pipe and JSON; metadata, tensors and the template alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamacli.builtin import TINY
from llamacli.models.ggml_types import type_name
from llamacli.models.gguf import read_header
from llamacli.units import size

Cli = Callable[..., subprocess.CompletedProcess[bytes]]


def rows(done: subprocess.CompletedProcess[bytes]) -> list[list[str]]:
    assert (done.returncode, done.stderr) == (0, b"")
    return [line.split("\t") for line in done.stdout.decode().splitlines()]


def on_a_terminal(*arguments: object) -> str:
    pexpect: Any = pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")
    command = ["-m", "llamacli", *map(str, arguments)]
    child = pexpect.spawn(sys.executable, command, timeout=60, dimensions=(50, 100))
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    return str(child.before.decode()).replace("\r\n", "\n")


def test_a_pipe_gets_tsv(cli: Cli) -> None:
    found = dict(rows(cli("show", "tiny")))
    assert found["property"] == "value"
    assert found["architecture"] == "llama"
    assert found["file_size"] == str(TINY.stat().st_size)
    assert int(found["parameters"]) == read_header(TINY).n_elements
    assert found["bos.text"] == "<s>"
    parts = ("weights", "repacked", "kv_cache", "compute", "program")
    assert int(found["memory.total"]) == sum(int(found[f"memory.{name}"]) for name in parts)
    assert "n_expert" not in found  # nothing is said of what there is not


def test_json(cli: Cli) -> None:
    result = json.loads(cli("show", "-m", "tiny", "--json", "-c", "64", "-ctk", "q8_0").stdout)
    assert set(result) == {
        *("model", "name", "architecture", "license", "files", "file_size", "quant", "bits_per_weight", "parameters"),
        *("active_parameters", "parts", "n_layer", "n_embd", "n_head", "n_head_kv", "n_expert", "n_expert_used"),
        *("n_ctx_train", "vocabulary", "bos", "eos", "chat_template", "sampling", "memory"),
    }
    assert set(result["parts"][0]) == {"part", "type", "tensors", "parameters", "bytes"}
    assert set(result["memory"]) == {
        *("n_ctx", "type_k", "type_v", "weights", "repacked", "kv_cache", "compute", "program", "total", "remarks"),
    }
    assert (result["memory"]["n_ctx"], result["memory"]["type_k"], result["memory"]["type_v"]) == (64, "q8_0", "f16")
    assert result["bos"] == {"id": 1, "text": "<s>"}


def test_a_terminal_gets_tables(chat: Path) -> None:
    shown = re.sub(r"\x1b\[\d*m", "", on_a_terminal("show", chat, "-c", "1024", "-ctv", "q8_0"))
    for expected in (
        r"parameters +113 K\n",
        r"quantisation +F32, 32\.00 bits per weight\n",
        r"layers +2, width 64, 4 heads \(2 of keys and values\)\n",
        r"trained context +512 tokens\n",
        r"vocabulary +305 tokens, SPM \(llama\)\n",
        r"BOS, EOS +1 '<s>', 2 '</s>'\n",
        r"chat template +yes, chatml: {% for message in messages %}",
        r"\nattention +24\.6 K +21\.7 % +96\.0 KiB +8 × F32\n",
        r"\nnorms            320       0\.3 %    1\.2 KiB  5 × F32\n",  # numbers to the right
        r"\noutput +19\.5 K +17\.3 % +76\.2 KiB +1 × F32\n",
        r"\nmemory, 1,024 tokens +about\n",
        r"\nKV cache \(f16, q8_0\) +196\.0 KiB\n",
    ):
        assert re.search(expected, re.sub(r" +\n", "\n", shown)), expected


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1048575, "1.0 MiB"),
        (5 << 30, "5.0 GiB"),
        (1 << 60, "1048576.0 TiB"),
    ],
)
def test_sizes_for_a_person(n_bytes: int, text: str) -> None:
    assert size(n_bytes) == text


def test_without_a_model_it_is_the_built_in_one(cli: Cli, monkeypatch: pytest.MonkeyPatch, plain: Path) -> None:
    assert json.loads(cli("show", "--json").stdout)["model"] == "tiny"
    monkeypatch.setenv("LLAMACLI_MODEL", str(plain))
    assert json.loads(cli("show", "--json").stdout)["model"] == str(plain)
    assert json.loads(cli("show", "--json", "tiny").stdout)["model"] == "tiny"  # what is typed wins


def test_metadata(cli: Cli) -> None:
    lines = rows(cli("show", "tiny", "--metadata"))
    assert lines[0] == ["key", "value"]
    found, count = dict(lines[1:]), json.loads(cli("show", "tiny", "--json").stdout)["vocabulary"]["size"]
    assert found.keys() == read_header(TINY).metadata.keys()
    assert found["tokenizer.ggml.add_bos_token"] == "true"
    assert found["tokenizer.ggml.tokens"].startswith(f"{count} × [<unk>, <s>, ")
    assert len(found["tokenizer.chat_template"]) > 150  # whole in a pipe
    document = json.loads(cli("show", "tiny", "--metadata", "--json").stdout)
    assert document.keys() == found.keys()
    assert document["llama.context_length"] == read_header(TINY).metadata["llama.context_length"]
    assert document["tokenizer.ggml.tokens"]["length"] == count
    assert document["tokenizer.ggml.tokens"]["first"][:3] == ["<unk>", "<s>", "</s>"]


def test_tensors(cli: Cli) -> None:
    header = read_header(TINY)
    lines = rows(cli("show", "tiny", "--tensors"))
    assert lines[0] == ["name", "shape", "type", "bytes", "offset"]
    tensor = header.tensors[0]
    shape = "×".join(map(str, tensor.shape))
    assert lines[1] == [tensor.name, shape, type_name(tensor.type), str(tensor.n_bytes), str(header.data_offset)]
    assert len(lines) == 1 + len(header.tensors)
    first = json.loads(cli("show", "tiny", "--tensors", "--json").stdout)[0]
    assert list(first) == ["name", "shape", "type", "bytes", "offset", "file"]
    assert (first["shape"], first["offset"], first["file"]) == ([*tensor.shape], header.data_offset, str(TINY))


def test_template(cli: Cli, plain: Path) -> None:
    text = read_header(TINY).text("tokenizer.chat_template")
    assert cli("show", "tiny", "--template").stdout == text.encode()
    assert json.loads(cli("show", "tiny", "--template", "--json").stdout) == {"chat_template": text}
    none = cli("show", plain, "--template")
    assert (none.returncode, none.stdout) == (2, b"")
    assert none.stderr == f"error: {plain} has no chat template\n".encode()


def test_nothing_foreign_reaches_a_terminal(cli: Cli, tmp_path: Path) -> None:
    from make_gguf import spm_tokens, write_llama

    evil = "\x1b]0;owned\x07\x9b31m\u202e"
    path = write_llama(
        tmp_path / "evil\x1b[31m.gguf",
        metadata_overrides={
            "general.name": f"name{evil}",
            "general.license": evil,
            f"general.{evil}": evil,
            "general.sampling.temp": evil,
            "tokenizer.ggml.pre": evil,
        },
        chat_template=f"<|im_start|>{evil}\n{evil}",
        tokens=[*spm_tokens(), evil],
    )
    # the colours of tables are ours
    for option in ([], ["--metadata"], ["--template"], ["--tensors"], ["--json"], ["--metadata", "--json"]):
        shown = re.sub(r"\x1b\[\d*m", "", on_a_terminal("show", path, *option))
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown), option
    assert cli("show", path, "--template").stdout == f"<|im_start|>{evil}\n{evil}".encode()
    assert evil in dict(rows(cli("show", path)))["name"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--metadata", "--tensors"], 2, b"exclude each other"),
        (["tiny", "-m", "tiny"], 2, b"named twice"),
        (["tiny", "-ctk", "q9"], 2, b"--cache-type-k q9: it must be one of"),
        (["tiny", "-c", "-1"], 2, b"-1 is not between"),
        (["./nothing.gguf"], 3, b"no such file"),
        (["README"], 6, b"not a GGUF file"),
        ([""], 2, b"names no model"),
    ],
)
def test_what_cannot_be_shown(cli: Cli, tmp_path: Path, arguments: list[str], code: int, message: bytes) -> None:
    readme = tmp_path / "README"
    readme.write_text("read me")
    done = cli("show", *(str(readme) if a == "README" else a for a in arguments))
    assert (done.returncode, done.stdout) == (code, b"")
    assert message in done.stderr
    assert done.stderr.startswith(b"error: ")


def test_llama_cpp_is_not_needed(cli: Cli) -> None:
    script = (
        "import sys; sys.argv = ['llamacli', 'show', 'tiny']\nfrom llamacli.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('llama_cpp', 'numpy', 'rich', 'huggingface_hub') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
