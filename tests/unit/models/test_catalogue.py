"""The catalogue: what it holds, what a user's file adds, and that each mistake is told with its line."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llamacli import paths
from llamacli.errors import StorageError, UsageError
from llamacli.models import catalogue
from llamacli.models.catalogue import Catalogue, Entry, own_file, read

BUNDLED = Path(__file__).parents[3] / "models.toml"

#: Named in llama.cpp's own documentation and tests, so known to exist.
KNOWN = {
    "bartowski/DeepSeek-R1-Distill-Qwen-7B-GGUF",
    "bartowski/Llama-3.2-1B-Instruct-GGUF",
    "bartowski/Llama-3.2-3B-Instruct-GGUF",
    "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF",
    "bartowski/Mistral-Nemo-Instruct-2407-GGUF",
    "bartowski/Phi-3.5-mini-instruct-GGUF",
    "bartowski/Qwen2.5-1.5B-Instruct-GGUF",
    "bartowski/Qwen2.5-7B-Instruct-GGUF",
    "bartowski/Qwen2.5-Coder-3B-Instruct-GGUF",
    "ggml-org/embeddinggemma-300M-qat-q4_0-GGUF",
    "ggml-org/gemma-3-1b-it-GGUF",
    "ggml-org/gemma-3-4b-it-GGUF",
    "ggml-org/gemma-4-E2B-it-GGUF",
    "ggml-org/GLM-4.7-Flash-GGUF",
    "ggml-org/gpt-oss-20b-GGUF",
    "ggml-org/Qwen3.5-0.8B-GGUF",
    "ggml-org/SmolVLM2-500M-Video-Instruct-GGUF",
    "gpustack/bge-m3-GGUF",
    "ibm-granite/granite-4.0-350m-GGUF",
    "ibm-granite/granite-4.1-3b-GGUF",
    "TheBloke/Llama-2-7B-GGUF",
    "unsloth/Qwen3.5-4B-GGUF",
    "unsloth/SmolLM2-135M-Instruct-GGUF",
}

Write = Callable[[str | bytes], Path]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes the user's own models.toml."""
    monkeypatch.setenv("LLAMACLI_HOME", str(tmp_path))

    def write(text: str | bytes) -> Path:
        path = tmp_path / "config" / "models.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def entry(alias: str, *, default: bool = False) -> Entry:
    return Entry(alias, "user/name", "Q4_K_M", "", "", None, "", "", default, Path("x"))


def of(*aliases: str, default: str = "") -> Catalogue:
    return Catalogue({alias: entry(alias, default=alias == default) for alias in aliases})


# ---- what is bundled -----------------------------------------------------------------------------------------------


def test_every_bundled_entry_is_complete_and_known() -> None:
    entries = read().entries
    assert len(entries) >= 20
    assert {e.repository for e in entries.values()} == KNOWN
    for alias, e in entries.items():
        assert alias == e.alias == alias.lower()
        assert e.source == BUNDLED
        assert "" not in (e.quant, e.about, e.parameters, e.licence, e.memory), alias
        assert len(e.about) <= 60, alias
        assert e.context is None or 1024 <= e.context <= 1 << 20, alias


def test_bundled_models_fit_the_memory_that_is_promised() -> None:
    """No 4-bit model takes less than half a byte for each parameter."""
    for e in read().entries.values():
        number, unit = re.match(r"([\d.]+)([MB])", e.parameters).groups()  # type: ignore[union-attr]
        bits = 8 if e.quant == "Q8_0" else 4
        gigabytes = float(number) * {"M": 1e-3, "B": 1}[unit] * bits / 8
        assert gigabytes < float(e.memory.removesuffix(" GB")) < 4 * gigabytes + 1, e.alias


def test_bundled_quants_of_special_repositories() -> None:
    entries = read().entries
    assert entries["embeddinggemma:300m"].quant == "Q4_0"
    assert entries["gpt-oss:20b"].quant == "MXFP4"
    assert entries["llama3.2:3b"].quant == "Q4_K_M"


