"""Intervals and tests for paired differences: may one say that B is better than A?

Both sides of a pair were measured on the same document, the same query, or with the same training
seed. The tests and intervals are scipy's, except where it cannot express what is drawn again.

References:
    Student's t-test and its interval; Efron (1979), percentile bootstrap; McNemar (1947), exact
    form; Fisher (1935), sign-flip test; Holm (1979), adjustment for several tests.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from scipy import stats

RESAMPLES = 10_000
"""Samples that a bootstrap draws."""

FLIPS = 2**15
"""Sign flips of a sign-flip test: all of them for up to 15 pairs, else as many drawn at random."""

Interval = tuple[float, float]
"""Lower and upper end; (nan, nan) where there is too little data for an interval."""

NO_INTERVAL = (math.nan, math.nan)


def mean_interval(values: np.ndarray, level: float = 0.95) -> Interval:
    """Return the confidence interval of the mean of independent values (n,), by Student's t.

    A single value has no interval: (nan, nan).
    """
    if len(values) < 2:
        return NO_INTERVAL
    low, high = _t_test(values).confidence_interval(level)
    return float(low), float(high)


def paired_t(differences: np.ndarray) -> float:
    """Return Student's two-sided p-value of a mean difference of 0, from differences (n,), n >= 2.

    If all differences are equal, the result is 1: a spread of 0 is no estimate of the noise.
    """
    n = len(differences)
    mean = abs(float(np.mean(differences)))
    error = float(np.std(differences, ddof=1)) / math.sqrt(n)

    # Differences that are equal differ by rounding errors once they have been subtracted.
    if error <= 1e-9 * mean:
        return 1.0
    return float(_t_test(differences).pvalue)


def sign_flip(differences: np.ndarray) -> float:
    """Return the two-sided p-value of a mean difference of 0, by flipping the signs of some.

    The result is exact for up to 15 pairs, and at least 2 / 2^n. For more, `FLIPS` flips are drawn
    at random.

    Args:
        differences: (n,).
    """
    # One difference is as far from 0 as its negative.
    if len(differences) < 2:
        return 1.0

    # Permuting "samples" of a single sample flips the signs of its values.
    result = stats.permutation_test(
        (differences,),
        np.sum,
        permutation_type="samples",
        n_resamples=FLIPS,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def mcnemar(first: np.ndarray, other: np.ndarray) -> float:
    """Return McNemar's exact two-sided p-value that both sides answer as many queries right.

    Args:
        first: 1 where the first model is right, else 0; (queries,).
        other: the same for the other model.
    """
    only_first = int(((first == 1) & (other == 0)).sum())
    only_other = int(((first == 0) & (other == 1)).sum())
    disagreements = only_first + only_other
    if disagreements == 0:
        return 1.0
    return float(stats.binomtest(only_first, disagreements).pvalue)


def holm(p_values: list[float]) -> list[float]:
    """Return p-values adjusted for their number by Holm's step-down method, in the same order."""
    smallest_first = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    largest_so_far = 0.0
    for rank, place in enumerate(smallest_first):
        multiplied = min(1.0, (len(p_values) - rank) * p_values[place])

        # A larger p-value never becomes the smaller one by its adjustment.
        largest_so_far = max(largest_so_far, multiplied)
        adjusted[place] = largest_so_far
    return adjusted


def bootstrap(values: np.ndarray, level: float = 0.95, seed: int = 0) -> Interval:
    """Return the percentile interval of the mean over queries and draws of demonstrations.

    Both are drawn again with replacement, independently of each other.

    Args:
        values: (draws, queries).
    """
    generator = np.random.default_rng(seed)
    n_draws, n_queries = values.shape
    means = np.empty(RESAMPLES)

    # A loop of our own: scipy.stats.bootstrap draws along one axis only, and here a sample consists
    # of whole rows and whole columns.
    for i in range(RESAMPLES):
        rows = generator.integers(0, n_draws, n_draws)
        columns = generator.integers(0, n_queries, n_queries)
        counts = np.bincount(columns, minlength=n_queries)  # (queries,)
        means[i] = values[rows].mean(axis=0) @ counts / n_queries

    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def in_blocks(
    sums: np.ndarray, sizes: np.ndarray, most: int = 2000
) -> tuple[np.ndarray, np.ndarray]:
    """Join neighbouring documents until at most `most` blocks are left; fewer stay as they are.

    Args:
        sums: the sum of each document's nats, (documents,).
        sizes: the number of its targets, (documents,).

    Returns:
        The sums and sizes of the blocks, (blocks,) each.
    """
    block = np.arange(len(sums)) * min(len(sums), most) // len(sums)  # (documents,)
    return np.bincount(block, sums), np.bincount(block, sizes)


def bootstrap_ratio(
    sums: np.ndarray, sizes: np.ndarray, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return the percentile interval of sum(sums) / sum(sizes), by drawing documents again.

    A single document has no interval: (nan, nan).

    Args:
        sums: the sum of each document's nats, (documents,).
        sizes: the number of its targets, (documents,).
    """
    if len(sums) < 2:
        return NO_INTERVAL

    # "Paired": a document is drawn with its sum and its size. The batch bounds the memory.
    result = stats.bootstrap(
        (sums, sizes),
        _ratio,
        n_resamples=RESAMPLES,
        batch=1000,
        paired=True,
        vectorized=True,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    interval = result.confidence_interval
    return float(interval.low), float(interval.high)


def smallest_detectable(differences: np.ndarray, power: float = 0.8, level: float = 0.95) -> float:
    """Return the true mean difference that this many pairs would find with that power.

    It is estimated from the spread of the differences (n,); nan for a single one.
    """
    n = len(differences)
    if n < 2:
        return math.nan

    # The first quantile is the distance from 0 that is significant, the second the margin by which
    # a true difference must exceed it to be found that often.
    quantiles = stats.t.ppf([(1 + level) / 2, power], n - 1)
    return float(quantiles.sum() * np.std(differences, ddof=1) / math.sqrt(n))


def smallest_detectable_ratio(sums: np.ndarray, sizes: np.ndarray) -> float:
    """Return the same for sum(sums) / sum(sizes), (documents,) each, by linearising the ratio."""
    # What is left of each sum has the mean 0, and its spread over the mean size is the ratio's.
    residuals = sums - sums.sum() / sizes.sum() * sizes
    return smallest_detectable(residuals) / float(np.mean(sizes))


def _t_test(values: np.ndarray) -> Any:
    with warnings.catch_warnings():
        # Where all values are equal, scipy warns of the precision of a spread that is 0.
        warnings.simplefilter("ignore", RuntimeWarning)
        return stats.ttest_1samp(values, 0.0)


def _ratio(sums: np.ndarray, sizes: np.ndarray, axis: int) -> np.ndarray:
    return sums.sum(axis=axis) / sizes.sum(axis=axis)
