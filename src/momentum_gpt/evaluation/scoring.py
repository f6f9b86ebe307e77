"""Nats per target, row by row, shared out over the ranks so that each does the same number of forward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from momentum_gpt.core import distributed

Rows = Callable[[np.ndarray], tuple[np.ndarray, ...]]
"""Row numbers (n,) -> tokens and targets, (n, T) each, and, where documents must not see one another, their numbers, too."""


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p(target) in nats, (B, T), computed in fp32 from logits (B, T, V)."""
    return F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")


@torch.no_grad()
def score(
    model: nn.Module,
    rows: Rows,
    n_rows: int,
    tokens_per_forward: int,
    statistics: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """What `statistics(logits, targets)` says of each target of each row, on every rank.

    Every rank runs the same number of equally large forward passes, as ZeRO-3 needs; surplus rows are computed in vain.

    Args:
        model: tokens (B, T) -> logits (B, T, V).
        statistics: logits (B, T, V), targets (B, T) -> (S, B, T), S numbers for each target.

    Returns:
        (S, n_rows, T), float32, on the CPU: sum it in float64.
    """
    device = next(model.parameters()).device
    results: Tensor | None = None
    for numbers in _shares(n_rows, max(1, tokens_per_forward // rows(np.array([0]))[0].shape[1])):
        tokens, targets, *documents = (
            torch.from_numpy(part).to(device) for part in rows(np.minimum(numbers, n_rows - 1))
        )
        logits = model(tokens, document_ids=documents[0]) if documents else model(tokens)
        values = statistics(logits, targets).float().cpu()  # (S, B, T)
        if results is None:
            results = torch.zeros(len(values), n_rows, values.shape[2])
        mine = torch.from_numpy(numbers < n_rows)
        results[:, numbers[numbers < n_rows]] = values[:, mine]
    assert results is not None
    return distributed.sum_over_ranks(results)


def _shares(n_rows: int, batch_size: int) -> Iterator[np.ndarray]:
    """This rank's row numbers, batch by batch; those from n_rows on are there to fill up."""
    world, rank = distributed.world_size(), distributed.rank()
    batch_size = min(batch_size, -(-n_rows // world))
    for first in range(0, n_rows, batch_size * world):
        yield first + rank * batch_size + np.arange(batch_size)
