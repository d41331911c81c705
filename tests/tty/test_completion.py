"""Tab, pressed in real shells: what is typed, then Enter, and the words that the command gets."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pexpect = pytest.importorskip("pexpect", reason="pexpect needs a POSIX system")

#: Answers to Tab come from llamacli; any other call shows the words it got.
SHIM = """\
#!/bin/sh
if [ "$1" = completion ]; then exec "{python}" -m llamacli "$@"; fi
printf 'got'; for word; do printf '<%s>' "$word"; done; printf '!\\n'
"""
START = {
    "bash": (
        ["--noprofile", "--norc", "-i"],
        'PS1="ready> "; bind "set bell-style none"; eval "$(llamacli completion bash)"',
    ),
    "zsh": (
        ["-f", "-i"],
        'PS1="ready> "; unsetopt beep; autoload -Uz compinit; compinit -u -D; eval "$(llamacli completion zsh)"',
    ),
    "fish": (
        ["--private", "--no-config"],
        'llamacli completion fish | source; function fish_prompt; echo "ready> "; end',
    ),
}

Press = Callable[[str], Any]


@pytest.fixture(params=sorted(START))
def press(
    request: pytest.FixtureRequest, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Press]:
    """press("llamacli compl\\t\\r") types into a shell and returns it, to be read."""
    shell = request.param
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "bin").mkdir()
    shim = tmp_path / "bin/llamacli"
    shim.write_text(SHIM.format(python=sys.executable))
    shim.chmod(0o755)
    config = tmp_path / "llamacli/config"
    (config / "presets").mkdir(parents=True)
    (config / "presets/review.toml").write_text('prompt = "x"\n')
    hub = tmp_path / "hub/models--somebody--weird/snapshots/1"
    hub.mkdir(parents=True)
    (hub / "a $(touch hacked) b-Q4_K_M.gguf").write_bytes(b"GGUF")
    (tmp_path / "work").mkdir()
    (tmp_path / "work/part one.py").write_text("")
    (home / "notes.txt").write_text("")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LLAMACLI_HOME", str(tmp_path / "llamacli"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TERM", "dumb" if shell == "zsh" else "xterm")
    arguments, setup = START[shell]
    child = pexpect.spawn(program, arguments, cwd=tmp_path / "work", timeout=30, dimensions=(40, 200), encoding="utf-8")
    child.delaybeforesend = None
    child.sendline(setup)
    child.sendline("echo st''arted")
    child.expect("started")
    child.expect("ready> ")

    def typed(text: str) -> Any:
        child.send(text)
        return child

    yield typed
    child.close(force=True)


def got(child: Any) -> str:
    """The words of the call that comes next, as the shim shows them."""
    child.expect(r"got((?:<[^\r\n]*>)*)!")
    return str(child.match[1])


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("llamacli perp\t\r", "<perplexity>"),
        ("llamacli complete --frequency\t\r", "<complete><--frequency-penalty>"),
        ("llamacli complete -m tin\t\r", "<complete><-m><tiny>"),
        ("llamacli complete -m qwen3.5:0\t\r", "<complete><-m><qwen3.5:0.8b>"),
        ("llamacli complete --model=qwen3.5:0\t\r", "<complete><--model=qwen3.5:0.8b>"),
        ("llamacli chat granite4:\t\r", "<chat><granite4:350m>"),
        ("llamacli complete --preset rev\t\r", "<complete><--preset><review>"),
        ("llamacli config get mirostat_t\t\r", "<config><get><mirostat_tau>"),
        ("llamacli complete -fa aut\t\r", "<complete><-fa><auto>"),
        ("llamacli history exp\t\r", "<history><export>"),
        ("llamacli complete -f part\t\r", "<complete><-f><part one.py>"),
        ('llamacli complete -m "qwen3.5:0\t\r', "<complete><-m><qwen3.5:0.8b>"),
        ("llamacli complete --model='qwen3.5:0\t\r", "<complete><--model=qwen3.5:0.8b>"),
        ('llamacli complete -f "part\t\r', "<complete><-f><part one.py>"),
        ("llamacli complete -f ~/not\t\r", "<complete><-f><~/notes.txt>"),
        ("llamacli complete --file=part\t\r", "<complete><--file=part one.py>"),
        ("llamacli complete --think=hi\t\r", "<complete><--think=high>"),
        ("A=1 llamacli perp\t\r", "<perplexity>"),
        ("echo a | llamacli perp\t\r", "<perplexity>"),
        ("llamacli config set flash_attn of\t\r", "<config><set><flash_attn><off>"),
        ("llamacli complete -m somebody\t\r", "<complete><-m><somebody/weird/a $(touch hacked) b-Q4_K_M.gguf>"),
    ],
)
def test_tab(press: Press, tmp_path: Path, typed: str, words: str) -> None:
    assert got(press(typed)) == words.replace("~", str(tmp_path / "home"))
    assert not (tmp_path / "work/hacked").exists()


def test_behind_a_redirection_stands_a_file(press: Press, tmp_path: Path) -> None:
    child = press("llamacli complete hi > par\t\r")
    child.send("echo do''ne\r")
    child.expect_exact("done")
    assert (tmp_path / "work/part one.py").read_text() == "got<complete><hi>!\n"


def test_two_tabs_show_what_there_is(press: Press) -> None:
    child = press("llamacli presets \t\t")
    for verb in ("edit", "rm"):
        child.expect_exact(verb)
