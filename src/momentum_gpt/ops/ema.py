"""The momentum term of Dai et al. (arXiv 2212.10559, section 5): a decayed sum over strictly past values.

    past_t = sum_{i=1}^{t-1} decay^(t-i) v_i            0 <= decay < 1

The current value is left out, the previous one has weight `decay`, and there is no (1 - decay) factor: a sum, not an
average. As a recurrence with state s_t, the decayed sum up to and including token t:

    past_t = decay s_{t-1}        s_t = past_t + v_t        s_0 = 0

Shapes: B batch, H heads, T time, D head dimension; N chunks of C tokens.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

CHUNK = 32
"""Tokens handled by one matrix product; measured against 16 ... 256 on a CPU (LOG.md, 2026-11-23)."""


def ema_of_past_by_definition(
    values: Tensor,
    decay: float | Tensor,
    state: Tensor | None = None,
    document_ids: Tensor | None = None,
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
    values: Tensor,
    decay: float | Tensor,
    state: Tensor | None = None,
    document_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Decayed sum over strictly past values: memory linear in T, exact for any decay in [0, 1).

    Differentiable, once, in values, decay and state. A Triton kernel where there is CUDA and Triton, else matrix products.

    Args:
        values: (B, H, T, D).
        decay: a number, a scalar tensor, or one of each head, (H,); in [0, 1).
        state: (B, H, D), what the tokens before these left behind; they belong to the first token's document.
        document_ids: (B, T), one number >= 0 per document, each document in one piece; the sum starts anew with each.

    Returns:
        past: (B, H, T, D), in the dtype of `values`, summed in float32 at least.
        state: (B, H, D), in float32 at least, to go on with the next token.
    """
    precise = torch.promote_types(values.dtype, torch.float32)
    decay = _as_tensor(decay, values)
    if values.shape[2] == 1 and state is not None:  # a step of decoding
        past = (decay[..., None] * state)[:, :, None]
        return past.to(values.dtype), past[:, :, -1] + values[:, :, -1]
    past = decayed_sum(values, decay, document_ids, None, False, precise)
    if state is not None:
        age = torch.arange(
            1, values.shape[2] + 1, device=values.device
        )  # the state acts as the value before the first
        weight = decay[..., None] ** age  # (T,) or (H, T)
        if document_ids is not None:
            weight = weight * (document_ids == document_ids[:, :1])[:, None]  # (B, 1 or H, T)
        past = past + weight[..., None] * state[:, :, None]
    return past.to(values.dtype), past[:, :, -1] + values[:, :, -1]


def add_ema_of_past(
    onto: Tensor, values: Tensor, decay: float | Tensor, document_ids: Tensor | None = None
) -> Tensor:
    """`onto` plus the past of `ema_of_past(values, decay, None, document_ids)`: summed in float32, rounded once.

    The kernel reads `values` and `onto` once each and writes the result; there is nothing in between. (B, H, T, D).
    """
    return decayed_sum(values, _as_tensor(decay, values), document_ids, onto, False, onto.dtype)


def _as_tensor(decay: float | Tensor, values: Tensor) -> Tensor:
    """The decay in the precision of the sums, on the device of the values."""
    precise = torch.promote_types(values.dtype, torch.float32)
    if isinstance(decay, Tensor):
        return decay.to(precise)
    return torch.full(
        (), decay, dtype=precise, device=values.device
    )  # filled on the device: no copy to wait for


def has_kernel(device: torch.device) -> bool:
    """Whether the sums run in the Triton kernel on this device, rather than as matrix products."""
    return device.type == "cuda" and find_spec("triton") is not None


@torch.library.custom_op("momentum_gpt::decayed_sum", mutates_args=())
def decayed_sum(
    values: Tensor,
    decay: Tensor,
    document_ids: Tensor | None,
    onto: Tensor | None,
    backwards: bool,
    dtype: torch.dtype,
) -> Tensor:
    """sum_{i<t} decay^(t-i) v_i, or with i > t if backwards, within each document, plus `onto`; (B, H, T, D) in `dtype`.

    One operation to the compiler, which looks no further, so that its graph holds for every length.
    """
    if has_kernel(values.device):
        from momentum_gpt.ops.ema_triton import decayed_sum_by_kernel

        return decayed_sum_by_kernel(
            values, decay, document_ids, onto, backwards, _result(values, onto, dtype)
        )
    sums = _by_heads(values.to(decay.dtype), decay, document_ids, backwards)
    if onto is not None:
        return torch.add(sums, onto, out=_result(values, onto, dtype))
    return sums.to(dtype).transpose(1, 2).contiguous().transpose(1, 2)


