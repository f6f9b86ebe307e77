"""The Triton kernel against the recurrence.

It runs on a GPU where there is one, else in Triton's interpreter, which conftest.py switches on.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from momentum_gpt.ops import add_ema_of_past, ema_of_past, ema_of_past_by_definition
from momentum_gpt.ops.ema import decayed_sum

pytest.importorskip("triton", reason="Triton is not installed")
from momentum_gpt.ops import ema_triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
B, H, D = 2, 2, 20
"""D is no multiple of the kernel's columns."""


@pytest.fixture(autouse=True)
def through_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("momentum_gpt.ops.ema.has_kernel", lambda device: True)


def random(T: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """(B, H, T, D), laid out as a projection gives it."""
    values = torch.randn(
        B, T, H, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1000 * seed + T)
    )
    return values.to(DEVICE, dtype).transpose(1, 2)


def documents(T: int) -> Tensor:
    drawn = torch.randint(0, 4, (B, T), generator=torch.Generator().manual_seed(T))
    return drawn.sort().values.to(DEVICE)


@pytest.mark.parametrize(("T", "with_documents"), product([1, 65, 150], [False, True]))
@pytest.mark.parametrize("decay", [0.0, 1e-3, 0.999])
def test_the_kernel_is_the_recurrence(T: int, decay: float, with_documents: bool) -> None:
    ids = documents(T) if with_documents else None
    past, state = ema_of_past(random(T), decay, None, ids)
    expected_past, expected_state = ema_of_past_by_definition(random(T), decay, None, ids)
    torch.testing.assert_close(past, expected_past, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, expected_state, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("with_documents", [pytest.param(False, marks=pytest.mark.slow), True])
def test_its_gradients_are_those_of_the_recurrence(with_documents: bool) -> None:
    """Those of values, of each head's decay, of the state, and of what the sum is added to."""
    T = 70
    ids = documents(T) if with_documents else None
    upstream = random(T, seed=1)
    results = []
    for function in (ema_of_past, ema_of_past_by_definition):
        values = random(T).requires_grad_()
        onto = random(T, seed=2).requires_grad_()
        state = random(7)[:, :, 0].requires_grad_()
        decays = torch.tensor([0.2, 0.999], dtype=torch.float64, device=DEVICE, requires_grad=True)
        heads = decays if function is ema_of_past else decays[:, None]
        past = function(values, heads, state, ids)[0]
        if function is ema_of_past:
            y = past * add_ema_of_past(onto, values, heads, ids)
        else:
            y = past * (onto + function(values, heads, None, ids)[0])
        gradients = torch.autograd.grad((y * upstream).sum(), [values, decays, state, onto])
        results.append([y, *gradients])

    names = ("y", "values", "decays", "state", "onto")
    for name, tensor, expected in zip(names, *results, strict=True):
        message = f"{name}: {{}}".format
        torch.testing.assert_close(tensor, expected, rtol=1e-11, atol=1e-11, msg=message)


@pytest.mark.parametrize("backwards", [False, True])
def test_bfloat16_is_summed_in_float32_and_rounded_once(backwards: bool) -> None:
    T = 300
    values = random(T, dtype=torch.bfloat16).abs()
    onto = random(T, seed=1, dtype=torch.bfloat16)
    decay = torch.tensor(0.999, device=DEVICE)
    result = decayed_sum(values, decay, None, onto, backwards, torch.bfloat16)

    in_time = values.flip(2) if backwards else values
    exact = ema_of_past_by_definition(in_time.double(), 0.999)[0]
    exact = (exact.flip(2) if backwards else exact) + onto.double()

    # A GPU rounds to bf16; the interpreter cuts off, which is twice as far.
    error = (result.double() - exact).abs()
    assert (error <= 2**-7 * exact.abs() + 1e-5).all()


def test_any_strides_are_read() -> None:
    """Values as a slice of a joint projection, a result laid out otherwise."""
    joint = torch.randn(B, 70, 3, H, D, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    values = joint[:, :, 2].transpose(1, 2)
    result = torch.empty(B, H, D, 70, device=DEVICE).transpose(2, 3)
    ema_triton.decayed_sum_by_kernel(
        values, torch.tensor(0.7, device=DEVICE), None, None, False, result
    )
    torch.testing.assert_close(
        result, ema_of_past_by_definition(values, 0.7)[0], rtol=1e-5, atol=1e-5
    )
