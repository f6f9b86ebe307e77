"""The loss of a language model's targets, given its hidden states and the output embedding.

    loss = sum_t (log sum_v exp(h_t . w_v) - h_t . w_(y_t))        over all t that have a target

With p_t the softmax over the vocabulary and e the unit vectors, its gradients are

    of h_t:  sum_v (p_t - e_(y_t))_v w_v        of W:  sum_t (p_t - e_(y_t)) h_t^T

All of them need logits, (tokens, vocabulary), which are by far the largest tensor of a training
step. So they are computed for some tokens at a time, and the gradients in the same turn: the loss
is the last operation of a model, and its own gradient only a factor.

Shapes: N tokens, C width of the model, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from momentum_gpt.ops.projection import product

NO_TARGET = -100
"""Marks a token without a target, as in torch."""

ROWS = {"cpu": 256, "cuda": 8192}
"""Tokens at a time. On a CPU, of 64 to 1,024: the fastest for vocabularies of 2,048 and 32,768.

On a GPU, each turn also reads and writes the sum of the embedding's gradient: the more tokens, the
fewer turns.
"""


def bytes_of_logit(precision: str, is_compiled: bool, n_turns: int) -> int:
    """Return the bytes that a turn takes for each token and word.

    They are the logit and its probability in fp32; and in bf16 a copy of the logit in fp32, which
    torch's softmax makes. A compiled model does without that copy, but has the gradient in bf16
    beside the probability; with a single turn the logit is gone by then.
    """
    if precision == "fp32":
        return 8
    if not is_compiled:
        return 10
    return 6 if n_turns == 1 else 8


def summed_loss_by_definition(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return what `summed_loss` returns, from all logits at once, to check it by."""
    logits = F.linear(hidden, weight)
    precise = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.to(precise), targets, ignore_index=NO_TARGET, reduction="sum")


def summed_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of the losses in nats, in float32 at least; differentiable once.

    Args:
        hidden: (N, C).
        weight: (V, C).
        targets: (N,), -100 where there is none.
    """
    wanted = (hidden.requires_grad, weight.requires_grad)
    if not torch.is_grad_enabled():
        wanted = (False, False)
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        hidden, weight = (x.to(torch.get_autocast_dtype(device)) for x in (hidden, weight))
    with torch.autocast(device, enabled=False):  # the dtypes are those of the arguments
        loss: Tensor = _SummedLoss.apply(hidden, weight, targets, *wanted)
    return loss


class _SummedLoss(torch.autograd.Function):
    """The loss, with its gradients kept from the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, of_hidden: bool, of_weight: bool
    ) -> Tensor:
        rows = ROWS.get(hidden.device.type, ROWS["cpu"])
        losses = []
        hidden_gradients = []
        weight_gradient: Tensor | None = None
        for h, y in zip(hidden.split(rows), targets.split(rows), strict=True):
            without_target = (y == NO_TARGET)[:, None]
            loss, slope = loss_and_slope(h, weight, y.clamp(min=0))
            losses.append(loss.masked_fill(without_target, 0.0))
            if of_hidden:
                hidden_gradients.append(
                    product(slope, weight.t()).masked_fill_(without_target, 0.0)
                )
            if of_weight:
                h = h.masked_fill(without_target, 0.0)
                weight_gradient = add_product(weight_gradient, slope.t(), h)
            del slope  # before the next turn allocates its own

        gradients = []
        if of_hidden:
            gradients.append(torch.cat(hidden_gradients))
        if weight_gradient is not None:
            gradients.append(weight_gradient.to(weight.dtype))
        ctx.wanted = (of_hidden, of_weight)
        ctx.save_for_backward(*gradients)
        return torch.cat(losses).sum()

    @staticmethod
    def backward(ctx: Any, of_loss: Tensor) -> tuple[Tensor | None, ...]:
        kept = list(ctx.saved_tensors)
        # In place: as large as the embedding, they are needed once.
        found = [kept.pop(0).mul_(of_loss) if wanted else None for wanted in ctx.wanted]
        return (*found, None, None, None)


def loss_and_slope(h: Tensor, weight: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the losses (N, 1), and their slopes by the logits (N, V)."""
    precise = torch.promote_types(h.dtype, torch.float32)
    logits = product(h, weight)  # (N, V)
    y = y[:, None]

    # log(sum exp) from the largest logit, whose probability is at least 1/V.
    largest = logits.amax(1, keepdim=True).to(precise)
    p = torch.softmax(logits, 1, dtype=precise)
    loss = largest - p.amax(1, keepdim=True).log() - logits.gather(1, y)
    slope = p.scatter_add_(1, y, torch.full_like(p[:, :1], -1.0)).to(h.dtype)
    return loss, slope


def add_product(onto: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """Add a product of matrices to a sum in fp32; None: the product is the first."""
    precise = torch.promote_types(a.dtype, torch.float32)
    if onto is None:
        return a @ b
    if a.dtype == precise:
        return onto.addmm_(a, b)
    return onto.to(precise).add_(a @ b)
