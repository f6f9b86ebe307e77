"""The order of the data at world sizes that no test machine has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from momentum_gpt.core.batch_plan import BatchPlan
from momentum_gpt.data.batches import Batches

SEQUENCES = 8192  # in a step
SEQ_LEN = 4


class Stream:
    """A trillion tokens, each of which is its own place."""

    name = "a long stream"

    def __len__(self) -> int:
        return 10**12

    def read(self, start: int, length: int) -> np.ndarray:
        return np.arange(start, start + length)


def read_by(world_size: int, micro_batch_size: int, step: int) -> tuple[list[int], str]:
    """The windows that all ranks read in a step, and the hash of the order."""
    passes = SEQUENCES // (world_size * micro_batch_size)
    plan = BatchPlan(SEQUENCES, micro_batch_size, passes, world_size)
    shards: Any = Stream()
    batches = Batches(shards, SEQ_LEN, seed=3, plan=plan)
    found: list[int] = []
    for rank in range(world_size):
        for number in range(passes):
            tokens, _ = batches(step, number, rank)
            found += (tokens[:, 0] // SEQ_LEN).tolist()
    return found, batches.order_hash("", step)


@pytest.mark.parametrize(
    ("world_size", "micro_batch_size"), [(2, 4), (64, 16), (1024, 2), (4096, 2), (8192, 1)]
)
def test_every_slot_is_read_once_by_some_rank_at_any_world_size(
    world_size: int, micro_batch_size: int
) -> None:
    expected, order = read_by(1, 8, 5)
    found, same = read_by(world_size, micro_batch_size, 5)
    assert sorted(found) == sorted(expected)
    assert len(set(found)) == SEQUENCES
    assert same == order
