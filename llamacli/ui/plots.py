"""Pictures of results, by matplotlib, which the extra `plot` brings."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from llamacli.errors import UsageError
from llamacli.tasks.chunked import Perplexity
from llamacli.tasks.report import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")
#: Of seven lines that people without colour vision can tell apart (Okabe and Ito).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def check(suffix: str) -> None:
    """Raises UsageError for a format that cannot be drawn, and where matplotlib is missing."""
    if suffix.lower() not in FORMATS:
        raise UsageError(f"--plot writes {' and '.join(FORMATS)}, not {suffix or 'a file without an ending'}")
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib, which is not installed", hint="pip install 'llamacli[plot]'")


def draw(results: Sequence[Perplexity], suffix: str) -> bytes:
    """The running estimates over the chunks, each with a band of its standard error; in the format of `suffix`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    ends = []
    for i, result in enumerate(results):
        chunks = [e.chunk for e in result.running]
        ppl = [e.ppl for e in result.running]
        colour = _COLOURS[i % len(_COLOURS)]
        low = [e.ppl - e.ppl_error for e in result.running]
        high = [e.ppl + e.ppl_error for e in result.running]
        axes.fill_between(chunks, low, high, color=colour, alpha=0.18, linewidth=0)
        label = f"{_label(result, results)}: {result.ppl:.4f} ± {result.ppl_error:.4f}"
        axes.plot(chunks, ppl, color=colour, linewidth=1.4, label=label)
        # The first chunks swing widely: the axis shows where the estimate comes to rest.
        settled = range(min(len(chunks) // 20, len(chunks) - 1), len(chunks))
        ends += [low[k] for k in settled] + [high[k] for k in settled]
    margin = 0.05 * (max(ends) - min(ends)) or 1.0
    axes.set_ylim(min(ends) - margin, max(ends) + margin)
    axes.set_xlim(1, max(max((len(r.running) for r in results), default=2), 2))
    axes.set_xlabel(f"chunks of {results[0].n_ctx} tokens")
    axes.set_ylabel("perplexity so far, ± standard error")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return _picture(figure, suffix)


def draw_report(rows: Sequence[Row], suffix: str) -> bytes:
    """Mean KL divergence, with its error, against the file's size, for each quantisation of one model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    points = sorted(((row.size, row.kld, row.type) for row in rows if row.kld is not None), key=lambda p: p[0])
    unit, n_bytes = next(((u, n) for u, n in _UNITS if points and points[-1][0] >= n), _UNITS[-1])
    sizes, values = [p[0] / n_bytes for p in points], [p[1].value for p in points]
    errors = [p[1].error or 0 for p in points]
    axes.errorbar(
        sizes,
        values,
        yerr=errors,
        color=_COLOURS[0],
        marker="o",
        linewidth=0,
        elinewidth=1.4,
    )
    for i, (_, kld, label) in enumerate(points):
        # Neighbours stand close: one is named above to the right, the next below to the left.
        above = i % 2 == 0
        axes.annotate(
            label,
            (sizes[i], kld.value),
            textcoords="offset points",
            xytext=(6, 5) if above else (-6, -5),
            ha="left" if above else "right",
            va="bottom" if above else "top",
            fontsize=9,
        )
    if values and min(values) > 0:
        axes.set_yscale("log")
    axes.margins(x=0.12, y=0.15)
    axes.set_xlabel(f"size of the file, {unit}")
    axes.set_ylabel("mean KL divergence from the original")
    axes.grid(alpha=0.3, which="both")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return _picture(figure, suffix)


def _picture(figure: Figure, suffix: str) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format=suffix.lower().lstrip("."))
    return picture.getvalue()


def _label(result: Perplexity, results: Sequence[Perplexity]) -> str:
    """What tells this line from the others."""
    model, text = PurePath(result.model).name, PurePath(result.text).name
    several_texts = len({r.text for r in results}) > 1
    label = f"{model}, {text}" if several_texts or len({r.model for r in results}) == 1 else model
    return label.replace("$", r"\$").lstrip("_")
