"""How sure a mean is, and whether it may be 0: intervals and tests.

The unit is what was drawn independently, and each kind of unit has its estimate:

    documents                   `over_documents`: a loss per token, or a difference of two losses
    queries and demonstrations  `over_queries`: an accuracy, or a difference of two accuracies
    training seeds              `over_seeds`: a metric, or its difference between two variants

A paired comparison is an estimate of the differences between two sides that were measured on the
same document, the same query, or with the same training seed.

References:
    Hartigan ("Using subsample values as typical values", 1969); Fisher (1935), sign-flip test;
    Student's t-test; Satterthwaite (1946), degrees of freedom of a sum of variances; McNemar
    (1947), exact form; Holm (1979), adjustment for several tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special  # scipy.stats would take 47 MB of every training run

LEVEL = 0.05
"""Intervals hold with a probability of 1 - LEVEL, and a p-value below LEVEL counts."""

POWER = 0.8
"""How often the smallest detectable difference is found."""

SUBSETS = 2**14
"""Subsets of the documents that are looked at: all of them for up to 14, else as many drawn."""

BLOCKS = 1000
"""More documents than this are joined, neighbours first: the result hardly changes."""

FEW_DRAWS = 5
"""With fewer draws of the demonstrations, their spread is known only roughly."""

MOST_PAIRS = 10**6
"""More pairs than this are said to be no answer."""

Interval = tuple[float, float]
"""Lower and upper end; (nan, nan) where there is too little data for an interval."""


@dataclass(frozen=True)
class Estimate:
    """A mean, and how sure it is."""

    value: float
    interval: Interval
    """95% confidence interval; (nan, nan) where there is too little data for one."""
    p_value: float
    """Two-sided p-value of a true value of 0; 1 where nothing is known of the spread."""
    detectable: float
    """The true value that as much data would tell from 0 four times out of five; nan if unknown."""

    @property
    def margin(self) -> float:
        """Half the width of the interval; nan without one."""
        low, high = self.interval
        return (high - low) / 2


def unknown(value: float) -> Estimate:
    """Return the estimate of which nothing but the value is known."""
    return Estimate(value, (math.nan, math.nan), 1.0, math.nan)


def over_documents(sums: np.ndarray, sizes: np.ndarray) -> Estimate:
    """Return the estimate of sum(sums) / sum(sizes), where documents were drawn.

    The means of all subsets of the documents divide the line into parts that hold the true value
    with equal probability (Hartigan's theorem). It is exact for any number of documents of any
    sizes, if what a document deviates by is as likely to be positive as negative. The p-value is
    that of flipping the signs of documents. There is no interval of fewer than 6 documents.

    Args:
        sums: the sum over each document's targets, (documents,).
        sizes: the number of its targets, (documents,).
    """
    value = float(sums.sum() / sizes.sum())
    means = np.sort(_means_of_subsets(*in_blocks(sums, sizes)))  # (subsets,)
    outside = int(LEVEL / 2 * (len(means) + 1))  # parts of the line beyond each end
    if not outside:
        return unknown(value)

    interval = (float(means[outside - 1]), float(means[-outside]))
    # The margin of a normal distribution, and what a true value must exceed it by.
    quantiles = special.ndtri([1 - LEVEL / 2, POWER])
    detectable = (interval[1] - interval[0]) / 2 * quantiles.sum() / quantiles[0]
    return Estimate(value, interval, _p_value(means), float(detectable))


def over_seeds(values: np.ndarray) -> Estimate:
    """Return the estimate of the mean of independent values (n,), by Student's t.

    They are those of training seeds, or of anything else that was drawn one by one.

    There is no interval of a single value.
    """
    n = len(values)
    value = float(np.mean(values))
    if n < 2:
        return unknown(value)
    return _by_t(value, float(np.std(values, ddof=1)) / math.sqrt(n), n - 1)


def by_known_spread(values: np.ndarray, deviation: float, freedom: float) -> Estimate:
    """Return the estimate of the mean of independent values (n,), whose spread is known.

    Args:
        values: one or more.
        deviation: their standard deviation, from other values.
        freedom: its degrees of freedom; infinite if it is exact.
    """
    return _by_t(float(np.mean(values)), deviation / math.sqrt(len(values)), freedom)


def pairs_needed(difference: float, detectable: float, pairs: int) -> int | None:
    """Return how many pairs would find a difference four times out of five, by Student's t.

    Args:
        difference: the true one.
        detectable: the difference that would be found with `pairs` pairs, which tells their spread.
        pairs: two or more.

    Returns:
        None beyond a million, and where nothing is known of the spread.
    """
    if difference == 0 or not detectable > 0:
        return None
    deviation = detectable * math.sqrt(pairs) / quantiles(pairs - 1)
    low, high = 2, MOST_PAIRS

    def finds(n: int) -> bool:
        return deviation * quantiles(n - 1) / math.sqrt(n) <= abs(difference)

    if not finds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if finds(middle) else (middle + 1, high)
    return low


def quantiles(freedom: float) -> float:
    """Return what a difference must exceed in standard errors to be found four times of five."""
    return float(_t_quantiles(freedom).sum())


def over_queries(values: np.ndarray) -> Estimate:
    """Return the estimate of the mean where both queries and demonstrations were drawn.

    The variance is that of a two-way layout with random effects, without replication:

        Var(mean) = (MS_queries + MS_draws - MS_rest) / (draws queries)

    With a single draw, the interval is over queries alone and says nothing of other demonstrations.

    Args:
        values: (draws, queries).
    """
    n_draws, n_queries = values.shape
    mean = float(values.mean())
    if n_draws == 1 or n_queries == 1:
        return over_seeds(values.ravel())

    variance, degrees = _variance_of_mean(values)
    if n_draws < FEW_DRAWS:
        degrees = n_draws - 1
    return _by_t(mean, math.sqrt(variance), degrees)


def sign_flip(differences: np.ndarray) -> float:
    """Return the two-sided p-value of a mean difference of 0, by flipping the signs of some.

    The result is exact for up to 14 pairs, and at least 2 / 2^n. For more, flips are drawn at
    random, and it is (b + 1) / (m + 1) of m flips with b at least as far from 0.

    Args:
        differences: (n,).
    """
    return _p_value(_means_of_subsets(differences, np.ones(len(differences))))


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
    # Twice the smaller tail of a fair coin's tosses, which is symmetric.
    tail = special.bdtr(min(only_first, only_other), disagreements, 0.5)
    return min(1.0, 2 * float(tail))


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


def margin_key(metric: str) -> str:
    """Return the key of half the width of a metric's 95% interval, such as `val/loss_margin`.

    That of `icl/sst2/acc@4` is `icl/sst2/acc_margin@4`.
    """
    name, at, number = metric.partition("@")
    return f"{name}_margin{at}{number}"


def margin(metric: str, estimate: Estimate) -> dict[str, float]:
    """Return half the width of a metric's interval, by its key; {} where there is none."""
    return {} if math.isnan(estimate.margin) else {margin_key(metric): estimate.margin}


def in_blocks(
    sums: np.ndarray, sizes: np.ndarray, most: int = BLOCKS
) -> tuple[np.ndarray, np.ndarray]:
    """Join neighbouring documents until at most `most` blocks are left; fewer stay as they are.

    Args:
        sums: the sum over each document's targets, (documents,).
        sizes: the number of its targets, (documents,).

    Returns:
        The sums and sizes of the blocks, (blocks,) each.
    """
    block = np.arange(len(sums)) * min(len(sums), most) // len(sums)  # (documents,)
    return np.bincount(block, sums), np.bincount(block, sizes)


def _variance_of_mean(values: np.ndarray) -> tuple[float, float]:
    """Return the variance of the mean of values (draws, queries), and its degrees of freedom."""
    n_draws, n_queries = values.shape
    mean = values.mean()
    of_query = values.mean(axis=0) - mean  # (queries,)
    of_draw = values.mean(axis=1) - mean  # (draws,)
    rest = values - mean - of_query - of_draw[:, None]  # (draws, queries)

    freedom = np.array([n_queries - 1, n_draws - 1, (n_queries - 1) * (n_draws - 1)])
    sums = np.array([np.sum(of_query**2), np.sum(of_draw**2), np.sum(rest**2)])
    mean_squares = sums * [n_draws, n_queries, 1] / freedom

    # Where queries or draws add no variance, the estimate of it may be negative: it is left out.
    of_queries, of_draws, of_rest = mean_squares
    total = of_queries + of_draws - of_rest
    largest = int(mean_squares[:2].argmax())
    if total <= mean_squares[largest]:
        return float(mean_squares[largest] / values.size), float(freedom[largest])
    degrees = total**2 / np.sum(mean_squares**2 / freedom)
    return float(total / values.size), float(degrees)


def _means_of_subsets(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return sum(sums) / sum(sizes) of subsets of the documents, (subsets,).

    They are all subsets but the empty one, or `SUBSETS` - 1 of them drawn at random.
    """
    n = len(sums)
    numbers = np.arange(1, min(SUBSETS, 2**n))
    generator = np.random.default_rng(0)
    means = []
    # In parts, to bound the memory.
    for part in np.array_split(numbers, -(-len(numbers) // 1024)):
        if 2**n <= SUBSETS:
            is_in = part[:, None] >> np.arange(n) & 1  # the number's bits, (part, documents)
        else:
            is_in = generator.integers(0, 2, (len(part), n), dtype=np.int8)
            is_in[~is_in.any(axis=1), 0] = 1  # none is empty
        is_in = is_in.astype(float)  # for a fast product
        means.append((is_in @ sums) / (is_in @ sizes))
    return np.concatenate(means)


def _p_value(means: np.ndarray) -> float:
    """Return the two-sided p-value of 0 among the means of subsets, (subsets,).

    A subset's sum is below 0 exactly if flipping the signs of the others takes the whole sum at
    least as far from 0.
    """
    rounding = 1e-9 * np.abs(means).max()
    below = int((means <= rounding).sum())
    above = int((means >= -rounding).sum())
    return min(1.0, 2 * (1 + min(below, above)) / (len(means) + 1))


def _by_t(value: float, error: float, freedom: float) -> Estimate:
    """Return the estimate of a value with a standard error, by Student's t."""
    # Values that are equal differ by rounding errors once they have been subtracted, and a spread
    # of 0 is no estimate of the noise.
    if error <= 1e-9 * abs(value) or error == 0:
        return Estimate(value, (value, value), 1.0, 0.0)

    # The second quantile is what a true value must exceed the margin by to be found that often.
    quantiles = _t_quantiles(freedom)
    margin = float(quantiles[0]) * error
    p_value = 2 * float(_t_distribution(-abs(value) / error, freedom))
    interval = (value - margin, value + margin)
    return Estimate(value, interval, p_value, float(quantiles.sum()) * error)


def _t_quantiles(freedom: float) -> np.ndarray:
    """Return Student's t at 1 - LEVEL / 2 and at POWER; the normal's for infinite freedom."""
    shares = np.array([1 - LEVEL / 2, POWER])
    if math.isinf(freedom):
        return np.asarray(special.ndtri(shares))
    return np.asarray(special.stdtrit(freedom, shares))


def _t_distribution(value: float, freedom: float) -> float:
    """Return the probability that Student's t is at most a value."""
    if math.isinf(freedom):
        return float(special.ndtr(value))
    return float(special.stdtr(freedom, value))
