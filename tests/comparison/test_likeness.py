"""The likeness of ICL and finetuning by training seed, and over the training."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from momentum_gpt.comparison.by_seed import variants
from momentum_gpt.comparison.compare import compare_runs
from momentum_gpt.comparison.families import compare_pairs
from momentum_gpt.comparison.likeness import courses, likeness_by_seed
from momentum_gpt.comparison.paired import Comparison, PairedDifference
from momentum_gpt.comparison.report.drawn import page_data
from momentum_gpt.comparison.runs import Run, load_runs
from momentum_gpt.comparison.variants import variants_of
from momentum_gpt.core.terminal import ignore_progress
from tests.comparison.report.synthetic import (
    TOKENS,
    VANILLA,
    momentum,
    write_analysis,
    write_checkpoint,
    write_run,
)

SIMAOU = "SimAOU, beyond shuffled labels"


def pairs_of(folder: Path, seeds: int) -> list[tuple[Path, Path]]:
    """Write runs of vanilla and momentum attention without an analysis, a pair for each seed."""
    found = []
    for seed in range(seeds):
        vanilla = write_run(folder, f"vanilla_{seed}", VANILLA, seed)
        found.append((vanilla, write_run(folder, f"momentum_{seed}", momentum(0.5), seed, 0.06)))
    return found


def load(pairs: list[tuple[Path, Path]]) -> list[Run]:
    """Return the runs of all pairs, those of vanilla attention first."""
    folders = [pair[place] for place in (0, 1) for pair in pairs]
    return load_runs(list(map(str, folders)))[0]


def compared(pairs: list[tuple[Path, Path]]) -> list[Comparison]:
    return likeness_by_seed(variants(load(pairs)))


def row_of(comparison: Comparison, measure: str) -> PairedDifference:
    (found,) = [row for row in comparison.differences if row.measure == measure]
    return found


def change_lines(run: Path, change: dict[str, object], task: str = "") -> None:
    """Change entries of the lines of a run's analysis, of one task or of all."""
    path = run / "evaluations" / "analysis.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if task in ("", line["task"]):
            line |= change
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_seeds_are_paired_each_beyond_its_own_null(tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path, 4)
    generator = np.random.default_rng(0)
    # Model, task, value and null: 4 seeds x 2 variants x 2 tasks x 2.
    numbers = generator.uniform(0, 1, (4, 2, 2, 2)).round(3)
    for pair, of_seed in zip(pairs, numbers, strict=True):
        for run, of_run in zip(pair, of_seed, strict=True):
            for task, (value, null) in zip(("sst2", "mr"), of_run.tolist(), strict=True):
                write_analysis(run, value, (task,), shuffled=null)

    (comparison,) = compared(pairs)
    assert comparison.title == (
        "ICL beside finetuning of momentum 0.5 against vanilla, paired by training seed"
    )
    row = row_of(comparison, SIMAOU)
    excess = (numbers[..., 0] - numbers[..., 1]).mean(axis=2)  # (seeds, variants)
    tested = stats.ttest_rel(excess[:, 1], excess[:, 0])
    assert [row.first, row.other] == pytest.approx(excess.mean(axis=0))
    assert row.p_values["t-test"] == pytest.approx(tested.pvalue)
    assert row.interval == pytest.approx(tested.confidence_interval(0.95))
    assert (row.pairs, row.unit, row.sample) == (4, "cosine", "2 tasks")


def test_what_has_no_such_null_is_compared_as_it_is(tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path, 2)
    for pair in pairs:
        for run in pair:
            write_analysis(run, 0.2)
    (comparison,) = compared(pairs)
    measures = [row.measure for row in comparison.differences]
    assert measures == ["accuracy, ICL", SIMAOU, "order sensitivity, ICL"]
    accuracy = row_of(comparison, "accuracy, ICL")
    assert (accuracy.first, accuracy.unit, accuracy.digits) == (62.5, "%", 1)
    assert row_of(comparison, "order sensitivity, ICL").first == pytest.approx(0.021)


def test_only_tasks_that_all_runs_were_asked_alike_count(tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path, 2)
    for pair in pairs:
        for run in pair:
            write_analysis(run, 0.2, ("sst2",))
            write_analysis(run, 0.8, ("mr",))
    write_analysis(pairs[0][0], 0.8, ("subj",))
    row = row_of(compared(pairs)[0], SIMAOU)
    assert (row.sample, row.first) == ("2 tasks", pytest.approx(0.45))
    (looked_at,) = likeness_by_seed(variants(load(pairs)), looked_at=True)
    assert list(row_of(looked_at, SIMAOU).p_values) == ["anytime"]

    change_lines(pairs[1][1], {"data_sha256": "0" * 64}, "mr")  # other examples
    row = row_of(compared(pairs)[0], SIMAOU)
    assert (row.sample, row.first) == ("1 task", pytest.approx(0.15))
    change_lines(pairs[1][1], {"data_sha256": "0" * 64}, "sst2")
    assert compared(pairs) == []


