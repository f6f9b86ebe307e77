"""When may one say that B is better than A? Intervals and tests on pairs: the same query, demonstrations and seed.

References: McNemar (1947), exact; Efron's percentile bootstrap; Holm (1979).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import binomtest, norm
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


def bootstrap(values: np.ndarray, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """The percentile interval of the mean over queries and seeds, (seeds, queries): both are drawn again, with replacement."""
    generator = np.random.default_rng(seed)
    n_seeds, n = values.shape
    means = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        rows = generator.integers(0, n_seeds, n_seeds)
        counts = np.bincount(generator.integers(0, n, n), minlength=n)
        means[i] = values[rows].mean(axis=0) @ counts / n
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
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
    if len(differences) < 2:
        return math.nan
    z = norm.ppf((1 + level) / 2) + norm.ppf(power)
    return float(z * np.std(differences, ddof=1) / math.sqrt(len(differences)))
