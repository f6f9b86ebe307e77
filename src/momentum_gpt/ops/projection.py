"""A linear layer, y = x W^T + b, by the faster of torch's two libraries on a CPU.

torch computes fp32 products by MKL. oneDNN, which it carries too, takes 5 to 15% less time for
products with a whole weight matrix, forward and for the gradient of the input, and more for the
gradient of the weight (LOG.md, speed and memory). All else is left to torch.

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b, (..., O); differentiable once.

    Args:
        x: (..., I).
        weight: (O, I).
        bias: (O,).
    """
    if not takes_onednn(x):
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        return product(x, weight, bias)
    y: Tensor = _Projection.apply(x, weight, bias)
    return y


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return what `project` returns, without a gradient."""
    if not takes_onednn(x):
        return F.linear(x, weight, bias)
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def is_for_onednn(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether oneDNN computes products on a device, unless a model is compiled."""
    is_fp32_on_cpu = dtype == torch.float32 and device.type == "cpu"
    return is_fp32_on_cpu and torch.backends.mkldnn.is_available()


def takes_onednn(x: Tensor) -> bool:
    """Return whether oneDNN computes products with these inputs, here and now."""
    elsewhere = torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")
    return not elsewhere and is_for_onednn(x.device, x.dtype)


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, of_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = None, None, None
        if ctx.needs_input_grad[0]:
            of_x = product(of_y, weight.t())
        rows = of_y.flatten(0, -2)  # (N, O)
        if ctx.needs_input_grad[1]:
            of_weight = rows.t() @ x.flatten(0, -2)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            of_bias = rows.sum(0)
        return of_x, of_weight, of_bias