def test_every_bundled_name_alone_means_one_model() -> None:
    models = read()
    for name in {e.name for e in models.entries.values()} - {"qwen3.5"}:
        assert models.find(name), name
    assert models.find("qwen3.5") == models.entries["qwen3.5:4b"]


def test_the_comment_at_the_top_is_an_example_that_works(own: Write) -> None:
    """What it shows users, without the explanations, is a valid file."""
    lines = [line[6:] for line in BUNDLED.read_text().splitlines() if line.startswith("#     ")]
    shown = [line.split("  ")[0] if line.startswith("[") else line for line in lines if not line.startswith(" ")]
    shown = [re.sub(r'((?:"[^"]*"|\d+|true))  .*', r"\1", line) for line in shown]
    own("\n".join(shown))
    found = read().find("name:tag")
    assert found == Entry(
        "name:tag",
        "user/name",
        "Q4_K_M",
        "general chat",
        "0.8B",
        32768,
        "apache-2.0",
        "1.5 GB",
        True,
        own_file(),
    )


def test_in_a_wheel_the_file_lies_inside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "llamacli" / "models.toml"
    inside.parent.mkdir()
    shutil.copy(BUNDLED, tmp_path / "models.toml")  # as in a checkout, where there is no other
    monkeypatch.setattr(catalogue, "__file__", str(tmp_path / "llamacli" / "models" / "catalogue.py"))
    assert read().entries["qwen3.5:4b"].source == tmp_path / "models.toml"
    inside.write_text('["a:b"]\nrepository = "u/n"\n')
    assert [e.source for e in read().entries.values()] == [inside]


def test_a_missing_bundled_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "__file__", str(tmp_path / "llamacli" / "models" / "catalogue.py"))
    with pytest.raises(StorageError, match="is missing") as caught:
        read()
    assert caught.value.hint


# ---- finding -------------------------------------------------------------------------------------------------------


def test_find() -> None:
    models = of("qwen:1b", "qwen:4b", "phi:4b", "llama:1b", "llama:3b", default="qwen:4b")
    assert models.find("qwen:1b") == entry("qwen:1b")
    assert models.find("QWEN:1B") == entry("qwen:1b")
    assert models.find("Qwen") == entry("qwen:4b", default=True)
    assert models.find("phi") == entry("phi:4b")
    for name in ("llama", "qwen:2b", "qwe", "qwen:", ":1b", "", "tiny"):
        assert models.find(name) is None, name


def test_ambiguous() -> None:
    models = of("qwen:1b", "qwen:4b", "phi:4b", "llama:1b", "llama:3b", default="qwen:4b")
    assert models.ambiguous("Llama") == ("llama:1b", "llama:3b")
    for name in ("qwen", "phi", "llama:1b", "llama:2b", "mistral", ""):
        assert models.ambiguous(name) == (), name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lama3.2:3b", "llama3.2:3b"),
        ("LLAMA3.2:8b", "llama3.2:3b"),
        ("qwen35:4b", "qwen3.5:4b"),
        ("qwen3.5-4b", "qwen3.5:4b"),
        ("deepseek", "deepseek-r1:7b"),
        ("glm", "glm-4.7-flash:30b"),
        ("gptoss", "gpt-oss:20b"),
        ("gema3", "gemma3:1b"),
    ],
)
def test_suggestions(name: str, expected: str) -> None:
    assert expected in read().suggestions(name)


def test_suggestions_are_few_near_and_quick() -> None:
    models = read()
    assert models.suggestions("lama3.2:3b")[0] == "llama3.2:3b"
    assert len(models.suggestions("qwen")) == 3
    assert all(alias.startswith("qwen") for alias in models.suggestions("qwen"))
    for name in ("", "zzz", "/etc/passwd", "x" * 1_000_000):
        assert models.suggestions(name) == (), name[:20]


# ---- the user's file -----------------------------------------------------------------------------------------------


