"""Comparisons of noise: how often each test errs, and what it finds. `python -m tests.null`.

A comparison is that of two variants over some seeds, whose losses vary by a standard deviation of
0.0013 nats from seed to seed, without any gain from pairing. With `--tails 5` the noise has
Student's t distribution with 5 degrees of freedom instead of the normal one.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from scipy import stats

from momentum_gpt.comparison.noise import known_noise
from momentum_gpt.comparison.sequential import BETTER, WORSE, anytime_p, decide
from momentum_gpt.evaluation.statistics import over_seeds, sign_flip

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
    looking(
        drawn(rng, (options.comparisons, options.most_seeds), options.tails), options.difference
    )


if __name__ == "__main__":
    main()
