"""llamacli quantize: a model in, a smaller one out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamacli.commands.options import ADVANCED, OfflineFlag, PullFlag, between
from llamacli.errors import UsageError

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

      llamacli quantize model-F16.gguf --target-size 4GiB --dry-run --save-types types.txt
    """
    from llamacli.commands.locate import model_file
    from llamacli.tasks import quantize as task
    from llamacli.tasks import quantize_options as parse
    from llamacli.tasks.files import refuse, write
    from llamacli.tasks.quantize_types import TYPES
    from llamacli.tasks.target import choose
    from llamacli.ui import quantize as ui
    from llamacli.ui import target as target_ui
    from llamacli.ui.output import Output

    output = Output(as_json=as_json)
    if types:
        ui.show_types(TYPES, output)
        return
    wanted = parse.target(target_size, target_bpw)
    if wanted is None and save_types is not None:
        raise UsageError("--save-types goes with --target-size or --target-bpw")
    named = parse.words(arguments or [], out, types=wanted is None)
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
    source = model_file(named.model, pull=pull)
    quant = wanted[1] if wanted else parse.only_one(named.types).name
    target = Path(named.out) if named.out is not None else task.default_target(named.model, source, quant)
    choice = None
    if wanted is None:
        kind = parse.only_one(named.types)
    else:
        for path in (save_types, None if dry_run else target):
            if path is not None:
                refuse(path, force=force)  # before minutes are spent
        with target_ui.Progress() as progress:
            choice = choose(source, wanted[0], options, on_progress=progress.update)
        kind, options = choice.kind, choice.options
        if save_types is not None:
            write(save_types, choice.file_text().encode(), force=force)
    if dry_run:
        result = task.plan(source, kind, options)
    else:
        with ui.Progress() as bar:
            result = task.quantize(source, target, kind, options, on_progress=bar.update)
    if choice is not None:
        target_ui.show(choice, result, output)
    else:
        ui.show(result, output)
