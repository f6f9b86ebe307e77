"""Best-fit packing: every token is a target once, and documents that fit are whole."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from momentum_gpt.core.batch_plan import BatchPlan
from momentum_gpt.data import PackedBatches, TokenShards, prefetch
from momentum_gpt.data.packing import best_fit
from momentum_gpt.data.synthetic_tasks import NO_TARGET


@given(sizes=st.lists(st.integers(1, 20), max_size=60))
def test_no_bin_is_too_full_and_the_fit_is_the_best(sizes: list[int]) -> None:
    """The reference, one size at a time: the fullest bin that still holds it."""
    bins = best_fit(np.array(sizes, dtype=np.int64), 20)
    loads = np.bincount(bins, weights=sizes) if sizes else np.zeros(0)
    assert (loads <= 20).all()
    room: list[int] = []
    for size in sorted(sizes, reverse=True):
        holding = [left for left in room if left >= size]
        room.append((room.pop(room.index(min(holding))) if holding else 20) - size)
    assert sorted(20 - loads) == sorted(room)


def test_equal_sizes_fill_bins_in_their_order() -> None:
    """So that the windows are the same with every numpy: other sorts may swap equal sizes."""
    bins = best_fit(np.array([3, 5] * 500), 6)
    assert bins[1::2].tolist() == list(range(500))
    assert bins[::2].tolist() == [500 + place // 2 for place in range(500)]


@pytest.mark.parametrize("seq_len", [64, 512])
def test_the_pieces_of_a_window_stand_in_the_order_of_the_stream(
    data_folder: Path, seq_len: int
) -> None:
    """A piece of seq_len fills a window alone; the others stand in their documents' order."""
    shards = TokenShards(data_folder)
    packed = PackedBatches(shards, seq_len, 0, BatchPlan(1, 1, 1, 1))
    several = 0
    for first, end in pairwise(packed.firsts):
        places = packed.pieces[first:end].tolist()
        several += len(places) > 1
        assert places == sorted(places)
    assert several > 5


@pytest.mark.parametrize("seq_len", [32, 200, 5000])
def test_every_token_is_a_target_once_after_the_one_before_it(
    data_folder: Path, seq_len: int
) -> None:
    shards = TokenShards(data_folder)
    packed = PackedBatches(shards, seq_len, 0, BatchPlan(1, 1, 1, 1))
    seen = []
    for number in range(packed.n_windows):
        tokens, targets = packed.window(number)
        real = targets != NO_TARGET
        assert (tokens[~real] == shards.tokenizer.eos_id).all()
        seen += list(zip(tokens[real].tolist(), targets[real].tolist(), strict=True))
    stream = shards.read(0, len(shards)).tolist()
    assert sorted(seen) == sorted(pairwise(stream))
    assert tokens.dtype == targets.dtype == np.int64
    padded = 1 - (len(shards) - 1) / (packed.n_windows * seq_len)
    assert packed.padded_share == pytest.approx(padded, abs=1e-12)
    assert f"{padded:.2%} padding" in packed.describe()


def test_documents_that_fit_are_not_cut(data_folder: Path) -> None:
    shards = TokenShards(data_folder)
    packed = PackedBatches(shards, 5000, 0, BatchPlan(1, 1, 1, 1))
    ends = np.flatnonzero(shards.read(0, len(shards)) == shards.tokenizer.eos_id)
    whole = np.diff(ends)
    assert sorted(size for size in packed.sizes if size < 5000) == sorted(
        [n % 5000 for n in [ends[0], *whole] if n % 5000]
    )
    assert packed.cut_share == pytest.approx(
        sum(n for n in [ends[0], *whole] if n > 5000) / ends[-1]
    )


def test_the_targets_of_a_step_are_counted_without_the_padding(data_folder: Path) -> None:
    """Over micro-steps and ranks, and across the end of an epoch."""
    plan = BatchPlan(6, 1, 3, 2)
    packed = PackedBatches(TokenShards(data_folder), 700, 0, plan)
    counts = []
    for step in range(packed.n_windows // 3):
        parts = [packed(step, *slot) for slot in product(range(3), range(2))]
        counts.append(sum(int((targets != NO_TARGET).sum()) for _, targets in parts))
        assert packed.n_targets(step) == counts[-1]
    assert min(counts) < max(counts)


def test_prefetched_batches_are_the_batches(data_folder: Path) -> None:
    packed = PackedBatches(TokenShards(data_folder), 64, 3, BatchPlan(8, 2, 2, 2))
    for step, micro_batches, n_targets in prefetch(packed, 1, range(5, 12)):
        assert n_targets == packed.n_targets(step)
        for micro_step, (tokens, targets) in enumerate(micro_batches):
            expected = packed(step, micro_step, 1)
            assert (tokens == expected[0]).all()
            assert (targets == expected[1]).all()
    assert step == 11


def test_an_error_in_the_prefetching_thread_is_raised() -> None:
    class Broken:
        plan = BatchPlan(1, 1, 1, 1)

        def __call__(self, step: int, micro_step: int, rank: int) -> None:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        next(prefetch(Broken(), 0, range(3)))  # type: ignore[arg-type]
