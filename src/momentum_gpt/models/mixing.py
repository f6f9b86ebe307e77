"""Softmax and linear attention on heads: the two rules that the attention variants build on.

Both are causal, keep packed documents apart, and decode with a cache.

Shapes: B batch, H heads, T new tokens, L tokens in the cache, P shared tokens, D head dimension.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from momentum_gpt.models.cache import LayerCache
from momentum_gpt.ops import linear_attention


class Documents(NamedTuple):
    """The documents packed into each row, which must not see one another."""

    ids: Tensor
    """(B, T): one number >= 0 for each document, each document being contiguous."""
    mask: Tensor | BlockMask
    """The causal mask of softmax attention: (B, 1, T, T), or its blocks on CUDA."""


def documents_of(ids: Tensor) -> Documents:
    """Return the documents that `ids` (B, T) numbers, with the mask that fits their device.

    On CUDA the mask is one for FlexAttention, elsewhere a boolean matrix.
    """
    if ids.is_cuda:
        return Documents(ids, blocks_of(ids))

    same_document = ids[:, None, :, None] == ids[:, None, None, :]  # (B, 1, T, T)
    return Documents(ids, same_document.tril())


def blocks_of(ids: Tensor) -> BlockMask:
    """Return the causal mask of the documents as blocks; empty blocks are never computed."""
    B, T = ids.shape

    def may_look_at(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (ids[b, query] == ids[b, key])

    return create_block_mask(may_look_at, B, None, T, T, device=str(ids.device))


def softmax_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    documents: Documents | None,
    cache: LayerCache | None,
) -> Tensor:
    """Return causal softmax attention: y_t = V softmax(K^T q_t / sqrt(D)) over the tokens up to t.

    Args:
        q, k, v: (B, H, T, D).
        documents: the documents packed into each row; None: each row is one document.
        cache: the keys and values before these tokens, to which k and v are appended.
    """
    if cache is not None:
        k, v = cache.append(k, v)  # (B, H, L, D)
        visible = cache.visible(q.shape[2])  # (B, 1, T, L)
        if cache.shared is not None:
            return attend_to_shared(q, k, v, visible, *cache.shared)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible)

    if documents is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    if isinstance(documents.mask, Tensor):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=documents.mask)

    # FlexAttention is slow unless it is compiled. Inside a compiled model it already is.
    flex = flex_attention if torch.compiler.is_compiling() else _compiled_flex_attention()
    return flex(q, k, v, block_mask=documents.mask)


@functools.cache
def _compiled_flex_attention() -> Any:
    return torch.compile(flex_attention)


def attend_to_shared(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Tensor,
    shared_k: Tensor,
    shared_v: Tensor,
) -> Tensor:
    """Return softmax attention to keys that all rows share and to each row's own keys.

    One product covers the shared keys of all rows, so they are never copied to the rows.
    The softmax is computed in float32 at least.

    Args:
        q: (B, H, T, D).
        k, v: each row's own, (B, H, L, D).
        visible: which of its own keys a query may look at, (B, 1, T, L).
        shared_k, shared_v: (1, H, P, D), visible to all queries.
    """
    P = shared_k.shape[2]
    shared_scores = torch.einsum("bhtd,hpd->bhtp", q, shared_k[0])
    own_scores = (q @ k.mT).masked_fill(~visible, -torch.inf)
    scores = torch.cat([shared_scores, own_scores], dim=-1)  # (B, H, T, P + L)

    precise = scores.to(torch.promote_types(q.dtype, torch.float32))
    weights = (precise / q.shape[-1] ** 0.5).softmax(-1).to(v.dtype)

    from_shared = torch.einsum("bhtp,hpd->bhtd", weights[..., :P], shared_v[0])
    return from_shared + weights[..., P:] @ v


def relaxed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    documents: Documents | None,
    cache: LayerCache | None,
) -> Tensor:
    """Return causal linear attention: y_t = V K^T q_t over the tokens up to t.

    This is the relaxed attention of Dai et al. (arXiv 2212.10559, section 3.1): softmax attention
    without the softmax and without the scale. The arguments are those of `softmax_attention`.
    """
    if cache is None:
        ids = documents.ids if documents else None
        return linear_attention(q, k, v, None, ids)[0]

    # The sums have no mask, so the values of padding must be 0 before they enter.
    real_values = v * cache.is_real(v.shape[2])
    y, cache.tensors["sums"] = linear_attention(q, k, real_values, cache.get("sums"))
    return y


def softmax_weights(q: Tensor, k: Tensor) -> Tensor:
    """Return the weights of softmax attention as a matrix (B, H, T, T), for definitions."""
    scores = q @ k.mT / q.shape[-1] ** 0.5
    future = scores.new_ones(scores.shape[-2:]).triu(1).bool()
    return scores.masked_fill(future, -torch.inf).softmax(-1)


def linear_weights(q: Tensor, k: Tensor) -> Tensor:
    """Return the weights of linear attention as a matrix (B, H, T, T), for definitions."""
    return (q @ k.mT).tril()
