"""Losses paired by document, with numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from momentum_gpt.comparison.by_document import by_document
from momentum_gpt.comparison.paired import paired_table
from momentum_gpt.core.files import append_json_lines
from momentum_gpt.evaluation.records import PerplexityRecord


def write(folder: Path, nats: list[float], sizes: list[int], **more: Any) -> Path:
    """Write a record of a run: nats and number of targets of each document."""
    record = PerplexityRecord(
        context_length=64,
        stride=None,
        documents="stream",
        loss=sum(nats) / sum(sizes),
        ppl=1.0,
        bpb=1.0,
        ppl_word=1.0,
        targets=sum(sizes),
        bytes=1,
        words=1,
        text_sha256="x",
        nats=nats,
        n_targets=sizes,
        document=list(range(len(sizes))),
    )
    line = {"step": 10, "tokens": 640, "data": None} | record.to_json() | more
    append_json_lines(folder / "evaluations" / "perplexity.jsonl", [line])
    return folder


def test_a_difference_that_is_the_same_per_token_in_every_document_is_certain(
    tmp_path: Path,
) -> None:
    sizes = [10, 20, 30, 40]
    a = write(tmp_path / "a", [3.0 * n for n in sizes], sizes)
    b = write(tmp_path / "b", [2.9 * n for n in sizes], sizes)
    (row,) = by_document(a, b)

    assert (row.first, row.other) == pytest.approx((3.0, 2.9))
    assert row.interval == pytest.approx((-0.1, -0.1))
    assert row.detectable == pytest.approx(0, abs=1e-9)
    assert (row.pairs, row.paired_by, row.sample) == (4, "document", "100 targets")
    assert (row.p_values, row.p_holm) == ({}, None)

    table = paired_table("title", "a", "b", [row])
    assert table.rows[0][-1] == "*"
    assert table.rows[0][table.head.index("difference")] == "-0.1000"
    assert table.rows[0][table.head.index("pieces")] == "4"


def test_one_document_that_decides_everything_makes_the_interval_wide(tmp_path: Path) -> None:
    a = write(tmp_path / "a", [30.0] * 10, [10] * 10)
    b = write(tmp_path / "b", [30.0] * 9 + [20.0], [10] * 10)
    (row,) = by_document(a, b)

    assert row.interval[0] < -0.1 < row.interval[1] == 0
    assert paired_table("title", "a", "b", [row]).rows[0][-1] == ""


def test_only_the_same_targets_of_the_newest_step_are_paired_and_the_last_record_of_them_counts(
    tmp_path: Path,
) -> None:
    a = write(tmp_path / "a", [9.0, 9.0], [3, 3], step=5)
    for nats in ([1.0, 1.0], [6.0, 3.0]):
        write(a, nats, [3, 3])
    write(a, [6.0, 3.0], [3, 3], context_length=32, text_sha256="y")
    write(a, [6.0, 3.0], [3, 3], context_length=16)

    b = write(tmp_path / "b", [3.0, 3.0], [3, 3])
    write(b, [6.0, 3.0], [3, 3], context_length=32)

    (row,) = by_document(a, b)
    assert (row.measure, row.first, row.other) == ("validation, context 64", 1.5, 1.0)
    assert by_document(a, tmp_path) == []


def test_text_and_stride_are_named_and_tell_records_apart(tmp_path: Path) -> None:
    a = write(tmp_path / "a", [6.0, 3.0], [3, 3])
    write(a, [6.0, 3.0], [3, 3], data="novel.txt", stride=16)
    b = write(tmp_path / "b", [6.0, 3.0], [3, 3], data="novel.txt", stride=16)

    (row,) = by_document(a, b)
    assert row.measure == "novel.txt, context 64, stride 16"


def test_very_many_documents_are_joined_to_blocks(tmp_path: Path) -> None:
    sizes = [1, 3] * 4000
    a = write(tmp_path / "a", [2.0 * n for n in sizes], sizes)
    b = write(tmp_path / "b", [2.5 * n for n in sizes], sizes)
    (row,) = by_document(a, b)

    assert (row.pairs, row.sample) == (2000, "16,000 targets")
    assert row.interval == pytest.approx((0.5, 0.5))


def test_a_single_document_has_no_interval(tmp_path: Path) -> None:
    a = write(tmp_path / "a", [30.0], [10])
    b = write(tmp_path / "b", [20.0], [10])
    differences = by_document(a, b)

    table = paired_table("title", "a", "b", differences)
    assert not differences[0].is_real
    assert table.rows[0][table.head.index("95% interval")] == "-"
    assert table.rows[0][table.head.index("detectable")] == "-"
