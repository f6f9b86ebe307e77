"""Intervals and tests against numbers worked out by hand, and against simulation.

What 95% means is simulated: of many comparisons with no difference, 95% of the intervals hold 0 and
the p-values are uniform. `coverage.py` beside this file does the same at full size.
"""

from __future__ import annotations

import math
import warnings
from itertools import product

import numpy as np
import pytest
from scipy.stats import kstest, t, ttest_1samp

from momentum_gpt.evaluation.statistics import (
    Estimate,
    holm,
    in_blocks,
    margin,
    mcnemar,
    over_documents,
    over_queries,
    over_seeds,
    sign_flip,
)
from tests.evaluation.coverage import documents, few_shot, seeds


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


def test_the_estimate_over_seeds_is_students() -> None:
    """Mean 2, s = 1; t at 2 degrees of freedom: 4.30265 at 97.5%, 1.06066 at 80%."""
    estimate = over_seeds(np.array([1.0, 2.0, 3.0]))
    error = 1 / math.sqrt(3)
    assert estimate.value == 2
    assert estimate.interval == pytest.approx((2 - 4.30265 * error, 2 + 4.30265 * error), abs=1e-4)
    assert estimate.margin == pytest.approx(4.30265 * error, abs=1e-4)
    assert estimate.detectable == pytest.approx((4.30265 + 1.06066) * error, abs=1e-4)

    values = np.array([0.3, -0.1, 0.4, 0.2, 0.25])
    assert over_seeds(values).p_value == pytest.approx(ttest_1samp(values, 0).pvalue)


def test_a_single_value_has_no_interval_and_equal_values_say_nothing_of_the_noise() -> None:
    alone = over_seeds(np.array([0.3]))
    assert (alone.value, alone.p_value) == (0.3, 1.0)
    assert math.isnan(alone.margin)
    assert math.isnan(alone.detectable)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        equal = over_seeds(np.array([0.1, 0.1, 0.1 + 1e-17]))
    assert equal.interval == pytest.approx((0.1, 0.1))
    assert (equal.p_value, equal.detectable) == (1.0, 0.0)


def test_over_documents_by_hand() -> None:
    """Six documents of one target: the means of the 63 subsets divide the line into 64 parts.

    5% of 64 parts leave one at each end, so that the interval reaches from the smallest mean of a
    subset to the largest: from the smallest value to the largest. Only -1 is below 0, alone: 2 of
    63 subsets, {-1} and {-1, 0.5}, are not above it; p = 2 (1 + 2) / 64.
    """
    values = np.array([-1.0, 0.5, 2.0, 3.0, 4.0, 5.0])
    estimate = over_documents(values, np.ones(6))
    assert estimate.value == pytest.approx(13.5 / 6)
    assert estimate.interval == (-1.0, 5.0)
    assert estimate.p_value == pytest.approx(2 * 3 / 64)

    five = over_documents(values[1:], np.ones(5))
    assert math.isnan(five.interval[0])
    assert five.p_value == 1.0


def test_over_documents_is_the_sign_flip_test_of_their_sums_whatever_their_sizes() -> None:
    """The p-value at a true value of c, by flipping the signs of sum - c size in every way.

    The interval holds exactly the values that are not refused at 5%.
    """
    generator = np.random.default_rng(4)
    sizes = generator.integers(1, 200, 9).astype(float)
    sums = sizes * generator.normal(0.4, 0.5, 9)
    signs = np.array(list(product([-1, 1], repeat=9)))  # (512, 9)

    def p_value(true: float) -> float:
        rest = sums - true * sizes
        return float((np.abs(signs @ rest) >= abs(rest.sum()) - 1e-9).mean())

    estimate = over_documents(sums, sizes)
    low, high = estimate.interval
    assert estimate.p_value == pytest.approx(p_value(0.0))
    for end, outwards in ((low, -1e-6), (high, 1e-6)):
        assert p_value(end + outwards) <= 0.05 < p_value(end - outwards)


def test_many_documents_have_the_normal_interval() -> None:
    generator = np.random.default_rng(5)
    values = generator.normal(0.1, 1.0, 3000)
    estimate = over_documents(values, np.ones(3000))
    error = values.std() / math.sqrt(3000)
    assert estimate.margin == pytest.approx(1.96 * error, rel=0.05)
    assert estimate.detectable == pytest.approx(2.80 * error, rel=0.05)
    assert estimate.value == pytest.approx(values.mean())


def test_pieces_of_one_document_are_not_independent() -> None:
    """Each document four times as pieces: the interval over pieces is half as wide, and wrong."""
    generator = np.random.default_rng(6)
    values = generator.normal(0.0, 1.0, 50)
    as_documents = over_documents(4 * values, np.full(50, 4.0))
    as_pieces = over_documents(np.repeat(values, 4), np.ones(200))
    assert as_pieces.margin == pytest.approx(as_documents.margin / 2, rel=0.1)


def test_one_draw_of_demonstrations_is_the_t_test_over_queries() -> None:
    values = np.random.default_rng(0).integers(-1, 2, (1, 300)).astype(float)
    expected = ttest_1samp(values[0], 0)
    estimate = over_queries(values)
    assert estimate.p_value == pytest.approx(expected.pvalue)
    assert estimate.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_draws_that_disagree_widen_the_interval() -> None:
    """Six draws, three of 0 and three of 1 whatever the query: Student's t over the six means."""
    values = np.repeat([0.0, 1.0], 3)[:, None] + np.zeros((6, 500))
    assert over_queries(values).interval == pytest.approx(over_seeds(values[:, 0]).interval)


