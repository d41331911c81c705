"""How many contexts to work with side by side: small models leave most of a core idle when several share one run."""

from __future__ import annotations

from dataclasses import replace

from llamacli.engine.model import Model
from llamacli.engine.native import devices
from llamacli.engine.threads import physical_cores
from llamacli.engine.types import ContextOptions

#: Models with smaller files than this are run once on each core: in one run the threads would wait for each other.
_SMALL = 256 << 20
#: What the logits of the further contexts' batches may take, in bytes.
_ROOM = 64 << 20
_F32 = 0  # enum ggml_type


def workers(model: Model, context: ContextOptions, most: int, *, exact: bool) -> tuple[int, ContextOptions]:
    """How many contexts, at most `most`, to make from which options; the caller divides n_ctx and n_batch.

    `exact`: only with weights in F32, where what else is in a token's batch changes its logits by rounding alone. The
    kernels of other types treat the last rows of a batch differently, and figures would differ in the fourth digit.
    """
    n_threads = context.n_threads or physical_cores()
    n = max(min(n_threads, most), 1)
    if (
        model.header.file_size > _SMALL
        or (n - 1) * context.n_ubatch * model.n_vocab * 4 > _ROOM
        or (exact and any(tensor.type != _F32 for tensor in model.header.tensors))
        or any(device.kind in ("gpu", "igpu") for device in devices())
    ):
        return 1, context
    return n, replace(context, n_threads=max(n_threads // n, 1))