def test_without_a_file_of_the_users_nothing_is_added_or_made(tmp_path: Path, own: Write) -> None:
    assert {e.source for e in read().entries.values()} == {BUNDLED}
    assert list(tmp_path.iterdir()) == []


def test_adding(own: Write) -> None:
    path = own('["Mine:Latest"]\nrepository = "Me/My-Model_1.5-GGUF"\n')
    models = read()
    assert models.find("mine") == Entry(
        "mine:latest", "Me/My-Model_1.5-GGUF", "Q4_K_M", "", "", None, "", "", False, path
    )
    assert models.find("qwen3.5:0.8b").source == BUNDLED  # type: ignore[union-attr]
    assert list(models.entries)[-1] == "mine:latest"
    assert own_file() == path


def test_replacing_is_of_the_whole_entry_and_keeps_the_default(own: Write) -> None:
    path = own('["QWEN3.5:4b"]\nrepository = "me/q"\nquant = "Q8_0"\n')
    assert len(read().entries) == len(KNOWN)
    found = read().find("qwen3.5")
    assert found == Entry("qwen3.5:4b", "me/q", "Q8_0", "", "", None, "", "", True, path)


def test_a_default_can_be_moved_and_taken_away(own: Write) -> None:
    own('["qwen3.5:99b"]\nrepository = "me/q"\ndefault = true\n')
    models = read()
    assert models.find("qwen3.5") == models.entries["qwen3.5:99b"]
    assert not models.entries["qwen3.5:4b"].default
    assert models.entries["gemma3:4b"].default
    own('["qwen3.5:4b"]\nrepository = "me/q"\n\n["qwen3.5:99b"]\nrepository = "me/q"\ndefault = true\n')
    assert [e.alias for e in read().entries.values() if e.name == "qwen3.5" and e.default] == ["qwen3.5:99b"]
    own('["qwen3.5:4b"]\nrepository = "me/q"\ndefault = false\n')
    assert read().find("qwen3.5") is None
    assert read().ambiguous("qwen3.5") == ("qwen3.5:0.8b", "qwen3.5:4b")


def test_other_ways_to_write_it(own: Write) -> None:
    own(
        '"a:1".repository = "u/n"\n"b:1" = {repository = "u/n", context = 1_024}\n'
        "['c:1']\nrepository = '''u/n'''\nmemory = \"512MiB\"\nparameters = '7b'\n"
    )
    models = read()
    assert [models.find(name).repository for name in "abc"] == ["u/n"] * 3  # type: ignore[union-attr]
    assert models.entries["b:1"].context == 1024
    assert models.entries["c:1"].memory == "512MiB"


@pytest.mark.parametrize(
    "data", [b"", b"# nothing\n", b"\xef\xbb\xbf# from Notepad\r\n[\"a:1\"]\r\nrepository = 'u/n'\r\n"]
)
def test_what_editors_leave(own: Write, data: bytes) -> None:
    own(data)
    assert len(read().entries) == len(KNOWN) + (b"a:1" in data)


def test_escape_characters_do_nothing(own: Write) -> None:
    own('["a:1"]\nrepository = "u/n"\nabout = "red \\u001b[31m\\nline \\u202e"\nlicence = "\\u009b2J"\n')
    found = read().entries["a:1"]
    assert found.about == "red \\x1b[31m line \\u202e"
    assert found.licence == "\\x9b2J"


# ---- mistakes ------------------------------------------------------------------------------------------------------

GOOD = '["good:1"]\nrepository = "u/n"\n'  # two lines

NO_REPOSITORY = (
    *(
        "",
        "/",
        "a/",
        "/b",
        "a/b/c",
        "../b",
        "a/..",
        "a/.",
        "a/b.",
        "a/b--c",
        "a/-b",
        "a\\\\b/c",
        "a b/c",
        "a/ſ",
        "a/b\\n",
    ),
    *("https://huggingface.co/a/b", "a/b:Q4_K_M"),
)
NO_MEMORY = ("", "1.5", "1,5 GB", "GB", "-1 GB", "1. GB", "1.5 GB!", "\u0661 GB")

