"""llamacli quantize: a model in, a smaller one out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamacli.commands import words
from llamacli.commands.options import OfflineFlag, PullFlag, between, grouped
from llamacli.commands.tensor_options import TensorFlags
from llamacli.errors import UsageError

if TYPE_CHECKING:
    from llamacli.tasks.imatrix_file import ImatrixFile
    from llamacli.tasks.perplexity import Text
    from llamacli.tasks.quantize_request import QuantizeOptions
    from llamacli.tasks.report import Request
    from llamacli.tasks.target import Choice, Target
    from llamacli.ui.output import Output

REPORT = "Texts: --report and --calibrate"


@grouped
def quantize(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL [OUT] TYPE...",
            help="MODEL as for complete -m. OUT: a file, beside MODEL if none is named. TYPE: see --types; "
            "several with --report.",
            autocompletion=words.models_and_types,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="OUT", help="OUT as an option; with --report the folder for the files."),
    ] = None,
    types: Annotated[bool, typer.Option("--types", help="Explain the types: bits per weight, and what for.")] = False,
    imatrix: Annotated[
        Path | None,
        typer.Option("--imatrix", metavar="FILE", help="Use this importance matrix: better, and low types need it."),
    ] = None,
    target_size: Annotated[
        str | None,
        typer.Option(
            "--target-size", metavar="SIZE", help="In place of TYPE: the best types for a file of at most 4GiB, 750MB …"
        ),
    ] = None,
    target_bpw: Annotated[
        float | None,
        typer.Option("--target-bpw", metavar="BITS", help="The same, for so many bits per weight, such as 4.25."),
    ] = None,
    save_types: Annotated[
        Path | None,
        typer.Option("--save-types", metavar="FILE", help="Write the types chosen, for --tensor-type-file."),
    ] = None,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(
            "--calibrate",
            metavar="TEXT",
            help="Make an importance matrix of this text first, and use it; repeatable.",
            rich_help_panel=REPORT,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="TEXT",
            help="Make a file of each TYPE, and compare them with MODEL on this text.",
            rich_help_panel=REPORT,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.png|svg",
            help="Draw the report: KL divergence against size. (needs matplotlib)",
            rich_help_panel=REPORT,
        ),
    ] = None,
    ctx_size: Annotated[
        int | None,
        typer.Option(
            "-c",
            "--ctx-size",
            callback=between(0),
            metavar="N",
            help="Tokens of a chunk of the texts. (512)",
            rich_help_panel=REPORT,
        ),
    ] = None,
    chunks: Annotated[
        int | None,
        typer.Option(
            "--chunks",
            metavar="N",
            help="At most N chunks of each text. (all)",
            callback=between(1),
            rich_help_panel=REPORT,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the table and the exact size; write nothing.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            "-t", "--threads", callback=between(1, 512), metavar="N", help="Threads. (all this process may use)"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    pull: PullFlag = False,
    offline: OfflineFlag = False,
    *,
    tensors: TensorFlags,
) -> None:
    """Make a model smaller: fewer bits per weight.

    As llama-quantize, whose bytes it writes. The new file appears when it is whole; until then, and if anything goes
    wrong, there is none, or the old one.

    Examples:

      llamacli quantize model-F16.gguf Q4_K_M

      llamacli quantize model-F16.gguf small.gguf IQ3_M --imatrix model.imatrix.gguf

      llamacli quantize model-F16.gguf Q4_K_M --tensor-type ffn_down=q6_k --dry-run

      llamacli quantize model-F16.gguf --target-size 4GiB --dry-run --save-types types.txt

      llamacli quantize model-F16.gguf IQ3_XXS --calibrate calibration.txt

      llamacli quantize model-F16.gguf Q8_0 Q5_K_M Q4_K_M --report wiki.test.raw --plot quants.png
    """
    from llamacli.commands.locate import model_file
    from llamacli.tasks import quantize as task
    from llamacli.tasks import quantize_options as parse
    from llamacli.tasks import quantize_request as request
    from llamacli.tasks.files import refuse
    from llamacli.tasks.perplexity import read_text
    from llamacli.tasks.quantize_types import TYPES, quant_type
    from llamacli.tasks.quantize_write import default_target
    from llamacli.tasks.report import Request
    from llamacli.ui import quantize as ui
    from llamacli.ui import target as target_ui
    from llamacli.ui.output import Output

    output = Output(as_json=as_json)
    if types:
        ui.show_types(TYPES, output)
        return
    wanted = parse.target(target_size, target_bpw)
    _refuse_contradictions(
        target=wanted is not None,
        save_types=save_types,
        report=report,
        plot=plot,
        dry_run=dry_run,
        calibrate=calibrate,
        imatrix=imatrix,
        of_texts=ctx_size is not None or chunks is not None,
    )
    named = parse.words(arguments or [], out, types=wanted is None)
    if report is None and wanted is None:
        parse.only_one(named.types)
    include, exclude = tensors.weights()
    options = tensors.options(
        imatrix=None if calibrate else request.imatrix(imatrix, include, exclude), n_threads=threads or 0, force=force
    )
    source = model_file(named.model, pull=pull)
    quants = [wanted[1]] if wanted is not None else [kind.name for kind in named.types]
    paths = [default_target(named.model, source, quant) for quant in quants]
    if named.out is not None:
        folder_or_file = Path(named.out)
        if report is not None and not folder_or_file.is_dir():
            raise UsageError(
                f"{named.out} is no folder: --report makes several files", hint="name a folder that is there"
            )
        paths = [folder_or_file / path.name if report else folder_or_file for path in paths]
    text = read_text(report, None) if report is not None else None
    texts = [read_text(each, None) for each in calibrate or ()]
    if plot is not None:
        from llamacli.ui import plots

        plots.check(plot.suffix)
    for path in (plot, save_types):
        if path is not None:
            refuse(path, force=force)
    if texts or wanted is not None:  # before minutes are spent; a size has no type yet
        for kind, path in zip(named.types or (quant_type("Q8_0"),), paths, strict=True):
            task.check(source, None if dry_run else path, kind, options, imatrix_follows=bool(texts))
    if texts:
        matrix = _calibrated(texts, source, options.n_threads, ctx_size, chunks)
        options = dataclasses.replace(options, imatrix=request.Imatrix(None, matrix, include, exclude))
    if text is not None:
        targets = list(zip(named.types, paths, strict=True))
        _report(Request(source, targets, options, text, ctx_size, chunks), plot, output)
        return
    choice = None
    if wanted is not None:
        choice = _chosen(source, wanted[0], options, texts, save_types)
        kind, options = choice.kind, choice.options
    else:
        (kind,) = named.types
    if dry_run:
        result = task.plan(source, kind, options)
    else:
        with ui.Progress() as progress:
            result = task.quantize(source, paths[0], kind, options, on_progress=progress.update)
    if choice is not None:
        target_ui.show(choice, result, output)
    else:
        ui.show(result, output)


def _refuse_contradictions(
    *,
    target: bool,
    save_types: Path | None,
    report: Path | None,
    plot: Path | None,
    dry_run: bool,
    calibrate: list[Path] | None,
    imatrix: Path | None,
    of_texts: bool,
) -> None:
    if save_types is not None and not target:
        raise UsageError("--save-types goes with --target-size or --target-bpw")
    if report is not None and target:
        raise UsageError("--report compares types, and a target size chooses them")
    if plot is not None and report is None:
        raise UsageError("--plot goes with --report TEXT")
    if report is not None and dry_run:
        raise UsageError("--dry-run writes nothing, and --report compares files")
    if calibrate and imatrix is not None:
        raise UsageError("--calibrate and --imatrix exclude each other: both give the importance matrix")
    if of_texts and not (report or calibrate):
        raise UsageError("--ctx-size and --chunks go with --report or --calibrate")


def _chosen(
    source: Path, target: Target, options: QuantizeOptions, texts: Sequence[Text], save_types: Path | None
) -> Choice:
    """Types for a target size, measured on these texts, or on what the model itself writes."""
    from llamacli.tasks.files import write
    from llamacli.tasks.target import choose
    from llamacli.ui import target as ui

    text = (", ".join(each.name for each in texts), "\n".join(each.text for each in texts)) if texts else None
    with ui.Progress() as progress:
        choice = choose(source, target, options, text=text, on_progress=progress.update)
    if save_types is not None:
        write(save_types, choice.file_text().encode(), force=options.force)
    return choice


def _calibrated(
    texts: Sequence[Text], source: Path, n_threads: int, n_ctx: int | None, most_chunks: int | None
) -> ImatrixFile:
    """An importance matrix of these texts, in memory."""
    from llamacli import signals
    from llamacli.engine.types import ContextOptions, ModelOptions
    from llamacli.tasks import imatrix as task
    from llamacli.ui import imatrix as ui

    request = task.Request(
        texts=texts,
        model=ModelOptions(source),
        n_ctx=n_ctx,
        most_chunks=most_chunks,
        ppl=False,
        context=ContextOptions(n_ctx=0, n_threads=n_threads),
    )
    with signals.deferred(), ui.Bars() as bars:
        result = ui.followed(task.imatrix(request, bars.loading), bars)
    signals.check()  # of a part of the texts nothing is made
    assert result is not None
    ui.warn(result)
    return result.matrix


def _report(request: Request, plot: Path | None, output: Output) -> None:
    """Whatever ends it, the rows that are done are shown."""
    from llamacli import signals
    from llamacli.errors import LlamacliError
    from llamacli.tasks.files import write
    from llamacli.tasks.report import Row, report
    from llamacli.ui import plots
    from llamacli.ui import report as ui

    rows: list[Row] = []
    n_wanted = 1 + len(request.targets)
    with signals.deferred(signals.FINISHING_SECONDS):
        try:
            with ui.Bars() as bars:
                for row in ui.followed(report(request), bars):
                    rows.append(row)
        except LlamacliError:
            if rows:
                ui.show(rows, n_wanted, output)
            raise
        ui.show(rows, n_wanted, output)
        if plot is not None and len(rows) > 1:
            write(plot, plots.draw_report(rows, plot.suffix), force=request.options.force)
