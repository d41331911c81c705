"""The sampling options, which every verb that writes text takes as one group."""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Any

import typer

from llamacli.commands.options import ADVANCED, SAMPLING, Flags, Unfit, between, fit, setting


def _option(*names: str, help: str, panel: str = ADVANCED, metavar: str = "N", callback: Any = None) -> Any:
    return setting(
        *names,
        metavar=metavar,
        help=help,
        rich_help_panel=panel,
        show_default=False,
        callback=callback or _in_range,
    )


def _in_range(param: typer.CallbackParam, value: Any) -> Any:
    """The range that llama.cpp's samplers take."""
    if isinstance(value, (int, float)):
        from llamacli.engine.sampling_values import wrong

        drawn = param.name == "seed" and value == -1
        if not drawn and (said := wrong(str(param.name), value)):
            raise Unfit(f"{value}: {said}")
    return value


def _logit_bias(text: str) -> tuple[int, float]:
    match = re.fullmatch(r"(\d+)\s*=?\s*([+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf))", text)
    if not match or (match[2][0] not in "+-" and "=" not in text):
        raise Unfit(f"{text}: ID+BIAS, ID-BIAS or ID-inf is wanted, such as 15043+1.5")
    return int(match[1]), float(match[2])


def _sampler_order(text: str) -> tuple[str, ...]:
    from llamacli.engine.sampling_values import canonical
    from llamacli.engine.types import SAMPLER_NAMES

    names = [part for part in re.split("[;,]", text) if part.strip()]
    order = tuple(canonical(name) for name in names)
    for name, known in zip(names, order, strict=True):
        if not known:
            raise Unfit(f"{text}: no sampler {name}; there are {', '.join(SAMPLER_NAMES)}")
    return order


@dataclasses.dataclass(frozen=True)
class SamplingFlags(Flags):
    """llama.cpp's samplers. None: what the model's file recommends, else llama.cpp's default."""

    temp: Annotated[
        float | None, _option("--temp", "--temperature", panel=SAMPLING, help="Temperature; 0 is greedy. (0.8)")
    ] = None
    top_k: Annotated[
        int | None, _option("--top-k", callback=between(-1), panel=SAMPLING, help="The k best tokens; 0 is off. (40)")
    ] = None
    top_p: Annotated[float | None, _option("--top-p", panel=SAMPLING, help="Nucleus; 1 is off. (0.95)")] = None
    min_p: Annotated[
        float | None, _option("--min-p", panel=SAMPLING, help="At least this part of the best; 0 is off. (0.05)")
    ] = None
    repeat_penalty: Annotated[
        float | None, _option("--repeat-penalty", panel=SAMPLING, help="Against repetition; 1 is off. (1)")
    ] = None
    repeat_last_n: Annotated[
        int | None,
        _option("--repeat-last-n", callback=between(0), panel=SAMPLING, help="Tokens that penalties look back. (64)"),
    ] = None
    seed: Annotated[
        int | None, _option("--seed", panel=SAMPLING, help="The same seed gives the same text. (drawn)")
    ] = None
    presence_penalty: Annotated[float | None, _option("--presence-penalty", help="For having been said. (0)")] = None
    frequency_penalty: Annotated[float | None, _option("--frequency-penalty", help="For each time said. (0)")] = None
    typical_p: Annotated[float | None, _option("--typical-p", "--typical", help="Locally typical; 1 is off. (1)")] = (
        None
    )
    top_n_sigma: Annotated[
        float | None, _option("--top-n-sigma", "--top-nsigma", help="Within n deviations; -1 is off. (-1)")
    ] = None
    dry_multiplier: Annotated[float | None, _option("--dry-multiplier", help="DRY; 0 is off. (0)")] = None
    dry_base: Annotated[float | None, _option("--dry-base", help="DRY's base. (1.75)")] = None
    dry_allowed_length: Annotated[
        int | None, _option("--dry-allowed-length", callback=between(0), help="Free repeats. (2)")
    ] = None
    dry_penalty_last_n: Annotated[
        int | None, _option("--dry-penalty-last-n", callback=between(0), help="DRY looks back. (64)")
    ] = None
    dry_sequence_breaker: Annotated[
        list[str] | None,
        _option("--dry-sequence-breaker", metavar="TEXT", help="Replaces the breakers; none: no breakers; repeatable."),
    ] = None
    xtc_probability: Annotated[float | None, _option("--xtc-probability", help="XTC; 0 is off. (0)")] = None
    xtc_threshold: Annotated[float | None, _option("--xtc-threshold", help="XTC's threshold. (0.1)")] = None
    mirostat: Annotated[int | None, _option("--mirostat", help="Mirostat 1 or 2; 0 is off. (0)")] = None
    mirostat_tau: Annotated[float | None, _option("--mirostat-tau", "--mirostat-ent", help="Target surprise. (5)")] = (
        None
    )
    mirostat_eta: Annotated[float | None, _option("--mirostat-eta", "--mirostat-lr", help="Learning rate. (0.1)")] = (
        None
    )
    dynatemp_range: Annotated[
        float | None, _option("--dynatemp-range", help="Dynamic temperature ±; 0 is off. (0)")
    ] = None
    dynatemp_exp: Annotated[float | None, _option("--dynatemp-exp", help="Its exponent. (1)")] = None
    adaptive_target: Annotated[float | None, _option("--adaptive-target", help="Adaptive-p; below 0 is off. (-1)")] = (
        None
    )
    adaptive_decay: Annotated[float | None, _option("--adaptive-decay", help="Its decay. (0.9)")] = None
    logit_bias: Annotated[
        list[str] | None,
        _option(
            "-l",
            "--logit-bias",
            metavar="ID±BIAS",
            help="Such as 15043+1 or 15043-inf; repeatable.",
            callback=fit(_logit_bias),
        ),
    ] = None
    samplers: Annotated[
        str | None,
        _option("--samplers", metavar="NAMES", help="The chain's order, by semicolon.", callback=fit(_sampler_order)),
    ] = None

    def given(self) -> dict[str, Any]:
        """The values that were given, by the names of `engine.types.Sampling`. Raises UsageError."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "sources"}
        breakers, biases, order = (plain.pop(n) for n in ("dry_sequence_breaker", "logit_bias", "samplers"))
        values = {name: value for name, value in plain.items() if value is not None}
        if values.get("seed") == -1:
            del values["seed"]
        if breakers:
            values["dry_sequence_breakers"] = () if breakers == ["none"] else tuple(breakers)
        if biases:
            values["logit_bias"] = tuple(_logit_bias(text) for text in biases)
        if order is not None:
            values["samplers"] = _sampler_order(order)
        return values
