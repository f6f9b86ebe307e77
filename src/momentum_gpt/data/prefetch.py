"""Batches of the coming steps, made by a thread while the model computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from momentum_gpt.data.sources import TrainingData

DEPTH = 2
"""Steps whose batches are made in advance."""


def prefetch(
    batches: TrainingData, reader: int, steps: range
) -> Iterator[tuple[int, list[tuple[Tensor, Tensor]], int]]:
    """Yield each step, a reader's micro-batches and the number of targets over all ranks.

    A micro-batch is tokens and targets, (B, T) each; beside a GPU they lie in pinned memory, from
    where they can be copied while it computes. A reader is a rank, or a group of ranks.
    """
    pinned = torch.cuda.is_available()

    def make(step: int) -> tuple[list[tuple[Tensor, Tensor]], int]:
        micro_steps = range(batches.plan.grad_accum_steps)
        micro_batches = [batches(step, micro_step, reader) for micro_step in micro_steps]
        if pinned:
            micro_batches = [(x.pin_memory(), y.pin_memory()) for x, y in micro_batches]
        return micro_batches, batches.n_targets(step)

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        waiting = deque(thread.submit(make, step) for step in steps[:DEPTH])
        for step in steps:
            if step + DEPTH in steps:
                waiting.append(thread.submit(make, step + DEPTH))
            yield step, *waiting.popleft().result()
