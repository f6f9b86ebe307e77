"""In-context learning beside finetuning in a report: what `analyze` left in the runs compared."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from momentum_gpt.comparison.analysed import ONE_DRAW, SEEDS, analysed, over_runs
from momentum_gpt.comparison.report import report
from momentum_gpt.comparison.runs import Run, load_runs
from momentum_gpt.core.errors import UserError
from momentum_gpt.evaluation.finding import NOT_ABOVE, Finding
from tests.comparison.report.synthetic import VANILLA, momentum, write_analysis, write_run

TITLE = "<h2>In-context learning beside finetuning</h2>"


def pair(folder: Path, seeds: int = 1) -> list[Path]:
    """Write runs of two variants without an analysis: of vanilla, and then of momentum."""
    found = [write_run(folder, f"vanilla_{seed}", VANILLA, seed) for seed in range(seeds)]
    for seed in range(seeds):
        found.append(write_run(folder, f"momentum_{seed}", momentum(0.5), seed, 0.06))
    return found


def load(folders: list[Path]) -> list[Run]:
    return load_runs(list(map(str, folders)))[0]


def rows_of(page: str, task: str) -> list[list[str]]:
    """Return the cells of a task's table in a report; a bar stands between the parts of a cell."""
    section = page.split(TITLE)[1].split(f"<summary>{task}</summary>")[1].split("</table>")[0]
    rows = []
    for row in section.split("<tr>")[1:]:
        cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
        rows.append([re.sub(r"(<[^>]*>)+", "|", cell).strip("|") for cell in cells])
    return rows


def test_a_report_has_a_column_for_each_variant_and_the_hardest_null(tmp_path: Path) -> None:
    folders = pair(tmp_path)
    assert TITLE not in report(load(folders), [], [])
    for path, likeness in zip(folders, (0.2, 0.35), strict=True):
        write_analysis(path, likeness)
    page = report(load(folders), [], [])
    assert rows_of(page, "agnews") == [
        ["measure", "vanilla|1 seed", "momentum 0.5|1 seed"],
        ["accuracy, ICL|%", *["62.5 [55.0, 70.0]|zero-shot 50.0: above its null"] * 2],
        [
            "SimAOU|cosine",
            "0.200 [0.150, 0.250]|mismatched queries 0.100: above its null",
            "0.350 [0.300, 0.400]|mismatched queries 0.100: above its null",
        ],
        ["order sensitivity, ICL|share", *["0.021 [0.010, 0.030]"] * 2],
    ]
    assert "over seeds (Student" not in page
    assert "Measured with k=32, draws=5, queries=200, protocol=default" in page


@pytest.mark.parametrize("draws", [1, 5])
def test_intervals_of_one_draw_are_said_to_be_over_queries(tmp_path: Path, draws: int) -> None:
    folders = pair(tmp_path)
    for path in folders:
        write_analysis(path, 0.2, draws=draws)
    section = analysed(load(folders))
    assert section is not None
    assert (ONE_DRAW in section.notes) == (draws == 1)


def test_several_seeds_are_one_column_over_seeds(tmp_path: Path) -> None:
    folders = pair(tmp_path, seeds=3)
    likeness = np.array([0.2, 0.3, 0.25])
    for path, value in zip(folders, [*likeness, 0.1, 0.11, 0.06], strict=True):
        write_analysis(path, float(value))
    section = analysed(load(folders))
    assert section is not None
    assert SEEDS in section.notes

    head, _, (_, vanilla, other), _ = rows_of(report(load(folders), [], []), "sst2")
    assert head == ["measure", "vanilla|3 seeds", "momentum 0.5|3 seeds"]
    low, high = stats.t.interval(0.95, 2, likeness.mean(), stats.sem(likeness))
    assert vanilla.startswith(f"0.250 [{low:.3f}, {high:.3f}]|mismatched queries 0.100: ")
    assert other.endswith("mismatched queries 0.100: not above its null")


