"""Which way of finetuning ICL is more like: planted gains, their signs, their intervals."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from momentum_gpt.analysis.protocols import SIMAOU, against
from momentum_gpt.analysis.tables import Row
from momentum_gpt.analysis.units import Measured
from momentum_gpt.analysis.ways import (
    UNRESOLVED,
    Gain,
    between_variants,
    gains_csv,
    gains_of,
    gains_table,
    note_on_rates,
    row_of_gain,
    rows_side_by_side,
    with_adjusted_gains,
)
from momentum_gpt.evaluation.finding import DIVERGENCE, ICL, Finding

NAN = math.nan
DRAWS, QUERIES = 5, 40


def draws_of(measure: str, values: np.ndarray, lr: float = 0.01, k: int = 3) -> list[Measured]:
    """Return draws with one measure; values (draws, Q, ...)."""
    facts = {"k": k, "lr": lr, "queries": list(range(values.shape[1]))}
    return [Measured({measure: torch.from_numpy(of_draw).float()}, facts) for of_draw in values]


def planted(
    gains: dict[str, float], measure: str = SIMAOU, seed: int = 0, n_layers: int = 3
) -> dict[str, list[Measured]]:
    """Return draws of several ways: what they share varies much, and each gain is as given."""
    generator = np.random.default_rng(seed)
    shape = (DRAWS, QUERIES, n_layers)
    shared = generator.normal(0, 10, (1, QUERIES, 1)) + generator.normal(0, 10, (DRAWS, 1, 1))
    found = {}
    for way, gain in gains.items():
        found[way] = draws_of(measure, shared + gain + generator.normal(0, 0.03, shape))
    return found


def verdicts(gains: list[Gain]) -> dict[str, str]:
    return {gain.way: gain.verdict for gain in gains}


GAINS = {"backprop": 0.0, "momentum": 0.05, "label": -0.05, "layer_causal": 0.0}


def test_a_gain_is_told_query_by_query_and_draw_by_draw() -> None:
    """Gains of 0.05 among likenesses that differ by 10, to queries and to draws."""
    gains = gains_of(planted(GAINS), "sst2", "momentum 0.5", 2000)
    assert verdicts(gains) == {
        "momentum": "closer to finetuning with momentum",
        "label": "less close to finetuning with label",
        "layer_causal": UNRESOLVED,
    }
    of_momentum = gains[0]
    assert of_momentum.difference == pytest.approx(0.05, abs=0.01)
    low, high = of_momentum.finding.difference
    assert low < 0.05 < high
    assert high - low < 0.03
    assert (of_momentum.first, of_momentum.finding.draws) == ("backprop", DRAWS)


@pytest.mark.parametrize(("measure", "sign"), [(SIMAOU, 1), (DIVERGENCE, -1)])
def test_a_gain_is_a_row_beside_no_gain(measure: str, sign: int) -> None:
    """Above it, ICL is closer to the way, whether more or less of the measure is closer."""
    gains = gains_of(planted(GAINS, measure), "sst2", "momentum 0.5", 2000)
    rows = {row.way: row for row in map(row_of_gain, gains)}
    row = rows["momentum"]
    assert (row.measure, row.null) == (f"{measure}, gain over backprop", "no gain")
    assert (row.task, row.variant, row.tokens) == ("sst2", "momentum 0.5", 2000)
    assert row.finding.value == pytest.approx(sign * 0.05, abs=0.01)
    low, high = row.finding.interval
    assert low < sign * 0.05 < high
    closer, farther = ("above", "below") if sign > 0 else ("below", "above")
    assert row.finding.verdict == f"{closer} its null"
    assert rows["label"].finding.verdict == f"{farther} its null"
    assert rows["layer_causal"].finding.verdict == "not above its null"


@pytest.mark.parametrize("measure", [DIVERGENCE, "total variation"])
def test_a_smaller_distance_is_closer(measure: str) -> None:
    gains = gains_of(planted(GAINS, measure), "sst2", "vanilla")
    assert gains[0].difference > 0
    assert verdicts(gains) == {
        "momentum": "less close to finetuning with momentum",
        "label": "closer to finetuning with label",
        "layer_causal": UNRESOLVED,
    }


def test_only_likeness_counts_and_only_beside_another_way() -> None:
    of_way = planted({"backprop": 0.0, "momentum": 0.0})
    for draws in of_way.values():
        for draw in draws:
            draw.measures[against(SIMAOU, "a null")] = draw.measures[SIMAOU]
            draw.measures[ICL] = torch.ones(QUERIES, dtype=torch.bool)
    assert [gain.measure for gain in gains_of(of_way, "sst2", "vanilla")] == [SIMAOU]
    assert gains_of({"backprop": of_way["backprop"]}, "sst2", "vanilla") == []


def test_what_one_way_lacks_is_left_out_of_the_other() -> None:
    """A layer without a value to one way, and a query without any."""
    base = np.array([[[0.1, 0.9], [0.2, 0.4], [NAN, NAN], [0.3, 0.5]]])
    other = np.array([[[0.4, NAN], [0.5, 0.5], [0.8, 0.8], [0.3, 0.7]]])
    by_way = {"backprop": draws_of(SIMAOU, base), "momentum": draws_of(SIMAOU, other)}
    (gain,) = gains_of(by_way, "sst2", "vanilla")
    assert gain.finding.value == pytest.approx((0.4 + 0.5 + 0.5) / 3)
    assert gain.finding.null == pytest.approx((0.1 + 0.3 + 0.4) / 3)
    assert gain.difference == pytest.approx((0.3 + 0.2 + 0.1) / 3)
    assert gain.finding.queries == 3

    nothing = {"backprop": draws_of(SIMAOU, base), "momentum": draws_of(SIMAOU, NAN * other)}
    (unknown,) = with_adjusted_gains(gains_of(nothing, "sst2", "vanilla"))
    assert math.isnan(unknown.difference)
    assert unknown.verdict == ""


def test_variants_differ_in_their_gains_though_their_shapes_do_too() -> None:
    """Another model has other layers; its likeness is higher by 10, and its gain by 0.08."""
    of_vanilla = gains_of(planted({"backprop": 0.0, "momentum": 0.02}), "sst2", "vanilla")
    ways = {"backprop": 10.0, "momentum": 10.1}
    of_momentum = gains_of(planted(ways, seed=1, n_layers=5), "sst2", "momentum 0.5")
    (told,) = between_variants([*of_vanilla, *of_momentum])
    assert (told.variant, told.first_variant) == ("momentum 0.5", "vanilla")
    assert told.finding.value == pytest.approx(0.1, abs=0.01)
    assert told.difference == pytest.approx(0.08, abs=0.01)
    assert told.verdict == "larger gain than vanilla"
    (turned,) = between_variants([*of_momentum, *of_vanilla])
    assert turned.verdict == "smaller gain than momentum 0.5"
    assert turned.difference == pytest.approx(-told.difference)


def test_a_distance_that_falls_more_is_a_larger_gain() -> None:
    gains = []
    for variant, gain in (("vanilla", -0.02), ("momentum 0.5", -0.1)):
        by_way = planted({"backprop": 0.0, "momentum": gain}, DIVERGENCE)
        gains += gains_of(by_way, "sst2", variant)
    (told,) = between_variants(gains)
    assert told.difference < 0
    assert told.verdict == "larger gain than vanilla"


def test_variants_are_compared_where_they_were_asked_the_same() -> None:
    by_way = planted({"backprop": 0.0, "momentum": 0.0})
    (gain,) = gains_of(by_way, "sst2", "vanilla", 1000)
    other = replace(gain, variant="momentum 0.5")
    assert len(between_variants([gain, other])) == 1
    fewer = replace(other, gaps=[gaps[1:] for gaps in other.gaps], queries=other.queries[1:])
    others = replace(other, queries=tuple(number + 1 for number in other.queries))
    changes = [
        replace(other, tokens=2000),
        replace(other, demonstrations=2),
        replace(other, task="mr"),
        replace(other, way="label"),
        replace(other, measure="SimAOU, momentum part"),
        fewer,
        others,
    ]
    for changed in changes:
        assert between_variants([gain, changed]) == []


def crossed(generator: np.random.Generator, mean: float) -> np.ndarray:
    """Return values (draws, Q, layers) with effects of queries, of draws and of both."""
    of_query = generator.normal(0, 0.3, (1, QUERIES, 1))
    of_draw = generator.normal(0, 0.05, (DRAWS, 1, 1))
    return mean + of_query + of_draw + generator.normal(0, 0.3, (DRAWS, QUERIES, 2))


def a_gain(generator: np.random.Generator, gain: float, variant: str) -> Gain:
    base = crossed(generator, 0.5)
    ways = {
        "backprop": draws_of(SIMAOU, base),
        "momentum": draws_of(SIMAOU, base + crossed(generator, gain)),
    }
    return gains_of(ways, "sst2", variant)[0]


def one_way(generator: np.random.Generator) -> Gain:
    return a_gain(generator, 0.1, "vanilla")


def two_variants(generator: np.random.Generator) -> Gain:
    sides = [a_gain(generator, 0.1, "vanilla"), a_gain(generator, 0.2, "momentum 0.5")]
    return between_variants(sides)[0]


@pytest.mark.parametrize("study", [one_way, two_variants])
def test_intervals_hold_the_true_difference(study: Callable[..., Gain]) -> None:
    """It is 0.1. Of 300 studies, 91.2% to 98.8% are three standard errors from 95%."""
    held = []
    means = []
    for number in range(300):
        gain = study(np.random.default_rng([20261126, number]))
        low, high = gain.finding.difference
        held.append(low <= 0.1 <= high)
        means.append(gain.difference)
    assert 0.912 < np.mean(held) < 0.988
    assert abs(np.mean(means) - 0.1) < 3 * np.std(means) / math.sqrt(300)


def test_verdicts_are_adjusted_for_all_rows_of_a_measure_and_way() -> None:
    (gain,) = gains_of(planted({"backprop": 0.0, "momentum": 0.05}), "sst2", "vanilla")
    p_values = (0.02, 0.04, 0.001)
    tasks = ("sst2", "mr", "cb")
    rows = [
        replace(gain, task=task, finding=replace(gain.finding, p_value=p))
        for task, p in zip(tasks, p_values, strict=True)
    ]
    assert UNRESOLVED not in {row.verdict for row in rows}
    adjusted = with_adjusted_gains(rows)
    assert [row.finding.p_value for row in adjusted] == pytest.approx([0.04, 0.04, 0.003])
    doubled = with_adjusted_gains([*rows, *rows])
    assert [row.verdict == UNRESOLVED for row in doubled[:3]] == [True, True, False]
    others = [replace(row, measure="Kendall") for row in rows] + [replace(rows[0], way="label")]
    beside = with_adjusted_gains([*rows, *others])
    expected = [0.04, 0.04, 0.003] * 2 + [0.02]
    assert [row.finding.p_value for row in beside] == pytest.approx(expected)


def test_rows_of_one_measure_stand_together_and_icl_stands_once() -> None:
    found = Finding(0.2, (0.1, 0.3), 0.1, (0.0, 0.2), 0.02, 5, 9)
    rows = [Row(measure, "sst2", "", found) for measure in (ICL, SIMAOU, "Kendall")]
    rows.append(Row("order sensitivity, ICL", "sst2", "", found))
    both = rows_side_by_side({"label": rows, "momentum": rows})
    assert [(row.measure, row.way) for row in both] == [
        (ICL, ""),
        (SIMAOU, "label"),
        (SIMAOU, "momentum"),
        ("Kendall", "label"),
        ("Kendall", "momentum"),
        ("order sensitivity, ICL", ""),
    ]


def test_the_tables_and_their_csv() -> None:
    gains = []
    for variant, gain in (("vanilla", 0.0), ("momentum 0.5", 0.05)):
        gains += gains_of(planted({"backprop": 0.0, "momentum": gain}), "sst2", variant, 2000)
    of_variants = between_variants(gains)
    text = gains_table(gains, "Ways").as_text()
    assert "to backprop" in text
    assert "first variant" not in text
    line = next(line for line in text.splitlines() if "momentum 0.5" in line)
    assert f"{gains[1].difference:+.3f}" in line
    assert line.endswith("closer to finetuning with momentum")
    below = gains_table(of_variants, "Variants").as_text()
    assert "first gain" in below
    assert "larger gain than vanilla" in below

    read = list(csv.DictReader(io.StringIO(gains_csv(gains + of_variants))))
    assert len(read) == 3
    for gain, written in zip(gains + of_variants, read, strict=True):
        assert float(written["difference"]) == gain.difference
        assert float(written["low"]) == gain.finding.difference[0]
        assert written["verdict"] == gain.verdict
    assert [one["first_variant"] for one in read] == ["", "", "vanilla"]
    assert (read[0]["finetuning"], read[0]["first_finetuning"]) == ("momentum", "backprop")
    unknown = gains_csv([replace(gains[0], tokens=None)])
    assert next(csv.DictReader(io.StringIO(unknown)))["tokens"] == ""


def test_the_learning_rates_are_told() -> None:
    values = np.zeros((1, 4))
    found = [
        {
            "backprop": draws_of(SIMAOU, values, lr),
            "momentum": draws_of(SIMAOU, values, 0.003),
        }
        for lr in (0.1, 0.03)
    ]
    chosen = note_on_rates(found, None)
    assert "backprop 0.03 to 0.1, momentum 0.003." in chosen
    given = note_on_rates(found, 0.01)
    assert given.endswith("0.01 for every way; with momentum, steps grow to 2 times that.")
