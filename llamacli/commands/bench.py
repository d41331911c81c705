"""llamacli bench: models and sizes in, speeds out."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Sequence
from typing import Annotated

import typer

from llamacli.commands import words
from llamacli.commands.model_options import LoadFlags
from llamacli.commands.options import ADVANCED, GPU, INT_MAX, MODEL, between, grouped, setting
from llamacli.errors import SomeItemsFailed, UsageError

#: Options of LoadFlags that are lists here, and the context's size, which each test has.
_LISTS = (
    *("ctx_size", "threads", "gpu_layers", "batch_size", "ubatch_size"),
    *("flash_attn", "cache_type_k", "cache_type_v"),
)
_RANGE = re.compile(r"(\d+)(?:-(\d+)(?:([+*])(\d+))?)?")
_MOST = 1000  # numbers of a range


@dataclasses.dataclass(frozen=True)
class BenchFlags(LoadFlags):
    """Which models, and how they are loaded."""

    models: Annotated[
        list[str] | None,
        setting(
            "-m", "--model", metavar="MODEL", help="As for complete; repeatable. (tiny)", autocompletion=words.models
        ),
    ] = None


@functools.partial(grouped, without=_LISTS)
def bench(
    n_prompt: Annotated[
        list[str] | None, typer.Option("-p", "--n-prompt", metavar="N,…", help="Tokens of a prompt; 0: none. (512)")
    ] = None,
    n_gen: Annotated[
        list[str] | None, typer.Option("-n", "--n-gen", metavar="N,…", help="Tokens that are written; 0: none. (128)")
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option("-pg", metavar="PP,TG", help="A prompt and the writing after it, as one; repeatable."),
    ] = None,
    n_depth: Annotated[
        list[str] | None,
        typer.Option("-d", "--n-depth", metavar="N,…", help="Tokens that are in the context before. (0)"),
    ] = None,
    repetitions: Annotated[
        int, typer.Option("-r", "--repetitions", metavar="N", help="Repetitions of each test.", callback=between(1))
    ] = 5,
    no_warmup: Annotated[bool, typer.Option("--no-warmup", help="No run before that does not count.")] = False,
    delay: Annotated[
        int,
        typer.Option(
            "--delay", metavar="SECONDS", help="Rest before each test.", callback=between(0), show_default=False
        ),
    ] = 0,
    threads: Annotated[
        list[str] | None,
        typer.Option("-t", "--threads", metavar="N,…", help="Threads. (the physical cores)", rich_help_panel=MODEL),
    ] = None,
    gpu_layers: Annotated[
        list[str] | None,
        typer.Option(
            *("-ngl", "--gpu-layers", "--n-gpu-layers"),
            metavar="auto|all|N,…",
            help="Layers to put on the GPU; auto: as many as fit. (auto)",
            rich_help_panel=GPU,
        ),
    ] = None,
    batch_size: Annotated[
        list[str] | None,
        typer.Option(
            "-b", "--batch-size", metavar="N,…", help="Prompt tokens per call. (2048)", rich_help_panel=ADVANCED
        ),
    ] = None,
    ubatch_size: Annotated[
        list[str] | None,
        typer.Option(
            "-ub",
            "--ubatch-size",
            metavar="N,…",
            help="Prompt tokens computed at once. (512)",
            rich_help_panel=ADVANCED,
        ),
    ] = None,
    flash_attn: Annotated[
        list[str] | None,
        typer.Option(
            "-fa", "--flash-attn", metavar="auto|on|off,…", help="Flash attention. (auto)", rich_help_panel=ADVANCED
        ),
    ] = None,
    cache_type_k: Annotated[
        list[str] | None,
        typer.Option(
            "-ctk",
            "--cache-type-k",
            metavar="TYPE,…",
            help="K cache: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0 or iq4_nl. (f16)",
            rich_help_panel=ADVANCED,
        ),
    ] = None,
    cache_type_v: Annotated[
        list[str] | None,
        typer.Option("-ctv", "--cache-type-v", metavar="TYPE,…", help="V cache. (f16)", rich_help_panel=ADVANCED),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    *,
    model: BenchFlags,
) -> None:
    """Measure how fast models read a prompt and write, in tokens per second, as llama-bench does.

    Several values, by commas or by repeating an option, give all combinations; 128-512+128 and 1-8*2 are ranges. pp512
    reads 512 tokens, tg128 writes 128.

    Examples:

      llamacli bench -m model.gguf

      llamacli bench -m q8_0.gguf -m q4_k_m.gguf -p 512 -n 64 -t 1-8*2

      llamacli bench -m model.gguf -d 0,4096 -ctk f16,q8_0 -fa on
    """
    from llamacli import signals
    from llamacli.tasks import bench as task
    from llamacli.ui import bench as ui
    from llamacli.ui.output import Output

    output = Output(as_json=as_json)
    loads = [
        dataclasses.replace(
            model,
            batch_size=n_batch,
            ubatch_size=n_ubatch,
            cache_type_k=type_k,
            cache_type_v=type_v,
            flash_attn={"1": "on", "0": "off"}.get(flash, flash),
            threads=n_threads or None,
        )
        for n_batch, n_ubatch, type_k, type_v, flash, n_threads in itertools.product(
            _numbers("--batch-size", batch_size, 1, INT_MAX) or [2048],
            _numbers("--ubatch-size", ubatch_size, 1, INT_MAX) or [512],
            _words(cache_type_k) or ["f16"],
            _words(cache_type_v) or ["f16"],
            _words(flash_attn) or ["auto"],
            _numbers("--threads", threads, 1, 512) or [0],
        )
    ]
    sizes = [(n, 0) for n in ([512] if n_prompt is None else _numbers("-p", n_prompt, 0, INT_MAX))]
    sizes += [(0, n) for n in ([128] if n_gen is None else _numbers("-n", n_gen, 0, INT_MAX))]
    request = task.Request(
        models=[
            dataclasses.replace(model, gpu_layers=layers).options_of(name)
            for name in model.models or (None,)
            for layers in _words(gpu_layers) or ["auto"]
        ],
        contexts=[load.context() for load in loads],
        sizes=sizes + [_pair(text) for text in pairs or ()],
        depths=_numbers("-d", n_depth, 0, INT_MAX) or [0],
        repetitions=repetitions,
        warmup=not no_warmup,
        delay=delay,
    )
    with signals.deferred(signals.FINISHING_SECONDS):
        with ui.Bars() as bars:
            results, failures = ui.followed(task.bench(request, bars.loading), bars)
        if failures and not results and len(failures) == 1:
            raise failures[0].error
        ui.show_failures(failures)
        if results or not failures:
            ui.show(results, output)
        signals.check()
    if failures:
        raise SomeItemsFailed(f"{len(failures)} of {len(results) + len(failures)} could not be measured")


def _words(values: Sequence[str] | None) -> list[str]:
    return [word for text in values or () for word in text.split(",") if word]


def _numbers(option: str, values: Sequence[str] | None, smallest: int, largest: int) -> list[int]:
    """1,2 · 1-4 · 128-512+128 · 1-8*2. Raises UsageError."""
    return [n for word in _words(values) for n in _range(option, word, smallest, largest)]


def _range(option: str, word: str, smallest: int, largest: int) -> list[int]:
    found = _RANGE.fullmatch(word)
    if found is None:
        raise UsageError(f"{option} {word}: a number is wanted, or a range such as 128-512+128 or 1-8*2")
    first, last, sign, step = int(found[1]), int(found[2] or found[1]), found[3], int(found[4] or 1)
    if not smallest <= first <= last <= largest:
        raise UsageError(f"{option} {word}: it must lie between {smallest} and {largest}, and rise")
    numbers = [first]
    while (following := numbers[-1] * step if sign == "*" else numbers[-1] + step) <= last:
        if len(numbers) == _MOST:
            raise UsageError(f"{option} {word}: more than {_MOST} numbers")
        numbers.append(following)
    return numbers


def _pair(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,9}),(\d{1,9})", text)
    if found is None:
        raise UsageError(f"-pg {text}: two numbers are wanted, such as 512,128")
    return int(found[1]), int(found[2])
