"""Linear attention: softmax attention without the softmax and without the scale.

The relaxed attention of Dai et al. (arXiv 2212.10559, section 3.1):

    y_t = sum_{i<=t} v_i (k_i . q_t) = S_t q_t          S_t = S_{t-1} + v_t k_t^T          S_0 = 0

Shapes: B batch, H heads, T time, D head dimension; N chunks of C tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 64
"""C: tokens handled by one matrix product."""


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor | None = None,
    document_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return causal linear attention, computed chunk by chunk: memory is linear in T.

    Differentiable in q, k, v and state.

    Args:
        q, k, v: (B, H, T, D).
        state: (B, H, D, D), the sum of k_i v_i^T over the tokens before these; not together with
            documents.
        document_ids: (B, T), one number >= 0 for each document, each document being contiguous;
            each is mixed by itself.

    Returns:
        y: (B, H, T, D), in the dtype of `v`, summed in float32 at least.
        state: (B, H, D, D), for the next tokens; meaningless where there are documents.
    """
    assert state is None or document_ids is None
    T = q.shape[2]
    queries, keys, values = (_in_chunks(x, v.dtype) for x in (q, k, v))  # (B, H, N, C, D)

    # Inside a chunk: the masked T x T form. Across chunks: the sum of all chunks before.
    weights = (queries @ keys.mT).tril()  # (B, H, N, C, C)
    if document_ids is None:
        handed_on = keys.mT @ values  # (B, H, N, D, D)
        before = handed_on.cumsum(2) - handed_on
        if state is not None:
            before = before + state[:, :, None]
    else:
        ids = F.pad(document_ids, (0, -T % CHUNK), value=-1)
        ids = ids.unflatten(1, (-1, CHUNK))  # (B, N, C)
        weights = weights * (ids[..., :, None] == ids[..., None, :])[:, None]
        queries, handed_on, before = _between_chunks(queries, keys, values, ids)

    y = weights @ values + queries @ before
    y = y.flatten(2, 3)[:, :, :T]
    return y.to(v.dtype), before[:, :, -1] + handed_on[:, :, -1]


def _in_chunks(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return x (B, H, T, D) as (B, H, N, C, D), in float32 at least, padded with zeros."""
    precise = x.to(torch.promote_types(dtype, torch.float32))
    padded = F.pad(precise, (0, 0, 0, -x.shape[2] % CHUNK))
    return padded.unflatten(2, (-1, CHUNK))


def _between_chunks(
    queries: Tensor, keys: Tensor, values: Tensor, ids: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Keep documents apart in what one chunk hands on to the next.

    A chunk hands on the document at its end. It takes up the document that reaches its start, and
    only queries of that document may use it.

    Args:
        queries, keys, values: (B, H, N, C, D).
        ids: the documents, (B, N, C).

    Returns:
        queries: zero where a query's document does not reach into its chunk, (B, H, N, C, D).
        handed_on: what each chunk adds to the document at its end, (B, H, N, D, D).
        before: what reaches each chunk, (B, H, N, D, D).
    """
    last = ids[..., -1]  # (B, N)
    is_last = ids == last[..., None]  # (B, N, C)
    handed_on = (keys * is_last[:, None, ..., None]).mT @ values

    previous = F.pad(last[:, :-1], (1, 0), value=-2)  # (B, N): -2 is no document
    reaches = (previous[:, :, None] == last[:, None, :]).tril(-1)  # (B, N, N)
    before = torch.einsum("bnm,bhmde->bhnde", reaches.to(handed_on.dtype), handed_on)

    is_previous = ids == previous[..., None]  # (B, N, C)
    return queries * is_previous[:, None, ..., None], handed_on, before
