"""The batches of the steps to come, made by a thread while the model is at work."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from torch import Tensor

from momentum_gpt.data.batches import Batches
from momentum_gpt.data.synthetic_tasks import SyntheticBatches

DEPTH = 2
"""Steps made ahead."""


def ahead(
    batches: Batches | SyntheticBatches, rank: int, steps: range
) -> Iterator[tuple[int, list[tuple[Tensor, Tensor]]]]:
    """Each step, and its micro-batches for this rank."""

    def make(step: int) -> list[tuple[Tensor, Tensor]]:
        return [
            batches(step, micro_step, rank) for micro_step in range(batches.plan.grad_accum_steps)
        ]

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        waiting = deque(thread.submit(make, step) for step in steps[:DEPTH])
        for step in steps:
            if step + DEPTH in steps:
                waiting.append(thread.submit(make, step + DEPTH))
            yield step, waiting.popleft().result()
