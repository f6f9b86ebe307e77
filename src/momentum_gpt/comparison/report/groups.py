"""The runs of a page by variant: what has one colour, and one mean over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from momentum_gpt.comparison.runs import Run, config_differences

DECAY = "attention.ema_decay"
SEED = "training.seed"


@dataclass
class Group:
    """Runs that differ in nothing but the seed and options that change nothing of a result."""

    label: str
    """A short name, such as "momentum 0.5"."""
    family: str
    """The name without the decay: groups of one family make one decay curve."""
    decay: float | None
    """`attention.ema_decay`; 0 for vanilla attention, the same as a decay of 0; else None."""
    runs: list[int] = field(default_factory=list)
    """Places of its runs in the comparison."""


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Return the groups of the runs, in the order of their first runs."""
    differences = config_differences(runs)
    differences.pop(SEED, None)
    found: dict[tuple[str, ...], Group] = {}
    for place, run in enumerate(runs):
        chosen = {option: values[place] for option, values in differences.items()}
        key = tuple(map(str, chosen.values()))
        if key not in found:
            told_apart = {
                name: chosen[name]
                for name, values in differences.items()
                if _tells_apart(name, values)
            }
            found[key] = _group(run, told_apart)
        found[key].runs.append(place)

    groups = list(found.values())
    _tell_apart(groups, runs)
    return groups


def _tells_apart(option: str, values: Sequence[Any]) -> bool:
    """Return whether an option is worth a word: more than that vanilla attention has none."""
    if option in ("attention.name", DECAY):
        return False
    given = {str(value) for value in values if value is not None}
    return len(given) > 1


def _group(run: Run, options: Mapping[str, Any]) -> Group:
    name = str(run.config.attention["name"])
    words = []
    for option, value in options.items():
        # What is off, or null, would only make the names longer.
        if value is True:
            words.append(option.rpartition(".")[2])
        elif value is not None and value is not False:
            words.append(f"{option.rpartition('.')[2]} {value}")

    decay = run.config.attention.get("ema_decay")
    named = name if decay is None else f"{name} {decay}"
    if decay is None and name == "vanilla":
        decay = 0.0
    return Group(", ".join([named, *words]), ", ".join([name, *words]), decay)


def _tell_apart(groups: Sequence[Group], runs: Sequence[Run]) -> None:
    """Give groups whose short names are the same the names of their first runs, too."""
    labels = [group.label for group in groups]
    for group, label in zip(groups, labels, strict=True):
        if labels.count(label) > 1:
            group.label = f"{label} ({runs[group.runs[0]].name})"
