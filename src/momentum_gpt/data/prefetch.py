"""Batches of the coming steps, made by a thread while the model computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from torch import Tensor

from momentum_gpt.data.sources import TrainingData

DEPTH = 2
"""Steps whose batches are made in advance."""


def prefetch(
    batches: TrainingData, rank: int, steps: range
) -> Iterator[tuple[int, list[tuple[Tensor, Tensor]]]]:
    """Yield each step with its micro-batches for this rank: tokens and targets, (B, T) each."""

    def make(step: int) -> list[tuple[Tensor, Tensor]]:
        micro_steps = range(batches.plan.grad_accum_steps)
        return [batches(step, micro_step, rank) for micro_step in micro_steps]

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        waiting = deque(thread.submit(make, step) for step in steps[:DEPTH])
        for step in steps:
            if step + DEPTH in steps:
                waiting.append(thread.submit(make, step + DEPTH))
            yield step, waiting.popleft().result()
