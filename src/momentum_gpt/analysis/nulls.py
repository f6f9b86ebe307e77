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
    """Return the pair with each query's finetuning replaced by that of its partner.

    Args:
        pair: (Q, ..., X) each.
        seed: chooses the partners, see `partners`. The same one for all draws of the demonstrations
            keeps the partners together.

    Raises:
        UserError: if there is no other query.
    """
    partner = partners(len(pair.icl), seed).to(pair.icl.device)
    finetuned = pair.finetuned[partner]
    is_alone = partner == torch.arange(len(partner), device=partner.device)
    finetuned[is_alone] = math.nan
    return Pair(pair.icl, finetuned)


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
    """Return the partner of each of n queries, (n,): two queries are each other's.

    Of an odd number, one query is left over, and its own partner.

    Two queries and both of their swapped comparisons are one unit: whatever one query does to all
    its comparisons cancels in their difference.

    Raises:
        UserError: if there is a single query.
    """
    if n < 2:
        raise UserError(f"{n} query cannot be compared with another one: ask at least 2 queries")
    order = torch.randperm(n, generator=_generator(seed))
    first, second = order[: n // 2 * 2].reshape(-1, 2).unbind(dim=1)
    chosen = torch.arange(n)
    chosen[first] = second
    chosen[second] = first
    return chosen


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
