"""The decayed sum of ema.py in one Triton kernel, for the forward and the backward pass.

With w_t = decay, but 0 where a document starts, the sum over the past is a linear recurrence:

    past_t = w_t (past_{t-1} + v_{t-1})

Two steps make one: (w, b), then (w', b'), is (w w', w' b + b'). So a chunk of tokens is one
associative scan of (w_t, w_t v_{t-1}), and a chunk reaches the next one through its last row alone.
Decays are only ever multiplied, never divided by or raised to a power: this is exact for each decay
in [0, 1), 0 and 1e-3 included.

The kernel is bound by memory. For an H100 and (B, H, T, D) = (16, 16, 1024, 64) in bf16 one can
reckon (this is not measured): reading values and onto and writing the result is 101 MB, 30 us at
3.35 TB/s. There are 1024 programs of one warp, so there are no barriers, and all are resident, 8 to
a multiprocessor. Each has two chunks of 4 KB in flight, 64 KB in all, where 3.35 TB/s at 0.8 us
ask for 20 KB. A chunk compiles to about 830 instructions for sm_90 (980 with documents), which
take 15 us (18) to issue at 1.7 GHz.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 64
"""Tokens scanned at once.

Doubling it halves the chunks that wait for one another, and doubles the registers (119 here).
"""

BLOCK_D = 16
"""Columns of one program: 32 bytes of bf16, the least that memory transfers.

Fewer columns mean more programs in flight.
"""

STAGES = 3
"""Chunks in the pipeline: one is being summed, the others are on their way from memory."""


def decayed_sum_by_kernel(
    values: Tensor,
    decay: Tensor,
    document_ids: Tensor | None,
    onto: Tensor | None,
    backwards: bool,
    result: Tensor,
) -> Tensor:
    """Fill `result` with onto_t + sum_{i<t} decay^(t-i) v_i within each document, and return it.

    Args:
        values: (B, H, T, D), with any strides.
        decay: scalar or (H,), in the precision of the sum; it is read on the device, so that
            nothing waits for it.
        document_ids: (B, T), each document being contiguous; or None.
        onto: (B, H, T, D), with any strides; or None: nothing is added.
        backwards: sum over i > t with decay^(i-t) instead: time runs from the last token on.
        result: (B, H, T, D), with any strides; the sum is rounded to its dtype, once.
    """
    B, H, T, D = values.shape
    # Triton launches on the current device, which need not be the one of the tensors.
    with torch.cuda.device_of(values):
        _decayed_sum[triton.cdiv(D, BLOCK_D), H, B](
            *(values, values.stride()),
            *(decay, decay.expand(H).stride()),
            *(document_ids, None if document_ids is None else document_ids.stride()),
            *(onto, None if onto is None else onto.stride()),
            *(result, result.stride()),
            *(T, D, backwards, CHUNK, BLOCK_D, STAGES),
            num_warps=1,
        )
    return result


@triton.jit
def _decayed_sum(
    values: tl.tensor,
    values_strides: tl.tuple,
    decay: tl.tensor,
    decay_strides: tl.tuple,
    document_ids: tl.tensor,
    document_ids_strides: tl.tuple,
    onto: tl.tensor,
    onto_strides: tl.tuple,
    result: tl.tensor,
    result_strides: tl.tuple,
    T: tl.tensor,
    D: tl.tensor,
    BACKWARDS: tl.constexpr,
    C: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """Sum BLOCK_D columns of one head of one sequence, C tokens at once, in the order of time."""
    # In 64 bits, because offsets may exceed 2^31.
    b = tl.program_id(2).to(tl.int64)
    h = tl.program_id(1).to(tl.int64)
    d = tl.program_id(0).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)

    # Pointers to the columns, (1, BLOCK_D).
    values += b * values_strides[0] + h * values_strides[1] + d[None, :] * values_strides[3]
    result += b * result_strides[0] + h * result_strides[1] + d[None, :] * result_strides[3]
    if onto is not None:
        onto += b * onto_strides[0] + h * onto_strides[1] + d[None, :] * onto_strides[3]
    if document_ids is not None:
        document_ids += b * document_ids_strides[0]
    decay = tl.load(decay + h * decay_strides[0])

    carry = tl.zeros((BLOCK_D,), decay.dtype)  # past of the last token of the previous chunk
    for start in tl.range(0, T, C, num_stages=STAGES):
        step = start + tl.arange(0, C)  # (C,)
        t = (T - 1 - step if BACKWARDS else step).to(tl.int64)
        previous = t + 1 if BACKWARDS else t - 1
        there = (step < T)[:, None] & (d < D)[None, :]
        after_first = there & (step > 0)[:, None]
        v = tl.load(values + previous[:, None] * values_strides[2], after_first, 0)
        v = v.to(decay.dtype)  # (C, BLOCK_D)

        w = decay
        if document_ids is not None:
            stride = document_ids_strides[1]
            document = tl.load(document_ids + t * stride, step < T)
            has_previous = (step < T) & (step > 0)
            previous_document = tl.load(document_ids + previous * stride, has_previous)
            w = tl.where(document == previous_document, decay, 0)[:, None]  # (C, 1)
        w = tl.broadcast_to(w, (C, BLOCK_D))

        w_since_start, past = tl.associative_scan((w, w * v), 0, _one_after_the_other)
        past += w_since_start * carry

        # Triton cannot index a row: the last one is summed out.
        is_last = tl.arange(0, C)[:, None] == C - 1
        carry = tl.sum(tl.where(is_last, past, 0), 0)

        if onto is not None:
            past += tl.load(onto + t[:, None] * onto_strides[2], there)
        tl.store(result + t[:, None] * result_strides[2], past, there)


@triton.jit
def _one_after_the_other(
    w: tl.tensor, b: tl.tensor, next_w: tl.tensor, next_b: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """Compose x -> w x + b with x -> next_w x + next_b, which follows it."""
    return w * next_w, next_w * b + next_b
