"""Which documents are in the shards, and how often."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.sources import Source, build_corpus
from data_prep.stream import INDEX, Shard, Span, chosen_documents, repeats_of, runs, shards_of


def test_documents_are_drawn_by_their_hashes() -> None:
    index = np.zeros(10_000, dtype=INDEX)
    index["hash"] = np.random.default_rng(0).integers(0, 2**64, 10_000, dtype=np.uint64)
    taken = [chosen_documents(index, "train", copy, 1.3).sum() for copy in range(3)]
    assert taken[0] == 10_000
    assert taken[1] == pytest.approx(3000, abs=200)
    assert taken[2] == 0


def test_validation_documents_are_there_once() -> None:
    index = np.zeros(10, dtype=INDEX)
    index["split"][:4] = 1
    taken = [chosen_documents(index, "validation", copy, 2.5).sum() for copy in range(3)]
    assert taken == [4, 0, 0]


def test_repeats_give_the_weights_within_the_epoch_caps() -> None:
    corpus = build_corpus({"kind": "stdlib"})
    many = Source("many", corpus, weight=3, max_epochs=1)
    few = Source("few", corpus, weight=1, max_epochs=4)
    assert repeats_of([many, few], [600, 100]) == [1, 2]  # 600 : 200
    assert repeats_of([many, few], [6000, 100]) == [0.2, 4]  # 1200 : 400
    assert repeats_of([Source("a", corpus), Source("b", corpus)], [600, 0]) == [1, 0]


def test_shards_cut_the_stream_of_each_split() -> None:
    spans = [
        Span("train", 0, 0, 0, 70),
        Span("train", 0, 1, 70, 50),
        Span("validation", 0, 1, 0, 9),
    ]
    assert shards_of(spans, 50) == [
        Shard("train", 0, 0, 50),
        Shard("train", 1, 50, 100),
        Shard("train", 2, 100, 150),
        Shard("validation", 0, 0, 50),
    ]
    overlapping = [shard.overlaps(spans[0]) for shard in shards_of(spans, 50)]
    assert overlapping == [True, True, False, False]


def test_runs_join_documents_without_a_gap() -> None:
    offsets = np.array([0, 3, 9, 10, 20])
    lengths = np.array([3, 4, 1, 2, 5])
    assert list(runs(offsets, lengths)) == [(0, 7), (9, 12), (20, 25)]
    assert list(runs(offsets[:0], lengths[:0])) == []
