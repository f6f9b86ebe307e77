"""How the sequences of one optimizer step are spread over ranks, micro-batches and accumulation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from momentum_gpt.core.errors import UserError

if TYPE_CHECKING:
    from momentum_gpt.core.config import TrainingConfig


@dataclass(frozen=True)
class BatchPlan:
    """The batch of one step: global = world_size x micro-batch x accumulation, in sequences."""

    global_batch_size: int
    micro_batch_size: int
    grad_accum_steps: int
    world_size: int


def plan_batch(training: TrainingConfig, seq_len: int, world_size: int) -> BatchPlan:
    """Return the plan with the largest micro-batch that divides a rank's share and fits in memory.

    Args:
        training: states the tokens of a step, and how many of them pass through a rank at once.
        seq_len: tokens in a sequence.
        world_size: ranks.

    Raises:
        UserError: the tokens of a step are not whole sequences, or not equally many for each rank.
    """
    tokens_per_step = training.tokens_per_step
    unit = seq_len * world_size

    if tokens_per_step % unit:
        nearest = max(1, round(tokens_per_step / unit)) * unit
        raise UserError(
            f"training.tokens_per_step={tokens_per_step} does not split into whole sequences of "
            f"{seq_len} tokens for {world_size} rank(s): "
            f"use a multiple of {unit}, such as {nearest}"
        )
    if training.max_tokens_per_forward < seq_len:
        raise UserError(
            f"training.max_tokens_per_forward={training.max_tokens_per_forward} is less than one "
            f"sequence: use at least model.seq_len={seq_len}"
        )

    per_rank = tokens_per_step // unit
    fitting = min(per_rank, training.max_tokens_per_forward // seq_len)
    micro = nearest_divisor(per_rank, fitting)
    return BatchPlan(per_rank * world_size, micro, per_rank // micro, world_size)


def nearest_divisor(number: int, limit: int) -> int:
    """Return the largest divisor of `number` that is at most `limit`."""
    return max(divisor for divisor in range(1, limit + 1) if number % divisor == 0)
