"""Completion as each shell wants it: the script that it loads, and the answer to a Tab.

The script asks `llamacli completion --words SHELL -- …` and gets lines. The first is "files" where the shell should
offer files if no word fits, else "words"; the others are words. Names of models are foreign text: what could do
anything to a shell or a terminal is quoted, or left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from llamacli.ui.sanitize import for_terminal

#: What bash breaks words at where it is not told otherwise; it expects what stands behind the last break only.
BREAKS = "\"'><=;|&(:"

_BASH = """\
# llamacli's completion for bash: eval "$(llamacli completion bash)"
_llamacli() {
    local kind= line
    COMPREPLY=()
    while IFS= read -r line; do
        if [[ -z $kind ]]; then kind=$line; else COMPREPLY+=("$line"); fi
    done < <("${1/#\\~/$HOME}" completion --words bash -- "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null)
    if [[ $kind != files ]]; then compopt +o default 2>/dev/null; fi
}
complete -o default -F _llamacli llamacli
"""

_ZSH = """\
#compdef llamacli
# llamacli's completion for zsh: eval "$(llamacli completion zsh)", behind compinit
_llamacli() {
    local -a lines values shown
    local line
    lines=("${(@f)$("${(Q)words[1]/#\\~/$HOME}" completion --words zsh -- \\
        "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    [[ $PREFIX == -*=* ]] && compset -P '*='
    for line in "${(@)lines[2,-1]}"; do
        values+=("${line%%$'\\t'*}")
        if [[ $line == *$'\\t'* ]]; then shown+=("${line%%$'\\t'*}  -- ${line#*$'\\t'}"); else shown+=("$line"); fi
    done
    if (( $#values )); then
        compadd -l -d shown -a values && return
    fi
    [[ $lines[1] == files ]] && _files
}
compdef _llamacli llamacli
"""

_FISH = """\
# llamacli's completion for fish: llamacli completion fish > ~/.config/fish/completions/llamacli.fish
function __llamacli_ask
    set -l tokens (commandline -opc)
    while string match -qr '^\\w+=' -- $tokens[1]
        set -e tokens[1]
    end
    set -l program (string replace -r '^~' -- ~ $tokens[1])
    set -l raw (commandline -ct)
    # A quotation that is still open is no text that could be unescaped.
    set -l current (string unescape -- "$raw"; or string replace -r '["\\']' '' -- "$raw")
    set -l asked (date +%s) $tokens "$raw"
    test "$asked" = "$__llamacli_asked"; and return # by the other rule, at the same Tab
    set -g __llamacli_asked "$asked"
    set -g __llamacli_answer ($program completion --words fish -- $tokens[2..-1] "$current" 2>/dev/null)
end
function __llamacli_files
    __llamacli_ask
    test "$__llamacli_answer" = files
end
function __llamacli_words
    __llamacli_ask
    test (count $__llamacli_answer) -gt 1; and printf '%s\\n' $__llamacli_answer[2..-1]
end
complete -c llamacli -e
complete -c llamacli -F -n __llamacli_files
complete -c llamacli -f -n 'not __llamacli_files' -a '(__llamacli_words)'
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


@dataclass(frozen=True)
class Typed:
    """The words behind the program's name, the last of them unfinished.

    `quote`: the quotation mark that the last one is within. `start`: how many of its characters bash has put aside.
    `redirected`: it is no argument, but a file behind < or >.
    """

    words: list[str]
    quote: str = ""
    start: int = 0
    redirected: bool = False


def script(shell: str) -> str:
    return _SCRIPTS[shell]


def split(line: str, breaks: str = BREAKS) -> Typed:
    """A command line as bash reads it, up to the cursor; assignments before the program's name are left out.

    `breaks`: at what characters bash breaks words besides (COMP_WORDBREAKS).
    """
    words: list[str] = []
    word, quote, inside, start, redirected, at = "", "", False, 0, False, 0
    while at < len(line):
        c = line[at]
        at += 1
        if quote:
            if c == quote:
                quote, start = "", len(word)
            elif c == "\\" and quote == '"' and at < len(line) and line[at] in '"\\$`':
                word, at = word + line[at], at + 1
            else:
                word += c
        elif c in " \t\n<>":
            if inside and not redirected and not (c in "<>" and word.isdecimal()):  # 2>
                words.append(word)
            redirected = c in "<>" or (redirected and not inside)
            word, inside, start = "", False, 0
        elif c in "'\"":
            quote, inside, start = c, True, len(word)
        elif c == "\\" and at < len(line):
            word, at, inside = word + line[at], at + 1, True
        else:
            word, inside = word + c, True
            start = len(word) if c in breaks else start
    words.append(word)
    while len(words) > 1 and re.match(r"[A-Za-z_]\w*=", words[0]):
        words.pop(0)
    return Typed(words[1:] or [""], quote, start, redirected)


def answer(shell: str, typed: Typed, words: Iterable[tuple[str, str]], *, files: bool, prefix: str) -> str:
    """The lines for a shell's script. `prefix`: what stands in the last word before what is completed (`--model=`)."""
    lines = ["files" if files else "words"]
    for value, what in words:
        if not value.isprintable():
            continue
        what = for_terminal(" ".join(what.split()))
        if shell == "bash":
            text = _quoted((prefix + value)[typed.start :], typed.quote)
            if text is not None:
                lines.append(text)
        elif shell == "zsh":
            lines.append(f"{value}\t{what}" if what else value)
        else:
            lines.append(f"{prefix}{value}\t{what}")
    return "\n".join(lines) + "\n"


def _quoted(text: str, quote: str) -> str | None:
    """As bash must see it where it stands; None where that cannot be said."""
    if not quote:
        return re.sub(r"([^\w@%+=:,./-])", r"\\\1", text)
    return None if quote in text or (quote == '"' and re.search(r"[$`\\!]", text)) else text
