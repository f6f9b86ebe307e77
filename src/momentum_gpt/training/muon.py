"""Muon for the matrices of the blocks, on whole tensors or on ZeRO's flat parts of them.

Jordan et al. (2024), "Muon: An optimizer for hidden layers in neural networks", with the scale of
Liu et al. (arXiv 2502.16982), by which AdamW's learning rate and weight decay serve both.

DeepSpeed has a Muon of its own. It clips what has been orthogonalised instead of the gradient, and
moves its momentum in a step that is left out; here both are as with AdamW.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from momentum_gpt.core import distributed

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic of one Newton-Schulz iteration, as published."""

ITERATIONS = 5

Layout = Callable[[Tensor, Tensor], Tensor]
"""From a tensor that the optimizer updates, and its update, to the orthogonalised update."""


class MuonAdamW(AdamW):
    """AdamW, except that the groups with `muon` in them are updated by Muon.

    Args:
        groups: parameter groups; `muon` is whether Muon updates them, `momentum` is Muon's.
        options: AdamW's.

    Attributes:
        layout: how the matrices stand in the tensors of the groups; each tensor is a matrix until
            the engine, which divides them, sets it.
    """

    layout: Layout

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        super().__init__(groups, **options)
        self.layout = lambda _, update: orthogonalised(update)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        groups = self.param_groups
        for group in groups:
            if group["muon"]:
                self._update_by_muon(group)

        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            super().step()
        finally:
            self.param_groups = groups

    def _update_by_muon(self, group: dict[str, Any]) -> None:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter)

            state["step"] += 1
            average = state["exp_avg"].lerp_(parameter.grad, 1 - group["momentum"])
            ahead = parameter.grad.lerp(average, group["momentum"])  # Nesterov's

            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(self.layout(parameter, ahead), alpha=-group["lr"])


def orthogonalised(update: Tensor) -> Tensor:
    """Return a matrix with the singular vectors of `update` and singular values near one, scaled.

    The scale, 0.2 sqrt(the longer side), makes its entries about as large as AdamW's. The
    iterations run in bf16, as published.
    """
    a, b, c = COEFFICIENTS
    x = update.bfloat16()
    is_tall = x.shape[0] > x.shape[1]
    if is_tall:
        x = x.T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    if is_tall:
        x = x.T
    return 0.2 * math.sqrt(max(update.shape)) * x.to(update.dtype)


def one_after_another(shapes: Sequence[torch.Size], update: Tensor) -> Tensor:
    """Orthogonalise matrices that stand one after another in a tensor that is cut into parts.

    So are they under ZeRO-1 and ZeRO-2. Each rank computes the matrices that it has a part of.
    Every rank must call this.

    Args:
        shapes: of the matrices, in their order.
        update: this rank's part, flat; all parts are equally long, the last one is padded.
    """
    whole = _of_all_ranks(update).flatten()
    first = distributed.rank() * update.numel()
    last = first + update.numel()

    done = torch.zeros_like(update)
    start = 0
    for shape in shapes:
        end = start + shape.numel()
        begin, stop = max(start, first), min(end, last)  # what this rank has of it
        if begin < stop:
            matrix = orthogonalised(whole[start:end].view(shape)).flatten()
            done[begin - first : stop - first] = matrix[begin - start : stop - start]
        start = end
    return done


def side_by_side(shapes: Sequence[torch.Size], update: Tensor) -> Tensor:
    """Orthogonalise matrices of which each is cut into equal parts, one for each rank.

    So are they under ZeRO-3. Every rank computes every matrix, and must call this.

    Args:
        shapes: of the matrices, in their order.
        update: this rank's parts, one after another, flat; the last rank's are padded.
    """
    rank, ranks = distributed.rank(), distributed.world_size()
    by_rank = _of_all_ranks(update)

    done = torch.zeros_like(update)
    start = 0
    for shape in shapes:
        size = math.ceil(shape.numel() / ranks)
        whole = by_rank[:, start : start + size].flatten()[: shape.numel()]
        matrix = orthogonalised(whole.view(shape)).flatten()
        mine = matrix[rank * size : (rank + 1) * size]
        done[start : start + len(mine)] = mine
        start += size
    return done


def _of_all_ranks(update: Tensor) -> Tensor:
    """Return the flat tensors of all ranks, (ranks, numbers), in bf16, which is what is needed."""
    mine = update.bfloat16()
    return torch.stack(distributed.tensors_of_all_ranks(mine)).to(update.dtype)
