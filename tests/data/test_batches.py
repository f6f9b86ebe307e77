"""Batches as a function of (seed, step, slot): complete, repeatable, the same at any world size."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from momentum_gpt.core.batch_plan import BatchPlan
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import sha256_of_file
from momentum_gpt.data import Batches, TokenShards
from momentum_gpt.data.batches import Permutation, _mix


def batches(data_folder: Path, plan: BatchPlan, seed: int = 0) -> Batches:
    return Batches(TokenShards(data_folder), 32, seed, plan)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000, 4096, 100_003])
def test_a_permutation_takes_every_value_once(size: int) -> None:
    assert np.array_equal(np.sort(Permutation(size, "key")(np.arange(size))), np.arange(size))


def test_the_round_function_is_splitmix64s() -> None:
    """The first numbers of splitmix64 from the seed 1234567, as Rosetta Code lists them."""
    states = 1234567 + np.uint64(0x9E3779B97F4A7C15) * np.arange(1, 6, dtype=np.uint64)
    assert _mix(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def permuted(point: int, size: int, key: str) -> int:
    """The Feistel network of `Permutation` in Python's integers, point by point."""
    half = max(1, math.ceil((size - 1).bit_length() / 2))
    keys = struct.unpack("<6Q", hashlib.shake_256(key.encode()).digest(48))
    while True:
        left, right = divmod(point, 2**half)
        for round_key in keys:
            mixed = int(_mix(np.array([right ^ round_key], dtype=np.uint64))[0])
            left, right = right, left ^ (mixed % 2**half)
        point = left * 2**half + right
        if point < size:
            return point


@pytest.mark.parametrize("size", [1, 2, 5, 300, 10**12])
def test_a_permutation_stays_the_same_so_that_old_runs_resume(size: int) -> None:
    points = [0, size // 3, size - 1]
    expected = [permuted(point, size, "0 7") for point in points]
    assert Permutation(size, "0 7")(np.array(points)).tolist() == expected


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


@pytest.mark.parametrize("step", [0, 1, 2])
def test_any_step_can_be_the_first_that_is_asked_for(data_folder: Path, step: int) -> None:
    plan = BatchPlan(4, 4, 1, 1)
    in_turn = batches(data_folder, plan)
    expected = [in_turn.windows(number) for number in range(3)]
    assert np.array_equal(batches(data_folder, plan).windows(step), expected[step])


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


def test_windows_overlap_by_one_token_and_what_remains_is_left_out(data_folder: Path) -> None:
    """A window needs one token more than its length, for its last target."""
    shards = TokenShards(data_folder)
    longest = len(shards) - 1
    for seq_len, n_windows in (
        (longest, 1),
        (longest // 2, 2),
        (longest // 2 + 1, 1),
        (1, longest),
    ):
        assert Batches(shards, seq_len, 0, BatchPlan(1, 1, 1, 1)).n_windows == n_windows


def test_the_manifest_gets_the_hashes_of_the_files(data_folder: Path) -> None:
    manifest = json.loads((data_folder / "manifest.json").read_text())
    tokenizer = sha256_of_file(data_folder / "tokenizer.model")
    files = [entry["sha256"] for entry in manifest["splits"]["train"]]
    together = hashlib.sha256(" ".join([tokenizer, *files]).encode()).hexdigest()
    found = batches(data_folder, BatchPlan(1, 1, 1, 1)).fingerprints()
    assert found == {"data_sha256": together, "tokenizer_sha256": tokenizer}


def test_too_little_text_for_one_window_is_refused(data_folder: Path) -> None:
    shards = TokenShards(data_folder)
    with pytest.raises(UserError, match="fewer than one window"):
        Batches(shards, len(shards), 0, BatchPlan(1, 1, 1, 1))
