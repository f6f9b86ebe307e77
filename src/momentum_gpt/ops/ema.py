"""The momentum term of Dai et al. (arXiv 2212.10559, section 5), a decayed sum over past values.

    past_t = sum_{i=1}^{t-1} decay^(t-i) v_i            0 <= decay < 1

The current value is left out, the previous one has weight `decay`, and there is no (1 - decay)
factor: it is a sum, not an average. As a recurrence, with state s_t the decayed sum up to and
including token t:

    past_t = decay s_{t-1}        s_t = past_t + v_t        s_0 = 0

Shapes: B batch, H heads, T time, D head dimension; N chunks of C tokens.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 32
"""C: tokens handled by one matrix product; the fastest on a CPU of 16 to 256 (see LOG.md)."""


def ema_of_past_by_definition(
    values: Tensor,
    decay: float | Tensor,
    state: Tensor | None = None,
    document_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute what `ema_of_past` computes by the recurrence, token by token, to check it by."""
    if state is None:
        state = torch.zeros_like(values[:, :, 0])  # (B, H, D)

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
    """Return the decayed sum over strictly past values; memory is linear in T.

    Exact for any decay in [0, 1). Differentiable once in values, decay and state. Computed by a
    Triton kernel where there is CUDA and Triton, and by matrix products elsewhere.

    Args:
        values: (B, H, T, D).
        decay: a number, a scalar tensor, or a tensor with one for each head, (H,); in [0, 1).
        state: (B, H, D), what an earlier call returned; the first token here belongs to the same
            document as the tokens of that call. None: nothing precedes these tokens.
        document_ids: (B, T), one number >= 0 for each document, each document being contiguous;
            the sum restarts with each document. None: each row is one document.

    Returns:
        past: (B, H, T, D), in the dtype of `values`, summed in float32 at least.
        state: (B, H, D), in float32 at least, for the tokens that follow.
    """
    precise = torch.promote_types(values.dtype, torch.float32)
    decay = _as_tensor(decay, values)
    if values.shape[2] == 1 and state is not None:  # one step of decoding
        past = (decay[..., None] * state)[:, :, None]
        return past.to(values.dtype), past[:, :, -1] + values[:, :, -1]

    past = _Sum.apply(values, decay, document_ids, None, False, precise)
    if state is not None:
        # The state acts like a value just before the first token: token t sees it t + 1 steps ago.
        age = torch.arange(1, values.shape[2] + 1, device=values.device)
        weight = decay[..., None] ** age  # (T,) or (H, T)
        if document_ids is not None:
            in_first_document = document_ids == document_ids[:, :1]
            weight = weight * in_first_document[:, None]  # (B, 1 or H, T)
        past = past + weight[..., None] * state[:, :, None]
    return past.to(values.dtype), past[:, :, -1] + values[:, :, -1]


def add_ema_of_past(
    onto: Tensor, values: Tensor, decay: float | Tensor, document_ids: Tensor | None = None
) -> Tensor:
    """Return `onto` (B, H, T, D) plus the past of `ema_of_past(values, decay, None, document_ids)`.

    The sum is computed in float32 and rounded once. The kernel reads `values` and `onto` once each
    and writes the result, with nothing in between.
    """
    decay = _as_tensor(decay, values)
    result: Tensor = _Sum.apply(values, decay, document_ids, onto, False, onto.dtype)
    return result


def _as_tensor(decay: float | Tensor, values: Tensor) -> Tensor:
    """Return the decay in the precision of the sums, on the device of the values."""
    precise = torch.promote_types(values.dtype, torch.float32)
    if isinstance(decay, Tensor):
        return decay.to(precise)
    # Filled on the device: there is no copy to wait for.
    return torch.full((), decay, dtype=precise, device=values.device)


def has_kernel(device: torch.device) -> bool:
    """Return whether the sums run in the Triton kernel on this device."""
    return device.type == "cuda" and find_spec("triton") is not None


class _Sum(torch.autograd.Function):
    """`decayed_sum`, differentiable once."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        decay: Tensor,
        document_ids: Tensor | None,
        onto: Tensor | None,
        backwards: bool,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.backwards = backwards
        ctx.has_onto = onto is not None
        ctx.save_for_backward(values, decay, document_ids)
        return decayed_sum(values, decay, document_ids, onto, backwards, dtype)

    @staticmethod
    def backward(ctx: Any, of_sum: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients; that of the values is the same sum, time reversed.

        With g the gradient of past, the adjoint of the recurrence is l_t = g_t + decay l_{t+1}.
        Then the gradient of v_t is decay l_{t+1} = sum_{j>t} decay^(j-t) g_j, and the gradient of
        the decay is sum_t l_t s_{t-1}, where s_{t-1} = past_{t-1} + v_{t-1}.
        """
        values, decay, document_ids = ctx.saved_tensors
        of_values = decayed_sum(of_sum, decay, document_ids, None, not ctx.backwards, values.dtype)
        of_decay = None
        if ctx.needs_input_grad[1]:
            of_decay = decay_gradient(of_sum, values, decay, document_ids)
        of_onto = of_sum if ctx.has_onto else None
        return of_values, of_decay, None, of_onto, None, None


