"""Which tensors become what: llama-quantize's own options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamacli.commands.options import ADVANCED, Flags, between
from llamacli.errors import UsageError

if TYPE_CHECKING:
    from llamacli.tasks.quantize_request import Imatrix, QuantizeOptions

TENSORS = "Which tensors become what"


@dataclasses.dataclass(frozen=True)
class TensorFlags(Flags):
    """All but the type itself."""

    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Also quantise what is quantised already; this loses more.")
    ] = False
    pure: Annotated[
        bool, typer.Option("--pure", help="The same type for all, no mixture.", rich_help_panel=TENSORS)
    ] = False
    leave_output_tensor: Annotated[
        bool, typer.Option("--leave-output-tensor", help="Keep output.weight as it is.", rich_help_panel=TENSORS)
    ] = False
    output_tensor_type: Annotated[
        str | None,
        typer.Option("--output-tensor-type", metavar="TYPE", help="For output.weight.", rich_help_panel=TENSORS),
    ] = None
    token_embedding_type: Annotated[
        str | None,
        typer.Option("--token-embedding-type", metavar="TYPE", help="For the embeddings.", rich_help_panel=TENSORS),
    ] = None
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(
            "--tensor-type",
            metavar="PATTERN=TYPE",
            help="For tensors whose name this regex is found in, such as ffn_down=q6_k; repeatable, the first decides.",
            rich_help_panel=TENSORS,
        ),
    ] = None
    tensor_type_file: Annotated[
        Path | None,
        typer.Option(
            "--tensor-type-file", metavar="FILE", help="A file of PATTERN=TYPE, one a line.", rich_help_panel=TENSORS
        ),
    ] = None
    include_weights: Annotated[
        list[str] | None,
        typer.Option(
            "--include-weights",
            metavar="TEXT",
            help="Use the imatrix only for names that contain this; repeatable.",
            rich_help_panel=TENSORS,
        ),
    ] = None
    exclude_weights: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude-weights",
            metavar="TEXT",
            help="Do not use the imatrix for names that contain this; repeatable.",
            rich_help_panel=TENSORS,
        ),
    ] = None
    keep_split: Annotated[
        bool, typer.Option("--keep-split", help="As many parts as MODEL has, OUT-0000N-of-….", rich_help_panel=ADVANCED)
    ] = False
    prune_layers: Annotated[
        str | None,
        typer.Option("--prune-layers", metavar="N,N", help="Leave these layers out.", rich_help_panel=ADVANCED),
    ] = None
    override_kv: Annotated[
        list[str] | None,
        typer.Option(
            "--override-kv",
            metavar="KEY=TYPE:VALUE",
            help="Set metadata: int, float, bool or str; repeatable.",
            rich_help_panel=ADVANCED,
        ),
    ] = None
    max_buffer_size: Annotated[
        int | None,
        typer.Option(
            "--max-buffer-size",
            callback=between(1, 1 << 20),
            metavar="MIB",
            help="Keep at most so much of a tensor in memory. (8192)",
            rich_help_panel=ADVANCED,
        ),
    ] = None

    def weights(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """For which names an importance matrix is used, and for which not. Raises UsageError where both are said."""
        if self.include_weights and self.exclude_weights:
            raise UsageError("--include-weights and --exclude-weights exclude each other")
        return tuple(self.include_weights or ()), tuple(self.exclude_weights or ())

    def options(self, *, imatrix: Imatrix | None, n_threads: int, force: bool) -> QuantizeOptions:
        """Raises UsageError, StorageError."""
        from llamacli.tasks import quantize_options as parse
        from llamacli.tasks.quantize_request import QuantizeOptions

        file = self.tensor_type_file
        return QuantizeOptions(
            imatrix=imatrix,
            output_tensor_type=parse.one_type("--output-tensor-type", self.output_tensor_type),
            token_embedding_type=parse.one_type("--token-embedding-type", self.token_embedding_type),
            tensor_types=parse.tensor_types(self.tensor_type or [], file),
            allow_requantize=self.allow_requantize,
            leave_output_tensor=self.leave_output_tensor,
            pure=self.pure,
            prune_layers=parse.layers(self.prune_layers),
            override_kv=parse.overrides(self.override_kv or []),
            keep_split=self.keep_split,
            max_buffer_size=(self.max_buffer_size or 0) << 20,
            n_threads=n_threads,
            force=force,
            reads=(file,) if file else (),
        )
