"""How much a result varies from seed to seed, and what a number of seeds can find.

The spread of runs that differ in their seed alone, pooled over the variants, is known from more
runs than a single comparison has. So it needs fewer seeds than Student's t, which learns the spread
from the comparison itself; but it holds only if the spread is the same in all variants, which is
tested (Bartlett 1937).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from momentum_gpt.comparison.by_seed import BySeed, variants
from momentum_gpt.comparison.runs import Run
from momentum_gpt.comparison.sequential import BETTER, Spread, decide
from momentum_gpt.core.errors import UserError
from momentum_gpt.evaluation.statistics import POWER, quantiles

SIMULATED = 400
"""Simulated sweeps of which POWER must be decided."""

MOST_PAIRS = 60
"""Pairs after which a simulated sweep is given up."""


@dataclass(frozen=True)
class Noise:
    """The standard deviation of a metric over seeds."""

    of_run: float
    """Of one run."""
    freedom: float
    """Degrees of freedom of `of_run`; infinite if it is simply known."""
    of_pair: float
    """Of the difference between two runs with the same seed."""
    pair_freedom: float
    is_paired: bool = False
    """Whether `of_pair` was measured; if not, it is sqrt(2) `of_run`: pairing gains nothing."""
    same_spread: float | None = None
    """p-value of the hypothesis that all variants have the same spread; None for a single one."""

    def detectable(self, pairs: int) -> float:
        """Return the true difference that this many pairs find four times out of five."""
        return quantiles(self.pair_freedom) * self.of_pair / math.sqrt(pairs)

    def detectable_by_t(self, pairs: int) -> float:
        """Return the same for Student's t, which takes the spread from these pairs alone."""
        return quantiles(pairs - 1) * self.of_pair / math.sqrt(pairs)

    def pairs_when_looking(self, difference: float) -> int | None:
        """Return after how many pairs four of five sweeps, looked at after each, are decided.

        Simulated; None if it takes more than `MOST_PAIRS`.
        """
        rng = np.random.default_rng(0)
        spread = self.spread
        taken = []
        for _ in range(SIMULATED):
            x = rng.normal(-abs(difference), self.of_pair, MOST_PAIRS)
            decision = decide(x, spread=spread)
            taken.append(decision.pairs if decision.verdict == BETTER else MOST_PAIRS + 1)
        needed = int(np.quantile(taken, POWER, method="higher"))
        return needed if needed <= MOST_PAIRS else None

    @property
    def spread(self) -> Spread:
        """What the sequential test may know of the spread of a pair."""
        freedom = int(min(self.pair_freedom, 1000))  # what is simply known counts as much
        return Spread(freedom * self.of_pair**2, freedom)


def known_noise(of_run: float) -> Noise:
    """Return the noise model of a standard deviation that somebody knows."""
    return Noise(of_run, math.inf, math.sqrt(2) * of_run, math.inf)


def noise_of(runs: Sequence[Run], metric: str) -> Noise:
    """Return the noise model of runs: two or more seeds of one variant, or of several.

    Raises:
        UserError: no variant has two seeds, or a run lacks the metric.
    """
    for run in runs:
        if metric not in run.final:
            raise UserError(f"runs: {run.name} has no {metric}: choose a metric that all runs have")
    of_variants = [values(by_seed, metric) for by_seed in variants(runs).values()]
    several = [found for found in of_variants if len(found) > 1]
    if not several:
        raise UserError(
            f"runs: none of {[run.name for run in runs]} is of the same variant as another: give "
            "two or more seeds of one"
        )

    freedom = sum(len(found) - 1 for found in several)
    of_run = math.sqrt(sum(np.var(found) * len(found) for found in several) / freedom)
    same = float(stats.bartlett(*several).pvalue) if len(several) > 1 else None
    pairs = _spread_of_pairs(list(variants(runs).values()), metric)
    if pairs is None:
        return Noise(of_run, freedom, math.sqrt(2) * of_run, freedom, same_spread=same)
    of_pair, pair_freedom = pairs
    return Noise(of_run, freedom, of_pair, pair_freedom, is_paired=True, same_spread=same)


def values(by_seed: BySeed, metric: str) -> np.ndarray:
    """Return the final values of a variant's runs, (seeds,)."""
    return np.array([run.final[metric] for run in by_seed.values()])


def _spread_of_pairs(of_variants: list[BySeed], metric: str) -> tuple[float, int] | None:
    """Return the standard deviation of a pair's difference and its freedom; None without pairs.

    Each variant is paired with the first one.
    """
    first, *others = of_variants
    sums, freedom = 0.0, 0
    for other in others:
        seeds = sorted(first.keys() & other.keys())
        if len(seeds) < 2:
            continue
        gaps = [other[seed].final[metric] - first[seed].final[metric] for seed in seeds]
        sums += float(np.var(gaps)) * len(gaps)
        freedom += len(gaps) - 1
    return (math.sqrt(sums / freedom), freedom) if freedom else None
