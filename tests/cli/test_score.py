"""`llamacli score`: the heat map, the table, TSV and JSON."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from make_gguf import write_llama

Cli = Callable[..., subprocess.CompletedProcess[bytes]]


def test_a_pipe_gets_tsv(cli: Cli) -> None:
    done = cli("score", "-m", "tiny", "Once upon a time")
    assert (done.returncode, done.stderr) == (0, b"")
    header, first, *rows = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert header == ["position", "id", "piece", "bits", "p", "rank"]
    assert first == ["0", "1", "'<s>'", "", "", ""]
    assert [row[2] for row in rows] == ["'Once'", "' upon'", "' a'", "' time'"]
    assert float(rows[-1][3]) < 0.5 < float(rows[-1][4])
    assert rows[-1][5] == "1"


def test_alternatives(cli: Cli) -> None:
    done = cli("score", "-m", "tiny", "--top", "2", "Once upon a\ttime")
    header, first, *rows = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert header[6:] == ["top1", "top1_p", "top2", "top2_p"]
    assert {len(row) for row in (first, *rows)} == {10}
    assert rows[2][6] == "' a'"
    assert float(rows[2][7]) > float(rows[2][9])


def test_json(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("Once upon \x1b[31m a\n")
    result = json.loads(cli("score", "-m", "tiny", "-f", file, "--json", "--top", "1", stdin=b" time\n").stdout)
    names = {"model", "n_ctx_train", "tokens_scored", "bytes", "bits", "bits_per_byte", "perplexity", "tokens"}
    assert set(result) == names
    assert result["bytes"] == len("Once upon \x1b[31m a time")
    assert result["tokens_scored"] == len(result["tokens"]) - 1
    assert sum(token["bits"] or 0 for token in result["tokens"]) == pytest.approx(result["bits"])
    assert set(result["tokens"][1]) == {"position", "id", "piece", "bytes", "bits", "p", "rank", "top"}
    assert set(result["tokens"][1]["top"][0]) == {"id", "piece", "bytes", "p"}
    text = bytes.fromhex("".join(token["bytes"] for token in result["tokens"][1:])).decode()
    assert text.strip() == "Once upon \x1b[31m a time"


def test_too_long(cli: Cli) -> None:
    done = cli("score", "-m", "tiny", "the dog " * 800)
    assert done.returncode == 8
    assert b"1024" in done.stderr
    assert b"perplexity" in done.stderr  # the hint
    assert cli("score", "-m", "tiny", "").returncode == 0
    assert cli("score", "-m", "tiny").returncode == 2


def colours(screen: Any, row: int) -> list[tuple[str, str]]:
    """(character, background) of each cell of a row, without the blank end."""
    cells = [(screen.buffer[row][x].data, screen.buffer[row][x].bg) for x in range(screen.columns)]
    while cells and cells[-1] == (" ", "default"):
        cells.pop()
    return cells


@pytest.fixture
def terminal() -> Any:
    pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")
    from screen import Terminal

    opened: list[Terminal] = []

    def start(*arguments: object, **settings: Any) -> Terminal:
        opened.append(Terminal(*arguments, **settings))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_the_heat_map(terminal: Any, tmp_path: Path) -> None:
    """The text is there, likely and unlikely tokens differ, line breaks and wide characters are right."""
    file = tmp_path / "text.txt"
    file.write_text("Once upon a time quantum\n大的狗和猫在家里玩\n\x1b[41mred\ta\n")
    seen = terminal("score", "-m", "tiny", "-f", file, columns=24, rows=16)
    assert seen.end() == 0
    lines = seen.text().splitlines()
    assert "".join(line.replace(" ", "") for line in lines[:2]) == "Onceuponatimequantum↵"
    first = colours(seen.screen, 0)
    text = "".join(character for character, _ in first)
    assert first[text.index("time")][1] != "default"
    upon, quantum = first[text.index("upon")][1], colours(seen.screen, 1)[2][1]
    assert upon != quantum
    assert "".join(c for c, _ in colours(seen.screen, 2)) == "大的狗和猫在家里玩↵"
    assert all(bg != "default" for _, bg in colours(seen.screen, 2)[:19])
    assert all(background == "default" for _, background in colours(seen.screen, 2)[19:])
    assert "\\x1b[41mred" in lines[3].replace(" ", "")
    assert b"\x1b[41m" not in seen.raw
    assert "bits from:" in seen.text()
    assert "bits, " in " ".join(lines)
    assert b"perplexity" in seen.raw


def test_colours_end_before_the_edge(terminal: Any) -> None:
    """Or a terminal that scrolls would fill the new line with them."""
    seen = terminal("score", "-m", "tiny", "dog " * 60, columns=20, rows=8)
    seen.end()
    heat = seen.raw.split(b"bits from")[0]
    for line in heat.splitlines():
        assert line.rpartition(b"\x1b[")[2].startswith(b"0m") or b"\x1b" not in line


def test_a_character_of_several_tokens_is_one(terminal: Any, plain: Path) -> None:
    seen = terminal("score", "-m", plain, "the 素 e", columns=40)
    seen.end()
    assert "the 素 e" in seen.text()
    assert "�" not in seen.text()


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_without_colours_a_table(terminal: Any, environment: dict[str, str]) -> None:
    seen = terminal("score", "-m", "tiny", "Once upon", env=environment)
    seen.end()
    assert "position" in seen.text()
    assert "' upon'" in seen.text()
    assert "perplexity" in seen.text()


def test_alternatives_on_a_terminal(terminal: Any) -> None:
    seen = terminal("score", "-m", "tiny", "--top", "1", "Once upon a", columns=100)
    seen.end()
    assert "top1" in seen.text()


def test_a_vocabulary_without_bos(cli: Cli, terminal: Any, tmp_path: Path) -> None:
    """The first token is shown and not scored."""
    path = write_llama(tmp_path / "nobos.gguf", metadata_overrides={"tokenizer.ggml.add_bos_token": False})
    rows = cli("score", "-m", path, "then").stdout.decode().splitlines()
    assert rows[1].split("\t")[3] == ""
    assert rows[2].split("\t")[3] != ""
    seen = terminal("score", "-m", path, "then")
    seen.end()
    assert seen.text().splitlines()[0] == "then"
    cells = colours(seen.screen, 0)
    assert cells[0][1] == "default" != cells[-1][1]
