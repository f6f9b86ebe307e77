"""Losses paired document by document, with numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from momentum_gpt.comparison.perplexity import differences, grid


def write(folder: Path, nats: list[float], sizes: list[int], **more: Any) -> str:
    """A record of a run: nats and targets of each document."""
    line = {
        "step": 10,
        "context_length": 64,
        "stride": None,
        "documents": "stream",
        "text_sha256": "x",
        "data": None,
    }
    line |= {
        "nats": nats,
        "n_targets": sizes,
        "targets": sum(sizes),
        "loss": sum(nats) / sum(sizes),
        **more,
    }
    path = folder / "evaluations" / "perplexity.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    return str(folder)


def test_a_difference_that_is_the_same_per_token_in_every_document_is_certain(
    tmp_path: Path,
) -> None:
    sizes = [10, 20, 30, 40]
    a = write(tmp_path / "a", [3.0 * n for n in sizes], sizes)
    b = write(tmp_path / "b", [2.9 * n for n in sizes], sizes)
    (row,) = differences(a, b)
    assert (row.first, row.other) == pytest.approx((3.0, 2.9))
    assert row.interval == pytest.approx((-0.1, -0.1))
    assert row.detectable == pytest.approx(0, abs=1e-9)
    assert (row.pieces, row.targets) == (4, 100)
    assert grid("a", "b", [row]).rows[0][-1] == "*"


def test_one_document_that_decides_it_all_makes_the_interval_wide(tmp_path: Path) -> None:
    a, b = (
        write(tmp_path / "a", [30.0] * 10, [10] * 10),
        write(tmp_path / "b", [30.0] * 9 + [20.0], [10] * 10),
    )
    (row,) = differences(a, b)
    assert row.interval[0] < -0.1 < row.interval[1] == 0
    assert grid("a", "b", [row]).rows[0][-1] == ""


def test_only_the_same_targets_of_the_newest_step_are_paired_and_the_last_record_of_them_counts(
    tmp_path: Path,
) -> None:
    a = write(tmp_path / "a", [9.0, 9.0], [3, 3], step=5)
    for nats in ([1.0, 1.0], [6.0, 3.0]):
        write(tmp_path / "a", nats, [3, 3])
    write(tmp_path / "a", [6.0, 3.0], [3, 3], context_length=32, text_sha256="y")
    write(tmp_path / "a", [6.0, 3.0], [3, 3], context_length=16)
    b = write(tmp_path / "b", [3.0, 3.0], [3, 3])
    write(tmp_path / "b", [6.0, 3.0], [3, 3], context_length=32)
    (row,) = differences(a, b)
    assert (row.context_length, row.first, row.other) == (64, 1.5, 1.0)
    assert differences(a, str(tmp_path)) == []


def test_very_many_documents_are_joined(tmp_path: Path) -> None:
    sizes = [1, 3] * 4000
    a, b = (
        write(tmp_path / name, [loss * n for n in sizes], sizes)
        for name, loss in (("a", 2.0), ("b", 2.5))
    )
    (row,) = differences(a, b)
    assert (row.pieces, row.targets) == (2000, 16000)
    assert row.interval == pytest.approx((0.5, 0.5))
