"""Comparisons of noise: how often each test errs, and what it finds. `python -m tests.null`.

A comparison is that of two variants over some seeds, whose losses vary by a standard deviation of
0.0013 nats from seed to seed, without any gain from pairing. With `--tails 5` the noise has
Student's t distribution with 5 degrees of freedom instead of the normal one.
"""

from __future__ import annotations

import argparse
import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from momentum_gpt.comparison.noise import Noise, known_noise
from momentum_gpt.comparison.noise_model import NoiseModel
from momentum_gpt.comparison.sequential import BETTER, WORSE, anytime_p, decide
from momentum_gpt.evaluation.statistics import LEVEL, over_seeds, sign_flip

NOISE = 0.0013


def drawn(rng: np.random.Generator, shape: tuple[int, int], tails: float) -> np.ndarray:
    """Differences of pairs, (comparisons, pairs), with the standard deviation sqrt(2) NOISE."""
    if math.isinf(tails):
        unit = rng.normal(size=shape)
    else:
        unit = rng.standard_t(tails, size=shape) * math.sqrt((tails - 2) / tails)
    return math.sqrt(2) * NOISE * unit


def show(what: str, *values: float) -> None:
    print(f"{what:<58}", *(f"{value:>8.4f}" for value in values))


def at_once(null: np.ndarray, difference: float) -> None:
    """Show the tests for a number of seeds that was chosen beforehand.

    Args:
        null: differences where nothing is different, (comparisons, seeds).
        difference: what is planted.
    """
    seeds = null.shape[1]
    p_values = np.array([over_seeds(gaps).p_value for gaps in null])
    flips = np.array([sign_flip(gaps) for gaps in null])
    show("t-test: p of uniform p-values", stats.kstest(p_values, "uniform").pvalue)
    for level in (0.001, 0.01, 0.05, 0.2):
        of_tests = (p_values <= level).mean(), (flips <= level).mean()
        show(f"p <= {level}: t-test, sign-flip", *of_tests)

    noise = known_noise(NOISE)
    planted = null - difference
    by_t = np.array([over_seeds(gaps).p_value for gaps in planted]) <= 0.05
    z = planted.mean(1) / noise.of_pair * math.sqrt(seeds)
    by_model = np.abs(z) > stats.norm.isf(0.025)
    show(f"{difference} found: t-test, noise model", by_t.mean(), by_model.mean())
    detectable = noise.detectable_by_t(seeds), noise.detectable(seeds)
    show("what `power` says is found in 0.8: t-test, noise model", *detectable)


class Rates(NamedTuple):
    """How often the noise of other runs finds a difference, as shares of the comparisons."""

    level: float
    """By the noise model alone, where there is none."""
    power: float
    """By it, where there is one that `Noise.detectable` says is found in 0.8."""
    transfer: float
    """The pairs vary otherwise than the noise, by the test of it."""
    tested_level: float
    """With Student's t where they do, and there is no difference."""
    tested_power: float
    """The same, where there is one."""


def by_estimated_noise(
    rng: np.random.Generator,
    comparisons: int,
    seeds: int,
    others: int,
    in_common: float = 0.0,
    larger: float = 1.0,
) -> Rates:
    """Return the rates of a noise model that is estimated anew for each comparison.

    Args:
        rng: draws the runs.
        comparisons: how many are simulated.
        seeds: pairs of each.
        others: runs of one variant that the noise is estimated from.
        in_common: the correlation of two runs with the same seed.
        larger: how much larger the noise of the compared runs is.
    """
    freedom = others - 1
    of_run = NOISE * np.sqrt(rng.chisquare(freedom, comparisons) / freedom)
    of_pair = larger * math.sqrt(2 * (1 - in_common)) * NOISE
    gaps = rng.normal(0, of_pair, (comparisons, seeds))
    planted = Noise(NOISE, freedom, math.sqrt(2) * NOISE, freedom).detectable(seeds)

    found = []
    for spread, null in zip(of_run.tolist(), gaps, strict=True):
        model = NoiseModel(Noise(spread, freedom, math.sqrt(2) * spread, freedom), others)
        by_model = [model.estimate(one).p_value < LEVEL for one in (null, null - planted)]
        transfer = model.transfer(null)
        is_other = transfer is not None and transfer < LEVEL
        tested = by_model
        if is_other:
            tested = [over_seeds(one).p_value < LEVEL for one in (null, null - planted)]
        found.append([*by_model, is_other, *tested])
    return Rates(*np.mean(found, axis=0).tolist())


def by_noise(rng: np.random.Generator, comparisons: int) -> None:
    """Show the test by the noise of eight other runs, for several numbers of seeds."""
    head = ("level", "power", "transfer", "tested", "power")
    print(f"{'noise of 8 other runs':<58}", *(f"{name:>8}" for name in head))
    for seeds in (1, 2, 3, 6, 10):
        show(f"{seeds} seeds", *by_estimated_noise(rng, comparisons, seeds, 8))
        of_pairs = by_estimated_noise(rng, comparisons, seeds, 8, in_common=0.5)
        show(f"{seeds} seeds, half of the variance in common", *of_pairs)
        show(
            f"{seeds} seeds, twice the noise", *by_estimated_noise(rng, comparisons, seeds, 8, 0, 2)
        )


def looking(null: np.ndarray, difference: float) -> None:
    """Show the test that is looked at after each seed."""
    decided = [decide(gaps).verdict in (BETTER, WORSE) for gaps in null]
    show("looking after each seed: decided, nothing different", np.mean(decided))
    anytime = np.array([anytime_p(gaps) for gaps in null])
    for level in (0.01, 0.05, 0.2):
        show(f"anytime p <= {level}", (anytime <= level).mean())
    smallest = [
        min(over_seeds(gaps[:n]).p_value for n in range(2, len(gaps) + 1)) for gaps in null[:2000]
    ]
    show("the t-test, looked at as often: p <= 0.05", (np.array(smallest) <= 0.05).mean())

    planted = [decide(gaps - difference) for gaps in null]
    pairs = [one.pairs for one in planted if one.verdict == BETTER]
    show(f"{difference}: better", len(pairs) / len(planted))
    show("  after seeds: median, nine of ten", *np.quantile(pairs, [0.5, 0.9]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--comparisons", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--most-seeds", type=int, default=20)
    parser.add_argument("--difference", type=float, default=0.0025)
    parser.add_argument("--tails", type=float, default=math.inf)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    at_once(drawn(rng, (options.comparisons, options.seeds), options.tails), options.difference)
    by_noise(rng, options.comparisons)
    looking(
        drawn(rng, (options.comparisons, options.most_seeds), options.tails), options.difference
    )


if __name__ == "__main__":
    main()
