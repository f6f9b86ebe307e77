"""Intervals and tests against numbers worked out by hand and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from momentum_gpt.evaluation.statistics import (
    bootstrap,
    bootstrap_ratio,
    holm,
    mcnemar,
    mean_interval,
    paired_t,
    sign_flip,
    smallest_detectable,
    smallest_detectable_ratio,
)


def test_mcnemar_is_the_binomial_of_the_disagreements() -> None:
    """9 right in a alone, 1 in b alone: 2 (C(10,0) + C(10,1)) / 2^10 = 22 / 1024."""
    a = np.array([1] * 9 + [0] * 1 + [1] * 50 + [0] * 40)
    b = np.array([0] * 9 + [1] * 1 + [1] * 50 + [0] * 40)
    assert mcnemar(a, b) == pytest.approx(22 / 1024)
    assert mcnemar(a, a) == 1.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_the_mean_interval_is_students() -> None:
    low, high = mean_interval(np.array([1.0, 2.0, 3.0]))
    assert (low, high) == pytest.approx(
        (2 - 4.30265 / math.sqrt(3), 2 + 4.30265 / math.sqrt(3)), abs=1e-4
    )
    assert all(map(math.isnan, mean_interval(np.array([1.0]))))


def test_the_bootstrap_of_one_seed_is_the_normal_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).integers(0, 2, (1, 1000)).astype(float)
    low, high = bootstrap(values)
    error = values.std() / math.sqrt(1000)
    assert (low, high) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.003
    )


def test_the_bootstrap_draws_seeds_too() -> None:
    """Two seeds that disagree entirely: the interval reaches from one to the other."""
    low, high = bootstrap(np.stack([np.zeros(500), np.ones(500)]))
    assert (low, high) == (0.0, 1.0)


def test_the_smallest_detectable_difference_is_found_four_times_of_five() -> None:
    generator = np.random.default_rng(1)
    n = 2000
    effect = smallest_detectable(generator.normal(0, 1, n))
    found = [
        abs(x.mean()) > 1.96 * x.std(ddof=1) / math.sqrt(n)
        for x in generator.normal(effect, 1, (2000, n))
    ]
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)


def test_the_ratio_of_sums_has_the_interval_of_simulated_samples() -> None:
    """Documents of unequal sizes, whose sums go with their sizes: 95% of such samples lie in an interval as wide."""
    generator = np.random.default_rng(2)

    def sample(n: int = 300) -> tuple[np.ndarray, np.ndarray]:
        sizes = generator.geometric(0.01, n).astype(float)
        return sizes * generator.normal(0.3, 0.5, n), sizes

    sums, sizes = sample()
    low, high = bootstrap_ratio(sums, sizes)
    ratios = np.array([sums.sum() / sizes.sum() for sums, sizes in (sample() for _ in range(4000))])
    true_width = np.subtract(*np.quantile(ratios, [0.975, 0.025]))
    assert low < 0.3 < high
    assert high - low == pytest.approx(true_width, rel=0.2)
    assert smallest_detectable_ratio(sums, sizes) == pytest.approx(
        true_width / 3.92 * 2.80, rel=0.2
    )
    assert all(map(math.isnan, bootstrap_ratio(sums[:1], sizes[:1])))


def test_the_paired_t_test_is_scipys_and_differences_that_are_all_alike_say_nothing() -> None:
    values = np.array([0.3, -0.1, 0.4, 0.2, 0.25])
    assert paired_t(values) == pytest.approx(ttest_1samp(values, 0).pvalue)
    assert paired_t(np.array([0.1, 0.1 + 1e-17])) == paired_t(np.zeros(4)) == 1.0


def test_sign_flips_by_hand() -> None:
    """All of n alike in sign: 2 of 2^n flips are as far from 0. Of 3, 1, -1: |sum| >= 3 in 6 of 8."""
    assert sign_flip(np.array([0.2, 0.1, 0.3])) == 2 / 8
    assert sign_flip(np.array([0.2] * 6)) == 2 / 64
    assert sign_flip(np.array([3.0, 1.0, -1.0])) == 6 / 8
    assert sign_flip(np.full(20, 0.5)) < 0.001
