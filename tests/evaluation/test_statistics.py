"""Intervals and tests against numbers worked out by hand and against simulation."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from momentum_gpt.evaluation.statistics import (
    bootstrap,
    bootstrap_ratio,
    holm,
    in_blocks,
    mcnemar,
    mean_interval,
    paired_t,
    sign_flip,
    smallest_detectable,
    smallest_detectable_ratio,
)


def test_mcnemar_is_the_binomial_test_of_the_disagreements() -> None:
    """9 right in a alone, 1 in b alone: 2 (C(10, 0) + C(10, 1)) / 2^10 = 22 / 1024."""
    a = np.array([1] * 9 + [0] * 1 + [1] * 50 + [0] * 40)
    b = np.array([0] * 9 + [1] * 1 + [1] * 50 + [0] * 40)
    assert mcnemar(a, b) == pytest.approx(22 / 1024)
    assert mcnemar(a, a) == 1.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_mean_interval_is_students() -> None:
    low, high = mean_interval(np.array([1.0, 2.0, 3.0]))
    half = 4.30265 / math.sqrt(3)
    assert (low, high) == pytest.approx((2 - half, 2 + half), abs=1e-4)
    assert all(map(math.isnan, mean_interval(np.array([1.0]))))


def test_equal_values_have_an_interval_of_no_width_and_give_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mean_interval(np.array([0.5, 0.5])) == (0.5, 0.5)
        assert mean_interval(np.array([0.1] * 3)) == pytest.approx((0.1, 0.1))


def test_the_bootstrap_of_one_draw_is_the_normal_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).integers(0, 2, (1, 1000)).astype(float)
    mean = values.mean()
    error = values.std() / math.sqrt(1000)
    low, high = bootstrap(values)
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.003)


def test_the_bootstrap_draws_the_seeds_again_too() -> None:
    """Two seeds that disagree entirely: the interval reaches from one to the other."""
    low, high = bootstrap(np.stack([np.zeros(500), np.ones(500)]))
    assert (low, high) == (0.0, 1.0)


def test_the_smallest_detectable_difference_is_found_four_times_out_of_five() -> None:
    generator = np.random.default_rng(1)
    n = 2000
    effect = smallest_detectable(generator.normal(0, 1, n))

    found = []
    for sample in generator.normal(effect, 1, (2000, n)):
        error = sample.std(ddof=1) / math.sqrt(n)
        found.append(abs(sample.mean()) > 1.96 * error)
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)


def test_a_single_pair_has_no_smallest_detectable_difference() -> None:
    assert math.isnan(smallest_detectable(np.array([0.3])))


def test_the_ratio_of_sums_has_the_interval_of_simulated_samples() -> None:
    """Documents of unequal sizes, whose sums depend on their sizes.

    The interval of one sample is as wide as the range that holds 95% of many samples' ratios.
    """
    generator = np.random.default_rng(2)

    def sample(n: int = 300) -> tuple[np.ndarray, np.ndarray]:
        sizes = generator.geometric(0.01, n).astype(float)
        return sizes * generator.normal(0.3, 0.5, n), sizes

    sums, sizes = sample()
    low, high = bootstrap_ratio(sums, sizes)

    ratios = []
    for _ in range(4000):
        other_sums, other_sizes = sample()
        ratios.append(other_sums.sum() / other_sizes.sum())
    true_low, true_high = np.quantile(ratios, [0.025, 0.975])
    true_width = true_high - true_low

    assert low < 0.3 < high
    assert high - low == pytest.approx(true_width, rel=0.2)
    detectable = smallest_detectable_ratio(sums, sizes)
    assert detectable == pytest.approx(true_width / 3.92 * 2.80, rel=0.2)
    assert all(map(math.isnan, bootstrap_ratio(sums[:1], sizes[:1])))


def test_the_bootstrap_of_a_ratio_draws_sums_with_their_sizes() -> None:
    """The percentiles of resampled ratios, drawn here one sample at a time."""
    generator = np.random.default_rng(3)
    sizes = generator.integers(1, 300, 40)
    sums = sizes * generator.normal(0.3, 0.5, 40)

    generator = np.random.default_rng(0)
    ratios = []
    for _ in range(10_000):
        drawn = generator.integers(0, 40, 40)
        ratios.append(sums[drawn].sum() / sizes[drawn].sum())
    expected = np.quantile(ratios, [0.025, 0.975])
    assert bootstrap_ratio(sums, sizes) == pytest.approx(tuple(expected), abs=1e-12)


def test_neighbouring_documents_are_joined_to_blocks_that_keep_the_sums() -> None:
    sums, sizes = in_blocks(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([1, 1, 1, 2, 2]), most=2)
    assert sums.tolist() == [6.0, 9.0]
    assert sizes.tolist() == [3.0, 4.0]

    sums, sizes = in_blocks(np.array([1.0, 2.0]), np.array([3, 4]), most=2)
    assert (sums.tolist(), sizes.tolist()) == ([1.0, 2.0], [3.0, 4.0])


def test_the_paired_t_test_is_scipys_and_equal_differences_say_nothing() -> None:
    values = np.array([0.3, -0.1, 0.4, 0.2, 0.25])
    assert paired_t(values) == pytest.approx(ttest_1samp(values, 0).pvalue)
    assert paired_t(np.array([0.1, 0.1 + 1e-17])) == paired_t(np.zeros(4)) == 1.0


def test_sign_flips_by_hand() -> None:
    """If all n signs are equal, 2 of 2^n flips are as far from 0.

    Of 3, 1 and -1, the sum is 3, and 6 of 8 flips are at least as far from 0.
    """
    assert sign_flip(np.array([0.2, 0.1, 0.3])) == 2 / 8
    assert sign_flip(np.array([0.2] * 6)) == 2 / 64
    assert sign_flip(np.array([3.0, 1.0, -1.0])) == 6 / 8
    assert sign_flip(np.zeros(3)) == 1.0
    assert sign_flip(np.array([0.5])) == 1.0
    assert sign_flip(np.arange(1.0, 16.0)) == 2 / 2**15


def test_many_sign_flips_are_drawn_and_their_p_value_is_never_zero() -> None:
    assert 0 < sign_flip(np.full(20, 0.5)) < 0.001
