"""The table and the figure of several seeds, with numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from momentum_gpt.comparison.recall import (
    Cell,
    Runs,
    accuracies,
    as_text,
    interval,
    page,
    quarters,
    steps_to_learn,
)
from momentum_gpt.comparison.runs import Run


def run_of(*accuracy: float) -> Run:
    config: Any = None
    return Run(
        "x",
        config,
        [{"step": 50 * (i + 1), "val/acc": value} for i, value in enumerate(accuracy)],
        {},
    )


RUNS: Runs = {
    Cell("vanilla", "rotary"): [run_of(0.1, 0.1, 0.1, 0.1), run_of(0.1, 0.1, 0.1, 0.2)],
    Cell("momentum 0.5", "rotary"): [run_of(0.1, 0.9, 1.0, 1.0), run_of(0.1, 0.5, 0.95, 1.0)],
}


def test_the_interval_is_students() -> None:
    """Mean 0.2, standard deviation 0.1, three values: 0.2 +- 4.3027 x 0.1 / sqrt(3), the table's value for 2 degrees."""
    low, high = interval([0.1, 0.2, 0.3])
    assert low == 0.0  # -0.048 is no accuracy
    assert high == pytest.approx(0.2 + 4.30265 * 0.1 / math.sqrt(3), abs=1e-5)
    assert interval([0.5]) == (0.0, 1.0)


def test_only_steps_that_all_runs_have_are_compared() -> None:
    assert accuracies([run_of(0.1, 0.2), run_of(0.3)]) == {50: [0.1, 0.3]}


def test_a_run_has_learned_at_its_first_step_with_nine_of_ten_right() -> None:
    assert [steps_to_learn(run) for run in RUNS[Cell("momentum 0.5", "rotary")]] == [100, 150]
    assert steps_to_learn(run_of(0.1, 0.2)) == math.inf


def test_quarters_of_the_training() -> None:
    assert quarters(list(range(50, 1001, 50))) == [250, 500, 750, 1000]
    assert quarters([10]) == [10, 10, 10, 10]


def test_the_table_has_a_row_for_each_cell() -> None:
    _, _, vanilla, momentum = as_text(RUNS).splitlines()
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
    path.write_text(page("recall", RUNS))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1300, "height": 900})
        requests: list[str] = []
        opened.on("request", lambda request: requests.append(request.url))
        opened.goto(path.as_uri())
        legends = opened.locator(".legendtext").all_text_contents()
        browser.close()
    assert legends == ["vanilla", "momentum 0.5"]
    assert not [url for url in requests if not url.startswith("file://")]
