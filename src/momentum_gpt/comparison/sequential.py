"""A test that one may look at after every pair: its error rate holds whenever one looks or stops.

The differences of pairs x_1, x_2, ... are taken as independent and normal, N(delta, sigma^2), with
sigma unknown. Against delta = 0 stands delta / sigma ~ N(0, g), and on sigma the prior 1 / sigma.
The ratio of the two marginal likelihoods of the first n differences is an e-process, a martingale
that begins at 1 where delta is 0 (Ville 1939; Ramdas et al., "Game-theoretic statistics and safe
anytime-valid inference", 2023; Rouder et al. 2009 for the ratio itself):

    E_n = (1 + n g)^(-1/2) [(S + n m^2) / (S + n m^2 / (1 + n g))]^((nu + 1) / 2)

with m the mean, S the sum of squares around it and nu = n - 1. The mean of E_n over several g is an
e-process as well: a small g finds small differences, and a large one needs fewer pairs for large
ones. That E_n ever reaches 1 / alpha has
a probability of at most alpha. What is known of sigma beforehand, from runs that differ in their
seed alone, adds its own sum of squares to S and its degrees of freedom to nu.

A one-sided e-process takes the half of the prior that lies in its direction. It holds for every
delta that does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from momentum_gpt.evaluation.statistics import LEVEL

PRIORS = (1.0, 16.0)
"""g: differences of about one, and of about four, standard deviations of a pair are looked for."""

LARGEST = 700.0
"""Logarithm beyond which a number does not fit into a float."""

BETTER, WORSE, NO_BETTER, GO_ON = "better", "worse", "no better", "go on"


@dataclass(frozen=True)
class Spread:
    """What is known of the spread of a pair's difference before any pair."""

    sum_of_squares: float = 0.0
    freedom: int = 0


NOTHING_KNOWN = Spread()


@dataclass(frozen=True)
class Decision:
    """What the pairs say so far."""

    verdict: str
    """better | worse | no better (than the margin) | go on."""
    pairs: int
    """The number of pairs after which it was decided; all of them if it was not."""


def decide(
    differences: np.ndarray,
    margin: float | None = None,
    spread: Spread = NOTHING_KNOWN,
    level: float = LEVEL,
) -> Decision:
    """Return the first decision that the pairs allow, one after another.

    "better" and "worse" are wrong with a probability of at most `level`, both together, where
    nothing is different; "no better" with at most `level`, where the improvement is `margin`.

    Args:
        differences: other - first of each pair, in their order, in a unit where less is better,
            (pairs,).
        margin: the improvement below which the other variant is of no interest; None: any
            improvement is of interest, and "no better" is never decided.
        spread: what is known of the spread of a pair's difference.
        level: the error rate.
    """
    processes = {
        BETTER: (one_sided(differences, -1, spread), 2 / level),
        WORSE: (one_sided(differences, +1, spread), 2 / level),
    }
    if margin is not None:
        processes[NO_BETTER] = (one_sided(differences + margin, +1, spread), 1 / level)
    for number in range(len(differences)):
        for verdict, (values, bound) in processes.items():
            if values[number] >= bound:
                return Decision(verdict, number + 1)
    return Decision(GO_ON, len(differences))


def anytime_p(differences: np.ndarray, spread: Spread = NOTHING_KNOWN) -> float:
    """Return the two-sided p-value of a true difference of 0 that holds whenever one looks."""
    return float(min(1.0, 1 / two_sided(differences, spread).max()))


def anytime_interval(
    differences: np.ndarray, spread: Spread = NOTHING_KNOWN, level: float = LEVEL
) -> tuple[float, float]:
    """Return the interval of the true differences that the test does not refuse.

    It holds whenever one looks, with a probability of 1 - level; (nan, nan) where nothing is
    refused yet.
    """
    mean = float(differences.mean())

    def is_refused(value: float) -> bool:
        return bool(two_sided(differences - value, spread)[-1] >= 1 / level)

    ends = []
    for sign in (-1, +1):
        near, far = 0.0, max(float(np.abs(differences).max()), float(np.finfo(float).tiny))
        for _ in range(60):
            if is_refused(mean + sign * far):
                break
            near, far = far, 2 * far
        else:
            return float("nan"), float("nan")
        for _ in range(60):
            middle = (near + far) / 2
            near, far = (near, middle) if is_refused(mean + sign * middle) else (middle, far)
        ends.append(mean + sign * far)
    return ends[0], ends[1]


def two_sided(differences: np.ndarray, spread: Spread = NOTHING_KNOWN) -> np.ndarray:
    """Return the e-value against a true difference of 0 after each pair, (pairs,)."""
    values = []
    for prior in PRIORS:
        log_e, *_ = _evidence(differences, spread, prior)
        values.append(np.exp(np.minimum(log_e, LARGEST)))
    return np.mean(values, axis=0)


def one_sided(differences: np.ndarray, sign: int, spread: Spread = NOTHING_KNOWN) -> np.ndarray:
    """Return the e-value against a true difference of 0, or on the other side, after each pair.

    Args:
        differences: (pairs,).
        sign: +1 if the difference is expected above 0, -1 if below.
        spread: what is known of the spread of a pair's difference.
    """
    values = []
    for prior in PRIORS:
        log_e, mean, scale, freedom = _evidence(differences, spread, prior)
        # The share of the alternative, given the data, that lies on this side.
        share = stats.t.cdf(sign * mean / np.maximum(scale, np.finfo(float).tiny), freedom)
        values.append(2 * share * np.exp(np.minimum(log_e, LARGEST)))
    return np.mean(values, axis=0)


def _evidence(
    differences: np.ndarray, spread: Spread, prior: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return, after each pair, log E and the location, scale and freedom of delta, given the data.

    Given the data, delta has Student's t distribution under the alternative.
    """
    n = np.arange(1, len(differences) + 1)
    means = np.cumsum(differences) / n
    around = np.maximum(np.cumsum(differences**2) - n * means**2, 0.0) + spread.sum_of_squares
    freedom = n + spread.freedom  # nu + 1

    shrunk = around + n * means**2 / (1 + n * prior)
    # Without any difference so far, nothing speaks for either side.
    is_known = shrunk > 0
    ratio = np.divide(around + n * means**2, shrunk, out=np.ones_like(shrunk), where=is_known)
    log_e = 0.5 * (freedom * np.log(ratio) - np.log1p(n * prior)) * is_known

    location = n * prior / (1 + n * prior) * means
    scale = np.sqrt(prior / (1 + n * prior) * shrunk / freedom)
    return log_e, location, scale, freedom