MISTAKES = [
    # what TOML refuses
    ('["a:1"\n', 3, "no TOML: expected ']'"),
    ("['a:1']\nrepository = u/n\n", 4, 'invalid value; expected text in quotes, like "Q4_K_M"'),
    ("['a:1']\nparameters = 0.8B\n", 4, "end of document after a statement; expected text in quotes"),
    ("['a:1']\ndefault = True\n", 4, "true or false in lower case"),
    ("['a:1']\nrepository = 'u/n", 4, "expected"),
    ("['a:1']\nrepository = \n\n\n", 4, "invalid value"),
    ("['a:1']\nrepository = '''\nu/n\n\n", 5, "expected"),
    ("[qwen3.5:0.8b]\nrepository = 'u/n'\n", 3, 'an alias stands in quotes, like ["name:tag"], not [qwen3.5:0.8b]'),
    ("['a:1']\nabout = '\x1b[2J'\n", 4, "'\\x1b'"),
    # duplicates
    ('["good:1"]\nrepository = "u/m"\n', 3, "good:1 was already given in line 1; expected once"),
    ('\n# ["b:1"]\n["b:1"]\nquant = "Q8_0"\n["\\u0062:1"]\n', 7, "b:1 was already given in line 5"),
    ("quant = 'a'\nquant = 'b'\n", 4, "the key quant of good:1 was already given in line 3"),
    ("quant = 'a'\nquant = 'b'", 4, "the key quant of good:1 was already given in line 3"),
    (
        "about = '''\nquant = 1\n'''\nquant = 'a'\n\n  \"quant\" = 'b' # again\n",
        8,
        "the key quant of good:1 was already given in line 6",
    ),
    ('["GOOD:1"]\nrepository = "u/m"\n', 3, "GOOD:1 is the same alias as in line 1"),
    ("['a:1']\nrepository='u/n'\ndefault = true\n['a:2']\nrepository='u/n'\ndefault = true\n", 8,
     "a:2 is a second default of a, after line 5; expected at most one"),
    # keys
    ("repositry = 'x'\n", 3, "repositry: did you mean repository?"),
    ("license = 'mit'\n", 3, "license: did you mean licence?"),
    ("Quant = 'Q8_0'\n", 3, "Quant: did you mean quant?"),
    ("mem = '1 GB'\n", 3, "mem: did you mean memory?"),
    ("zzz = 1\n", 3, "zzz: there is no such key; expected one of repository, quant, about, parameters, con"),
    ("['good:1'.more]\nx = 1\n", 3, "more: there is no such key"),
    ("'\x7f\\u' = 1\n", 3, "no TOML: found invalid character"),
    ('"\\u001b]0;x" = 1\n', 3, "\\x1b]0;x: there is no such key"),
    ("['a:1']\nquant = 'Q8_0'\n", 3, 'a:1 has no repository; expected repository = "user/name"'),
    # types
    ("context = 'many'\n", 3, "context must be a whole number of tokens, not the text 'many'"),
    ("context = 4096.0\n", 3, "context must be a whole number of tokens, not the number 4096.0"),
    ("context = true\n", 3, "context must be a whole number of tokens, not true"),
    ("context = 0\n", 3, "context must be a whole number of tokens from 1 to 4294967295, not the number 0"),
    ("context = 4294967296\n", 3, "from 1 to 4294967295"),
    (f"context = 1{'0' * 400}\n", 3, "from 1 to 4294967295"),
    ("default = 'yes'\n", 3, "default must be true or false, not the text 'yes'"),
    ("default = 1\n", 3, "default must be true or false, not the number 1"),
    ("about = ['a', 'b']\n", 3, 'about must be text, like "small general chat model", not a list'),
    ("licence = {}\n", 3, "not a table"),
    ("quant = 2020-01-01\n", 3, "not a date or time"),
    ("parameters = 7\n", 3, 'parameters must be text, like "0.8B", not the number 7'),
    # aliases
    ("['a']\nrepository='u/n'\n", 3, 'a is no alias; expected ["name:tag"] in quotes, of letters, digits, . _'),
    ("[qwen3.5]\nrepository='u/n'\n", 3, "qwen3 is no alias"),
    ("['a:b:c']\nrepository='u/n'\n", 3, "a:b:c is no alias"),
    ("['a b:c']\nrepository='u/n'\n", 3, "a b:c is no alias"),
    ("['../a:c']\nrepository='u/n'\n", 3, "../a:c is no alias"),
    ("['-m:c']\nrepository='u/n'\n", 3, "-m:c is no alias"),
    ("['ä:c']\nrepository='u/n'\n", 3, "ä:c is no alias"),
    ("['']\nrepository='u/n'\n", 3, "'' is no alias"),
    ('["a:b\\n"]\nrepository="u/n"\n', 3, "a:b is no alias"),
    ("[['a:b']]\nrepository='u/n'\n", 3, 'a:b must be a table, ["a:b"], not a list'),
    # values that do not read as what they are
    ("['a:1']\n\nrepository = 'name'\n", 5, 'repository must be user/name on the Hub, like "ggml-org/gemma'),
    *((f'["a:1"]\nabout = "x"\nrepository = "{name}"\n', 5, "repository must be user/") for name in NO_REPOSITORY),
    ("memory = 'a lot'\n", 3, "memory must be a number with MB or GB, like \"1.5 GB\", not the text 'a lot'"),
    *((f"memory = '{text}'\n", 3, "memory must be") for text in NO_MEMORY),
    ("parameters = 'big'\n", 3, 'parameters must be a number with K, M, B or T, like "0.8B" or "30B-A3B", not'),
    *((f"parameters = '{text}'\n", 3, "parameters must be") for text in ("", "7", "B", "7B-A", "7 B", "-7B", "7B-3B")),
    ("quant = ''\n", 3, "quant must be the name of a quantization"),
    ("quant = '../x'\n", 3, "quant must be the name of a quantization"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "expected"), MISTAKES)
