"""llamacli perplexity: models and texts in, a table out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from llamacli.commands import words
from llamacli.commands.model_options import LoadFlags
from llamacli.commands.options import MODEL, between, grouped, setting
from llamacli.errors import UsageError


@dataclasses.dataclass(frozen=True)
class ModelsFlags(LoadFlags):
    """Which models, and how they are loaded and run."""

    models: Annotated[
        list[str] | None,
        setting(
            "-m",
            "--model",
            metavar="MODEL",
            help="As for complete; repeatable: the others are compared with the first. (tiny)",
            autocompletion=words.models,
        ),
    ] = None
    ctx_size: Annotated[
        int | None,
        typer.Option(
            "-c",
            "--ctx-size",
            callback=between(0),
            metavar="N",
            help="Tokens of a chunk; 0: the trained size. (512)",
            rich_help_panel=MODEL,
        ),
    ] = None


@grouped
def perplexity(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="The texts; - is standard input.")
    ] = None,
    files_option: Annotated[
        list[Path] | None, typer.Option("-f", "--file", metavar="FILE", help="FILE as an option; repeatable.")
    ] = None,
    chunks: Annotated[
        int | None,
        typer.Option("--chunks", metavar="N", help="At most N chunks of each text. (all)", callback=between(-1)),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="MODEL",
            help="Compare with this model, exactly: KL divergence and more.",
            autocompletion=words.models,
        ),
    ] = None,
    kl_base: Annotated[
        Path | None,
        typer.Option("--kl-base", metavar="FILE", help="Compare with a file of --save-logits; it holds the text, too."),
    ] = None,
    save_logits: Annotated[
        Path | None,
        typer.Option(
            "--save-logits", metavar="FILE", help="Write the log-probabilities, in llama-perplexity's format."
        ),
    ] = None,
    per_chunk: Annotated[
        Path | None, typer.Option("--per-chunk", metavar="FILE.csv", help="Write the estimates after each chunk.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png|svg", help="Draw the running estimates. (needs matplotlib)"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    replace_invalid: Annotated[
        bool, typer.Option("--replace-invalid", help="Read input that is no UTF-8, with U+FFFD in its place.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    *,
    model: ModelsFlags,
) -> None:
    """Measure how well a model predicts a text: exp of the mean negative log-likelihood of its tokens.

    As llama-perplexity: the text is cut into chunks, and the second half of each is scored. Figures of models with
    different vocabularies, or with different -c, cannot be compared.

    Examples:

      llamacli perplexity -m model.gguf wiki.test.raw

      llamacli perplexity -m f16.gguf -m q8_0.gguf -m q4_k_m.gguf wiki.test.raw

      llamacli perplexity -m q4_k_m.gguf --against f16.gguf wiki.test.raw
    """
    from llamacli import signals
    from llamacli.tasks import perplexity as task
    from llamacli.tasks.files import refuse, write
    from llamacli.ui import perplexity as ui
    from llamacli.ui import plots, stdin
    from llamacli.ui.output import Output

    output = Output(as_json=as_json)
    for path in (per_chunk, plot):
        if path is not None:
            refuse(path, force=force)
    if plot is not None:
        plots.check(plot.suffix)
    names = [*(files or []), *(files_option or [])]
    if names.count(Path("-")) > 1:
        raise UsageError("standard input can be read once only")
    piped = stdin.read(wanted=Path("-") in names) if Path("-") in names or not (names or kl_base) else None
    sources: list[Path | bytes] = [piped or b"" if name == Path("-") else name for name in names]
    sources += [piped] if piped and not names else []
    request = task.Request(
        models=[model.options_of(name) for name in model.models or (None,)],
        texts=[task.read_text(source, replace_invalid) for source in sources],
        against=model.options_of(against) if against is not None else None,
        kl_base=kl_base,
        save_logits=save_logits,
        force=force,
        n_ctx=model.ctx_size,
        most_chunks=chunks if chunks and chunks > 0 else None,
        context=model.context(),
    )
    with signals.deferred(signals.FINISHING_SECONDS):
        with ui.Bars() as bars:
            results = ui.followed(task.perplexity(request, bars.loading), bars)
        ui.show(results, output, full=kl_base is not None or against is not None)
        if per_chunk is not None:
            write(per_chunk, ui.table_of_chunks(results), force=force)
        signals.check()
    if plot is not None:
        write(plot, plots.draw(results, plot.suffix), force=force)