def test_a_measure_that_one_run_lacks_is_left_out(tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path, 2)
    for pair in pairs:
        for run in pair:
            write_analysis(run, 0.2)
    path = pairs[1][0] / "evaluations" / "analysis.jsonl"
    # JSON has no NaN: an undefined number is null.
    path.write_text(re.sub(r'("SimAOU".*?"value": )[^,]*', r"\1null", path.read_text(), count=1))
    measures = [row.measure for row in compared(pairs)[0].differences]
    assert SIMAOU in measures  # the first line is beside Gaussian noise
    path.write_text(re.sub(r'("SimAOU".*?"value": )[^,]*', r"\1null", path.read_text()))
    measures = [row.measure for row in compared(pairs)[0].differences]
    assert measures == ["accuracy, ICL", "order sensitivity, ICL"]
    for run in pairs[0]:
        change_lines(run, {"measure": "Kendall"}, "agnews")
    assert compared(pairs) == []  # no measure of both tasks is left


def test_pairs_were_trained_on_as_many_tokens_and_are_two_at_least(tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path, 3)
    for pair in pairs[1:]:
        for run in pair:
            write_analysis(run, 0.2)
    write_analysis(pairs[0][0], 0.9)
    for run in pairs[1]:  # an earlier checkpoint, analysed later
        write_analysis(run, 0.9, checkpoint=write_checkpoint(run, 100))
    (comparison,) = compared(pairs)
    assert row_of(comparison, SIMAOU).first == pytest.approx(0.15)
    assert row_of(comparison, SIMAOU).pairs == 2  # seed 0 of momentum was not analysed

    change_lines(pairs[1][1], {"tokens": 1024})
    assert compared(pairs) == []


def test_each_way_of_measuring_has_a_table_of_its_own(tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path, 2)
    for pair in pairs:
        for run, value in zip(pair, (0.2, 0.3), strict=True):
            write_analysis(run, value)
            write_analysis(run, value + 0.1, way="label")
    found = compared(pairs)
    assert [row.measure for row in found[1].differences] == [SIMAOU]  # ICL is the same again
    title = "ICL beside finetuning of momentum 0.5 against vanilla, paired by training seed, "
    assert [one.title.removeprefix(title) for one in found] == [
        "finetuning=backprop",
        "finetuning=label",
    ]
    assert [row_of(one, SIMAOU).first for one in found] == pytest.approx([0.15, 0.25])

    printed = compare_runs([str(run.folder) for run in load(pairs)])
    assert f"{title}finetuning=label:" in printed
    assert "less what finetuning on shuffled labels gives" in printed
    assert f"{title}finetuning=label" in (tmp_path / "report.html").read_text()

    for pair in pairs:
        for run in pair:
            write_analysis(run, 0.2, k=16)
    shown = [one.differences[0].measure for one in compared(pairs)]
    assert shown == ["accuracy, ICL", "accuracy, ICL", SIMAOU]  # k=16, and k=32 both ways


def test_p_values_are_adjusted_for_all_ways_together(tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path, 3)
    for number, (vanilla, other) in enumerate(pairs):
        for way in ("backprop", "label"):
            write_analysis(vanilla, 0.2, way=way)
            write_analysis(other, 0.3 + 0.001 * number, way=way)
    found = [
        row_of(comparison, SIMAOU)
        for comparison in compare_pairs(load(pairs), ignore_progress)
        if comparison.title.startswith("ICL beside finetuning")
    ]
    assert len(found) == 2
    # Four rows in all: accuracy and order sensitivity of ICL are the same beside either way.
    for row in found:
        assert row.p_holm == pytest.approx(4 * row.p_values["t-test"])


def test_a_number_over_the_training_is_the_mean_over_tasks(tmp_path: Path) -> None:
    ((vanilla, other),) = pairs = pairs_of(tmp_path, 1)
    for run, value in ((vanilla, 0.3), (other, 0.4)):
        write_analysis(run, value, ("sst2",))
        write_analysis(run, value + 0.2, ("mr",))
    assert courses(load(pairs)) == []  # of one checkpoint each

    for step in (100, 200):
        checkpoint = write_checkpoint(vanilla, step)
        write_analysis(vanilla, step / 1000, ("sst2",), checkpoint=checkpoint, shuffled=0.02)
        write_analysis(vanilla, step / 1000, ("mr",), checkpoint=checkpoint, shuffled=0.04)
    for step in (50, 300):  # the other task is missing
        write_analysis(vanilla, 0.9, ("sst2",), checkpoint=write_checkpoint(vanilla, step))

    for run in (vanilla, other):
        path = run / "evaluations" / "analysis.jsonl"
        path.write_text(path.read_text().replace('"SimAOU"', '"SimAOU, without scaling"'))
    accuracy, simaou = courses(load(pairs))
    assert accuracy.title == "ICL beside finetuning: accuracy, ICL"
    assert simaou.title == (
        "ICL beside finetuning: SimAOU, without scaling, beyond shuffled labels"
    )
    assert (accuracy.unit, simaou.unit) == ("%", "cosine")
    assert simaou.tasks == ["sst2", "mr"]
    assert [at for at, _ in simaou.points[0]] == [100 * TOKENS, 200 * TOKENS, 400 * TOKENS]
    assert [value for _, value in simaou.points[0]] == pytest.approx([0.07, 0.17, 0.35])
    assert simaou.points[1] == [(400 * TOKENS, pytest.approx(0.45))]

    runs = load(pairs)
    figure = page_data(runs, variants_of(runs), None)["figures"][-2]  # the last one is of speed
    assert figure["title"] == simaou.title
    first, second = figure["series"]
    assert (first["run"], first["tokens"]) == (0, [409600, 819200, 1638400])
    assert (second["run"], second["y"]) == (1, [0.45])
    assert first["low"] == [None] * 3