def test_a_mistake_is_told_with_its_line(own: Write, text: str, line: int, expected: str) -> None:
    path = own(GOOD + text)
    with pytest.raises(UsageError) as caught:
        read()
    message = caught.value.message
    assert message.startswith(f"{path}, line {line}: "), message
    assert expected in message
    assert message.isprintable()
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("quant = 'Q8_0'\n", 1, 'the key quant belongs to no model; expected a table ["name:tag"] before it'),
        ("\n'a:b' = 5\n", 2, 'a:b must be a table, ["a:b"], not the number 5'),
        ("\n\n'a:b' = {quant = 'Q8_0'}\n", 3, "a:b has no repository"),
        ("\n'a:b' = {quant = 5}\n", 2, "quant must be text"),
        ("'a:b'.quant = 'x'\n'a:b'.context = 'x'\n", 2, "context must be"),
        ("'a:b'.quant = 'x'\n", 1, "a:b has no repository"),
        ("\n\n'a:b'.quant = 5\n", 3, "quant must be"),
    ],
)
def test_mistakes_outside_of_tables(own: Write, text: str, line: int, expected: str) -> None:
    path = own(text)
    with pytest.raises(UsageError) as caught:
        read()
    assert caught.value.message.startswith(f"{path}, line {line}: {expected}")


