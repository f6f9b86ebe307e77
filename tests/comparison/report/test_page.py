"""What a report shows, read from its HTML and its data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from momentum_gpt.comparison.certificate import common_ground
from momentum_gpt.comparison.report import report
from momentum_gpt.comparison.report.curves import BINS, clock, curve
from momentum_gpt.comparison.runs import Run, load_runs
from tests.comparison.report.synthetic import (
    TOKENS,
    VANILLA,
    laptop,
    momentum,
    write_analysis,
    write_comparison,
    write_run,
)


def load(folders: list[Path]) -> list[Run]:
    runs, _ = load_runs(list(map(str, folders)))
    return runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Return vanilla and three decays, two seeds each."""
    folders = write_comparison(tmp_path_factory.mktemp("runs"), seeds=2, few_shot=True)
    for folder in folders:
        write_analysis(folder, 0.2)
    return load(folders)


def data_of(page: str) -> dict[str, Any]:
    """Return what the page draws."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert found is not None
    return json.loads(found[1])


def test_the_verdict_comes_before_everything_else(runs: list[Run]) -> None:
    page = report(runs, [], common_ground(runs), ["momentum is <better>."])
    verdict = page.index('<p class="verdict">momentum is &lt;better&gt;.</p>')
    assert verdict < page.index('id="runs"') < page.index('id="figures"') < page.index("<h2>")


def test_a_caution_stands_at_the_top_and_at_every_table_and_figure(runs: list[Run]) -> None:
    caution = "CONFOUNDED: the learning rates differ."
    page = report(runs, [], [], caution=caution)
    assert page.index(f'role="note">{caution}') < page.index('id="figures"')
    assert data_of(page)["caution"] == caution

    titles = ("Results", "In-context learning beside finetuning", "Written answers")
    for title in (*titles, "What was run", "Differences in the configuration"):
        after = page.split(f"<h2>{title}</h2>")[1]
        assert after.lstrip().startswith(f'<p class="caution">{caution}</p>'), title
    assert 'class="caution"' not in report(runs, [], [])


def test_the_figures_are_those_that_have_something_to_show(runs: list[Run]) -> None:
    figures = [figure["id"] for figure in data_of(report(runs, [], []))["figures"]]
    assert figures == [
        "loss",
        "difference",
        "train",
        "decay",
        "position",
        "frequency",
        "context",
        "documents",
        "score",
        "induction",
        "few-shot-sst2",
        "few-shot-agnews",
        "speed",
    ]
    pair = [figure["id"] for figure in data_of(report([runs[0], runs[4]], [], []))["figures"]]
    assert "decay" not in pair


def test_a_long_curve_is_thinned_and_keeps_its_envelope(tmp_path: Path) -> None:
    path = write_run(tmp_path, "long", VANILLA, steps=20_000, log_every=1)
    other = write_run(tmp_path, "other", VANILLA)
    run = load([path, other])[0]
    width = 20_000 * TOKENS // BINS
    found = curve(run, "train/loss", width)
    assert found is not None
    assert len(found["y"]) == BINS

    # 50 readings are one point.
    losses = [record["train/loss"] for record in run.records if "train/loss" in record]
    third = losses[100:150]
    assert found["y"][2] == pytest.approx(sum(third) / 50, rel=1e-6)
    assert found["low"][2] == pytest.approx(min(third), rel=1e-6)
    assert found["high"][2] == pytest.approx(max(third), rel=1e-6)
    assert found["tokens"][2] == 150 * TOKENS


def test_a_loss_that_is_not_finite_is_not_drawn(tmp_path: Path) -> None:
    path = write_run(tmp_path, "a", VANILLA)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 401, "tokens": 9999999, "train/loss": NaN}\n')
    runs = load([path, write_run(tmp_path, "b", momentum(0.5))])
    data = data_of(report(runs, [], []))
    assert 9999999 not in data["figures"][2]["series"][0]["tokens"]


def test_the_clock_adds_up_what_the_steps_took(tmp_path: Path) -> None:
    records = [
        {"step": 1, "tokens": 100, "train/tokens_per_s": 50.0},
        {"step": 2, "tokens": 400, "train/tokens_per_s": 100.0},
    ]
    found = clock(Run("a", laptop(), records))
    assert found == {"tokens": [0, 100, 400], "seconds": [0.0, 2.0, 5.0]}


def test_answers_to_the_same_queries_stand_side_by_side(runs: list[Run]) -> None:
    page = report([runs[0], runs[4]], [], [])
    answers = page.split("<h2>Written answers</h2>")[1].split("</table>")[0]
    assert "trivia, row 17" in answers
    assert re.search(r"in the year 1900<.*in the year 1906<", answers, re.DOTALL)
    assert "&lt;b&gt;Ada&lt;/b&gt; Lovelace" in answers


def test_what_was_run_names_versions_hashes_and_the_time(runs: list[Run]) -> None:
    page = report(runs, [], [])
    facts = page.split("<h2>What was run</h2>")[1].split("</table>")[0]
    for text in ("torch", "2.13.0", "2026-11-26 12:00:00", "d" * 12, "momentum_0.5_1"):
        assert text in facts


def test_options_stand_once_for_each_variant(runs: list[Run]) -> None:
    table = report(runs, [], []).split("<h2>Differences in the configuration</h2>")[1]
    table = re.sub(r">\s+<", "><", table)
    assert "<td>training.seed</td><td>0, 1</td><td>0, 1</td>" in table
    assert "<td>attention.ema_decay</td><td>-</td><td>0.3</td><td>0.5</td>" in table


def test_the_page_names_no_other_machine(runs: list[Run]) -> None:
    page = report(runs, [], [])
    addresses = set(re.findall(r"https?://[^\s\"'<]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name of SVG, which is never opened
