"""Accuracies over several seeds: the table and the page, with numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from momentum_gpt.comparison.accuracy import (
    Cell,
    Runs,
    accuracies,
    accuracy_page,
    accuracy_table,
    interval,
    quarters,
    steps_to_learn,
)
from momentum_gpt.comparison.runs import Run


def run_of(*accuracy: float) -> Run:
    """Return a run with an evaluation every 50 steps."""
    config: Any = None
    records = []
    for number, value in enumerate(accuracy, start=1):
        records.append({"step": 50 * number, "val/acc": value})
    return Run("x", config, records)


VANILLA = Cell("vanilla", "rotary")
MOMENTUM = Cell("momentum 0.5", "rotary")
RUNS: Runs = {
    VANILLA: [run_of(0.1, 0.1, 0.1, 0.1), run_of(0.1, 0.1, 0.1, 0.2)],
    MOMENTUM: [run_of(0.1, 0.9, 1.0, 1.0), run_of(0.1, 0.5, 0.95, 1.0)],
}


def test_the_interval_is_students() -> None:
    """Mean 0.2, standard deviation 0.1, and Student's t of 2 degrees of freedom from a table."""
    low, high = interval([0.1, 0.2, 0.3])
    assert low == 0.0  # -0.048 is no accuracy
    assert high == pytest.approx(0.2 + 4.30265 * 0.1 / math.sqrt(3), abs=1e-5)
    assert interval([0.5]) == (0.0, 1.0)


def test_only_steps_that_all_runs_have_are_compared() -> None:
    assert accuracies([run_of(0.1, 0.2), run_of(0.3)]) == {50: [0.1, 0.3]}


def test_a_step_that_was_repeated_after_resuming_counts_once() -> None:
    resumed = run_of(0.1, 0.2)
    resumed.records.append({"step": 100, "val/acc": 0.25})
    assert accuracies([resumed, run_of(0.3, 0.4)]) == {50: [0.1, 0.3], 100: [0.25, 0.4]}


def test_a_run_has_learned_at_its_first_step_with_nine_out_of_ten_right() -> None:
    assert [steps_to_learn(run) for run in RUNS[MOMENTUM]] == [100, 150]
    assert steps_to_learn(run_of(0.1, 0.2)) == math.inf


def test_quarters_of_the_training() -> None:
    assert quarters(list(range(50, 1001, 50))) == [250, 500, 750, 1000]
    assert quarters([10]) == [10, 10, 10, 10]


def test_the_table_has_a_row_for_each_cell() -> None:
    title, _, _, vanilla, momentum = accuracy_table(RUNS).as_text().splitlines()
    assert title == "Accuracy at the answers, mean and 95% interval:"

    assert vanilla.split()[:2] == ["rotary", "vanilla"]
    assert "0 of 2" in vanilla
    assert vanilla.endswith("-")

    assert "0.700 [0.000, 1.000]" in momentum
    assert "2 of 2" in momentum
    assert momentum.endswith("125")


@pytest.mark.browser
def test_the_page_opens_without_a_network(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    from tests.conftest import CHROMIUM

    path = tmp_path / "recall.html"
    path.write_text(accuracy_page("recall", RUNS))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("#figures svg")
        legends = page.locator("#runs .name").all_text_contents()
        ends = page.locator("#figure-rotary .names text").all_text_contents()
        rows = page.locator("tbody tr").all_text_contents()
        browser.close()

    assert legends == ["vanilla", "momentum 0.5"]
    assert len(ends) == 2
    assert len(rows) == 2
    assert not [url for url in requests if not url.startswith("file://")]
