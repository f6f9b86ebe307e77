"""Losses paired by document, with numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from momentum_gpt.comparison.by_document import by_document
from momentum_gpt.comparison.paired import Comparison, notes, with_holm
from momentum_gpt.core.files import append_json_lines
from momentum_gpt.evaluation.records import PerplexityRecord
from momentum_gpt.evaluation.statistics import over_documents


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
        document=list(range(len(sizes))),
        nats=nats,
        n_targets=sizes,
        nats_of_text=nats,
        n_bytes=[4 * size for size in sizes],
        n_words=[size // 2 for size in sizes],
        text=[f"text {number}" for number in range(len(sizes))],
    )
    line = {"step": 10, "tokens": 640, "data": None} | record.to_json() | more
    append_json_lines(folder / "evaluations" / "perplexity.jsonl", [line])
    return folder


def test_a_difference_that_is_the_same_per_token_in_every_document_is_certain(
    tmp_path: Path,
) -> None:
    """Of eight documents, 2 of 2^8 sign flips are as far from 0."""
    sizes = [10, 20, 30, 40] * 2
    a = write(tmp_path / "a", [3.0 * n for n in sizes], sizes)
    b = write(tmp_path / "b", [2.9 * n for n in sizes], sizes)
    (row,) = by_document(a, b)

    assert (row.first, row.other) == pytest.approx((3.0, 2.9))
    assert row.interval == pytest.approx((-0.1, -0.1))
    assert row.detectable == pytest.approx(0, abs=1e-9)
    assert (row.pairs, row.paired_by, row.sample) == (8, "document", "200 targets")
    assert row.p_values == {"sign-flip": 2 / 2**8}

    (comparison,) = with_holm([Comparison("title", "a", "b", [row])])
    table = comparison.table()
    assert table.rows[0][-1] == "*"
    assert table.rows[0][table.head.index("difference")] == "-0.1000"
    assert table.rows[0][table.head.index("documents")] == "8"
    assert any(note.startswith("Only 8 documents") for note in notes([comparison]))


def test_the_interval_is_over_documents_of_their_sizes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 500, 40).tolist()
    first = [3.0 * n for n in sizes]
    more = generator.normal(0.0, 0.1, 40) * sizes
    a = write(tmp_path / "a", first, sizes)
    b = write(tmp_path / "b", (first + more).tolist(), sizes)

    (row,) = by_document(a, b)
    expected = over_documents(more, np.array(sizes))
    assert row.interval == pytest.approx(expected.interval)
    assert row.difference == pytest.approx(more.sum() / sum(sizes))


def test_one_document_that_decides_everything_decides_nothing(tmp_path: Path) -> None:
    a = write(tmp_path / "a", [30.0] * 10, [10] * 10)
    b = write(tmp_path / "b", [30.0] * 9 + [20.0], [10] * 10)
    (row,) = by_document(a, b)

    assert row.interval[0] < -0.1 < row.interval[1] == 0
    assert row.p_values["sign-flip"] == 1.0


def test_only_records_of_the_newest_step_count_and_the_last_of_each_kind(tmp_path: Path) -> None:
    a = write(tmp_path / "a", [9.0, 9.0], [3, 3], step=5)
    for nats in ([1.0, 1.0], [6.0, 3.0]):
        write(a, nats, [3, 3])
    write(a, [6.0, 3.0], [3, 3], context_length=16)

    b = write(tmp_path / "b", [3.0, 3.0], [3, 3])
    write(b, [6.0, 3.0], [3, 3], context_length=32)

    (row,) = by_document(a, b)
    assert (row.measure, row.first, row.other) == ("validation, context 64", 1.5, 1.0)
    assert by_document(a, tmp_path) == []


def test_only_documents_of_which_both_scored_the_same_are_paired(tmp_path: Path) -> None:
    """Of four, another text of the second was scored, and one target more of the third."""
    a = write(tmp_path / "a", [6.0, 50.0, 70.0, 3.0], [3, 3, 3, 6])
    texts = ["text 0", "another", "text 2", "text 3"]
    b = write(tmp_path / "b", [3.0, 60.0, 80.0, 3.0], [3, 3, 4, 6], text=texts)

    (row,) = by_document(a, b)
    assert (row.pairs, row.sample) == (2, "9 targets")
    assert (row.first, row.other) == pytest.approx((1.0, 6 / 9))

    elsewhere = write(tmp_path / "c", [1.0, 1.0], [3, 3], text=["x", "y"])
    assert by_document(a, elsewhere) == []


def test_across_tokenizers_bytes_and_words_are_the_units(tmp_path: Path) -> None:
    """The same 40 bytes and 5 words of two documents, in 10 and in 14 tokens."""
    a = write(tmp_path / "a", [10.0, 20.0], [4, 6])
    same = {"n_bytes": [16, 24], "n_words": [2, 3]}
    b = write(tmp_path / "b", [9.0, 18.0], [6, 8], **same)
    assert by_document(a, b) == []

    per_byte, per_word = by_document(a, b, ("byte", "word"))
    assert (per_byte.unit, per_byte.sample) == ("bits/byte", "40 bytes")
    assert per_byte.first == pytest.approx(30 / 40 / math.log(2))
    assert per_byte.difference == pytest.approx(-3 / 40 / math.log(2))
    assert (per_word.unit, per_word.sample) == ("nats/word", "5 words")
    assert per_word.difference == pytest.approx(-3 / 5)


def test_text_and_stride_are_named_and_tell_records_apart(tmp_path: Path) -> None:
    a = write(tmp_path / "a", [6.0, 3.0], [3, 3])
    write(a, [6.0, 3.0], [3, 3], data="novel.txt", stride=16)
    b = write(tmp_path / "b", [6.0, 3.0], [3, 3], data="novel.txt", stride=16)

    (row,) = by_document(a, b)
    assert row.measure == "novel.txt, context 64, stride 16"


def test_the_number_of_documents_is_shown_however_many(tmp_path: Path) -> None:
    sizes = [1, 3] * 4000
    a = write(tmp_path / "a", [2.0 * n for n in sizes], sizes)
    b = write(tmp_path / "b", [2.5 * n for n in sizes], sizes)
    (row,) = by_document(a, b)

    assert (row.pairs, row.sample) == (8000, "16,000 targets")
    assert row.interval == pytest.approx((0.5, 0.5))


def test_a_few_documents_have_no_interval(tmp_path: Path) -> None:
    a = write(tmp_path / "a", [30.0] * 5, [10] * 5)
    b = write(tmp_path / "b", [20.0] * 5, [10] * 5)
    (comparison,) = with_holm([Comparison("title", "a", "b", by_document(a, b))])

    table = comparison.table()
    assert not comparison.differences[0].is_real
    assert table.rows[0][table.head.index("95% interval")] == "-"
    assert table.rows[0][table.head.index("detectable")] == "-"
