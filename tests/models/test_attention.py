"""The attention variants: the formula, causality, and that they differ in the mixing rule alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from momentum_gpt.config import ModelConfig
from momentum_gpt.errors import UserError
from momentum_gpt.models import ATTENTIONS, GPT, build_attention
from momentum_gpt.models.attention import MomentumAttention, VanillaAttention
from momentum_gpt.models.gpt import init_weights
from momentum_gpt.models.weights import weights_sha256

OPTIONS = {"vanilla": {"name": "vanilla"}, "momentum": {"name": "momentum", "ema_decay": 0.5}}
TINY = ModelConfig(n_layers=2, n_heads=2, d_model=16, seq_len=40, vocab_size=50)


def heads(T: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(T)
    return [torch.randn(2, 2, T, 4, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(3)]


def momentum_by_the_formula(q: Tensor, k: Tensor, v: Tensor, eta: float) -> Tensor:
    """MoAttn(V, K, q_t) = V softmax(K^T q_t / sqrt(d)) + sum_{i=1}^{t-1} eta^(t-i) v_i, head by head, token by token."""
    out = torch.empty_like(v)
    rows = []
    for b in range(v.shape[0]):
        for h in range(v.shape[1]):
            for t in range(v.shape[2]):
                scores = torch.stack([q[b, h, t] @ k[b, h, i] / math.sqrt(q.shape[-1]) for i in range(t + 1)])
                weights = scores.exp() / scores.exp().sum()
                y = sum(weights[i] * v[b, h, i] for i in range(t + 1))
                rows.append(y + sum((eta ** (t - i) * v[b, h, i] for i in range(t)), torch.zeros_like(v[b, h, t])))
    return torch.stack(rows).view_as(out)


@pytest.mark.parametrize("eta", [0.0, 1e-3, 0.5, 0.999])
@pytest.mark.parametrize("T", [1, 2, 7, 33])
def test_momentum_is_the_formula_in_output_and_every_gradient(T: int, eta: float) -> None:
    inputs = heads(T)
    upstream = torch.randn(2, 2, T, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mine, expected = MomentumAttention(eta)(*inputs), momentum_by_the_formula(*inputs, eta)
    torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-12)
    gradients = [torch.autograd.grad((y * upstream).sum(), inputs) for y in (mine, expected)]
    for name, a, b in zip("qkv", *gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11, msg=lambda m, name=name: f"gradient of {name}: {m}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_decay_0_is_vanilla_attention_to_the_bit(dtype: torch.dtype) -> None:
    results = []
    for attend in (VanillaAttention(), MomentumAttention(0.0)):
        inputs = [x.detach().to(dtype).requires_grad_() for x in heads(70)]
        y = attend(*inputs)
        results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_future_tokens_do_not_change_the_past(name: str) -> None:
    attend = build_attention(OPTIONS[name])
    q, k, v = (x.detach() for x in heads(70))
    before = attend(q, k, v)
    for x in (q, k, v):
        x[:, :, 41:] += 1.0
    assert torch.equal(attend(q, k, v)[:, :, :41], before[:, :, :41])


@pytest.mark.parametrize("name", ATTENTIONS)
def test_all_variants_start_from_the_same_weights(name: str) -> None:
    models = [GPT(TINY, OPTIONS[n]) for n in ("vanilla", name)]
    for model in models:
        init_weights(model, seed=3)
    assert weights_sha256(models[0]) == weights_sha256(models[1])


def test_an_extra_parameter_of_a_variant_changes_no_other() -> None:
    """Were the weights drawn one after another from one generator, a learned decay would shift all that follow."""
    plain, extended = GPT(TINY, OPTIONS["momentum"]), GPT(TINY, OPTIONS["momentum"])
    for block in extended.blocks:
        block.attention.attend.extra = torch.nn.Parameter(torch.full((3,), 0.25))
    init_weights(plain, 0)
    init_weights(extended, 0)
    theirs = dict(extended.named_parameters())
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, theirs[name]), name
    assert theirs["blocks.0.attention.attend.extra"].tolist() == [0.25] * 3


@pytest.mark.parametrize("bad", [1.0, -0.1, 2, float("nan"), "0.5", None, True])
def test_a_decay_out_of_bounds_is_refused(bad: object) -> None:
    with pytest.raises(UserError, match=r"attention\.ema_decay must be a number in \[0, 1\), got"):
        build_attention({"name": "momentum", "ema_decay": bad})


def test_errors_name_the_variant_and_its_options() -> None:
    with pytest.raises(UserError, match="must be one of vanilla, momentum, got 'momentom'"):
        build_attention({"name": "momentom"})
    with pytest.raises(UserError, match="'vanilla' does not take ema_decay: it has no options"):
        build_attention({"name": "vanilla", "ema_decay": 0.5})
    with pytest.raises(UserError, match="'momentum' needs ema_decay"):
        build_attention({"name": "momentum"})
