"""The loss in chunks against the formula, written out here, and its gradients against autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from momentum_gpt.ops import summed_loss
from momentum_gpt.ops.cross_entropy import ROWS, summed_loss_by_definition

N_ROWS = ROWS["cpu"]


def inputs(n: int, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> tuple[Tensor, ...]:
    """Return hidden states, weights and targets, some of which are missing."""
    generator = torch.Generator().manual_seed(n)
    hidden = torch.randn(n, 8, dtype=torch.float64, generator=generator) * scale
    weight = torch.randn(40, 8, dtype=torch.float64, generator=generator)
    targets = torch.randint(40, (n,), generator=generator)
    targets[::3] = -100
    targets[-1] = 7
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets


def formula(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """sum_t log sum_v exp(h_t . w_v) - h_t . w_(y_t), target by target."""
    losses = []
    for h, y in zip(hidden, targets.tolist(), strict=True):
        if y != -100:
            scores = torch.stack([(h * w).sum() for w in weight])
            losses.append(scores.logsumexp(0) - scores[y])
    return torch.stack(losses).sum()


@pytest.mark.parametrize("n", [1, 5, N_ROWS - 1, N_ROWS, N_ROWS + 1, 2 * N_ROWS + 17])
def test_loss_and_gradients_are_those_of_the_formula(n: int) -> None:
    results = []
    for function in (formula, summed_loss, summed_loss_by_definition):
        hidden, weight, targets = inputs(n)
        loss = function(hidden, weight, targets)
        (3.0 * loss).backward()
        results.append((loss.detach(), hidden.grad, weight.grad))
    expected, *others = results
    for other in others:
        for tensor, right in zip(other, expected, strict=True):
            torch.testing.assert_close(tensor, right, rtol=1e-12, atol=1e-12)


def test_probabilities_that_vanish_cost_what_they_cost() -> None:
    """Logits of hundreds: the probability of a target is 0 in float32, its loss is not infinite."""
    hidden, weight, targets = inputs(50, torch.float32, scale=200.0)
    loss = summed_loss(hidden, weight, targets)
    exact = formula(hidden.double(), weight.double(), targets)
    assert exact.detach() > 1e4
    assert float(loss.detach()) == pytest.approx(float(exact.detach()), rel=1e-6)
    loss.backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_as_near_as_by_definition(dtype: torch.dtype) -> None:
    n = 3 * N_ROWS + 5
    exact = inputs(n)
    formula(*exact).backward()
    distances = []
    for function in (summed_loss, summed_loss_by_definition):
        hidden, weight, targets = inputs(n, dtype)
        loss = function(hidden, weight, targets)
        assert loss.dtype == torch.float32
        loss.backward()
        gaps = []
        for tensor, right in ((hidden.grad, exact[0].grad), (weight.grad, exact[1].grad)):
            assert tensor is not None
            assert tensor.dtype == dtype
            gaps.append(float((tensor.double() - right).norm() / right.norm()))
        distances.append(gaps)
    for mine, by_definition in zip(*distances, strict=True):
        assert mine <= 1.5 * by_definition


def test_many_turns_in_bf16_are_added_up_in_fp32() -> None:
    """A sum in bf16 would lose what is added once it is 256 times as large."""
    n = 40 * N_ROWS
    exact = inputs(n)
    summed_loss_by_definition(*exact).backward()
    hidden, weight, targets = inputs(n, torch.bfloat16)
    summed_loss(hidden, weight, targets).backward()
    assert weight.grad is not None
    assert exact[1].grad is not None
    gap = (weight.grad.double() - exact[1].grad).norm() / exact[1].grad.norm()
    assert gap < 0.006


def test_only_the_gradients_that_are_wanted_are_computed() -> None:
    hidden, weight, targets = inputs(20)
    expected = summed_loss(hidden, weight, targets)
    expected.backward()

    frozen = summed_loss(other := hidden.detach().requires_grad_(), weight.detach(), targets)
    frozen.backward()
    torch.testing.assert_close(other.grad, hidden.grad)
    with torch.no_grad():
        loss = summed_loss(hidden, weight, targets)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, expected.detach())


def test_a_second_backward_pass_is_refused_and_not_wrong() -> None:
    hidden, weight, targets = inputs(20)
    loss = summed_loss(hidden, weight, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_autocast_computes_in_bf16_and_hands_back_fp32() -> None:
    hidden, weight, targets = inputs(N_ROWS + 3, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        summed_loss(hidden, weight, targets).backward()
    lower = [tensor.detach().bfloat16().requires_grad_() for tensor in (hidden, weight)]
    summed_loss(lower[0], lower[1], targets).backward()
    for tensor, same in zip((hidden, weight), lower, strict=True):
        assert tensor.grad is not None
        assert same.grad is not None
        assert tensor.grad.dtype == torch.float32
        assert torch.equal(tensor.grad, same.grad.float())
