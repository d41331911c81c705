"""llamacli quantize: a model in, a smaller one out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamacli.commands.options import ADVANCED, OfflineFlag, PullFlag, between

TENSORS = "Which tensors become what"


def quantize(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL [OUT] TYPE",
            help="MODEL as for complete -m. OUT: a file, beside MODEL if none is named. TYPE: see --types.",
        ),
    ] = None,
    out: Annotated[str | None, typer.Option("-o", "--output", metavar="OUT", help="OUT as an option.")] = None,
    types: Annotated[bool, typer.Option("--types", help="Explain the types: bits per weight, and what for.")] = False,
    imatrix: Annotated[
        Path | None,
        typer.Option("--imatrix", metavar="FILE", help="Use this importance matrix: better, and low types need it."),
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
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Also quantise what is quantised already; this loses more.")
    ] = False,
    pure: Annotated[
        bool, typer.Option("--pure", help="The same type for all, no mixture.", rich_help_panel=TENSORS)
    ] = False,
    leave_output_tensor: Annotated[
        bool, typer.Option("--leave-output-tensor", help="Keep output.weight as it is.", rich_help_panel=TENSORS)
    ] = False,
    output_tensor_type: Annotated[
        str | None,
        typer.Option("--output-tensor-type", metavar="TYPE", help="For output.weight.", rich_help_panel=TENSORS),
    ] = None,
    token_embedding_type: Annotated[
        str | None,
        typer.Option("--token-embedding-type", metavar="TYPE", help="For the embeddings.", rich_help_panel=TENSORS),
    ] = None,
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(
            "--tensor-type",
            metavar="PATTERN=TYPE",
            help="For tensors whose name this regex is found in, such as ffn_down=q6_k; repeatable, the first decides.",
            rich_help_panel=TENSORS,
        ),
    ] = None,
    tensor_type_file: Annotated[
        Path | None,
        typer.Option(
            "--tensor-type-file", metavar="FILE", help="A file of PATTERN=TYPE, one a line.", rich_help_panel=TENSORS
        ),
    ] = None,
    include_weights: Annotated[
        list[str] | None,
        typer.Option(
            "--include-weights",
            metavar="TEXT",
            help="Use the imatrix only for names that contain this; repeatable.",
            rich_help_panel=TENSORS,
        ),
    ] = None,
    exclude_weights: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude-weights",
            metavar="TEXT",
            help="Do not use the imatrix for names that contain this; repeatable.",
            rich_help_panel=TENSORS,
        ),
    ] = None,
    keep_split: Annotated[
        bool, typer.Option("--keep-split", help="As many parts as MODEL has, OUT-0000N-of-….", rich_help_panel=ADVANCED)
    ] = False,
    prune_layers: Annotated[
        str | None,
        typer.Option("--prune-layers", metavar="N,N", help="Leave these layers out.", rich_help_panel=ADVANCED),
    ] = None,
    override_kv: Annotated[
        list[str] | None,
        typer.Option(
            "--override-kv",
            metavar="KEY=TYPE:VALUE",
            help="Set metadata: int, float, bool or str; repeatable.",
            rich_help_panel=ADVANCED,
        ),
    ] = None,
    max_buffer_size: Annotated[
        int | None,
        typer.Option(
            "--max-buffer-size",
            callback=between(1, 1 << 20),
            metavar="MIB",
            help="Keep at most so much of a tensor in memory. (8192)",
            rich_help_panel=ADVANCED,
        ),
    ] = None,
    pull: PullFlag = False,
    offline: OfflineFlag = False,
) -> None:
    """Make a model smaller: fewer bits per weight.

    As llama-quantize, whose bytes it writes. The new file appears when it is whole; until then, and if anything goes
    wrong, there is none, or the old one.

    Examples:

      llamacli quantize model-F16.gguf Q4_K_M

      llamacli quantize model-F16.gguf small.gguf IQ3_M --imatrix model.imatrix.gguf

      llamacli quantize model-F16.gguf Q4_K_M --tensor-type ffn_down=q6_k --dry-run
    """
    from llamacli.commands.locate import model_file
    from llamacli.tasks import quantize as task
    from llamacli.tasks import quantize_options as parse
    from llamacli.tasks.quantize_types import TYPES
    from llamacli.ui import quantize as ui
    from llamacli.ui.output import Output

    output = Output(as_json=as_json)
    if types:
        ui.show_types(TYPES, output)
        return
    named = parse.words(arguments or [], out)
    options = task.QuantizeOptions(
        imatrix=task.imatrix(imatrix, include_weights or (), exclude_weights or ()),
        output_tensor_type=parse.one_type("--output-tensor-type", output_tensor_type),
        token_embedding_type=parse.one_type("--token-embedding-type", token_embedding_type),
        tensor_types=parse.tensor_types(tensor_type or [], tensor_type_file),
        allow_requantize=allow_requantize,
        leave_output_tensor=leave_output_tensor,
        pure=pure,
        prune_layers=parse.layers(prune_layers),
        override_kv=parse.overrides(override_kv or []),
        keep_split=keep_split,
        max_buffer_size=(max_buffer_size or 0) << 20,
        n_threads=threads or 0,
        force=force,
        reads=(tensor_type_file,) if tensor_type_file else (),
    )
    kind, source = parse.only_one(named.types), model_file(named.model, pull=pull)
    if dry_run:
        result = task.plan(source, kind, options)
    else:
        target = Path(named.out) if named.out is not None else task.default_target(named.model, source, kind)
        with ui.Progress() as progress:
            result = task.quantize(source, target, kind, options, on_progress=progress.update)
    ui.show(result, output)
