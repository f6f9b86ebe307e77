"""Metrics of two variants, paired by training seed: is one variant better, or only this run of it?

The unit is a training run. What documents and queries say about two checkpoints, see
`by_document.py` and `by_query.py`, says nothing about other seeds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from momentum_gpt.comparison.paired import PairedDifference
from momentum_gpt.comparison.runs import Run
from momentum_gpt.comparison.sequential import anytime_interval, anytime_p
from momentum_gpt.comparison.variants import variants_of
from momentum_gpt.core.terminal import Advance, ignore_progress
from momentum_gpt.evaluation.statistics import over_seeds, sign_flip

LOSSES = re.compile(r"val/(loss|bpb|acc|ppl_word|ppl@\d+)|icl/(score|induction/(acc|loss))")
"""The metrics of text and of synthetic tasks."""

BY_POSITION = re.compile(r"val/loss@pos\d+")
"""The losses of the positions in a context."""

BY_FREQUENCY = re.compile(r"val/loss@rank\d+")
"""The losses of tokens by their frequency in the training text."""

FEW_SHOT = re.compile(r"icl/\w+/(acc|soft|f1)@\d+")
"""The metrics of few-shot tasks."""

PER_TOKEN = re.compile(
    r"val/(loss(@(pos|rank)\d+)?|ppl@\d+)|icl/(score|induction/(acc|loss)|\w+/soft@\d+)"
)
"""The metrics that have another unit with another tokenizer."""

UNITS = {
    "loss": "nats/token",
    "bpb": "bits/byte",
    "score": "nats",
    "ppl": "per token",
    "ppl_word": "per word",
    "acc": "accuracy",
    "soft": "probability",
    "f1": "F1",
}
"""The unit of a metric, by the last part of its name."""

BySeed = Mapping[int, Run]
"""The runs of one variant by training seed."""


def variants(runs: Sequence[Run]) -> dict[str, BySeed]:
    """Return the runs of each variant by training seed, in the order of the runs.

    Of two runs of a variant with the same seed, the first counts.
    """
    found: dict[str, BySeed] = {}
    for variant in variants_of(runs):
        of_variant: dict[int, Run] = {}
        for place in variant.runs:
            of_variant.setdefault(runs[place].config.training.seed, runs[place])
        found[variant.name] = of_variant
    return found


def by_seed(
    first: BySeed,
    other: BySeed,
    metrics: re.Pattern[str],
    across_tokenizers: bool = False,
    advance: Advance = ignore_progress,
    looked_at: bool = False,
) -> list[PairedDifference]:
    """Return the mean difference in each metric over the seeds that two variants share.

    The result is [] unless there are two such seeds.

    Args:
        first: the runs of the variant that the other is compared with.
        other: the runs of the other variant.
        metrics: the metrics that are compared: `LOSSES`, `BY_POSITION`, `BY_FREQUENCY` or
            `FEW_SHOT`.
        across_tokenizers: leave out what is per token, which is another unit for each of them.
        advance: called after each difference.
        looked_at: whether the number of seeds was chosen by looking at the results.
    """
    seeds = sorted(first.keys() & other.keys())
    if len(seeds) < 2:
        return []

    differences = []
    for metric in filter(metrics.fullmatch, first[seeds[0]].final):
        if not is_compared(metric, first[seeds[0]], across_tokenizers):
            continue
        of_first = _final(first, seeds, metric)
        of_other = _final(other, seeds, metric)

        # A metric that one of the runs lacks cannot be paired.
        if of_first is not None and of_other is not None:
            unit = unit_of(metric)
            differences.append(seed_difference(metric, unit, of_first, of_other, looked_at))
            advance(1)
    return differences


def is_compared(metric: str, run: Run, across_tokenizers: bool) -> bool:
    """Return whether a metric says something that the others do not, in a unit that both share."""
    if across_tokenizers:
        return not PER_TOKEN.fullmatch(metric)
    # These are the loss in other units.
    return metric not in ("val/bpb", "val/ppl_word", f"val/ppl@{run.config.model.seq_len}")


def unit_of(metric: str) -> str:
    """Return the unit of a metric."""
    return UNITS[metric.rpartition("/")[2].partition("@")[0]]


def _final(runs: BySeed, seeds: Sequence[int], metric: str) -> np.ndarray | None:
    """Return the last value of a metric for each seed, (seeds,); None if a run does not have it."""
    values = [runs[seed].final.get(metric) for seed in seeds]
    return None if None in values else np.array(values)


def seed_difference(
    metric: str,
    unit: str,
    first: np.ndarray,
    other: np.ndarray,
    looked_at: bool = False,
    sample: str = "",
) -> PairedDifference:
    """Return the mean difference between two variants, whose values are paired by seed.

    Args:
        metric: what the values are of.
        unit: of the values.
        first: of the variant that the other is compared with, (seeds,).
        other: of the other variant, in the same order.
        looked_at: whether the number of seeds was chosen by looking at the results.
        sample: at what they were measured.
    """
    gaps = other - first  # (seeds,)
    estimate = over_seeds(gaps)
    p_values = {"t-test": estimate.p_value, "sign-flip": sign_flip(gaps)}
    anytime = {"anytime": anytime_p(gaps)}
    if looked_at:  # the other tests do not hold then
        p_values = anytime
    else:
        p_values |= anytime
    return PairedDifference(
        measure=metric,
        unit=unit,
        paired_by="training seed",
        pairs=len(gaps),
        first=fmean(first),
        other=fmean(other),
        interval=anytime_interval(gaps) if looked_at else estimate.interval,
        detectable=estimate.detectable,
        p_values=p_values,
        sample=sample,
    )
