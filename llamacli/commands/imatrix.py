"""llamacli imatrix: a model and texts in, an importance matrix out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from llamacli.commands.model_options import ModelFlags
from llamacli.commands.options import MODEL, between, grouped, one_of
from llamacli.errors import UsageError


@dataclasses.dataclass(frozen=True)
class ImatrixFlags(ModelFlags):
    """Which model, and how it is loaded and run."""

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
def imatrix(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="The texts, as one; - is standard input.")
    ] = None,
    files_option: Annotated[
        list[Path] | None, typer.Option("-f", "--file", metavar="FILE", help="FILE as an option; repeatable.")
    ] = None,
    out: Annotated[
        Path, typer.Option("-o", "--output", "--output-file", metavar="FILE", help="Where the matrix goes.")
    ] = Path("imatrix.gguf"),
    output_format: Annotated[
        str, typer.Option("--output-format", metavar="gguf|dat", help="dat: the form before GGUF.", show_default=False)
    ] = "gguf",
    add: Annotated[
        list[Path] | None,
        typer.Option("--in", "--in-file", metavar="FILE", help="Add this matrix; alone these are merged. Repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the file of -o ends.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of -o.")] = False,
    chunks: Annotated[
        int | None, typer.Option("--chunks", metavar="N", help="At most N chunks. (all)", callback=between(-1))
    ] = None,
    skipped: Annotated[
        int,
        typer.Option(
            "--chunk",
            "--from-chunk",
            metavar="N",
            help="Leave out the first N chunks.",
            callback=between(0),
            show_default=False,
        ),
    ] = 0,
    no_ppl: Annotated[bool, typer.Option("--no-ppl", help="Do not compute the perplexity.")] = False,
    process_output: Annotated[
        bool, typer.Option("--process-output", help="Collect for the output matrix as well.")
    ] = False,
    parse_special: Annotated[
        bool, typer.Option("--parse-special", help="Control tokens that the text names are tokens.")
    ] = False,
    save_every: Annotated[
        int,
        typer.Option(
            "-ofreq",
            "--output-frequency",
            metavar="N",
            help="Write the file after every N chunks; 0: at the end.",
            callback=between(0),
        ),
    ] = 10,
    copy_every: Annotated[
        int,
        typer.Option(
            "--save-frequency",
            metavar="N",
            help="Leave a copy FILE.at_… after every N chunks.",
            callback=between(0),
            show_default=False,
        ),
    ] = 0,
    show_statistics: Annotated[
        bool, typer.Option("--show-statistics", help="Only show what the file of --in says of each tensor.")
    ] = False,
    replace_invalid: Annotated[
        bool, typer.Option("--replace-invalid", help="Read input that is no UTF-8, with U+FFFD in its place.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    *,
    model: ImatrixFlags,
) -> None:
    """Find which weights matter on a text: an importance matrix for quantizing, in llama-imatrix's own format.

    The text's chunks are evaluated, and the squares of what goes into each weight are summed. The file is written every
    few chunks and whole at any moment: a run that was stopped goes on with --resume.

    Examples:

      llamacli imatrix -m f16.gguf calibration.txt

      llamacli imatrix -m f16.gguf calibration.txt -o model.imatrix.gguf --chunks 200 --resume

      llamacli imatrix --in a.gguf --in b.gguf -o both.gguf
    """
    from llamacli import signals
    from llamacli.tasks import imatrix as task
    from llamacli.tasks.imatrix_file import read_imatrix
    from llamacli.tasks.imatrix_statistics import by_layer, by_tensor
    from llamacli.tasks.perplexity import read_text
    from llamacli.ui import imatrix as ui
    from llamacli.ui import stdin
    from llamacli.ui.output import Output

    output = Output(as_json=as_json)
    names = [*(files or []), *(files_option or [])]
    if show_statistics:
        if len(add or []) != 1 or names:
            raise UsageError("--show-statistics is of one matrix: --in FILE, and no text")
        tensors = by_tensor(read_imatrix((add or [])[0]))
        ui.show_statistics(tensors, by_layer(tensors), output)
        return
    if names.count(Path("-")) > 1:
        raise UsageError("standard input can be read once only")
    piped = stdin.read(wanted=Path("-") in names) if Path("-") in names or not (names or add) else None
    sources: list[Path | bytes] = [piped or b"" if name == Path("-") else name for name in names]
    sources += [piped] if piped and not names else []
    request = task.Request(
        texts=[read_text(source, replace_invalid) for source in sources],
        model=model.options() if sources else None,
        out=out,
        add=add or [],
        force=force,
        resume=resume,
        legacy=one_of("--output-format", output_format, ("gguf", "dat")) == "dat",
        n_ctx=model.ctx_size,
        most_chunks=chunks if chunks and chunks > 0 else None,
        skipped_chunks=skipped,
        ppl=not no_ppl,
        process_output=process_output,
        parse_special=parse_special,
        save_every=save_every,
        copy_every=copy_every,
        context=model.context(),
    )
    with signals.deferred(signals.FINISHING_SECONDS):
        with ui.Bars() as bars:
            result = ui.followed(task.imatrix(request, bars.loading), bars)
        if result is not None:
            ui.show(result, output)
