"""The linear layer against its formula in float64, and where it leaves the work to torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from momentum_gpt.ops import project


def inputs(dtype: torch.dtype = torch.float32, *, bias: bool = True) -> list[Tensor]:
    """Return x (3, 5, 7), W (11, 7) and b (11,)."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5, 7), (11, 7), (11,)][: 3 if bias else 2]
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [tensor.to(dtype).requires_grad_() for tensor in drawn]


@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_are_those_of_the_formula(bias: bool) -> None:
    exact = inputs(torch.float64, bias=bias)
    right = torch.einsum("bti,oi->bto", *exact[:2])
    if bias:
        right = right + exact[2]
    slope = torch.linspace(-1, 1, right.numel(), dtype=torch.float64).view_as(right)
    (right * slope).sum().backward()

    mine = inputs(bias=bias)
    y = project(*mine)
    (y * slope.float()).sum().backward()
    torch.testing.assert_close(y.double(), right, rtol=1e-6, atol=1e-6)
    for tensor, reference in zip(mine, exact, strict=True):
        assert tensor.grad is not None
        assert reference.grad is not None
        torch.testing.assert_close(tensor.grad.double(), reference.grad, rtol=1e-5, atol=1e-6)


def test_a_view_whose_rows_are_apart_is_read_right() -> None:
    """The values of a layer come as a part of a wider product."""
    x, weight, bias = inputs()
    wide = torch.cat([x.detach(), x.detach() + 1], dim=-1).requires_grad_()
    project(wide[..., :7], weight, bias).square().sum().backward()
    of_weight = weight.grad
    weight.grad = None
    project(x, weight, bias).square().sum().backward()
    assert wide.grad is not None
    assert x.grad is not None
    torch.testing.assert_close(wide.grad[..., :7], x.grad)
    torch.testing.assert_close(of_weight, weight.grad)
    assert not wide.grad[..., 7:].any()


def test_only_the_gradients_that_are_wanted_are_computed() -> None:
    x, weight, bias = inputs()
    weight.requires_grad_(False)
    project(x, weight, bias).sum().backward()
    assert x.grad is not None
    assert weight.grad is None
    with torch.no_grad():
        assert not project(x, weight, bias).requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_are_torchs(dtype: torch.dtype) -> None:
    x, weight, bias = inputs(dtype)
    assert torch.equal(project(x, weight, bias), F.linear(x, weight, bias))


def test_autocast_is_torchs() -> None:
    x, weight, bias = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        y = project(x, weight, bias)
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, F.linear(x, weight, bias))


def test_no_rows_are_no_rows() -> None:
    _, weight, bias = inputs()
    assert project(torch.zeros(0, 7), weight, bias).shape == (0, 11)