def test_the_variances_of_queries_and_of_draws_are_added() -> None:
    """Answers that are a sum of one part by draw and one by query: Welch and Satterthwaite."""
    by_draw = np.array([0.0, 1.0, 3.0, 4.0, 7.0, 9.0])
    by_query = np.array([2.0, 0.0, 5.0, 1.0])
    of_draws = by_draw.var(ddof=1) / 6
    of_queries = by_query.var(ddof=1) / 4
    variance = of_draws + of_queries
    freedom = variance**2 / (of_draws**2 / 5 + of_queries**2 / 3)

    estimate = over_queries(by_draw[:, None] + by_query)
    assert estimate.margin == pytest.approx(t.ppf(0.975, freedom) * math.sqrt(variance))


def test_without_an_effect_of_the_draws_the_queries_decide() -> None:
    """The same answers after all demonstrations: as many queries, however many draws."""
    once = np.random.default_rng(1).integers(0, 2, (1, 400)).astype(float)
    many = over_queries(np.repeat(once, 5, axis=0))
    assert many.interval == pytest.approx(over_queries(once).interval, abs=1e-9)


def test_two_draws_are_trusted_less_than_five() -> None:
    values = np.random.default_rng(2).integers(0, 2, (2, 200)).astype(float)
    assert over_queries(values).margin > 3 * over_queries(values[:1]).margin


def test_the_variance_of_queries_and_draws_is_that_of_repeated_studies() -> None:
    """The spread of the mean over 2,000 studies with new queries and new demonstrations."""
    means = []
    margins = []
    for study in range(2000):
        values = few_shot(np.random.default_rng([7, study]), n_draws=5, n_queries=100)
        means.append(values.mean())
        margins.append(over_queries(values).margin)
    # Student's quantile lies between 1.96 and, at 4 degrees of freedom, 2.78.
    ratio = np.median(margins) / np.std(means)
    assert 1.9 < ratio < 2.8


COVERAGE = 1500
"""Comparisons with no difference."""


def assert_it_covers(estimates: list[Estimate]) -> None:
    """Assert that 95% of the intervals hold 0, and that p-values are uniform.

    Of 1,500, 93.3% to 96.7% are three standard errors.
    """
    held = [low <= 0 <= high for low, high in (one.interval for one in estimates)]
    assert 0.933 < np.mean(held) < 0.967
    assert kstest([one.p_value for one in estimates], "uniform").pvalue > 1e-3


@pytest.mark.parametrize("n_documents", [10, 30])
def test_intervals_over_documents_cover(n_documents: int) -> None:
    """Documents of unequal length whose pieces are correlated: an ICC of 0.5."""
    estimates = []
    for study in range(COVERAGE):
        generator = np.random.default_rng([8, n_documents, study])
        estimates.append(over_documents(*documents(generator, n_documents)))
    assert_it_covers(estimates)


def test_intervals_over_queries_and_draws_cover() -> None:
    estimates = []
    for study in range(COVERAGE):
        generator = np.random.default_rng([9, study])
        estimates.append(over_queries(few_shot(generator, n_draws=5, n_queries=200)))
    assert_it_covers(estimates)


@pytest.mark.parametrize("n_seeds", [2, 5, 10])
def test_intervals_over_seeds_cover(n_seeds: int) -> None:
    estimates = []
    for study in range(COVERAGE):
        estimates.append(over_seeds(seeds(np.random.default_rng([10, n_seeds, study]), n_seeds)))
    assert_it_covers(estimates)


def test_the_smallest_detectable_difference_is_found_four_times_out_of_five() -> None:
    generator = np.random.default_rng(1)
    n = 200
    effect = over_seeds(generator.normal(0, 1, 4000)).detectable * math.sqrt(4000 / n)
    found = [over_seeds(sample).p_value < 0.05 for sample in generator.normal(effect, 1, (2000, n))]
    assert np.mean(found) == pytest.approx(0.8, abs=0.05)


def test_margins_have_keys_beside_their_metrics() -> None:
    estimate = Estimate(1.0, (0.5, 1.5), 0.1, 0.7)
    assert margin("val/loss", estimate) == {"val/loss_margin": 0.5}
    assert margin("icl/sst2/acc@4", estimate) == {"icl/sst2/acc_margin@4": 0.5}
    assert margin("val/loss", Estimate(1.0, (math.nan, math.nan), 1.0, math.nan)) == {}


def test_neighbouring_documents_are_joined_to_blocks_that_keep_the_sums() -> None:
    sums, sizes = in_blocks(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([1, 1, 1, 2, 2]), most=2)
    assert sums.tolist() == [6.0, 9.0]
    assert sizes.tolist() == [3.0, 4.0]

    sums, sizes = in_blocks(np.array([1.0, 2.0]), np.array([3, 4]), most=2)
    assert (sums.tolist(), sizes.tolist()) == ([1.0, 2.0], [3.0, 4.0])


def test_sign_flips_by_hand() -> None:
    """If all n signs are equal, 2 of 2^n flips are as far from 0.

    Of 3, 1 and -1, the sum is 3, and 6 of 8 flips are at least as far from 0.
    """
    assert sign_flip(np.array([0.2, 0.1, 0.3])) == 2 / 8
    assert sign_flip(np.array([0.2] * 6)) == 2 / 64
    assert sign_flip(np.array([3.0, 1.0, -1.0])) == 6 / 8
    assert sign_flip(np.zeros(3)) == 1.0
    assert sign_flip(np.array([0.5])) == 1.0
    assert sign_flip(np.arange(1.0, 15.0)) == 2 / 2**14


def test_many_sign_flips_are_drawn_and_their_p_value_is_never_zero() -> None:
    """None of m = 2^14 - 1 drawn subsets of 40 equal signs is on the other side: 2 / (m + 1)."""
    assert sign_flip(np.full(40, 0.5)) == sign_flip(np.full(40, -0.5)) == 2 / 2**14
