"""The verdict is a sentence that says what was found, or what it would take."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from momentum_gpt.comparison.families import compare_pairs
from momentum_gpt.comparison.paired import Comparison, PairedDifference
from momentum_gpt.comparison.runs import Run
from momentum_gpt.comparison.verdict import tokens_saved, verdicts
from momentum_gpt.core.terminal import ignore_progress
from momentum_gpt.evaluation.statistics import pairs_needed
from tests.comparison.test_by_seed import run

NOISE = [0.01, -0.02, 0.0, 0.02, -0.01, 0.0]


def pairs(gaps: list[float], momentum: bool = True) -> list[Run]:
    """Return a run of each variant and seed, with these differences."""
    runs = []
    for seed, gap in enumerate(gaps):
        runs.append(run(f"a{seed}", seed, 5.0 + 0.1 * seed))
        runs.append(run(f"b{seed}", seed, 5.0 + 0.1 * seed + gap, momentum))
    return runs


def verdict_of(runs: list[Run]) -> list[str]:
    return verdicts(runs, compare_pairs(runs, ignore_progress))


def test_a_difference_that_is_found_is_said_with_its_interval() -> None:
    gaps = [-0.3 + noise for noise in NOISE]
    t = stats.ttest_1samp(gaps, 0)
    low, high = t.confidence_interval()
    (sentence,) = verdict_of(pairs(gaps))
    assert sentence.startswith(
        f"Momentum 0.5 is better than vanilla by 0.300 nats [{-high:.3f}, {-low:.3f}], 6 seeds, "
        "p < 0.0001"
    )

    (sentence,) = verdict_of(pairs([-gap for gap in gaps]))
    assert sentence.startswith("Momentum 0.5 is worse than vanilla by 0.300 nats [")


def test_what_is_not_found_is_unresolved_and_says_what_it_takes() -> None:
    gaps = [-0.3, 0.2, -0.1, 0.1]
    (sentence,) = verdict_of(pairs(gaps))
    p_value = stats.ttest_1samp(gaps, 0).pvalue
    assert sentence.startswith("Unresolved: momentum 0.5 against vanilla -0.025 nats [-0.")
    assert f"4 seeds, p = {p_value:.2g}" in sentence
    seeds = int(re.search(r"; (\d+) seeds would do", sentence)[1])  # type: ignore[index]
    assert power_of_t(-0.025, float(np.std(gaps, ddof=1)), seeds) == pytest.approx(0.8, abs=0.005)


def power_of_t(difference: float, deviation: float, n: int) -> float:
    """The power of the two-sided t-test, by the noncentral t distribution."""
    shift = difference * math.sqrt(n) / deviation
    bound = stats.t.isf(0.025, n - 1)
    return float(stats.nct.sf(bound, n - 1, shift) + stats.nct.cdf(-bound, n - 1, shift))


def test_the_pairs_that_are_needed_are_what_the_t_test_needs() -> None:
    gaps = np.array([0.1, 0.3, 0.25, 0.15, 0.2])
    deviation = gaps.std(ddof=1)
    detectable = stats.t.ppf([0.975, 0.8], 4).sum() * deviation / math.sqrt(5)
    needed = pairs_needed(0.05, float(detectable), 5)
    assert needed is not None
    assert power_of_t(0.05, float(deviation), needed) >= 0.79
    assert power_of_t(0.05, float(deviation), needed - 2) < 0.8
    assert pairs_needed(0.0, float(detectable), 5) is None
    assert pairs_needed(0.1, 0.0, 5) is None
    assert pairs_needed(1e-9, 1.0, 5) is None


def test_several_verdicts_share_the_error_rate() -> None:
    """Holm's: the smaller p-value is doubled."""
    runs = pairs([-0.1, -0.3, -0.2])
    lone = verdict_of(runs)[0]
    for seed in range(3):
        other = run(f"c{seed}", seed, 5.0 + 0.1 * seed + 0.2 * (seed - 1), True)
        attention = other.config.attention | {"ema_decay": 0.9}
        runs.append(replace(other, config=replace(other.config, attention=attention)))
    first, second = verdict_of(runs)
    assert "momentum 0.9" in second.lower()
    p_lone, p_first = (float(re.search(r"p = ([\d.]+)", one)[1]) for one in (lone, first))  # type: ignore[index]
    assert p_first == pytest.approx(2 * p_lone, rel=0.02)


def curve(name: str, seed: int, momentum: bool, losses: dict[int, float]) -> Run:
    given = run(name, seed, 0.0, momentum)
    records = [{"step": t, "tokens": t, "val/loss": loss} for t, loss in losses.items()]
    return replace(given, records=records)


def test_the_tokens_saved_are_read_off_the_mean_curve() -> None:
    """Between 60 and 80 tokens, momentum falls from 3.2 to 2.8: it is at 3.0 after 70 of 100."""
    vanilla = {40: 4.0, 60: 3.6, 80: 3.3, 100: 3.0}
    momentum = {40: 3.6, 60: 3.2, 80: 2.8, 100: 2.7}
    first = {0: curve("a", 0, False, vanilla), 1: curve("b", 1, False, vanilla)}
    up = {t: loss + 0.1 for t, loss in momentum.items()}
    down = {t: loss - 0.1 for t, loss in momentum.items()}
    other = {0: curve("c", 0, True, up), 1: curve("d", 1, True, down)}
    assert tokens_saved(other, first) == pytest.approx(0.3)
    assert tokens_saved(first, other) is None
    few = {seed: curve("e", seed, True, {80: 2.8, 100: 2.7}) for seed in (0, 1)}
    assert tokens_saved(few, first) is None


def test_of_one_run_each_the_sentence_is_about_the_models() -> None:
    row = PairedDifference(
        measure="validation, context 64",
        unit="nats/token",
        paired_by="document",
        pairs=40,
        first=5.0,
        other=4.9,
        interval=(-0.14, -0.06),
        detectable=0.05,
        p_values={"sign-flip": 0.0002},
    )
    (sentence,) = verdicts([], [Comparison("t", "vanilla", "momentum", [row])])
    assert sentence == (
        "The model momentum is better on this text than vanilla by 0.100 nats/token "
        "[0.060, 0.140] over 40 documents, p = 0.0002. "
        "One run of each: what other seeds would give is not known."
    )
    unclear: Any = replace(row, interval=(-0.14, 0.06), p_values={"sign-flip": 0.4})
    (sentence,) = verdicts([], [Comparison("t", "vanilla", "momentum", [unclear])])
    assert sentence.startswith("Unresolved: momentum against vanilla -0.100 nats/token [-0.140, +")
