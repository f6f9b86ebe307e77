"""Numbers for each target, row by row, shared out over the ranks.

Shapes: B rows of a batch, T tokens of a row, V vocabulary, S statistics.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from momentum_gpt.core import distributed
from momentum_gpt.core.terminal import Advance, ignore_progress

Rows = Callable[[np.ndarray], tuple[np.ndarray, ...]]
"""Row numbers (n,) -> tokens (n, T), targets (n, T) and, where the documents of a row must not see
one another, the number of each token's document (n, T)."""


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return -log p(target) in nats, (B, T), computed in fp32 from logits (B, T, V)."""
    # By rows, (B T, V), which is several times faster on a CPU than over the middle of (B, V, T).
    nats = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return nats.view(targets.shape)


@torch.no_grad()
def score(
    model: nn.Module,
    rows: Rows,
    n_rows: int,
    tokens_per_forward: int,
    statistics: Callable[[Tensor, Tensor], Tensor],
    advance: Advance = ignore_progress,
) -> Tensor:
    """Return `statistics(logits, targets)` of each target of each row, on every rank.

    Args:
        model: tokens (B, T) -> logits (B, T, V).
        rows: reads rows by number.
        n_rows: rows to score, numbered from 0.
        tokens_per_forward: most tokens in a forward pass, but for a single row that is longer.
        statistics: logits (B, T, V), targets (B, T) -> (S, B, T), S numbers for each target.
        advance: called with the tokens done, padding included; n_rows x T in all.

    Returns:
        (S, n_rows, T), float32, on the CPU: sum it in float64.
    """
    device = next(model.parameters()).device
    world = distributed.world_size()
    length = rows(np.array([0]))[0].shape[1]

    batch_size = max(1, tokens_per_forward // length)
    batch_size = min(batch_size, -(-n_rows // world))

    results: Tensor | None = None
    for first in range(0, n_rows, batch_size * world):
        numbers = first + distributed.rank() * batch_size + np.arange(batch_size)
        is_row = numbers < n_rows

        # ZeRO-3 needs equally many, equally large passes on every rank. A rank without rows of its
        # own therefore computes the last row again, and its result is dropped.
        parts = rows(np.minimum(numbers, n_rows - 1))
        tokens, targets, *documents = [torch.from_numpy(part).to(device) for part in parts]
        logits = model(tokens, document_ids=documents[0]) if documents else model(tokens)
        values = statistics(logits, targets).float().cpu()  # (S, B, T)

        if results is None:
            results = torch.zeros(len(values), n_rows, values.shape[2])
        results[:, numbers[is_row]] = values[:, torch.from_numpy(is_row)]
        advance(min(batch_size * world, n_rows - first) * length)

    assert results is not None
    return distributed.sum_over_ranks(results)