def _result(values: Tensor, onto: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Where the result goes, (B, H, T, D): laid out like `onto` or, without one, as projections lay heads out, (B, T, H, D)."""
    if onto is not None:
        return torch.empty_like(onto, dtype=dtype)
    B, H, T, D = values.shape
    return torch.empty(B, T, H, D, dtype=dtype, device=values.device).transpose(1, 2)


def _gradients(ctx: Any, of_sum: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient of the values is the same sum, the other way round.

    With g the gradient of past, the recurrence's adjoint is l_t = g_t + decay l_{t+1}: the gradient of v_t is decay l_{t+1}
    = sum_{j>t} decay^(j-t) g_j, and that of the decay is sum_t l_t s_{t-1}, where s_{t-1} = past_{t-1} + v_{t-1}.
    """
    values, decay, document_ids = ctx.saved_tensors
    of_values = decayed_sum(of_sum, decay, document_ids, None, not ctx.backwards, values.dtype)
    of_decay = (
        decay_gradient(of_sum, values, decay, document_ids) if ctx.needs_input_grad[1] else None
    )
    return of_values, of_decay, None, of_sum if ctx.onto else None, None, None


@torch.library.custom_op("momentum_gpt::decay_gradient", mutates_args=())
def decay_gradient(
    of_sum: Tensor, values: Tensor, decay: Tensor, document_ids: Tensor | None
) -> Tensor:
    """sum_t l_t s_{t-1} of `_gradients`, over all heads, or of each where each has its own decay; past is computed anew."""
    adjoint = of_sum + decayed_sum(of_sum, decay, document_ids, None, True, decay.dtype)
    state = values + decayed_sum(values, decay, document_ids, None, False, decay.dtype)
    products = adjoint[:, :, 1:] * state[:, :, :-1]
    if document_ids is not None:
        products = products * (document_ids[:, 1:] == document_ids[:, :-1])[:, None, :, None]
    return products.sum((0, 2, 3)) if decay.ndim else products.sum()


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, decay, document_ids, onto, ctx.backwards, _ = inputs
    ctx.onto = onto is not None
    ctx.save_for_backward(values, decay, document_ids)


decayed_sum.register_fake(
    lambda values, decay, document_ids, onto, backwards, dtype: _result(values, onto, dtype)
)


@register_flop_formula(torch.ops.momentum_gpt.decayed_sum)
def _operations(values_shape: torch.Size, *arguments: Any, **named: Any) -> int:
    """Of the products inside chunks; what goes from chunk to chunk is a CHUNK-th of it."""
    return 2 * math.prod(values_shape) * CHUNK


decayed_sum.register_autograd(_gradients, setup_context=_remember)
decay_gradient.register_fake(lambda of_sum, values, decay, document_ids: torch.empty_like(decay))


def _by_heads(
    values: Tensor, decay: Tensor, document_ids: Tensor | None, backwards: bool
) -> Tensor:
    """`_decayed_sum` of values (B, H, T, D): of all heads as one wide one if they share the decay, else of each."""
    B, H, T, D = values.shape
    if decay.ndim == 0:
        wide = values.transpose(1, 2).flatten(
            2
        )  # (B, T, H * D): no copy of what the projection gave
        return (
            _decayed_sum(wide, decay[None], document_ids, backwards)
            .view(B, T, H, D)
            .transpose(1, 2)
        )
    ids = None if document_ids is None else document_ids.repeat_interleave(H, dim=0)
    return _decayed_sum(values.flatten(0, 1), decay.repeat(B), ids, backwards).view(B, H, T, D)


def _decayed_sum(
    values: Tensor, decay: Tensor, document_ids: Tensor | None, backwards: bool
) -> Tensor:
    """sum_{i<t} decay^(t-i) v_i, or with i > t if backwards, within each document. Values and result are (P, T, Q).

    Within chunks of C tokens by one matrix product, whose extra row is what a chunk hands on to the next; what reaches a
    chunk from all before it is the same sum over those, with decay^C. Only positive powers of the decay occur, so nothing
    overflows, however small it is. `decay` is (1,) or (P,), `document_ids` (P, T).
    """
    P, T, Q = values.shape
    C = min(T, CHUNK)
    N = -(-T // C)
    if T % C:
        values = F.pad(values, (0, 0, 0, N * C - T))
    source = torch.arange(C, device=values.device)
    # One target more than sources: the chunk's neighbour, behind it or, backwards, in front of it.
    target = (
        torch.arange(-1, C, device=values.device)
        if backwards
        else torch.arange(C + 1, device=values.device)
    )
    distance = (source - target[:, None]) if backwards else (target[:, None] - source)  # (C + 1, C)
    weights = torch.where(
        distance > 0, decay[:, None, None] ** distance.clamp(min=0), 0.0
    )  # (1 or P, C + 1, C)
    weights = weights[:, None].expand(P, N, C + 1, C)
    if document_ids is not None:
        ids = F.pad(document_ids, (0, N * C - T), value=-1).view(P, N, C)
        edge = (
            ids[:, :, :1] if backwards else ids[:, :, -1:]
        )  # (P, N, 1): the document that a chunk hands on
        target_ids = torch.cat([edge, ids] if backwards else [ids, edge], dim=2)
        weights = weights * (target_ids[..., :, None] == ids[..., None, :])
    chunks = values.unflatten(1, (N, C)).flatten(0, 1)  # (P * N, C, Q)
    sums = torch.bmm(weights.reshape(P * N, C + 1, C), chunks).view(P, N, C + 1, Q)
    inside, handed_on = (
        (sums[:, :, 1:], sums[:, :, 0]) if backwards else (sums[:, :, :C], sums[:, :, C])
    )
    if N == 1:
        return inside[:, 0]
    edges = None if document_ids is None else edge[..., 0]  # (P, N)
    reaching = handed_on + _decayed_sum(handed_on, decay**C, edges, backwards)  # (P, N, Q)
    reaching = (
        F.pad(reaching[:, 1:], (0, 0, 0, 1)) if backwards else F.pad(reaching[:, :-1], (0, 0, 1, 0))
    )
    steps = C - 1 - source if backwards else source
    weight = (decay[:, None] ** steps)[:, None, :, None]  # (1 or P, 1, C, 1)
    if edges is not None:
        from_edge = (
            F.pad(edges[:, 1:], (0, 1), value=-2)
            if backwards
            else F.pad(edges[:, :-1], (1, 0), value=-2)
        )
        weight = weight * (ids == from_edge[..., None])[..., None]  # (P, N, C, 1)
    result = torch.addcmul(inside, weight, reaching[:, :, None]).view(P, N * C, Q)
    return result[:, :T] if T % C else result
