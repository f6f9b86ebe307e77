"""The spread over seeds, and what it lets a number of seeds find."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from momentum_gpt.comparison.noise import known_noise, noise_of
from momentum_gpt.comparison.runs import Run
from momentum_gpt.core.errors import UserError
from tests.comparison.test_by_seed import run

VANILLA = [5.0, 5.2, 4.9, 5.1]
MOMENTUM = [4.8, 5.1, 4.6, 4.9]


def made() -> list[Run]:
    """Four seeds of vanilla, and the same of momentum."""
    runs = [run(f"v{seed}", seed, loss) for seed, loss in enumerate(VANILLA)]
    return runs + [run(f"m{seed}", seed, loss, True) for seed, loss in enumerate(MOMENTUM)]


def test_the_spread_is_pooled_over_the_variants_and_pairs_are_measured() -> None:
    noise = noise_of(made(), "val/loss")
    variances = [np.var(VANILLA, ddof=1), np.var(MOMENTUM, ddof=1)]
    assert noise.of_run == pytest.approx(math.sqrt(np.mean(variances)))
    assert noise.freedom == 6
    gaps = np.subtract(MOMENTUM, VANILLA)
    assert noise.is_paired
    assert noise.of_pair == pytest.approx(np.std(gaps, ddof=1))
    assert noise.pair_freedom == 3
    assert noise.same_spread == pytest.approx(stats.bartlett(VANILLA, MOMENTUM).pvalue)


def test_one_variant_says_nothing_of_pairs() -> None:
    noise = noise_of(made()[:4], "val/loss")
    assert not noise.is_paired
    assert noise.of_pair == pytest.approx(math.sqrt(2) * np.std(VANILLA, ddof=1))
    assert noise.pair_freedom == 3
    assert noise.same_spread is None


def test_single_runs_and_unknown_metrics_are_refused() -> None:
    with pytest.raises(UserError, match="two or more seeds of one"):
        noise_of([made()[0], made()[4]], "val/loss")
    with pytest.raises(UserError, match="v0 has no val/acc"):
        noise_of(made(), "val/acc")


def found_by(difference: float, noise: float, seeds: int, by_t: bool) -> float:
    """How often simulated comparisons find a difference at 5%."""
    rng = np.random.default_rng(0)
    gaps = rng.normal(difference, math.sqrt(2) * noise, (20_000, seeds))
    if by_t:
        return float((stats.ttest_1samp(gaps, 0, axis=1).pvalue < 0.05).mean())
    errors = math.sqrt(2) * noise / math.sqrt(seeds)
    return float((np.abs(gaps.mean(1)) / errors > stats.norm.isf(0.025)).mean())


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_the_detectable_difference_is_found_four_times_out_of_five(seeds: int) -> None:
    """By the noise model; by Student's t, which is nearly exact, for few seeds as well."""
    noise = known_noise(0.0013)
    assert found_by(noise.detectable(seeds), 0.0013, seeds, False) == pytest.approx(0.8, abs=0.01)
    by_t = found_by(noise.detectable_by_t(seeds), 0.0013, seeds, True)
    assert by_t == pytest.approx(0.8, abs=0.04)


def test_more_seeds_find_less_and_looking_costs_some() -> None:
    noise = known_noise(0.0013)
    assert noise.detectable(10) < noise.detectable(5) < noise.detectable_by_t(5)
    assert noise.pairs_when_looking(0.01) == 1
    needed = noise.pairs_when_looking(0.0025)
    assert needed is not None
    assert 5 <= needed <= 12
    assert noise.pairs_when_looking(1e-6) is None
