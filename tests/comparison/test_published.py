"""Published results beside those of our runs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from momentum_gpt.comparison.published import PUBLISHED, beside_published
from momentum_gpt.comparison.runs import Run
from momentum_gpt.core.config import PAPERS
from tests.comparison.test_by_seed import run


def measured(of: Run, ppl: float, train: float, icl: dict[str, Any]) -> Run:
    """Return a run with three perplexities, twelve readings of the training loss, and tasks."""
    seq_len = of.config.model.seq_len
    readings = [{"step": step, "tokens": step, "train/loss": 9.0} for step in (1, 2)]
    readings += [{"step": 3 + step, "tokens": step, "train/loss": train} for step in range(10)]
    lengths = {f"val/ppl@{seq_len // part}": ppl + part for part in (1, 2, 4)}
    last = of.records[-1] | lengths | icl
    return replace(of, records=[*readings, last])


def test_the_paper_is_the_paper() -> None:
    """The averages of table 7 as the paper prints them: a number typed wrongly would change one."""
    assert set(PUBLISHED) == set(PAPERS)
    tasks = PUBLISHED["dai2023"].accuracy.values()
    assert sum(first for first, _ in tasks) / 6 == pytest.approx(51.9, abs=0.05)
    assert sum(other for _, other in tasks) / 6 == pytest.approx(54.7, abs=0.06)
    gains = [first - other for first, other in PUBLISHED["dai2023"].perplexity.values()]
    assert gains == pytest.approx([0.06, 0.13, 0.14, 0.12])


def test_ours_stand_beside_the_paper_s_as_means_over_seeds() -> None:
    icl = {"icl/sst5/acc@0": 0.1, "icl/sst5/acc@32": 0.25}
    runs = [
        measured(run("a0", 0, 5.0), 10.0, 2.0, icl),
        measured(run("a1", 1, 5.0), 12.0, 2.0, icl),
        measured(run("b0", 0, 5.0, True), 9.0, 1.5, icl | {"icl/sst5/acc@32": 0.75}),
        measured(run("b1", 1, 5.0, True), 9.0, 1.5, icl),
    ]
    table = beside_published(runs, "dai2023")
    assert table.head[1:] == [
        "paper: vanilla",
        "momentum",
        "vanilla (2 seeds)",
        "momentum 0.5 (2 seeds)",
    ]
    rows = {row[0]: row[1:] for row in table.rows}
    trained = [f"{math.exp(loss):.2f}" for loss in (2.0, 1.5)]
    assert rows["perplexity, training"] == ["17.61", "17.55", *trained]
    assert rows["perplexity, 1/4 context"] == ["19.50", "19.37", "15.00", "13.00"]
    assert rows["perplexity, whole context"] == ["15.14", "15.02", "12.00", "10.00"]
    gain = [f"{value:+.4f}" for value in (math.log(15.14 / 15.02), math.log(12 / 10))]
    assert rows["  gain in nats"] == ["", gain[0], "", gain[1]]
    assert rows["sst5, accuracy in %"] == ["25.3", "27.4", "25.0", "50.0"]
    assert len(rows) == 6  # no other task was measured, and no average


def test_what_was_not_measured_is_a_dash() -> None:
    runs = [run("a", 0, 5.0), run("b", 0, 5.0, True)]
    rows = beside_published(runs, "dai2023").rows
    assert [row[3:] for row in rows[:3]] == [["-", "-"]] * 3
