"""Linear attention: the relaxed attention of Dai et al. (arXiv 2212.10559, section 3.1), without softmax and scale.

    y_t = sum_{i<=t} v_i (k_i . q_t) = S_t q_t          S_t = S_{t-1} + v_t k_t^T          S_0 = 0

Shapes: B batch, H heads, T time, D head dimension; N chunks of C tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 64
"""Tokens handled by one matrix product."""


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor | None = None, document_ids: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Causal linear attention, chunk by chunk: memory linear in T, differentiable.

    Args:
        q, k, v: (B, H, T, D).
        state: (B, H, D, D), sum of k_i v_i^T over the tokens before these; not together with documents.
        document_ids: (B, T), one number >= 0 per document, each document in one piece; each is mixed by itself.

    Returns:
        y: (B, H, T, D), in the dtype of `v`, summed in float32 at least.
        state: (B, H, D, D), to go on with the next token; of no use where there are documents.
    """
    assert state is None or document_ids is None
    T = q.shape[2]
    padded = [
        F.pad(x.to(torch.promote_types(v.dtype, torch.float32)), (0, 0, 0, -T % CHUNK))
        for x in (q, k, v)
    ]
    queries, keys, values = (x.unflatten(2, (-1, CHUNK)) for x in padded)  # (B, H, N, C, D)
    weights = (queries @ keys.mT).tril()  # (B, H, N, C, C)
    if document_ids is None:
        handed_on = keys.mT @ values  # (B, H, N, D, D)
        before = handed_on.cumsum(2) - handed_on
        if state is not None:
            before = before + state[:, :, None]
        inside, across = weights @ values, queries @ before
        return (inside + across).flatten(2, 3)[:, :, :T].to(v.dtype), before[:, :, -1] + handed_on[
            :, :, -1
        ]
    ids = F.pad(document_ids, (0, -T % CHUNK), value=-1).unflatten(1, (-1, CHUNK))  # (B, N, C)
    weights = weights * (ids[..., :, None] == ids[..., None, :])[:, None]
    last = ids[..., -1]  # (B, N): the document that a chunk hands on
    handed_on = (keys * (ids == last[..., None])[:, None, ..., None]).mT @ values
    previous = F.pad(last[:, :-1], (1, 0), value=-2)  # (B, N): the document that reaches a chunk
    reaches = (previous[:, :, None] == last[:, None, :]).tril(-1)  # (B, N, N)
    before = torch.einsum("bnm,bhmde->bhnde", reaches.to(handed_on.dtype), handed_on)
    across = (queries * (ids == previous[..., None])[:, None, ..., None]) @ before
    return (weights @ values + across).flatten(2, 3)[:, :, :T].to(v.dtype), before[
        :, :, -1
    ] + handed_on[:, :, -1]
