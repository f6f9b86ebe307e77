"""Means, intervals and verdicts, by hand and against simulation.

`coverage.py` beside this file does the same at full size.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import fisher_exact

from momentum_gpt.analysis.nulls import partners
from momentum_gpt.analysis.similarity import wilson
from momentum_gpt.analysis.summary import (
    by_head,
    by_layer,
    finding,
    finding_over_tasks,
    mean_of,
    over_layers,
    recall_finding,
)
from momentum_gpt.evaluation.finding import ABOVE, BELOW, NOT_ABOVE, Finding, adjusted
from momentum_gpt.evaluation.statistics import holm, over_queries
from tests.analysis.coverage import STUDIES, coverage

NAN = math.nan


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_layers_are_averaged_first_and_then_queries_and_draws() -> None:
    values = [drawn(draw, 30, 4, 2) for draw in range(5)]
    found = finding(values)
    expected = over_queries(np.stack([one.mean(dim=(1, 2)).double().numpy() for one in values]))
    assert found.value == pytest.approx(expected.value, abs=1e-7)
    assert found.interval == pytest.approx(expected.interval, abs=1e-6)
    assert (found.draws, found.queries) == (5, 30)
    assert math.isnan(found.null)
    assert found.verdict == ""


def test_a_number_and_its_null_are_paired_by_query_and_draw() -> None:
    """Queries that differ by 10 and a null that is below by 0.1: told apart only in pairs."""
    null = [10 * drawn(9, 40, 1) + 0.05 * drawn(draw, 40, 1) for draw in range(5)]
    values = [one + 0.1 + 0.05 * drawn(50 + draw, 40, 1) for draw, one in enumerate(null)]
    found = finding(values, null)
    assert found.verdict == ABOVE
    assert found.interval[0] < found.null < found.interval[1]
    assert finding(null, values).verdict == BELOW
    assert sum(found.difference) / 2 == pytest.approx(found.value - found.null, abs=1e-6)


def test_what_is_not_told_from_its_null_is_not_above_it() -> None:
    found = finding([drawn(1, 50, 2)], [drawn(2, 50, 2)])
    assert found.verdict == NOT_ABOVE
    assert found.p_value > 0.05


def test_two_partners_are_one_unit() -> None:
    """Each query's ICL adds 5 to whatever it is compared with: their swap takes it out exactly."""
    partner = partners(6, seed=0)
    of_icl = 5 * drawn(0, 6, 1)
    gap = torch.tensor([0.1, 0.2, 0.3, 0.2, 0.1, 0.3])[:, None]
    of_finetuned = 5 * drawn(1, 6, 1)
    matched = of_icl + of_finetuned + gap
    swapped = of_icl + of_finetuned[partner]

    found = finding([matched], [swapped], partner)
    by_pair = sorted(float(gap[q] + gap[p]) / 2 for q, p in enumerate(partner) if q < p)
    expected = over_queries(np.array([by_pair]))
    assert found.difference == pytest.approx(expected.interval, abs=1e-5)
    alone = finding([matched], [swapped]).difference
    assert alone[1] - alone[0] > 5 * (found.difference[1] - found.difference[0])


def test_what_is_not_defined_is_left_out() -> None:
    values = torch.tensor([[1.0, NAN], [NAN, NAN], [2.0, 4.0], [6.0, 6.0]])
    np.testing.assert_allclose(over_layers([values]), [[1.0, NAN, 3.0, 6.0]])
    found = finding([values])
    assert found.value == pytest.approx(10 / 3)
    assert found.queries == 3

    nothing = finding([torch.full((4, 2), NAN)], [torch.zeros(4, 2)])
    assert math.isnan(nothing.value)
    assert (nothing.verdict, nothing.queries) == ("", 0)


def test_the_interval_of_a_mean_with_gaps_is_that_of_repeated_studies() -> None:
    """Half of the queries are undefined, at random: the spread of 1,000 means, by simulation."""
    generator = np.random.default_rng(0)
    means, margins = [], []
    for _ in range(1000):
        values = generator.normal(3.0, 1.0, (1, 60))
        values[generator.random((1, 60)) < 0.5] = NAN
        found = mean_of(values)
        means.append(found.value)
        margins.append(found.margin)
    assert np.mean(means) == pytest.approx(3.0, abs=0.02)
    assert np.median(margins) / np.std(means) == pytest.approx(2.0, abs=0.15)


def test_each_task_counts_the_same() -> None:
    tasks = [[drawn(task, queries, 2) for _ in range(5)] for task, queries in enumerate((8, 40))]
    nulls = [[one - 0.25 for one in of_task] for of_task in tasks]
    found = finding_over_tasks(tasks, nulls)
    means = [torch.stack(of_task).mean().item() for of_task in tasks]
    assert found.value == pytest.approx(np.mean(means))
    assert found.null == pytest.approx(np.mean(means) - 0.25)
    assert found.difference == pytest.approx((0.25, 0.25))
    assert (found.draws, found.queries) == (5, 48)
    assert finding_over_tasks(tasks[:1], nulls[:1]) == finding(tasks[0], nulls[0])


