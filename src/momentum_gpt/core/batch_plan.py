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
    """Ranks, or groups of ranks that share sequences: each reads a batch of its own."""
    ranks_per_sequence: int = 1

    def reader(self, rank: int) -> int:
        """Return whose batch a rank reads, from 0 to world_size - 1."""
        return rank // self.ranks_per_sequence


def plan_batch(
    training: TrainingConfig, seq_len: int, n_ranks: int, ranks_per_sequence: int = 1
) -> BatchPlan:
    """Return the plan with the largest micro-batch that divides a rank's share and fits in memory.

    Args:
        training: states the tokens of a step, and how many of them pass through a rank at once.
        seq_len: tokens in a sequence.
        n_ranks: all ranks.
        ranks_per_sequence: how many of them share a sequence.

    Raises:
        UserError: the tokens of a step are not whole sequences, or not equally many for each rank.
    """
    if n_ranks % ranks_per_sequence or seq_len % ranks_per_sequence:
        raise UserError(
            f"deepspeed.sequence_parallel_size={ranks_per_sequence} must divide the {n_ranks} "
            f"rank(s) and model.seq_len={seq_len}"
        )
    world_size = n_ranks // ranks_per_sequence
    tokens_per_step = training.tokens_per_step
    unit = seq_len * world_size

    if tokens_per_step % unit:
        nearest = max(1, round(tokens_per_step / unit)) * unit
        raise UserError(
            f"training.tokens_per_step={tokens_per_step} does not split into whole sequences of "
            f"{seq_len} tokens for {n_ranks} rank(s): "
            f"use a multiple of {unit}, such as {nearest}"
        )
    at_once = training.max_tokens_per_forward * ranks_per_sequence
    if at_once < seq_len:
        shared = "" if ranks_per_sequence == 1 else f" for {ranks_per_sequence} ranks that share it"
        raise UserError(
            f"training.max_tokens_per_forward={training.max_tokens_per_forward} is less than one "
            f"sequence{shared}: use at least {seq_len // ranks_per_sequence}"
        )

    per_rank = tokens_per_step // unit
    fitting = min(per_rank, at_once // seq_len)
    micro = nearest_divisor(per_rank, fitting)
    return BatchPlan(
        per_rank * world_size, micro, per_rank // micro, world_size, ranks_per_sequence
    )


def nearest_divisor(number: int, limit: int) -> int:
    """Return the largest divisor of `number` that is at most `limit`."""
    return max(divisor for divisor in range(1, limit + 1) if number % divisor == 0)
