"""The momentum term against the formula, written out here as a double sum in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from momentum_gpt.ops import ema_of_past, ema_of_past_by_definition

LENGTHS = [1, 2, 31, 32, 33, 63, 64, 65, 200, 1025]
DECAYS = [0.0, 1e-3, 0.5, 0.999]


def formula(values: Tensor, decay: Tensor, document_ids: Tensor | None = None) -> Tensor:
    """past_t = sum_{i<t} decay^(t-i) v_i over t's document, as a T x T matrix of weights."""
    T = values.shape[2]
    rows = []
    for t in range(T):
        row = [decay ** (t - i) if i < t else decay * 0 for i in range(T)]
        rows.append(torch.stack(row))
    weights = torch.stack(rows)
    if document_ids is not None:
        weights = weights * (document_ids[:, None, :, None] == document_ids[:, None, None, :])
    return weights @ values


def random_values(T: int) -> Tensor:
    return torch.randn(2, 3, T, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(T))


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("T", [1, 2, 31, 33, 65, 100])
def test_output_and_every_gradient_are_those_of_the_formula(T: int, decay: float) -> None:
    upstream = random_values(T) + 1
    results = []
    for function in (
        formula,
        lambda v, d: ema_of_past(v, d)[0],
        lambda v, d: ema_of_past_by_definition(v, d)[0],
    ):
        values = random_values(T).requires_grad_()
        eta = torch.tensor(decay, dtype=torch.float64, requires_grad=True)
        past = function(values, eta)
        loss = (past * upstream).sum()
        gradients = torch.autograd.grad(
            loss, (values, eta), allow_unused=True, materialize_grads=True
        )
        results.append((past, *gradients))

    by_formula, *others = results
    for other in others:
        for tensor, expected in zip(other, by_formula, strict=True):
            torch.testing.assert_close(tensor, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("T", LENGTHS)
def test_the_fast_form_is_the_recurrence_with_state_and_documents(T: int, decay: float) -> None:
    values = random_values(T)
    state = random_values(7)[:, :, 0]
    ids = torch.sort(torch.randint(0, 4, (2, T), generator=torch.Generator().manual_seed(T)))[0]
    for start in (None, state):
        for documents in (None, ids):
            fast = ema_of_past(values, decay, start, documents)
            slow = ema_of_past_by_definition(values, decay, start, documents)
            for tensor, expected in zip(fast, slow, strict=True):
                torch.testing.assert_close(tensor, expected, rtol=1e-12, atol=1e-12)


def test_by_hand() -> None:
    """v = 1, 2, 4 with decay 1/2: nothing before the first; 1/2; 1/4 + 1."""
    past, state = ema_of_past(torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 3, 1), 0.5)
    assert past.flatten().tolist() == [0.0, 0.5, 1.25]
    assert state.item() == 1.25 + 4.0


def test_two_halves_with_the_state_between_them_are_the_whole() -> None:
    values = random_values(101)
    whole, end = ema_of_past(values, 0.7)
    first, state = ema_of_past(values[:, :, :40], 0.7)
    second, last = ema_of_past(values[:, :, 40:], 0.7, state)
    torch.testing.assert_close(torch.cat([first, second], dim=2), whole)
    torch.testing.assert_close(last, end)


def test_the_sum_restarts_with_each_document() -> None:
    values = random_values(90)
    ids = torch.tensor([0] * 37 + [1] * 13 + [2] * 40).expand(2, -1)
    together = ema_of_past(values, 0.9, document_ids=ids)[0]
    parts = [ema_of_past(part, 0.9)[0] for part in values.split([37, 13, 40], dim=2)]
    torch.testing.assert_close(together, torch.cat(parts, dim=2))

    decay = torch.tensor(0.9, dtype=torch.float64)
    torch.testing.assert_close(together, formula(values, decay, ids))


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_bfloat16_is_summed_in_float32(decay: float) -> None:
    """Rounding the result once is off by 2^-9; a sum kept in bf16, by several per cent."""
    values = random_values(1000).abs().bfloat16()
    exact = ema_of_past(values.double(), decay)[0]
    error = (ema_of_past(values, decay)[0].double() - exact).abs() / exact.abs().clamp(min=1e-9)
    assert error[:, :, 1:].max() < 2**-8


def test_gradients_pass_the_numerical_check() -> None:
    values = random_values(40)[:1, :1, :, :2].requires_grad_()
    eta = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    state = random_values(3)[:1, :1, 0, :2].requires_grad_()
    assert torch.autograd.gradcheck(lambda v, d, s: ema_of_past(v, d, s), (values, eta, state))


@pytest.mark.parametrize("documents", [False, True])
def test_each_head_may_have_its_own_decay(documents: bool) -> None:
    """A sum with three decays is three sums with one, in output and in every decay's gradient."""
    ids = torch.tensor([0] * 37 + [1] * 33).expand(2, -1) if documents else None
    decays = torch.tensor([0.2, 0.5, 0.999], dtype=torch.float64, requires_grad=True)
    values, state = random_values(70), random_values(5)[:, :, 0]
    together = ema_of_past(values, decays, state, ids)[0]
    upstream = random_values(70) - 1
    (gradient,) = torch.autograd.grad((together * upstream).sum(), decays)
    for head in range(3):
        decay = decays[head].detach().clone().requires_grad_()
        alone = ema_of_past_by_definition(
            values[:, head : head + 1], decay, state[:, head : head + 1], ids
        )[0]
        torch.testing.assert_close(together[:, head : head + 1], alone)
        (expected,) = torch.autograd.grad((alone * upstream[:, head : head + 1]).sum(), decay)
        torch.testing.assert_close(gradient[head], expected)
