"""Batches as a function of (seed, step, slot): complete, repeatable, the same at any world size."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from momentum_gpt.core.batch_plan import BatchPlan
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import Batches, TokenShards
from momentum_gpt.data.batches import Permutation


def batches(data_folder: Path, plan: BatchPlan, seed: int = 0) -> Batches:
    return Batches(TokenShards(data_folder), 32, seed, plan)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000, 4096, 100_003])
def test_a_permutation_takes_every_value_once(size: int) -> None:
    assert np.array_equal(np.sort(Permutation(size, "key")(np.arange(size))), np.arange(size))


def test_a_permutation_looks_random() -> None:
    """Neighbours land a third of the range apart on average, and two keys disagree."""
    n = 10_000
    values = Permutation(n, "a")(np.arange(n))
    assert np.abs(np.diff(values)).mean() == pytest.approx(n / 3, rel=0.05)
    assert np.mean(values == Permutation(n, "b")(np.arange(n))) < 0.01
    assert abs(np.corrcoef(values, np.arange(n))[0, 1]) < 0.05


def test_step_a_billion_is_read_at_once(data_folder: Path) -> None:
    began = time.perf_counter()
    far = batches(data_folder, BatchPlan(512, 8, 64, 1))
    tokens, targets = far(10**9, 63, 0)
    assert time.perf_counter() - began < 1
    assert (tokens[:, 1:] == targets[:, :-1]).all()


def test_any_place_of_a_huge_epoch_is_found_at_once() -> None:
    began = time.perf_counter()
    Permutation(10**12, "a")(np.arange(10**11, 10**11 + 512))
    assert time.perf_counter() - began < 1


def test_every_window_is_read_once_an_epoch_and_epochs_differ(data_folder: Path) -> None:
    b = batches(data_folder, BatchPlan(4, 4, 1, 1))
    steps = -(-2 * b.n_windows // 4)
    order = np.concatenate([b.windows(step) for step in range(steps)])
    first, second = order[: b.n_windows], order[b.n_windows : 2 * b.n_windows]
    assert np.array_equal(np.sort(first), np.arange(b.n_windows))
    assert np.array_equal(np.sort(second), np.arange(b.n_windows))
    assert not np.array_equal(first, second)


def test_targets_are_the_next_tokens_of_the_stream(data_folder: Path) -> None:
    b = batches(data_folder, BatchPlan(4, 4, 1, 1))
    tokens, targets = b(7, 0, 0)
    assert tokens.shape == targets.shape == (4, 32)
    assert torch.equal(tokens[:, 1:], targets[:, :-1])
    window = int(b.windows(7)[2])
    assert np.array_equal(tokens[2].numpy(), b.shards.read(window * 32, 32))
    assert np.array_equal(targets[2].numpy(), b.shards.read(window * 32 + 1, 32))


def test_a_step_holds_the_same_sequences_however_it_is_split(data_folder: Path) -> None:
    splits = [
        BatchPlan(8, 8, 1, 1),
        BatchPlan(8, 2, 4, 1),
        BatchPlan(8, 2, 2, 2),
        BatchPlan(8, 1, 2, 4),
        BatchPlan(8, 4, 1, 2),
    ]
    seen = []
    for plan in splits:
        b = batches(data_folder, plan)
        rows = [
            b(3, micro, rank)[0]
            for micro in range(plan.grad_accum_steps)
            for rank in range(plan.world_size)
        ]
        seen.append(torch.cat(rows))
    for other in seen[1:]:
        assert torch.equal(seen[0], other)


def test_the_seed_decides_the_order_and_the_hash_of_it(data_folder: Path) -> None:
    plan = BatchPlan(8, 8, 1, 1)
    a = batches(data_folder, plan, 0)
    again = batches(data_folder, BatchPlan(8, 2, 2, 2), 0)
    b = batches(data_folder, plan, 1)
    assert not np.array_equal(a.windows(0), b.windows(0))

    def order_hash(x: Batches) -> str:
        value = ""
        for step in range(3):
            value = x.order_hash(value, step)
        return value

    assert order_hash(a) == order_hash(again) != order_hash(b)


def test_the_hash_of_the_order_holds_every_step_before(data_folder: Path) -> None:
    """Two orders that differ in their first step alone have different hashes ever after."""
    b = batches(data_folder, BatchPlan(8, 8, 1, 1))

    def after(*steps: int) -> str:
        value = ""
        for step in steps:
            value = b.order_hash(value, step)
        return value

    hashes = [after(0, 1, 2), after(5, 1, 2), after(1, 2), after(2), after(0, 1)]
    assert len(set(hashes)) == len(hashes)


def test_the_targets_of_a_step_are_those_of_all_its_micro_batches(data_folder: Path) -> None:
    plan = BatchPlan(12, 2, 3, 2)
    assert batches(data_folder, plan).n_targets(7) == 12 * 32


def test_too_little_text_for_one_window_is_refused(data_folder: Path) -> None:
    shards = TokenShards(data_folder)
    with pytest.raises(UserError, match="fewer than one window"):
        Batches(shards, len(shards), 0, BatchPlan(1, 1, 1, 1))
