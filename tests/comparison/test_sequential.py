"""The anytime-valid test: whoever looks after every pair errs as seldom as stated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from momentum_gpt.comparison.sequential import (
    BETTER,
    GO_ON,
    NO_BETTER,
    WORSE,
    Spread,
    anytime_interval,
    anytime_p,
    decide,
    one_sided,
    two_sided,
)

REPEATS = 1500
PAIRS = 16


def marginal(x: np.ndarray, effect_sd: float, sums: Spread) -> float:
    """The marginal likelihood of the differences, up to a constant, by numerical integration.

    Over sigma with the prior 1 / sigma, and over delta / sigma ~ N(0, effect_sd^2), which is done
    by hand: the differences are then normal, with the covariance sigma^2 (1 + effect_sd^2 J).
    """
    n = len(x)
    covariance = np.eye(n) + effect_sd**2 * np.ones((n, n))
    quadratic = x @ np.linalg.solve(covariance, x) + sums.sum_of_squares
    scale = np.sqrt(quadratic / n)

    def density(sigma: float) -> float:
        power = n + sums.freedom + 1
        return float(np.exp(-quadratic / 2 / sigma**2 - power * np.log(sigma / scale)))

    value, _ = integrate.quad(density, 1e-3 * scale, 50 * scale, limit=300, points=[scale])
    return float(value * scale ** -(n + sums.freedom + 1) / np.sqrt(np.linalg.det(covariance)))


@pytest.mark.parametrize("spread", [Spread(), Spread(3.0, 4)])
def test_the_e_value_is_the_ratio_of_the_marginal_likelihoods(spread: Spread) -> None:
    x = np.array([0.5, -0.2, 1.1, 0.7, 0.4])
    found = two_sided(x, spread)
    for n in (2, 3, 5):
        ratios = [marginal(x[:n], sd, spread) for sd in (1.0, 4.0)]
        expected = np.mean(ratios) / marginal(x[:n], 0.0, spread)
        assert found[n - 1] == pytest.approx(expected, rel=1e-4)


def test_the_two_sides_are_the_halves_of_the_whole() -> None:
    x = np.array([0.5, -0.2, 1.1, 0.7, 0.4])
    both = one_sided(x, +1) + one_sided(x, -1)
    np.testing.assert_allclose(both / 2, two_sided(x), rtol=1e-12)
    np.testing.assert_allclose(one_sided(-x, -1), one_sided(x, +1), rtol=1e-12)
    np.testing.assert_allclose(one_sided(1e-4 * x, +1), one_sided(x, +1), rtol=1e-9)


def decisions(effect: float, margin: float | None, spread: bool = False) -> dict[str, float]:
    """How often each decision is taken by one who looks after every pair."""
    rng = np.random.default_rng(0)
    found = dict.fromkeys((BETTER, WORSE, NO_BETTER, GO_ON), 0.0)
    for _ in range(REPEATS):
        x = rng.normal(effect, 0.002, PAIRS)
        known = Spread(0.002**2 * rng.chisquare(8), 8) if spread else Spread()
        found[decide(x, margin, known).verdict] += 1 / REPEATS
    return found


def most(rate: float) -> float:
    """The share that an event of this probability exceeds once in a thousand simulations."""
    return float(stats.binom.ppf(0.999, REPEATS, rate) / REPEATS)


@pytest.mark.parametrize("spread", [False, True])
def test_no_difference_is_seldom_called_one(spread: bool) -> None:
    found = decisions(0.0, None, spread)
    assert found[BETTER] + found[WORSE] <= most(0.05)


def test_an_improvement_of_the_margin_is_seldom_called_none() -> None:
    assert decisions(-0.002, 0.002)[NO_BETTER] <= most(0.05)


def test_what_is_there_is_found() -> None:
    """Of two standard deviations, nearly always; and no improvement is called none."""
    assert decisions(-0.004, 0.001)[BETTER] > 0.98
    assert decisions(+0.004, 0.001)[NO_BETTER] > 0.9  # else, it is worse
    assert decisions(+0.004, None)[WORSE] > 0.98
    known = decisions(-0.002, None, spread=True)[BETTER]
    assert known > decisions(-0.002, None)[BETTER]


def test_the_p_value_holds_after_every_pair() -> None:
    rng = np.random.default_rng(1)
    p_values = np.array([anytime_p(rng.normal(0, 1, PAIRS)) for _ in range(REPEATS)])
    for level in (0.01, 0.05, 0.2):
        assert (p_values <= level).mean() <= most(level)


def test_the_interval_is_what_the_test_does_not_refuse() -> None:
    x = np.array([-0.5, -0.3, -0.4, -0.45, -0.35, -0.42])
    low, high = anytime_interval(x)
    assert low < x.mean() < high < 0
    for end, inside in ((low, 1e-3), (high, -1e-3)):
        assert two_sided(x - end - inside)[-1] < 20 < two_sided(x - end + inside)[-1]
    assert np.isnan(anytime_interval(np.array([0.3]))).all()
    shifted = np.subtract(anytime_interval(x + 7), 7)
    np.testing.assert_allclose(shifted, (low, high), atol=1e-9)


def test_one_pair_or_no_difference_says_nothing() -> None:
    assert two_sided(np.array([3.0]))[0] == pytest.approx(1.0)
    assert anytime_p(np.zeros(5)) == 1.0
    assert decide(np.zeros(5), None).verdict == GO_ON
    assert decide(np.array([-1.0, -1.1, -0.9, -1.0, -1.05, -0.95, -1.0])).pairs < 7
