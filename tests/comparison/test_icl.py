"""Paired comparison of few-shot records, with numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from momentum_gpt.comparison.icl import differences, grid


def write(folder: Path, rights: dict[tuple[str, int, int], list[int]], step: int = 10) -> str:
    """A run's records: right or wrong of each query, by (task, k, seed)."""
    path = folder / "evaluations" / "icl.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for (task, k, seed), right in rights.items():
            line = {
                "step": step,
                "task": task,
                "k": k,
                "seed": seed,
                "n": len(right),
                "right": right,
            }
            file.write(json.dumps(line) + "\n")
    return str(folder)


def test_runs_are_compared_query_by_query(tmp_path: Path) -> None:
    a = write(
        tmp_path / "a", {("x", 4, 0): [1] * 9 + [0] + [1] * 50 + [0] * 40, ("y", 0, 0): [0, 1] * 50}
    )
    b = write(
        tmp_path / "b", {("x", 4, 0): [0] * 9 + [1] + [1] * 50 + [0] * 40, ("y", 0, 0): [0, 1] * 50}
    )
    x, y = differences(a, b)
    assert (x.task, x.k, x.seeds, x.queries) == ("x", 4, 1, 100)
    assert (x.first, x.other) == (0.59, 0.51)
    assert x.p_value == pytest.approx(22 / 1024)
    assert x.p_holm == pytest.approx(2 * 22 / 1024)
    assert x.interval[0] < -0.08 < x.interval[1] < 0
    assert x.detectable == pytest.approx(
        (1.98422 + 0.84523) * np.std([-1] * 9 + [1] + [0] * 90, ddof=1) / 10, rel=1e-4
    )
    assert (y.p_value, y.interval) == (1.0, (0.0, 0.0))
    assert [row[-1] for row in grid("a", "b", [x, y]).rows] == ["*", ""]
    assert (
        grid("a", "b", [x, y]).rows[1][-2] == "-"
    )  # no query differs: nothing is known of what would be found


def test_only_what_both_were_asked_at_their_newest_checkpoint_counts(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {("x", 4, 0): [0] * 10}, step=5)
    write(tmp_path / "a", {("x", 4, 0): [1] * 10, ("x", 4, 1): [1] * 10, ("x", 8, 0): [1] * 10})
    b = write(tmp_path / "b", {("x", 4, 0): [1] * 10, ("x", 8, 0): [1] * 9})
    (only,) = differences(a, b)
    assert (only.k, only.seeds, only.first) == (4, 1, 1.0)
    assert differences(a, str(tmp_path)) == []
