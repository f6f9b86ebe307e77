"""What a likeness would be without likeness: pairs of which one side is replaced.

A null by construction takes a pair of `similarity.py` and returns another one, which is compared by
the same function:

    mismatched   the finetuning of another query: what all queries have in common is in the null
    gaussian     noise with mean 0 and the length of what it replaces
    uniform      the paper's noise, which is positive: anything with a mean looks like it

Nulls that need other passes are passes, given to the same functions: a model with random weights,
finetuning on wrong labels or on other demonstrations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from momentum_gpt.analysis.similarity import Pair
from momentum_gpt.core.errors import UserError


def mismatched(pair: Pair, seed: int) -> Pair:
    """Return the pair with each query's finetuning replaced by that of another query.

    Args:
        pair: (Q, ..., X) each.
        seed: chooses the other query.

    Raises:
        UserError: if there is no other query.
    """
    return Pair(pair.icl, pair.finetuned[partners(len(pair.icl), seed)])


def gaussian(pair: Pair, seed: int) -> Pair:
    """Return the pair with finetuning replaced by normal noise of the same length.

    The noise has mean 0, and NaN where finetuning has it.
    """
    replaced = pair.finetuned
    noise = torch.randn(replaced.shape, generator=_generator(seed)).to(replaced.device)
    noise.masked_fill_(replaced.isnan(), math.nan)
    size = replaced.nan_to_num().norm(dim=-1, keepdim=True)
    return Pair(pair.icl, noise * (size / noise.nan_to_num().norm(dim=-1, keepdim=True)))


def uniform(pair: Pair, seed: int) -> Pair:
    """Return the pair with finetuning replaced by noise from [0, 1), as in the paper's code."""
    replaced = pair.finetuned
    noise = torch.rand(replaced.shape, generator=_generator(seed)).to(replaced.device)
    return Pair(pair.icl, noise.masked_fill_(replaced.isnan(), math.nan))


def partners(n: int, seed: int) -> Tensor:
    """Return another query for each of n queries, (n,): none its own, each once.

    Raises:
        UserError: if there is a single query.
    """
    if n < 2:
        raise UserError(f"{n} query cannot be compared with another one: ask at least 2 queries")
    order = torch.randperm(n, generator=_generator(seed))
    chosen = torch.empty_like(order)
    chosen[order] = order.roll(1)  # each has the one before it in a random circle
    return chosen


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