def test_seeds_are_paired_with_their_own_nulls() -> None:
    gaps = [0.02, 0.021, 0.019]
    seeds = []
    for null, gap in zip((0.1, 0.5, 0.9), gaps, strict=True):
        seeds.append(Finding(null + gap, (0, 1), null, (0, 1), 0.9, 5, 200))
    found = over_runs(seeds, "cosine")
    assert found.value == pytest.approx(0.52)
    assert found.null == pytest.approx(0.5)
    assert found.p_value == pytest.approx(stats.ttest_1samp(gaps, 0).pvalue)
    assert over_runs(seeds[:1], "cosine") == seeds[0]
    distances = [replace(one, is_distance=True) for one in seeds]
    assert over_runs(distances, "share").is_distance
    percent = [Finding(value, (0, 100), 50, (0, 1), 0.9, 5, 9) for value in (80.0, 100.0)]
    assert over_runs(percent, "%").interval == (0.0, 100.0)


def test_a_distance_is_told_to_be_below_its_null(tmp_path: Path) -> None:
    folders = pair(tmp_path)
    for path in folders:
        write_analysis(path, 0.2)
        lines = path / "evaluations" / "analysis.jsonl"
        lines.write_text(lines.read_text().replace('"SimAOU"', '"total variation"'))
    page = report(load(folders), [], [])
    assert "Gaussian noise 0.000: above its null" in page  # the lowest one is the hardest
    for path in folders:
        lines = path / "evaluations" / "analysis.jsonl"
        lines.write_text(lines.read_text().replace('"p_value": 0.001', '"p_value": 0.5'))
    assert "Gaussian noise 0.000: not below its null" in report(load(folders), [], [])


def test_verdicts_are_adjusted_for_the_whole_section(tmp_path: Path) -> None:
    folders = pair(tmp_path)
    for path in folders:
        write_analysis(path, 0.2, ("sst2", "mr", "subj", "cb"))
        lines = path / "evaluations" / "analysis.jsonl"
        lines.write_text(lines.read_text().replace('"p_value": 0.001', '"p_value": 0.01'))
    section = analysed(load(folders))
    assert section is not None
    # Eight numbers have the same measure and null: 8 * 0.01 > 0.05.
    for table in section.tables:
        (cells,) = [cells for (name, _), cells in table.rows.items() if name == "SimAOU"]
        assert [cell.finding.verdict for cell in cells if cell] == [NOT_ABOVE] * 2


def test_what_was_not_measured_alike_is_not_side_by_side(tmp_path: Path) -> None:
    folders = [*pair(tmp_path), write_run(tmp_path, "other", momentum(0.9))]
    write_analysis(folders[0], 0.2, ("sst2", "mr"))
    write_analysis(folders[1], 0.3, ("sst2",))
    write_analysis(folders[1], 0.4, ("mr",), k=16)
    write_analysis(folders[1], 0.5, ("sst2",), way="label")
    section = analysed(load(folders))
    assert section is not None
    assert [table.title for table in section.tables] == ["sst2"]
    assert section.notes[-3:] == [
        "Not side by side, as not measured alike: mr with k=32 (vanilla) and k=16 (momentum 0.5).",
        "Not side by side, as not measured alike: sst2 with finetuning=label (momentum 0.5).",
        "Not analysed: momentum 0.9.",
    ]

    write_analysis(folders[0], 0.1, ("sst2",), way="label")
    section = analysed(load(folders))
    assert section is not None
    titles = [table.title for table in section.tables]
    assert titles == ["sst2, finetuning=backprop", "sst2, finetuning=label"]


def test_a_line_of_another_version_is_named(tmp_path: Path) -> None:
    folders = pair(tmp_path)
    path = folders[0] / "evaluations" / "analysis.jsonl"
    path.write_text('{"step": 400, "task": "sst2"}\n')
    with pytest.raises(UserError, match=r"line 1 of .*analysis.jsonl is not a record"):
        analysed(load(folders))
