"""Rows of an analysis: in the terminal, as CSV, as LaTeX, and as pages."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from momentum_gpt.analysis.heat_map import Cell, cell_of
from momentum_gpt.analysis.page import layers_page, tokens_page
from momentum_gpt.analysis.protocols import MISMATCHED, measure
from momentum_gpt.analysis.similarity import Recall
from momentum_gpt.analysis.tables import (
    ADJUSTED,
    FEW,
    ONE_DRAW,
    ONE_SEED,
    Row,
    hardest,
    notes_on,
    recall_text,
    record_of,
    results_csv,
    results_latex,
    results_table,
    rows_of,
    rows_over_tasks,
    with_adjusted_verdicts,
)
from momentum_gpt.evaluation.finding import ABOVE, BELOW, NOT_ABOVE, NOT_BELOW, Finding
from momentum_gpt.evaluation.statistics import Estimate, unknown
from tests.analysis.passes import L, random_draws
from tests.comparison.report.browser import opened

DRAWS = [measure(draw, seed=seed) for seed, draw in enumerate(random_draws(5))]
OF_PAPER = [measure(draw, "dai2022", seed=seed) for seed, draw in enumerate(random_draws(5))]


def row(measure: str, null: str, found: Finding, task: str = "sst2") -> Row:
    return Row(measure, task, null, found, "vanilla", 1_000_000)


def found_of(value: float, null: float, p_value: float) -> Finding:
    gap = value - null
    return Finding(
        value, (value - 0.01, value + 0.01), null, (gap - 0.02, gap + 0.02), p_value, 5, 9
    )


ROWS = [
    row("Rec2FTP", "base rate", found_of(87.512, 61.0, 0.2)),
    row("SimAOU, normalised", "uniform noise (paper)", found_of(0.2, 0.001, 0.001)),
    row("SimAOU, normalised", MISMATCHED, found_of(0.2, 0.19, 0.5)),
]


def test_a_row_for_each_measure_and_null() -> None:
    rows = rows_of(DRAWS, "sst2")
    keys = [(one.measure, one.null) for one in rows]
    assert len(set(keys)) == len(keys)
    assert ("SimAOU", MISMATCHED) in keys
    assert ("Rec2FTP", "base rate") in keys
    assert ("accuracy, zero-shot", "") in keys
    by_key = dict(zip(keys, rows, strict=True))
    simaou = by_key["SimAOU", MISMATCHED].finding
    assert simaou.value == pytest.approx(np.mean([one["SimAOU"] for one in DRAWS]), abs=1e-6)
    assert simaou.draws == 5
    assert simaou.verdict == ABOVE  # ICL was made to do what finetuning does
    assert by_key["Kendall", MISMATCHED].finding.verdict == NOT_ABOVE

    accuracy = by_key["accuracy, ICL", "zero-shot"].finding
    right = np.mean([one["accuracy, ICL"].numpy() for one in DRAWS])
    assert accuracy.value == pytest.approx(100 * right)
    of_two = {one.measure: one.finding for one in rows_of(DRAWS[:2], "sst2")}
    assert of_two["accuracy, ICL"].interval == (0.0, 100.0)  # of two draws, and no share beyond


def test_means_over_tasks_are_rows_of_their_own() -> None:
    rows = rows_over_tasks([DRAWS, DRAWS[::-1]], "momentum", 2000)
    alone = {(row.measure, row.null): row.finding for row in rows_of(DRAWS, "sst2")}
    assert {row.task for row in rows} == {"all tasks"}
    for one in rows:
        of_task = alone.pop((one.measure, one.null))
        assert one.finding.value == pytest.approx(of_task.value, nan_ok=True)
        assert one.finding.null == pytest.approx(of_task.null, nan_ok=True)
        if one.null == MISMATCHED:
            assert np.ptp(one.finding.difference) < np.ptp(of_task.difference)
    assert alone.keys() == {("Rec2FTP", "base rate")}

    # They are a family of their own.
    pair = [row("SimAOU", "noise", found_of(0.5, 0.1, 0.03), task) for task in ("mr", "all tasks")]
    assert [one.finding.p_value for one in with_adjusted_verdicts(pair)] == [0.03, 0.03]


def test_verdicts_are_adjusted_for_the_rows_of_one_measure_and_null() -> None:
    tasks = ("sst2", "mr", "cb")
    rows = [row("SimAOU", "a", found_of(0.2, 0.1, 0.02), task) for task in tasks]
    rows.append(row("SimAOU", "b", found_of(0.2, 0.1, 0.02)))
    assert [one.finding.verdict for one in rows] == [ABOVE] * 4
    verdicts = [one.finding.verdict for one in with_adjusted_verdicts(rows)]
    assert verdicts == [NOT_ABOVE] * 3 + [ABOVE]


def test_the_hardest_null_is_one_that_is_not_beaten_or_the_highest() -> None:
    rows = [
        row("SimAOU", "noise", found_of(0.2, 0.15, 0.001)),
        row("SimAOU", "low, and not beaten", found_of(0.2, 0.1, 0.5)),
        row("SimAOU", "lower", found_of(0.2, 0.0, 0.5)),
        row("SimAOU", "noise", found_of(0.2, 0.1, 0.001), "mr"),
        row("SimAOU", "higher", found_of(0.2, 0.12, 0.001), "mr"),
        row("order sensitivity, ICL", "", found_of(0.2, math.nan, math.nan)),
    ]
    assert [one.null for one in hardest(rows)] == ["low, and not beaten", "higher", ""]


@pytest.mark.parametrize("measure", ["total variation", "KL divergence"])
def test_of_a_distance_less_is_more_alike(measure: str) -> None:
    def distance(null: str, found: Finding, task: str) -> Row:
        return row(measure, null, replace(found, is_distance=True), task)

    rows = [
        distance("before finetuning", found_of(0.2, 0.6, 0.001), "sst2"),
        distance("shuffled labels", found_of(0.2, 0.4, 0.001), "sst2"),
        distance("before finetuning", found_of(0.2, 0.3, 0.001), "mr"),
        distance("shuffled labels", found_of(0.2, 0.4, 0.5), "mr"),
        distance("before finetuning", found_of(0.2, 0.1, 0.001), "cb"),
        distance("shuffled labels", found_of(0.2, 0.3, 0.001), "cb"),
    ]
    told = [(one.null, one.finding.verdict) for one in hardest(rows)]
    assert told == [
        ("shuffled labels", BELOW),
        ("shuffled labels", NOT_BELOW),
        ("before finetuning", ABOVE),
    ]
    written = results_latex(hardest(rows), "Results")
    assert [r"\textbf" in line for line in written.splitlines() if "0.200" in line] == [
        True,
        False,
        False,
    ]

    # An untrained model answers nearly the same with anything in its context.
    facts = [{**one, f"{measure} | untrained model": one[measure]} for one in DRAWS]
    made = [one for one in rows_of(facts, "sst2") if one.measure == measure]
    assert "untrained model" not in [one.null for one in made]
    assert made
    assert all(one.finding.is_distance for one in made)


def test_the_terminal_shows_the_paper_in_the_margin() -> None:
    text = results_table(ROWS, "Results").as_text()
    lines = [line.split() for line in text.splitlines()]
    recall = next(line for line in lines if line[:1] == ["Rec2FTP"])
    assert recall[-2:] == ["91.84", "96.83"]
    assert "87.5" in recall
    of_noise = next(line for line in lines if "uniform" in line)
    assert of_noise[-4:] == ["0.110", "(0.002)", "0.195", "(0.000)"]
    mismatched = next(line for line in lines if "mismatched" in line)
    assert mismatched[-2:] == ["0.110", "0.195"]
    assert " ".join(mismatched).count(NOT_ABOVE) == 1


def test_columns_that_say_nothing_are_left_out() -> None:
    rows = [Row("SimAOU", "imdb", "", found_of(0.2, math.nan, math.nan))]
    head = results_table(rows, "").head
    assert head == ["measure", "task", "value", "95% interval", "unit"]


def test_ways_of_finetuning_have_a_column_if_there_are_several() -> None:
    backprop, momentum = (replace(ROWS[1], way=way) for way in ("backprop", "momentum"))
    of_icl = replace(ROWS[0], way="")
    assert "finetuning" not in results_table([of_icl, backprop], "").head
    rows = [of_icl, backprop, momentum]
    table = results_table(rows, "")
    column = table.head.index("finetuning")
    assert [cells[column] for cells in table.rows] == ["", "backprop", "momentum"]
    assert "& finetuning &" in results_latex(rows, "")
    assert hardest(rows) == rows
    alone = next(csv.DictReader(io.StringIO(results_csv([backprop]))))
    assert alone["finetuning"] == "backprop"


def test_notes_tell_of_a_single_draw() -> None:
    assert notes_on(rows_of(DRAWS[:1], "sst2")) == [ADJUSTED, ONE_DRAW]
    assert notes_on(rows_of(DRAWS[:2], "sst2")) == [ADJUSTED, FEW]
    assert notes_on(rows_of(DRAWS, "sst2")) == [ADJUSTED]
    two_models = [*rows_of(DRAWS, "sst2", "vanilla"), *rows_of(DRAWS, "sst2", "momentum 0.5")]
    assert notes_on(two_models) == [ADJUSTED, ONE_SEED]


def test_the_counts_behind_rec2ftp_are_told() -> None:
    text = recall_text(Recall(both=3, only_finetuned=1, only_icl=1, neither=3))
    assert "answers 3 of 4 right that finetuning puts right, and 1 of 4" in text
    assert "odds ratio 9.00 [" in text
    assert "odds" not in recall_text(Recall(0, 0, 1, 3))


def test_csv_has_every_digit_and_nothing_where_nothing_is_known() -> None:
    rows = rows_of(OF_PAPER, "sst2", "momentum 0.5", 2000)
    read = list(csv.DictReader(io.StringIO(results_csv(rows))))
    assert len(read) == len(rows)
    for one, written in zip(rows, read, strict=True):
        assert float(written["value"]) == one.finding.value
        assert written["verdict"] == one.finding.verdict
        assert (written["variant"], written["tokens"]) == ("momentum 0.5", "2000")
    without_null = next(line for line in read if not line["null"])
    assert (without_null["null_value"], without_null["p_adjusted"]) == ("", "")
    recall = next(line for line in read if line["measure"] == "Rec2FTP")
    assert recall["paper_1.3B"] == "91.84"
    json.dumps([record_of(one) for one in rows], allow_nan=False)


def test_latex_compiles_as_far_as_can_be_told() -> None:
    text = results_latex(ROWS, "100% of a_b")
    assert r"\caption{100\% of a\_b}" in text
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)
    assert columns is not None
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + len(ROWS)
    for line in rows:
        assert len(re.split(r"(?<!\\)&", line)) == len(columns[1])
        assert not re.search(r"(?<!\\)[%_#$]", line)
    assert text.count(r"\begin") == text.count(r"\end") == 2
    assert r"\textbf{0.200}" in rows[2]
    assert r"\textbf" not in rows[1] + rows[3]
    assert text.count(r"\addlinespace") == 1


def data_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


def test_the_page_of_layers_has_each_measure_and_its_nulls() -> None:
    page = layers_page("a run", rows_of(DRAWS, "sst2"), {"sst2": DRAWS})
    data = data_of(page)
    assert data["progress"] == "layer"
    figures = {figure["title"]: figure for figure in data["figures"]}
    simaou = figures["SimAOU, sst2"]
    labels = [data["groups"][one["run"]]["label"] for one in simaou["series"]]
    assert labels == ["model", "Gaussian noise", MISMATCHED]
    line = simaou["series"][0]
    assert line["tokens"] == list(range(1, L + 1))
    layer = np.mean([one["SimAOU"][:, 1].numpy() for one in DRAWS])
    assert line["y"][1] == pytest.approx(layer, abs=1e-6)
    assert line["low"][1] < line["y"][1] < line["high"][1]
    assert "top-10 overlap, sst2" not in figures
    assert "<td>SimAOU</td>" in page


def test_the_page_of_layers_shows_each_head() -> None:
    """A map of SimAM, which alone is measured head by head; its nulls have none."""
    page = layers_page("a run", rows_of(DRAWS, "sst2"), {"sst2": DRAWS})
    assert page.count('<table class="heat">') == 1
    cells = re.findall(r'<td style="--share: (.*?)" title="(.*?), .*?">(.*?)</td>', page)
    values = np.stack([one["SimAM of changes"].numpy() for one in DRAWS])  # (draws, Q, L, H)
    by_layer_and_head = np.nanmean(values, axis=(0, 1)).ravel()
    assert [float(text) for _, _, text in cells] == pytest.approx(by_layer_and_head, abs=6e-4)
    assert [float(read) for _, read, _ in cells] == [float(text) for _, _, text in cells]
    assert [share for share, _, _ in cells] == [text for _, _, text in cells]


def test_a_cell_below_zero_has_no_colour_and_stays_within_its_bounds() -> None:
    cell = cell_of(Estimate(-0.5, (-1.25, 0.25), 0.1, 0.2), (-1.0, 1.0))
    assert cell == Cell("-0.500", "-0.500, 95% interval -1.000 to 0.250", "0.000")


def test_a_cell_of_nothing_is_blank() -> None:
    assert cell_of(unknown(math.nan), (-1.0, 1.0)) is None


def checkpoints() -> list[Row]:
    rows = []
    for tokens in (3000, 1000, 2000):
        for variant in ("vanilla", "momentum 0.5"):
            rows += rows_of(DRAWS[: tokens // 1000 + 1], "sst2", variant, tokens)
    return rows


def test_checkpoints_and_variants_are_on_one_axis_of_tokens() -> None:
    data = data_of(tokens_page("over training", checkpoints()))
    assert data["progress"] == "tokens trained on"
    figure = next(one for one in data["figures"] if one["title"] == "SimAOU, sst2")
    labels = [data["groups"][one["run"]]["label"] for one in figure["series"]]
    assert labels[:2] == ["vanilla", "vanilla: Gaussian noise"]
    assert "momentum 0.5" in labels
    for line in figure["series"]:
        assert line["tokens"] == [1000, 2000, 3000]
    assert figure["series"][0]["low"][0] is not None
    assert figure["series"][1]["low"] == [None] * 3

    mean = row("SimAOU", "", found_of(0.3, math.nan, math.nan), "all tasks")
    data = data_of(tokens_page("over training", [*checkpoints(), mean]))
    assert data["figures"][0]["title"] == "SimAOU, all tasks"


def test_ways_of_finetuning_have_figures_of_their_own_over_training() -> None:
    rows = [row("SimAOU", "", found_of(value, math.nan, math.nan)) for value in (0.1, 0.2)]
    rows = [replace(one, way=way) for one, way in zip(rows, ("backprop", "momentum"), strict=True)]
    of_icl = row("accuracy, ICL", "", found_of(50.0, math.nan, math.nan))
    data = data_of(tokens_page("", [of_icl, *rows]))
    values = {figure["title"]: figure["series"][0]["y"] for figure in data["figures"]}
    assert values == {
        "accuracy, ICL, sst2": [50.0],
        "SimAOU, sst2, backprop": [0.1],
        "SimAOU, sst2, momentum": [0.2],
    }
    alone = data_of(tokens_page("", [rows[0]]))
    assert [figure["title"] for figure in alone["figures"]] == ["SimAOU, sst2"]


@pytest.mark.browser
def test_a_browser_draws_both_pages(tmp_path: Path) -> None:
    pages = {
        "layers": layers_page("a run", rows_of(DRAWS, "sst2"), {"sst2": DRAWS}),
        "tokens": tokens_page("over training", checkpoints()),
    }
    for name, text in pages.items():
        path = tmp_path / f"{name}.html"
        path.write_text(text)
        n_figures = len(data_of(text)["figures"])
        with opened(path) as page:
            assert page.locator("#figures svg").count() == n_figures
            assert page.locator("#figure-0 .line").count() >= 2
            assert page.locator("#figure-0 .area").count() >= 1