def test_the_line_is_right_after_all_that_can_span_lines(own: Write) -> None:
    """Text that looks like tables and keys, in strings, comments and lists, is not counted as such."""
    text = (
        "# ['x:1'] \"\"\" '''\n"  # 1
        "['a:1'] # it's \"open\n"  # 2
        'about = """\n'  # 3
        "['x:1']\n"  # 4
        'context = "x" \\"""\n'  # 5
        'a "quoted" end"""" # " [\n'  # 6: a quote belongs to the text
        "licence = '''\n"  # 7
        "context = [ { ' \\'''' # ' [\n"  # 8: here too
        "\"\\u0071uant\" = 'Q8_0' # ]\n"  # 9
        "repository = 'u/n'\r\n"  # 10
        "\r\n"  # 11
        "['x:1']\n"  # 12
        'repository = "u/n"\n'  # 13
        "\"context\" = 'x'\n"  # 14
    )
    path = own(text)
    with pytest.raises(UsageError) as caught:
        read()
    assert caught.value.message.startswith(f"{path}, line 14: context must be"), caught.value.message
    valid = text.replace("'x'\n", "4096\n")
    own(valid)
    assert read().entries["a:1"].licence == "context = [ { ' \\'"
    listed = "more = [\n  'context = 1',\n  # ]\n  [{a = ']'}],\n]\nmemory = '1 GB'\n"  # lines 15 to 20
    own(valid + listed)
    with pytest.raises(UsageError, match="line 15: more: there is no such key"):
        read()
    own(valid + listed + "memory = '2 GB'\n")
    with pytest.raises(UsageError, match="line 21: the key memory of x:1 was already given in line 20"):
        read()


@pytest.mark.parametrize("data", [b"\xff\xfe", "# grün\n".encode("latin-1"), b"\xef\xbb\xbf# caf\xe9"])
def test_no_utf8(own: Write, data: bytes) -> None:
    bom = data.startswith(b"\xef\xbb\xbf")
    path = own(data[:3] + b"\n\n" + data[3:] if bom else b"\n\n" + data)
    with pytest.raises(UsageError) as caught:
        read()
    wrong = {"#": 0xFC, "\xff": 0xFF, "\xef": 0xE9}[chr(data[0])]
    assert caught.value.message == f"{path}, line 3: the byte 0x{wrong:02x} is no UTF-8; save the file as UTF-8"


@pytest.mark.parametrize("text", [f"a = {'[' * 100_000}", f"a = {'9' * 5000}"])
def test_absurd_files_are_refused(own: Write, text: str) -> None:
    path = own(text)
    with pytest.raises(UsageError) as caught:
        read()
    assert caught.value.message.startswith(str(path))
    assert len(caught.value.message) < 500


def test_a_large_file_is_not_read_to_its_end(own: Write) -> None:
    own(b"#" * ((1 << 20) + 1))
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        read()


def test_a_folder_in_the_files_place(own: Write) -> None:
    path = own("")
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageError) as caught:
        read()
    assert caught.value.message.startswith(f"cannot read {path}: ")
    assert caught.value.exit_code == 9


@pytest.mark.skipif(
    os.name == "nt" or (hasattr(os, "geteuid") and os.geteuid() == 0), reason="nothing is forbidden here"
)
def test_a_file_without_permission(own: Write) -> None:
    own("").chmod(0)
    with pytest.raises(StorageError, match="Permission denied"):
        read()


def test_a_path_with_escape_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.name == "nt":
        pytest.skip("no such names")
    home = tmp_path / "a\x1b[2J"
    (home / "config").mkdir(parents=True)
    (home / "config" / "models.toml").write_text("zzz\n")
    monkeypatch.setenv("LLAMACLI_HOME", str(home))
    with pytest.raises(UsageError) as caught:
        read()
    assert "a\\x1b[2J" in caught.value.message
    assert caught.value.message.isprintable()


# ---- the folder ----------------------------------------------------------------------------------------------------


def test_the_configuration_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMACLI_HOME", str(tmp_path / "home"))
    assert paths.config() == tmp_path / "home" / "config"
    assert paths.config() != paths.cache()
    assert not paths.config().exists()
    monkeypatch.delenv("LLAMACLI_HOME")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    if sys.platform == "linux":
        assert paths.config() == tmp_path / "xdg" / "llamacli"
    assert paths.config().name == "llamacli"
