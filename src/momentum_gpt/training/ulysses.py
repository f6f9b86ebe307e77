"""Sequence parallelism: several ranks share each sequence of the training batches.

Each of them passes a stretch of every sequence through the model. Only attention needs the whole
sequence: there each rank has all of it, for a part of the heads. This is DeepSpeed's Ulysses
(Jacobs et al., arXiv 2309.14509). Heads are independent of one another in every variant, so that
nothing is computed otherwise.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor

from momentum_gpt.core import distributed
from momentum_gpt.models.attention import Variant
from momentum_gpt.models.mixing import Documents

HEADS_OF, TIME_OF = 2, 1
"""Dimensions of what is exchanged, (B, T, H, D)."""


class SharedSequences:
    """What this rank does with the sequences that it shares with its neighbours.

    Args:
        n_ranks: that share a sequence: ranks 0 to n_ranks - 1, the next n_ranks, and so on.
        exchange: DeepSpeed's DistributedAttention.
    """

    def __init__(self, n_ranks: int, exchange: type) -> None:
        self.n_ranks = n_ranks
        self.rank = distributed.rank() % n_ranks
        self.exchange = exchange(_of_some_heads, _group(n_ranks), HEADS_OF, TIME_OF)

    def stretch(self, x: Tensor) -> Tensor:
        """Return this rank's stretch, (..., T / n_ranks), of whole sequences, (..., T)."""
        size = x.shape[-1] // self.n_ranks
        return x.narrow(-1, self.rank * size, size)

    def attend(
        self, variant: Variant, q: Tensor, k: Tensor, v: Tensor, documents: Documents | None
    ) -> Tensor:
        """Return the mixed values of this rank's stretch, (B, H, T / n_ranks, D).

        Args:
            variant: the rule that mixes.
            q, k, v: of this rank's stretch, (B, H, T / n_ranks, D).
            documents: of the whole sequences.
        """
        n_heads = q.shape[1] // self.n_ranks
        mine = slice(self.rank * n_heads, (self.rank + 1) * n_heads)
        by_time = [x.transpose(1, 2).contiguous() for x in (q, k, v)]
        y = self.exchange(*by_time, 0, None, variant, mine, documents)
        return y.transpose(1, 2)


def _of_some_heads(
    q: Tensor, k: Tensor, v: Tensor, variant: Variant, mine: slice, documents: Documents | None
) -> Tensor:
    """Mix whole sequences for this rank's heads; all tensors are (B, T, H / n_ranks, D)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    variant.heads = mine
    try:
        y = variant(q, k, v, documents)
    finally:
        variant.heads = slice(None)
    return y.transpose(1, 2).contiguous()


def _group(n_ranks: int) -> Any:
    """Return the process group of the ranks that share sequences with this one."""
    mine, _ = dist.new_subgroups(n_ranks)
    return mine
