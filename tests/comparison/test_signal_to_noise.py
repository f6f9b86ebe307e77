"""Signal to noise: the variants' spread over the scatter of a run's last evaluations."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from momentum_gpt.comparison.report import report
from momentum_gpt.comparison.runs import Run
from momentum_gpt.comparison.signal_to_noise import NOTE, noise_of_steps, signal_table
from tests.comparison.test_by_seed import MOMENTUM, run
from tests.comparison.test_history import measured


def made(name: str, seed: int, losses: list[float], decay: float | None = None) -> Run:
    records: list[dict[str, Any]] = []
    for number, loss in enumerate(losses, start=1):
        more = {"val/ppl@16": 10.0, "val/loss@pos8": 5.0, "icl/x/acc@4": loss / 10}
        records.append({"step": number, "tokens": 100 * number, "val/loss": loss, **more})
    given = replace(run(name, seed, 0.0), records=records)
    if decay is None:
        return given
    attention = MOMENTUM | {"ema_decay": decay}
    return replace(given, config=replace(given.config, attention=attention))


def test_the_noise_is_what_is_left_beside_a_line() -> None:
    """1, 2, 6 is a line of 0.5, 3, 5.5 and residuals 0.5, -1, 0.5: 1.5 at one degree of freedom."""
    assert noise_of_steps([([1, 2, 3], [1.0, 2.0, 6.0])]) == pytest.approx(math.sqrt(1.5))
    line = ([1, 2, 3], [5.0, 3.0, 1.0])
    assert noise_of_steps([line]) == pytest.approx(0, abs=1e-9)
    both = noise_of_steps([([1, 2, 3], [1.0, 2.0, 6.0]), line])
    assert both == pytest.approx(math.sqrt(0.75))


def test_it_is_the_standard_deviation_of_what_was_planted() -> None:
    rng = np.random.default_rng(0)
    tokens = [10, 20, 30, 40, 50]
    series = []
    for _ in range(2000):
        values = 3.0 - 0.1 * np.arange(5) + rng.normal(0, 0.02, 5)
        series.append((tokens, values.tolist()))
    assert noise_of_steps(series) == pytest.approx(0.02, rel=0.02)


def test_a_row_has_the_spread_of_the_variants_means_and_the_noise_of_the_last_five() -> None:
    wobble = [99.0, 6.0, 5.0, 4.1, 3.0, 2.0]  # the first one is not looked at
    runs = [
        made("a0", 0, [*wobble[:-1], 2.0]),
        made("a1", 1, [*wobble[:-1], 2.2]),
        made("b0", 0, [*wobble[:-1], 1.8], 0.5),
        made("b1", 1, [*wobble[:-1], 2.0], 0.5),
        made("c0", 0, [*wobble[:-1], 2.6], 0.9),
    ]
    table = signal_table(runs)
    assert table is not None
    assert table.title == "Signal to noise of 3 variants, 5 runs"
    by_metric = {row[0]: dict(zip(table.head, row, strict=True)) for row in table.rows}
    assert list(by_metric) == ["val/loss", "val/ppl@16", "icl/x/acc@4"]

    row = by_metric["val/loss"]
    squares = 0.0
    for one in runs:
        _, (residual,), *_ = np.polyfit(range(5), one.series("val/loss")[1][1:], 1, full=True)
        squares += residual
    noise = math.sqrt(squares / 15)
    assert row["signal"] == "0.7000"  # 2.6 - 1.9
    assert row["noise"] == f"{noise:.4f}"
    assert row["signal / noise"] == f"{0.7 / noise:.1f}"
    assert (row["unit"], row["evaluations"]) == ("nats/token", "5")
    assert by_metric["val/ppl@16"]["signal / noise"] == "-"  # the same everywhere


def test_there_is_no_table_of_one_variant_or_of_too_few_evaluations() -> None:
    runs = [made("a", 0, [3.0, 2.0, 1.5]), made("b", 0, [3.0, 2.0, 1.4], 0.5)]
    assert signal_table(runs) is not None
    assert signal_table(runs[:1]) is None
    assert signal_table([]) is None
    assert signal_table([runs[0], made("b", 0, [3.0, 2.0], 0.5)]) is None


def test_checkpoints_that_evaluate_has_measured_come_first(tmp_path: Path) -> None:
    runs = []
    for name, decay in (("a", None), ("b", 0.5)):
        given = made(name, 0, [9.0, 8.0, 4.0], decay)
        runs.append(measured(given, tmp_path, {6: 3.0, 7: 2.0, 8: 1.0}))
    table = signal_table(runs)
    assert table is not None
    assert table.rows[0][:5] == ["val/loss", "nats/token", "0.0000", "0.0000", "-"]
    assert float(table.rows[-1][3]) > 0.01  # few-shot, which was measured in training alone


def test_the_report_has_the_table_and_says_what_it_is() -> None:
    runs = [made("a", 0, [3.0, 2.0, 1.5]), made("b", 0, [3.0, 2.0, 1.4], 0.5)]
    page = report(runs, [], [])
    assert "<h2>Signal to noise of 2 variants, 2 runs</h2>" in page
    assert "it is not a test" in page
    assert "it is not a test" in NOTE
