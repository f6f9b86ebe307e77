"""The variants among runs: what has one name, one colour, and one mean over its seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from momentum_gpt.comparison.runs import Run, config_differences

SEED = "training.seed"

NAMING = ("attention.name", "attention.ema_decay")
"""The options that every name has."""


@dataclass
class Variant:
    """Runs that differ in nothing but the seed and options that change nothing of a result."""

    name: str
    """A short name, such as "momentum 0.5", "momentum 0.5, learned" or "vanilla, lr 0.002"."""
    family: str
    """The name without the decay: variants of one family make one decay curve."""
    decay: float | None
    """`attention.ema_decay`; 0 for vanilla attention, the same as a decay of 0; else None."""
    runs: list[int] = field(default_factory=list)
    """Places of its runs in the comparison."""


def variants_of(runs: Sequence[Run]) -> list[Variant]:
    """Return the variants of runs, in the order of their first runs.

    A name has the attention and its decay, and those options in which runs of the same attention
    and decay differ. So a learning rate that each variant has its own of is in no name.
    """
    differences = config_differences(runs)
    differences.pop(SEED, None)
    telling = _telling(runs, differences)

    found: dict[tuple[str, ...], Variant] = {}
    for place, run in enumerate(runs):
        key = tuple(str(values[place]) for values in differences.values())
        if key not in found:
            options = {name: differences[name][place] for name in telling[_attention_of(run)]}
            found[key] = _named(run, options)
        found[key].runs.append(place)
    variants = list(found.values())
    _tell_apart(variants, runs)
    return variants


def _telling(
    runs: Sequence[Run], differences: Mapping[str, Sequence[Any]]
) -> dict[tuple[str, str], list[str]]:
    """Return, for each attention and decay, the options in which its runs differ."""
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, run in enumerate(runs):
        places[_attention_of(run)].append(place)

    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for attention, of_attention in places.items():
        for option, values in differences.items():
            own = {str(values[place]) for place in of_attention}
            if len(own) > 1 and option not in NAMING:
                found[attention].append(option)
    return found


def _attention_of(run: Run) -> tuple[str, str]:
    attention = run.config.attention
    return str(attention["name"]), str(attention.get("ema_decay"))


def _named(run: Run, options: Mapping[str, Any]) -> Variant:
    words = []
    for option, value in options.items():
        # What is off, or null, would only make the names longer.
        if value is True:
            words.append(option.rpartition(".")[2])
        elif value is not None and value is not False:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            words.append(f"{option.rpartition('.')[2]} {text}")

    name = str(run.config.attention["name"])
    decay = run.config.attention.get("ema_decay")
    with_decay = name if decay is None else f"{name} {decay}"
    if decay is None and name == "vanilla":
        decay = 0.0
    if not isinstance(decay, int | float):  # a list has one for each layer or head
        decay = None
    return Variant(", ".join([with_decay, *words]), ", ".join([name, *words]), decay)


def _tell_apart(variants: Sequence[Variant], runs: Sequence[Run]) -> None:
    """Give variants whose short names are the same the names of their first runs, too."""
    names = [variant.name for variant in variants]
    for variant, name in zip(variants, names, strict=True):
        if names.count(name) > 1:
            variant.name = f"{name} ({runs[variant.runs[0]].name})"


def options_by_variant(runs: Sequence[Run], variants: Sequence[Variant]) -> dict[str, list[str]]:
    """Return the options in which runs differ, and the values that each variant has of them."""
    found = {}
    for option, values in config_differences(runs).items():
        cells = []
        for variant in variants:
            its_own = ["-" if values[run] is None else str(values[run]) for run in variant.runs]
            cells.append(", ".join(dict.fromkeys(its_own)))
        found[option] = cells
    return found
