"""The momentum term of Dai et al. (arXiv 2212.10559, section 5): a decayed sum over strictly past values.

    past_t = sum_{i=1}^{t-1} decay^(t-i) v_i            0 <= decay < 1

The current value is left out, the previous one has weight `decay`, and there is no (1 - decay) factor: a sum, not an
average. As a recurrence with state s_t, the decayed sum up to and including token t:

    past_t = decay s_{t-1}        s_t = past_t + v_t        s_0 = 0

Shapes: B batch, H heads, T time, D head dimension; N chunks of C tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 32
"""Tokens handled by one matrix product; measured against 16 ... 256 on a CPU (LOG.md, 2026-11-23)."""


def ema_of_past_by_definition(
    values: Tensor, decay: float | Tensor, state: Tensor | None = None, document_ids: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The recurrence, token by token: what `ema_of_past` computes, in the form that is easy to check."""
    state = torch.zeros_like(values[:, :, 0]) if state is None else state  # (B, H, D)
    pasts = []
    for t in range(values.shape[2]):
        if document_ids is not None and t > 0:
            same_document = document_ids[:, t] == document_ids[:, t - 1]  # (B,)
            state = torch.where(same_document[:, None, None], state, 0.0)
        pasts.append(decay * state)
        state = pasts[-1] + values[:, :, t]
    return torch.stack(pasts, dim=2), state


def ema_of_past(
    values: Tensor, decay: float | Tensor, state: Tensor | None = None, document_ids: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Decayed sum over strictly past values, by matrix products: memory linear in T, exact for any decay in [0, 1).

    Args:
        values: (B, H, T, D).
        decay: a number or a scalar tensor in [0, 1).
        state: (B, H, D), what the tokens before these left behind; they belong to the first token's document.
        document_ids: (B, T), one number per document, each document in one piece; the sum starts anew with each.

    Returns:
        past: (B, H, T, D), in the dtype of `values`, summed in float32 at least.
        state: (B, H, D), to go on with the next token.
    """
    first = torch.zeros_like(values[:, :, :1]) if state is None else state[:, :, None].to(values.dtype)
    previous = torch.cat([first, values[:, :, :-1]], dim=2)  # (B, H, T, D): v_{t-1}; the state acts as v_0
    previous = previous.to(torch.promote_types(values.dtype, torch.float32))
    if document_ids is not None:
        starts = F.pad(document_ids[:, 1:] != document_ids[:, :-1], (1, 0))  # (B, T)
        previous = previous.masked_fill(starts[:, None, :, None], 0.0)
    decay = torch.as_tensor(decay, dtype=previous.dtype, device=values.device)
    past = _decayed_sum(previous, decay, decay, document_ids)
    return past.to(values.dtype), (past[:, :, -1] + values[:, :, -1]).to(past.dtype)


def _decayed_sum(values: Tensor, decay: Tensor, scale: Tensor | float, document_ids: Tensor | None) -> Tensor:
    """scale * sum_{i<=t} decay^(t-i) v_i within each document, (B, H, T, D).

    Within chunks of C tokens by one matrix product; what the chunks hand on is the same sum over their totals, with
    decay^C. Only non-negative powers of the decay occur, so nothing overflows, however small it is.
    """
    B, H, T, D = values.shape
    C = min(T, CHUNK)
    N = -(-T // C)
    chunks = F.pad(values, (0, 0, 0, N * C - T)).view(B, H, N, C, D)
    offset = torch.arange(C, device=values.device)
    weights = scale * (decay ** (offset[:, None] - offset).clamp(min=0)).tril()  # (C, C)
    ends = None
    if document_ids is not None:
        ids = F.pad(document_ids, (0, N * C - T), value=-1).view(B, 1, N, C)
        ends = ids[:, 0, :, -1]  # (B, N)
        weights = weights * (ids[..., :, None] == ids[..., None, :])  # (B, 1, N, C, C)
    sums = weights @ chunks  # (B, H, N, C, D)
    if N > 1:
        handed_on = _decayed_sum(sums[:, :, :, -1], decay**C, 1.0, ends)  # (B, H, N, D)
        handed_on = F.pad(handed_on[:, :, :-1], (0, 0, 1, 0))[:, :, :, None]  # to the next chunk: (B, H, N, 1, D)
        reach = (decay ** (offset + 1))[:, None]  # (C, 1)
        if ends is not None:
            before = F.pad(ends[:, :-1], (1, 0))[:, None, :, None]
            reach = reach * (ids == before)[..., None]  # (B, 1, N, C, 1)
        sums = torch.addcmul(sums, reach, handed_on)
    return sums.reshape(B, H, N * C, D)[:, :, :T]