def decayed_sum(
    values: Tensor,
    decay: Tensor,
    document_ids: Tensor | None,
    onto: Tensor | None,
    backwards: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Return sum_{i<t} decay^(t-i) v_i within each document, plus `onto`; (B, H, T, D).

    Args:
        values: (B, H, T, D).
        decay: scalar or (H,), in the precision of the sum.
        document_ids: (B, T), or None.
        onto: (B, H, T, D), or None: nothing is added.
        backwards: sum over i > t with decay^(i-t) instead.
        dtype: of the result.
    """
    # As an operation of torch, it costs more than the sums of a small model on a CPU.
    compute = compiled_sum if torch.compiler.is_compiling() else _sum
    return compute(values, decay, document_ids, onto, backwards, dtype)


def _sum(
    values: Tensor,
    decay: Tensor,
    document_ids: Tensor | None,
    onto: Tensor | None,
    backwards: bool,
    dtype: torch.dtype,
) -> Tensor:
    if has_kernel(values.device):
        from momentum_gpt.ops.ema_triton import decayed_sum_by_kernel

        result = _empty_result(values, onto, dtype)
        return decayed_sum_by_kernel(values, decay, document_ids, onto, backwards, result)

    sums = _by_heads(values.to(decay.dtype), decay, document_ids, backwards)
    if onto is not None:
        return torch.add(sums, onto, out=_empty_result(values, onto, dtype))
    return sums.to(dtype).transpose(1, 2).contiguous().transpose(1, 2)


compiled_sum = torch.library.custom_op("momentum_gpt::decayed_sum", _sum, mutates_args=())
"""To the compiler this is one operation that it does not look into, so that its graph holds for
every length."""


def _empty_result(values: Tensor, onto: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return an uninitialised tensor for the result, (B, H, T, D), in the layout it must have.

    That is the layout of `onto` or, without it, the one of projections: (B, T, H, D) transposed.
    """
    if onto is not None:
        return torch.empty_like(onto, dtype=dtype)
    B, H, T, D = values.shape
    return torch.empty(B, T, H, D, dtype=dtype, device=values.device).transpose(1, 2)


def decay_gradient(
    of_sum: Tensor, values: Tensor, decay: Tensor, document_ids: Tensor | None
) -> Tensor:
    """Return sum_t l_t s_{t-1}, see `_Sum.backward`: over all heads, or for each if decay is (H,).

    The past is computed again instead of being kept from the forward pass.
    """
    adjoint = of_sum + decayed_sum(of_sum, decay, document_ids, None, True, decay.dtype)
    state = values + decayed_sum(values, decay, document_ids, None, False, decay.dtype)
    products = adjoint[:, :, 1:] * state[:, :, :-1]
    if document_ids is not None:
        same_document = document_ids[:, 1:] == document_ids[:, :-1]
        products = products * same_document[:, None, :, None]
    return products.sum((0, 2, 3)) if decay.ndim else products.sum()


@compiled_sum.register_fake
def _fake_sum(
    values: Tensor,
    decay: Tensor,
    document_ids: Tensor | None,
    onto: Tensor | None,
    backwards: bool,
    dtype: torch.dtype,
) -> Tensor:
    return _empty_result(values, onto, dtype)


def _by_heads(
    values: Tensor, decay: Tensor, document_ids: Tensor | None, backwards: bool
) -> Tensor:
    """Return `_decayed_sum` of values (B, H, T, D), with a decay that is scalar or (H,)."""
    B, H, T, D = values.shape
    if decay.ndim == 0:
        # All heads are one wide head. The projection laid them out like this: nothing is copied.
        wide = values.transpose(1, 2).flatten(2)  # (B, T, H * D)
        sums = _decayed_sum(wide, decay[None], document_ids, backwards)
        return sums.view(B, T, H, D).transpose(1, 2)

    ids = None if document_ids is None else document_ids.repeat_interleave(H, dim=0)
    sums = _decayed_sum(values.flatten(0, 1), decay.repeat(B), ids, backwards)
    return sums.view(B, H, T, D)


def _decayed_sum(
    values: Tensor, decay: Tensor, document_ids: Tensor | None, backwards: bool
) -> Tensor:
    """Return sum_{i<t} decay^(t-i) v_i within each document, or with i > t if backwards.

    One matrix product sums within chunks of C tokens. Its extra row is what a chunk hands on to
    its neighbour. What reaches a chunk from all chunks before it is the same sum over what they
    hand on, with decay^C. Only positive powers of the decay occur, so nothing overflows, however
    small it is.

    Args:
        values: (P, T, Q), as is the result.
        decay: (1,) or (P,).
        document_ids: (P, T), or None.
        backwards: whether time is reversed.
    """
    P, T, Q = values.shape
    C = min(T, CHUNK)
    N = -(-T // C)  # rounded up
    if T % C:
        values = F.pad(values, (0, 0, 0, N * C - T))
    chunks = values.reshape(P * N, C, Q)

    if decay.numel() == 1 and decay.device.type == "cpu":
        in_chunk, of_reaching = _weights_of_number(C, float(decay), backwards, decay.dtype)
    else:
        in_chunk, of_reaching = _weights(C, decay, backwards)
    weights = in_chunk[:, None].expand(P, N, C + 1, C)

    edges = None
    if document_ids is not None:
        ids = F.pad(document_ids, (0, N * C - T), value=-1).view(P, N, C)
        # The document that a chunk hands on is the one at its edge, (P, N, 1).
        edge = ids[:, :, :1] if backwards else ids[:, :, -1:]
        target_ids = torch.cat([edge, ids] if backwards else [ids, edge], dim=2)
        weights = weights * (target_ids[..., :, None] == ids[..., None, :])
        edges = edge[..., 0]  # (P, N)

    sums = torch.bmm(weights.reshape(P * N, C + 1, C), chunks).view(P, N, C + 1, Q)
    if backwards:
        handed_on = sums[:, :, 0]  # (P, N, Q)
        inside = sums[:, :, 1:]  # (P, N, C, Q)
    else:
        handed_on = sums[:, :, C]
        inside = sums[:, :, :C]
    if N == 1:
        return inside[:, 0]

    reaching = handed_on + _decayed_sum(handed_on, decay**C, edges, backwards)  # (P, N, Q)
    weight = of_reaching[:, None, :, None]  # (1 or P, 1, C, 1)
    if edges is not None:
        reached_by = _from_neighbour(edges, backwards, value=-2)  # -2 is no document
        weight = weight * (ids == reached_by[..., None])[..., None]  # (P, N, C, 1)

    reaching = _from_neighbour(reaching, backwards)
    result = torch.addcmul(inside, weight, reaching[:, :, None]).view(P, N * C, Q)
    return result[:, :T] if T % C else result


def _weights(C: int, decay: Tensor, backwards: bool) -> tuple[Tensor, Tensor]:
    """Return the weights in a chunk of C tokens, for decays (1 or P,).

    Returns:
        (1 or P, C + 1, C): of the chunk's tokens in each of its sums. Row t is for what token t
            sees. There is one row more than there are tokens: for the neighbour, after the chunk
            or, backwards, before it.
        (1 or P, C): of what reaches the chunk, at each of its tokens.
    """
    source = torch.arange(C, device=decay.device)
    steps = source  # from the chunk's first token in time
    if backwards:
        target = torch.arange(-1, C, device=decay.device)
        distance = source - target[:, None]  # (C + 1, C)
        steps = C - 1 - steps
    else:
        target = torch.arange(C + 1, device=decay.device)
        distance = target[:, None] - source  # (C + 1, C)
    powers = decay[:, None, None] ** distance.clamp(min=0)
    return torch.where(distance > 0, powers, 0.0), decay[:, None] ** steps


@lru_cache(maxsize=64)
def _weights_of_number(
    C: int, decay: float, backwards: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return `_weights`, which a small model would spend as much time on as on its sums."""
    return _weights(C, torch.tensor([decay], dtype=dtype), backwards)


def _from_neighbour(of_chunks: Tensor, backwards: bool, value: int = 0) -> Tensor:
    """Return for each chunk what belongs to the chunk before it in time; `value` for the first.

    Args:
        of_chunks: (P, N) or (P, N, Q).
        backwards: whether time is reversed.
        value: fills in for a neighbour that does not exist.
    """
    filling = torch.full_like(of_chunks[:, :1], value)
    if backwards:
        return torch.cat([of_chunks[:, 1:], filling], dim=1)
    return torch.cat([filling, of_chunks[:, :-1]], dim=1)