def test_the_interval_of_a_mean_over_tasks_is_that_of_repeated_studies() -> None:
    """Tasks of other sizes, means and spreads, whose demonstrations are drawn apart."""
    generator = np.random.default_rng(0)
    truth = np.mean([0.5, -2.0, 4.0])
    held, values, halves = [], [], []
    for _ in range(400):
        tasks = []
        for mean, spread, queries in ((0.5, 0.2, 60), (-2.0, 1.0, 20), (4.0, 0.5, 40)):
            of_query = spread * generator.normal(size=queries)
            of_draw = 0.2 * spread * generator.normal(size=(5, 1))
            rest = spread * generator.normal(size=(5, queries))
            tasks.append(list(torch.from_numpy(mean + of_query + of_draw + rest)))
        found = finding_over_tasks(tasks, None)
        low, high = found.interval
        held.append(low <= truth <= high)
        values.append(found.value)
        halves.append((high - low) / 2)
    assert 0.92 < np.mean(held) < 0.99
    # Two standard errors, and somewhat more where degrees of freedom are few.
    assert 1.8 < np.mean(halves) / np.std(values) < 2.7


def test_what_does_not_depend_on_the_demonstrations_was_drawn_once() -> None:
    """Zero-shot answers are the same in each draw: two draws know their spread as well as one."""
    once = drawn(0, 40, 1)
    assert finding([once, once]).interval == finding([once]).interval
    other = once + 0.01 * drawn(1, 40, 1)
    assert finding([once, other]).interval[1] > 2 * finding([once]).interval[1]


def test_recall_beside_its_base_rate() -> None:
    """One draw of 20 queries, none of which was right; finetuning puts 10 right.

    Of these, ICL answers 9 right, and 4 of the others.
    """
    zero_shot = torch.zeros(20, dtype=torch.bool)
    finetuned = torch.arange(20) < 10
    icl = (torch.arange(20) < 9) | (torch.arange(20) >= 16)
    found = recall_finding([zero_shot], [icl], [finetuned])
    assert (found.value, found.null, found.queries) == (90.0, 40.0, 10)
    assert found.interval == pytest.approx(wilson(9, 10))
    assert found.p_value >= fisher_exact([[9, 1], [4, 6]]).pvalue

    # Agresti and Caffo: one more success and failure on either side.
    first, other = 10 / 12, 5 / 12
    half = 1.959964 * math.sqrt(first * (1 - first) / 12 + other * (1 - other) / 12)
    gap = first - other
    assert found.difference == pytest.approx((100 * (gap - half), 100 * (gap + half)), abs=1e-4)


def test_recall_over_draws_is_the_mean_of_all_that_finetuning_put_right() -> None:
    zero_shot = [torch.zeros(100, dtype=torch.bool)] * 5
    finetuned = [drawn(draw, 100) > 0 for draw in range(5)]
    icl = [drawn(10 + draw, 100) > -0.5 for draw in range(5)]
    found = recall_finding(zero_shot, icl, finetuned)
    put_right = torch.stack(finetuned)
    icl_right = torch.stack(icl)
    assert found.value == pytest.approx(100 * icl_right[put_right].float().mean().item())
    assert found.null == pytest.approx(100 * icl_right[~put_right].float().mean().item())
    assert found.verdict == NOT_ABOVE
    alike = recall_finding(zero_shot, finetuned, finetuned)
    assert (alike.value, alike.null, alike.verdict) == (100.0, 0.0, ABOVE)


def test_recall_without_a_query_that_finetuning_puts_right() -> None:
    nothing = torch.zeros(8, dtype=torch.bool)
    found = recall_finding([nothing], [~nothing], [nothing])
    assert math.isnan(found.value)
    assert math.isnan(found.interval[0])
    assert (found.null, found.queries, found.verdict) == (100.0, 0, "")
    assert math.isnan(found.difference[0])
    assert math.isnan(found.difference[1])


def test_every_layer_and_every_head_apart() -> None:
    values = [drawn(draw, 25, 3, 2) for draw in range(5)]
    layers = by_layer(values)
    heads = by_head(values)
    assert len(layers) == 3
    assert [len(of_layer) for of_layer in heads] == [2, 2, 2]
    stacked = torch.stack(values)
    assert layers[1].value == pytest.approx(stacked[:, :, 1].mean().item(), abs=1e-6)
    of_head = over_queries(stacked[:, :, 2, 1].double().numpy())
    assert heads[2][1].value == pytest.approx(of_head.value)
    assert heads[2][1].interval == pytest.approx(of_head.interval)


def test_p_values_are_adjusted_for_their_number() -> None:
    def with_p(p_value: float) -> Finding:
        return Finding(1.0, (0.9, 1.1), 0.0, (0.9, 1.1), p_value, 5, 10)

    found = adjusted([with_p(0.03), with_p(NAN), with_p(0.02)])
    assert [found[0].p_value, found[2].p_value] == holm([0.03, 0.02])
    assert math.isnan(found[1].p_value)
    assert [with_p(0.03).verdict, with_p(0.06).verdict] == [ABOVE, NOT_ABOVE]


STUDIED = 300


@pytest.mark.parametrize("name", [name for name in STUDIES if not name.startswith("Kendall")])
def test_nulls_centre_on_zero_and_intervals_hold_it(name: str) -> None:
    """Of 300 studies, 91.2% to 98.8% are three standard errors from 95%."""
    found = coverage(STUDIES[name], draws=1, queries=40, studies=STUDIED)
    assert 0.912 < found.held < 0.988
    assert found.told < 0.088
    assert abs(found.mean) < 3 / math.sqrt(STUDIED)


def test_so_do_they_over_several_draws() -> None:
    found = coverage(STUDIES["SimAOU, mismatched queries"], draws=5, queries=40, studies=STUDIED)
    assert found.held > 0.912
    assert abs(found.mean) < 3 / math.sqrt(STUDIED)
