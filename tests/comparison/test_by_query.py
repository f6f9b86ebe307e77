"""Few-shot records paired by query, with numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from momentum_gpt.comparison.by_query import by_query
from momentum_gpt.comparison.paired import paired_table
from momentum_gpt.core.files import append_json_lines
from momentum_gpt.evaluation.records import FewShotRecord

DISAGREE = {
    "a": [1] * 9 + [0] * 1 + [1] * 50 + [0] * 40,
    "b": [0] * 9 + [1] * 1 + [1] * 50 + [0] * 40,
}
"""Of 100 queries, 9 are right in a alone, 1 in b alone, and 50 in both."""

ALTERNATING = [0, 1] * 50


def write(folder: Path, rights: dict[tuple[str, int, int], list[int]], step: int = 10) -> Path:
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
            demonstrations=list(range(k)),
            content_sha256="ab",
            seconds=1.0,
        )
        lines.append({"step": step, "tokens": 64 * step} | record.to_json())
    append_json_lines(folder / "evaluations" / "icl.jsonl", lines)
    return folder


def test_runs_are_compared_query_by_query(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {("x", 4, 0): DISAGREE["a"], ("y", 0, 0): ALTERNATING})
    b = write(tmp_path / "b", {("x", 4, 0): DISAGREE["b"], ("y", 0, 0): ALTERNATING})
    x, y = by_query(a, b)

    assert (x.measure, x.sample, x.pairs, x.paired_by) == ("x, k=4", "1 draw", 100, "query")
    assert (x.first, x.other) == (0.59, 0.51)

    # 10 disagreements: 2 (C(10, 0) + C(10, 1)) / 2^10, and two tests for Holm.
    assert x.p_values == {"McNemar": pytest.approx(22 / 1024)}
    assert x.p_holm == pytest.approx(2 * 22 / 1024)
    assert x.interval[0] < -0.08 < x.interval[1] < 0

    # Student's t of 99 degrees of freedom: 1.98422 at 97.5%, 0.84523 at 80%.
    spread = np.std([-1] * 9 + [1] + [0] * 90, ddof=1)
    assert x.detectable == pytest.approx((1.98422 + 0.84523) * spread / 10, rel=1e-4)

    assert (y.p_values["McNemar"], y.interval) == (1.0, (0.0, 0.0))
    assert [x.is_real, y.is_real] == [True, False]


def test_the_table_marks_what_is_real_and_shows_no_detectable_difference_without_a_spread(
    tmp_path: Path,
) -> None:
    a = write(tmp_path / "a", {("x", 4, 0): DISAGREE["a"], ("y", 0, 0): ALTERNATING})
    b = write(tmp_path / "b", {("x", 4, 0): DISAGREE["b"], ("y", 0, 0): ALTERNATING})
    table = paired_table("title", "a", "b", by_query(a, b))

    x, y = table.rows
    assert [x[-1], y[-1]] == ["*", ""]
    assert y[table.head.index("detectable")] == "-"
    assert x[table.head.index("queries")] == "100"
    assert x[table.head.index("McNemar p")] == "0.021"
    assert x[table.head.index("Holm p")] == "0.043"
    assert x[table.head.index("difference")] == "-0.080"


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
