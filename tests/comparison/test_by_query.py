"""Few-shot records paired by query, with numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from momentum_gpt.comparison.by_query import by_query
from momentum_gpt.comparison.paired import Comparison, with_holm
from momentum_gpt.core.files import append_json_lines
from momentum_gpt.evaluation.records import FewShotRecord

DISAGREE = {
    "a": [1] * 9 + [0] * 1 + [1] * 50 + [0] * 40,
    "b": [0] * 9 + [1] * 1 + [1] * 50 + [0] * 40,
}
"""Of 100 queries, 9 are right in a alone, 1 in b alone, and 50 in both."""

ALTERNATING = [0, 1] * 50


def write(
    folder: Path,
    rights: dict[tuple[str, int, int], list[int]],
    step: int = 10,
    **more: Any,
) -> Path:
    """Write the records of a run: for each (task, k, seed), 1 for each query answered right."""
    lines = []
    for (task, k, seed), right in rights.items():
        record = FewShotRecord(
            task=task,
            k=k,
            k_asked=k,
            seed=seed,
            left_out=0,
            n=len(right),
            accuracies={},
            acc=float(np.mean(right)),
            soft=0.5,
            majority=0.5,
            chosen=[],
            right=right,
            loss=[],
            queries=list(range(len(right))),
            seconds=1.0,
            demonstrations=[seed + number for number in range(k)],
            content_sha256=f"{task} {k} {seed}",
        )
        lines.append({"step": step, "tokens": 64 * step} | record.to_json() | more)
    append_json_lines(folder / "evaluations" / "icl.jsonl", lines)
    return folder


def test_runs_are_compared_query_by_query(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {("x", 4, 0): DISAGREE["a"], ("y", 0, 0): ALTERNATING})
    b = write(tmp_path / "b", {("x", 4, 0): DISAGREE["b"], ("y", 0, 0): ALTERNATING})
    x, y = by_query(a, b)

    assert (x.measure, x.sample, x.pairs, x.paired_by) == ("x, k=4", "1 draw", 100, "query")
    assert (x.first, x.other) == (0.59, 0.51)

    # 10 disagreements: 2 (C(10, 0) + C(10, 1)) / 2^10.
    gaps = [-1] * 9 + [1] + [0] * 90
    assert x.p_values["t-test"] == pytest.approx(ttest_1samp(gaps, 0).pvalue)
    assert x.p_values["McNemar"] == pytest.approx(22 / 1024)
    assert x.interval[0] < -0.08 < x.interval[1] < 0

    # Student's t of 99 degrees of freedom: 1.98422 at 97.5%, 0.84523 at 80%.
    spread = np.std(gaps, ddof=1)
    assert x.detectable == pytest.approx((1.98422 + 0.84523) * spread / 10, rel=1e-4)

    assert (y.p_values["McNemar"], y.interval) == (1.0, (0.0, 0.0))


def test_the_star_is_a_holm_p_below_5_percent_of_all_rows_printed(tmp_path: Path) -> None:
    """Two tables of three rows in all; without a spread, there is no detectable difference."""
    a = write(tmp_path / "a", {("x", 4, 0): DISAGREE["a"], ("y", 0, 0): ALTERNATING})
    b = write(tmp_path / "b", {("x", 4, 0): DISAGREE["b"], ("y", 0, 0): ALTERNATING})
    c = write(tmp_path / "c", {("y", 0, 0): ALTERNATING})
    comparisons = [
        Comparison("b", "a", "b", by_query(a, b)),
        Comparison("c", "a", "c", by_query(a, c)),
    ]
    table, _ = (comparison.table() for comparison in with_holm(comparisons))

    x, y = table.rows
    p_value = comparisons[0].differences[0].p_values["t-test"]
    assert p_value == pytest.approx(0.0107, abs=1e-4)
    assert x[table.head.index("t-test p")] == "0.011"
    assert x[table.head.index("Holm p")] == f"{3 * p_value:.3f}"
    assert x[table.head.index("McNemar p")] == "0.021"
    assert [x[-1], y[-1]] == ["*", ""]
    assert y[table.head.index("detectable")] == "-"
    assert x[table.head.index("queries")] == "100"
    assert x[table.head.index("difference")] == "-0.080"

    # With two rows more, the same p-value is not small enough.
    five = [*comparisons, *comparisons[1:] * 2]
    assert with_holm(five)[0].differences[0].p_holm == pytest.approx(5 * p_value)
    assert not with_holm(five)[0].differences[0].is_real


def test_queries_are_paired_by_their_numbers_and_not_by_how_many_there_are(tmp_path: Path) -> None:
    """Queries 0 to 3 and queries 10 to 13 are four each, and other ones."""
    a = write(tmp_path / "a", {("x", 4, 0): [1, 0, 1, 0]})
    b = write(tmp_path / "b", {("x", 4, 0): [1, 0, 1, 0]}, queries=[10, 11, 12, 13])
    assert by_query(a, b) == []


@pytest.mark.parametrize(
    "other", [{"demonstrations": [7, 8, 9, 5]}, {"content_sha256": "another template"}]
)
def test_other_demonstrations_or_texts_are_another_question(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    draws = {("x", 4, 0): [1, 0, 1, 0]}
    a = write(tmp_path / "a", draws)
    assert len(by_query(a, write(tmp_path / "b", draws))) == 1
    assert by_query(a, write(tmp_path / "c", draws, **other)) == []


def test_only_what_both_were_asked_at_their_newest_checkpoint_counts(tmp_path: Path) -> None:
    right = [1] * 10
    a = write(tmp_path / "a", {("x", 4, 0): [0] * 10}, step=5)
    write(a, {("x", 4, 0): right, ("x", 4, 1): right, ("x", 8, 0): right})
    b = write(tmp_path / "b", {("x", 4, 0): right, ("x", 8, 0): [1] * 9})

    (only,) = by_query(a, b)
    assert (only.measure, only.sample, only.first) == ("x, k=4", "1 draw", 1.0)
    assert by_query(a, tmp_path) == []


def test_of_records_made_twice_the_last_counts(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {("x", 4, 0): [0] * 10})
    write(a, {("x", 4, 0): [1] * 10})
    b = write(tmp_path / "b", {("x", 4, 0): [1] * 10})

    (only,) = by_query(a, b)
    assert (only.first, only.other) == (1.0, 1.0)


def test_all_draws_that_both_have_are_used(tmp_path: Path) -> None:
    draws = {("x", 4, 0): [1, 1, 0, 0], ("x", 4, 1): [1, 1, 1, 1]}
    a = write(tmp_path / "a", draws)
    b = write(tmp_path / "b", draws)

    (only,) = by_query(a, b)
    assert (only.sample, only.pairs, only.first) == ("2 draws", 4, 0.75)


def test_written_answers_are_compared_by_their_overlap_too(tmp_path: Path) -> None:
    """F1 gains 0.5, 0, 0.5, 0 on four queries: mean 0.25, and no McNemar's test of it."""
    draws = {("x", 4, 0): [0, 1, 0, 1]}
    a = write(tmp_path / "a", draws, f1=[0.0, 1.0, 0.0, 1.0])
    b = write(tmp_path / "b", draws, f1=[0.5, 1.0, 0.5, 1.0])

    accuracy, overlap = by_query(a, b)
    assert [accuracy.unit, overlap.unit] == ["accuracy", "F1"]
    assert (accuracy.difference, overlap.difference) == (0.0, 0.25)
    assert overlap.p_values["t-test"] == pytest.approx(ttest_1samp([0.5, 0, 0.5, 0], 0).pvalue)

    (comparison,) = with_holm([Comparison("title", "a", "b", [accuracy, overlap])])
    table = comparison.table()
    assert table.rows[1][table.head.index("McNemar p")] == "-"
