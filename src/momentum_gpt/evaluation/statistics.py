"""When may one say that B is better than A? Intervals and tests on pairs: the same query, demonstrations and seed.

References: McNemar (1947), exact; Efron's percentile bootstrap; Holm (1979).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import binomtest
from scipy.stats import t as student

RESAMPLES = 10_000
"""Of a bootstrap."""


def mean_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The confidence interval of the mean of independent values, by Student's t; (nan, nan) for a single one."""
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    half = float(student.ppf((1 + level) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def paired_t(differences: np.ndarray) -> float:
    """Student's two-sided p-value that the mean difference is 0; 1 where all are alike, whose spread says nothing."""
    n = len(differences)
    mean, error = (
        abs(float(np.mean(differences))),
        float(np.std(differences, ddof=1)) / math.sqrt(n),
    )
    return 1.0 if error <= 1e-9 * mean else float(2 * student.sf(mean / error, n - 1))


def bootstrap(values: np.ndarray, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """The percentile interval of the mean over queries and seeds, (seeds, queries): both are drawn again, with replacement."""
    generator = np.random.default_rng(seed)
    n_seeds, n = values.shape
    means = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        rows = generator.integers(0, n_seeds, n_seeds)
        means[i] = values[rows].mean(axis=0) @ _drawn(generator, n) / n
    return _middle(means, level)


def in_blocks(
    sums: np.ndarray, sizes: np.ndarray, most: int = 2000
) -> tuple[np.ndarray, np.ndarray]:
    """Documents, (documents,) each, joined to `most` blocks, neighbours to neighbours, where there are more."""
    block = np.arange(len(sums)) * min(len(sums), most) // len(sums)
    return np.bincount(block, sums), np.bincount(block, sizes)


def bootstrap_ratio(
    sums: np.ndarray, sizes: np.ndarray, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of sum(sums) / sum(sizes), (documents,) each, which are drawn again; (nan, nan) for one alone."""
    n = len(sums)
    if n < 2:
        return math.nan, math.nan
    generator = np.random.default_rng(seed)
    ratios = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        counts = _drawn(generator, n)
        ratios[i] = (counts @ sums) / (counts @ sizes)
    return _middle(ratios, level)


def _drawn(generator: np.random.Generator, n: int) -> np.ndarray:
    """How often each of n is drawn, if n are, with replacement."""
    return np.bincount(generator.integers(0, n, n), minlength=n)


def _middle(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """The exact two-sided p-value that as many queries are right in a alone as in b alone; right is 1, (queries,)."""
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    return 1.0 if only_a + only_b == 0 else float(binomtest(only_a, only_a + only_b).pvalue)


def holm(p_values: list[float]) -> list[float]:
    """Holm's adjusted p-values: each at most as often too small as one test alone."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, so_far = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = so_far
    return adjusted


def smallest_detectable(differences: np.ndarray, power: float = 0.8, level: float = 0.95) -> float:
    """The true mean difference that a comparison of as many pairs would find with that power, from their spread."""
    n = len(differences)
    if n < 2:
        return math.nan
    reach = student.ppf((1 + level) / 2, n - 1) + student.ppf(power, n - 1)
    return float(reach * np.std(differences, ddof=1) / math.sqrt(n))


def smallest_detectable_ratio(sums: np.ndarray, sizes: np.ndarray) -> float:
    """The same of sum(sums) / sum(sizes): of what is left of each sum when its size times the ratio is taken away."""
    return smallest_detectable(sums - sums.sum() / sizes.sum() * sizes) / float(np.mean(sizes))


def sign_flip(differences: np.ndarray) -> float:
    """The exact two-sided p-value that each difference might as well have the other sign; 2 / 2^n at the least.

    Of 16 pairs and more, 2^15 flips drawn at random.
    """
    n = len(differences)
    if n < 16:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)  # (2^n, n)
    else:
        signs = np.random.default_rng(0).choice([-1, 1], (2**15, n))
    flipped = np.abs(signs @ differences)
    return float(np.mean(flipped >= np.abs(differences.sum()) * (1 - 1e-12)))
