"""Several training seeds of two variants, paired by seed: is one variant better, or only this run of it?

The unit is a training run: what documents and queries say of two checkpoints, see perplexity.py and icl.py, says nothing about
other seeds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from momentum_gpt.comparison.runs import Run
from momentum_gpt.comparison.runs import differences as unlike
from momentum_gpt.comparison.table import Grid, interval
from momentum_gpt.evaluation.statistics import (
    holm,
    mean_interval,
    paired_t,
    sign_flip,
    smallest_detectable,
)

COMPARED = re.compile(
    r"val/(loss|bpb|acc|ppl@\d+)|icl/(score|induction/(acc|loss)|\w+/(acc|soft)@\d+)"
)
"""The metrics that are compared."""


@dataclass(frozen=True)
class Difference:
    """Of a variant to the first, over the seeds that both have."""

    metric: str
    seeds: int
    first: float
    other: float
    interval: tuple[float, float]
    """Of the mean of other - first, 95%: Student's t over seeds."""
    p_value: float
    """Student's, as the interval."""
    p_holm: float
    """The same, of few-shot metrics adjusted for their number."""
    p_flips: float
    """Exact, by flipping signs: 2 / 2^seeds at the least."""
    detectable: float
    """The true difference that as many seeds find four times of five."""


def variants(runs: list[Run]) -> dict[str, dict[int, Run]]:
    """Name of a variant -> its runs by training seed, in the order of the runs. Whatever else differs is part of its name."""
    others = {
        key: its
        for key, its in unlike(runs).items()
        if not key.startswith("attention.") and key != "training.seed"
    }
    found: dict[str, dict[int, Run]] = {}
    for number, run in enumerate(runs):
        name = ", ".join([run.variant, *(f"{key} {its[number]}" for key, its in others.items())])
        found.setdefault(name, {}).setdefault(run.config.training.seed, run)
    return found


def differences(first: dict[int, Run], other: dict[int, Run]) -> list[Difference]:
    """[] unless both have two seeds in common."""
    seeds = sorted(first.keys() & other.keys())
    if len(seeds) < 2:
        return []
    pairs = [(first[seed].final, other[seed].final) for seed in seeds]
    metrics = [
        key
        for key in pairs[0][0]
        if COMPARED.fullmatch(key) and all(key in a and key in b for a, b in pairs)
    ]
    gaps = {key: np.array([b[key] - a[key] for a, b in pairs]) for key in metrics}
    adjusted = {key: paired_t(gaps[key]) for key in metrics}
    few_shot = [key for key in metrics if "@" in key and key.startswith("icl/")]
    adjusted |= zip(few_shot, holm([adjusted[key] for key in few_shot]), strict=True)
    return [
        Difference(
            key,
            len(seeds),
            fmean(a[key] for a, _ in pairs),
            fmean(b[key] for _, b in pairs),
            mean_interval(gaps[key]),
            paired_t(gaps[key]),
            adjusted[key],
            sign_flip(gaps[key]),
            smallest_detectable(gaps[key]),
        )
        for key in metrics
    ]


def grid(first: str, other: str, rows: list[Difference]) -> Grid:
    """A difference is marked if its interval leaves out 0 and its adjusted p-value is below 0.05."""
    head = [
        "metric",
        "seeds",
        first,
        other,
        "difference",
        "95% interval",
        "t-test p",
        "Holm",
        "flips p",
        "detectable",
        "",
    ]
    cells = []
    for row in rows:
        low, high = row.interval
        real = (low > 0 or high < 0) and row.p_holm < 0.05
        numbers = [
            f"{row.first:.4f}",
            f"{row.other:.4f}",
            f"{row.other - row.first:+.4f}",
            interval(row.interval, 4),
        ]
        tests = [f"{row.p_value:.3f}", f"{row.p_holm:.3f}", f"{row.p_flips:.3f}"]
        detectable = f"{row.detectable:.4f}" if row.detectable else "-"
        cells.append(
            [row.metric, str(row.seeds), *numbers, *tests, detectable, "*" if real else ""]
        )
    return Grid(f"{other} against {first}, paired by training seed", head, cells)
