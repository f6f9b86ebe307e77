"""Nats per token, row by row, shared out over the ranks so that each does the same number of forward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from momentum_gpt import distributed

Rows = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Row numbers (n,) -> tokens and targets, (n, T) each."""


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p(target) in nats, (B, T), computed in fp32 from logits (B, T, V)."""
    return F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")


@torch.no_grad()
def score(
    model: nn.Module, rows: Rows, n_rows: int, tokens_per_forward: int, statistics: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """The sum over all rows, on all ranks, of what `statistics(logits, targets)` says of each.

    Every rank runs the same number of equally large forward passes, as ZeRO-3 needs; surplus rows get the weight 0.

    Args:
        model: tokens (B, T) -> logits (B, T, V).
        statistics: logits (B, T, V), targets (B, T) -> (S, B, T), S numbers for each target.

    Returns:
        (S, T), float64, on the CPU.
    """
    device = next(model.parameters()).device
    total = None
    for numbers, weights in _shares(n_rows, max(1, tokens_per_forward // rows(np.array([0]))[0].shape[1])):
        tokens, targets = (torch.from_numpy(half).to(device) for half in rows(numbers))  # (B, T) each
        values = statistics(model(tokens), targets).double().cpu()  # (S, B, T)
        part = torch.einsum("sbt,b->st", values, torch.from_numpy(weights))
        total = part if total is None else total + part
    assert total is not None
    return distributed.sum_over_ranks(total)


def _shares(n_rows: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """This rank's row numbers and weights, batch by batch; the last rows are repeated, weightless, to fill up."""
    world, rank = distributed.world_size(), distributed.rank()
    batch_size = min(batch_size, -(-n_rows // world))
    for first in range(0, n_rows, batch_size * world):
        numbers = first + rank * batch_size + np.arange(batch_size)
        yield np.minimum(numbers, n_rows - 1), (numbers < n_rows).astype(np.float64)
