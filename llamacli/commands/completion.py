"""llamacli completion: what makes a shell complete, and what it asks at each Tab."""

from __future__ import annotations

from typing import Annotated

import typer

from llamacli.commands.options import among


def completion(
    ctx: typer.Context,
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.", **among("bash", "zsh", "fish"))],
    line: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    words: Annotated[
        bool, typer.Option("--words", hidden=True, help="What Tab offers: the scripts' own question.")
    ] = False,
) -> None:
    """Print what makes a shell complete with Tab: commands, options, models, presets, settings, files.

    For bash this goes into ~/.bashrc, for zsh into ~/.zshrc behind compinit:

      eval "$(llamacli completion bash)"

    For fish:

      llamacli completion fish > ~/.config/fish/completions/llamacli.fish
    """
    from llamacli.errors import UsageError
    from llamacli.ui import shells
    from llamacli.ui.output import Output

    output = Output()
    if not words:
        if line:
            raise UsageError("completion takes one shell", hint="llamacli completion bash")
        output.data(shells.script(shell).encode())
        return
    from llamacli.commands.tab import Offers, offers

    given = line or [""]
    typed = shells.split(*given[:2]) if shell == "bash" else shells.Typed([*given])
    root = ctx.find_root()
    found = Offers(files=True) if typed.redirected else offers(root.command, root, typed.words)
    output.data(
        shells.answer(shell, typed, found.words, files=found.files, prefix=found.prefix).encode("utf-8", "replace")
    )
