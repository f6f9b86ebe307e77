"""The Triton kernel against the recurrence: on a GPU where there is one, else in Triton's interpreter (set in conftest.py)."""

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
    return torch.sort(torch.randint(0, 4, (B, T), generator=torch.Generator().manual_seed(T)))[
        0
    ].to(DEVICE)


@pytest.mark.parametrize(("T", "with_documents"), product([1, 65, 150], [False, True]))
@pytest.mark.parametrize("decay", [0.0, 1e-3, 0.999])
def test_the_kernel_is_the_recurrence(T: int, decay: float, with_documents: bool) -> None:
    ids = documents(T) if with_documents else None
    past, state = ema_of_past(random(T), decay, None, ids)
    expected_past, expected_state = ema_of_past_by_definition(random(T), decay, None, ids)
    torch.testing.assert_close(past, expected_past, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, expected_state, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("with_documents", [False, True])
def test_its_gradients_are_those_of_the_recurrence(with_documents: bool) -> None:
    """Of values, of each head's decay, of the state, and of what the sum is added to."""
    T = 70
    ids, upstream, results = (documents(T) if with_documents else None), random(T, seed=1), []
    for function in (ema_of_past, ema_of_past_by_definition):
        values, onto, state = (
            x.requires_grad_() for x in (random(T), random(T, seed=2), random(7)[:, :, 0])
        )
        decays = torch.tensor([0.2, 0.999], dtype=torch.float64, device=DEVICE, requires_grad=True)
        heads = decays if function is ema_of_past else decays[:, None]
        past = function(values, heads, state, ids)[0]
        if function is ema_of_past:
            y = past * add_ema_of_past(onto, values, heads, ids)
        else:
            y = past * (onto + function(values, heads, None, ids)[0])
        results.append(
            [y, *torch.autograd.grad((y * upstream).sum(), [values, decays, state, onto])]
        )
    for name, mine, expected in zip(
        ("y", "values", "decays", "state", "onto"), *results, strict=True
    ):
        torch.testing.assert_close(
            mine, expected, rtol=1e-11, atol=1e-11, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("backwards", [False, True])
def test_bfloat16_is_summed_in_float32_and_rounded_once(backwards: bool) -> None:
    T = 300
    values, onto = random(T, dtype=torch.bfloat16).abs(), random(T, seed=1, dtype=torch.bfloat16)
    mine = decayed_sum(
        values, torch.tensor(0.999, device=DEVICE), None, onto, backwards, torch.bfloat16
    )
    in_time = values.flip(2) if backwards else values
    exact = ema_of_past_by_definition(in_time.double(), 0.999)[0]
    exact = (exact.flip(2) if backwards else exact) + onto.double()
    assert (
        (mine.double() - exact).abs() <= 2**-7 * exact.abs() + 1e-5
    ).all()  # the interpreter cuts off where a GPU rounds


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
