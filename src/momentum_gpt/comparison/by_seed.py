"""Metrics of two variants, paired by training seed: is one variant better, or only this run of it?

The unit is a training run. What documents and queries say about two checkpoints, see
`by_document.py` and `by_query.py`, says nothing about other seeds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from momentum_gpt.comparison.paired import PairedDifference
from momentum_gpt.comparison.runs import Run, config_differences
from momentum_gpt.core.terminal import Advance, ignore_progress
from momentum_gpt.evaluation.statistics import (
    holm,
    mean_interval,
    paired_t,
    sign_flip,
    smallest_detectable,
)

FEW_SHOT = re.compile(r"icl/\w+/(acc|soft)@\d+")
"""The metrics whose p-values are adjusted for their number."""

COMPARED = re.compile(
    rf"val/(loss|bpb|acc|ppl@\d+)|icl/(score|induction/(acc|loss))|{FEW_SHOT.pattern}"
)
"""The metrics that are compared."""

UNITS = {
    "loss": "nats/token",
    "bpb": "bits/byte",
    "score": "nats",
    "ppl": "per token",
    "acc": "accuracy",
    "soft": "probability",
}
"""The unit of a metric, by the last part of its name."""

BySeed = Mapping[int, Run]
"""The runs of one variant by training seed."""


def variants(runs: Sequence[Run]) -> dict[str, BySeed]:
    """Return the runs of each variant by training seed, in the order of the runs.

    Two runs are of the same variant if they differ in nothing but the seed and options that change
    nothing of a result. The name of a variant has all options in which the runs differ.
    """
    # The attention is named by `Run.variant`, and other seeds are what the comparison is about.
    others = {}
    for option, values in config_differences(runs).items():
        if not option.startswith("attention.") and option != "training.seed":
            others[option] = values

    found: dict[str, dict[int, Run]] = {}
    for number, run in enumerate(runs):
        more = [f"{option} {values[number]}" for option, values in others.items()]
        of_variant = found.setdefault(", ".join([run.variant, *more]), {})

        # Of two runs with the same seed, the first counts.
        of_variant.setdefault(run.config.training.seed, run)
    return dict(found)


def by_seed(
    first: BySeed, other: BySeed, advance: Advance = ignore_progress
) -> list[PairedDifference]:
    """Return the mean difference in each metric over the seeds that two variants share.

    The p-values of few-shot metrics are adjusted for their number. The result is [] unless there
    are two such seeds.

    Args:
        first: the runs of the variant that the other is compared with.
        other: the runs of the other variant.
        advance: called after each difference.
    """
    seeds = sorted(first.keys() & other.keys())
    if len(seeds) < 2:
        return []

    differences = []
    for metric in filter(COMPARED.fullmatch, first[seeds[0]].final):
        of_first = _final(first, seeds, metric)
        of_other = _final(other, seeds, metric)

        # A metric that one of the runs lacks cannot be paired.
        if of_first is not None and of_other is not None:
            differences.append(_difference(metric, of_first, of_other))
            advance(1)
    return _adjusted(differences)


def _final(runs: BySeed, seeds: Sequence[int], metric: str) -> np.ndarray | None:
    """Return the last value of a metric for each seed, (seeds,); None if a run does not have it."""
    values = [runs[seed].final.get(metric) for seed in seeds]
    return None if None in values else np.array(values)


def _difference(metric: str, first: np.ndarray, other: np.ndarray) -> PairedDifference:
    gaps = other - first  # (seeds,)
    p_value = paired_t(gaps)
    return PairedDifference(
        measure=metric,
        unit=UNITS[metric.rpartition("/")[2].partition("@")[0]],
        paired_by="training seed",
        pairs=len(gaps),
        first=fmean(first),
        other=fmean(other),
        interval=mean_interval(gaps),
        detectable=smallest_detectable(gaps),
        p_values={"t-test": p_value, "sign-flip": sign_flip(gaps)},
        p_holm=p_value,
    )


def _adjusted(differences: list[PairedDifference]) -> list[PairedDifference]:
    """Return the differences with the p-values of few-shot metrics adjusted for their number."""
    # Tasks times numbers of demonstrations are many; the other metrics are a few planned questions.
    p_values = {}
    for row in differences:
        if FEW_SHOT.fullmatch(row.measure):
            p_values[row.measure] = row.p_values["t-test"]

    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return [replace(row, p_holm=adjusted.get(row.measure, row.p_holm)) for row in differences]
