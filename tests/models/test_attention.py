"""The attention variants: the paper's formula, their options, and what each states of itself.

What every variant must keep (causality, decoding, documents, ...) is in test_conformance.py.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from momentum_gpt.core.config import ModelConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.models import ATTENTIONS, GPT, build_attention
from momentum_gpt.models.attention import Layer, MomentumAttention, VanillaAttention
from momentum_gpt.models.gpt import init_weights
from momentum_gpt.models.hf.form import HFForm, HFMomentum
from momentum_gpt.models.weights import weights_sha256
from tests.models import variants

TINY = ModelConfig(n_layers=2, n_heads=2, d_model=16, seq_len=40, vocab_size=50)
LAYER = Layer(index=0, n_layers=2, n_heads=2, d_head=4)


def heads(T: int) -> list[Tensor]:
    """Return random q, k, v, (2, 2, T, 4), that take gradients."""
    generator = torch.Generator().manual_seed(T)
    tensors = []
    for _ in range(3):
        drawn = torch.randn(2, 2, T, 4, dtype=torch.float64, generator=generator)
        tensors.append(drawn.requires_grad_())
    return tensors


def momentum_by_the_formula(q: Tensor, k: Tensor, v: Tensor, eta: float) -> Tensor:
    """MoAttn(V, K, q_t) = V softmax(K^T q_t / sqrt(d)) + sum_{i=1}^{t-1} eta^(t-i) v_i.

    Written out head by head and token by token.
    """
    B, H, T, D = v.shape
    rows = []
    for b in range(B):
        for h in range(H):
            for t in range(T):
                scores = [q[b, h, t] @ k[b, h, i] / math.sqrt(D) for i in range(t + 1)]
                exponentials = torch.stack(scores).exp()
                weights = exponentials / exponentials.sum()

                y = torch.zeros_like(v[b, h, t])
                for i in range(t + 1):
                    y = y + weights[i] * v[b, h, i]
                for i in range(t):
                    y = y + eta ** (t - i) * v[b, h, i]
                rows.append(y)
    return torch.stack(rows).view_as(v)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_every_variant_describes_itself_and_its_options_are_those_of_its_yaml(name: str) -> None:
    """`recall` sets the option `ema_decay` of every variant that says it has a decay."""
    variant = ATTENTIONS[name]
    assert variant.__doc__
    assert variant.description().endswith(".")
    assert len(variant.description()) <= 100
    assert variant.has_decay == ("ema_decay" in variant.options())
    assert {"name", *variant.options()} == variants.FROM_YAML[name].keys()
    assert variants.FROM_YAML[name]["name"] == name


def test_what_a_layer_of_momentum_exports_is_written_out() -> None:
    options = {"name": "momentum", "ema_decay": [0.1, 0.9], "normalised": True, "layers": [1]}
    first, second = build_attention(options, TINY)
    assert first.hf_form() == HFForm("softmax")
    assert second.hf_form() == HFForm("softmax", HFMomentum([0.9, 0.9], normalised=True))
    by_head = {"name": "linear_momentum", "ema_decay": [[0.1, 0.2]], "learned": True}
    for module in build_attention(by_head, TINY):
        assert module.hf_form() == HFForm("linear", HFMomentum([0.1, 0.2], learned=True))


@pytest.mark.parametrize("eta", [0.0, 1e-3, 0.5, 0.999])
@pytest.mark.parametrize("T", [1, 2, 7, 33])
def test_momentum_is_the_formula_in_output_and_every_gradient(T: int, eta: float) -> None:
    inputs = heads(T)
    generator = torch.Generator().manual_seed(1)
    upstream = torch.randn(2, 2, T, 4, dtype=torch.float64, generator=generator)
    y = MomentumAttention(LAYER, eta)(*inputs)
    expected = momentum_by_the_formula(*inputs, eta)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-12)

    gradients = torch.autograd.grad((y * upstream).sum(), inputs)
    expected_gradients = torch.autograd.grad((expected * upstream).sum(), inputs)
    for name, a, b in zip("qkv", gradients, expected_gradients, strict=True):
        message = f"gradient of {name}: {{}}"
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11, msg=message.format)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_decay_0_is_vanilla_attention_to_the_bit(dtype: torch.dtype) -> None:
    results = []
    for attend in (VanillaAttention(LAYER), MomentumAttention(LAYER, 0.0)):
        inputs = [x.detach().to(dtype).requires_grad_() for x in heads(70)]
        y = attend(*inputs)
        results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, [0.25, 0.5, 0.0]),
        ({"normalised": True}, [0.125, 0.25, 0.0]),
        ({"include_current": True}, [0.25, 0.5, 1.0]),
        ({"include_current": True, "normalised": True}, [0.125, 0.25, 0.5]),
        ({"ema_decay": [0.5, 0.25]}, [0.25, 0.5, 0.0]),
        ({"ema_decay": [[0.5, 0.0]]}, [0.25, 0.5, 0.0]),
        ({"layers": [1]}, [0.0, 0.0, 0.0]),
        ({"learned": True}, [0.25, 0.5, 0.0]),
    ],
)
def test_the_options_by_hand(options: dict[str, Any], weights: list[float]) -> None:
    """What the first head's third token takes of three values, beside softmax attention.

    The weights were worked out on paper.
    """
    attend = build_attention({"name": "momentum", "ema_decay": 0.5, **options}, TINY)[0].double()
    q, k, v = (x.detach() for x in heads(3))

    term = (attend(q, k, v) - VanillaAttention(LAYER)(q, k, v))[0, 0, 2]
    expected = sum(weight * value for weight, value in zip(weights, v[0, 0], strict=True))

    # A learned decay is kept in float32.
    torch.testing.assert_close(term, expected, rtol=1e-6, atol=1e-7)


def test_lists_of_decays_reach_their_layer_and_head() -> None:
    by_layer = build_attention({"name": "momentum", "ema_decay": [0.1, 0.9]}, TINY)
    assert [attend.decays for attend in by_layer] == [0.1, 0.9]
    by_head = build_attention({"name": "momentum", "ema_decay": [[0.1, 0.2], [0.3, 0.4]]}, TINY)
    assert [attend.decays.tolist() for attend in by_head] == [[0.1, 0.2], [0.3, 0.4]]
    q, k, v = (x.detach() for x in heads(9))
    for head, decay in enumerate([0.1, 0.2]):
        alone = MomentumAttention(LAYER, decay)(q, k, v)
        torch.testing.assert_close(by_head[0](q, k, v)[:, head], alone[:, head])


def test_each_head_is_normalised_by_its_own_decay() -> None:
    options = {"name": "momentum", "ema_decay": [[0.25, 0.75]], "normalised": True}
    attend = build_attention(options, TINY)[0]
    q, k, v = (x.detach() for x in heads(3))
    term = (attend(q, k, v) - VanillaAttention(LAYER)(q, k, v))[:, :, 2]
    for head, decay in enumerate([0.25, 0.75]):
        values = v[:, head]
        expected = (1 - decay) * (decay**2 * values[:, 0] + decay * values[:, 1])
        torch.testing.assert_close(term[:, head], expected)


def test_a_learned_decay_is_trained_and_stays_inside_its_bounds() -> None:
    attend = build_attention({"name": "momentum", "ema_decay": 0.9, "learned": True}, TINY)[0]
    torch.testing.assert_close(attend.ema_decay(torch.zeros(())), torch.full((2,), 0.9))
    optimizer = torch.optim.SGD(attend.parameters(), lr=1e6)
    q, k, v = (x.detach().float() for x in heads(20))
    for _ in range(3):
        attend(q, k, v).square().sum().backward()
        optimizer.step()
    assert ((attend.ema_decay(v) > 0) & (attend.ema_decay(v) < 1)).all()
    assert (attend.ema_decay(v) != 0.9).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_no_step_takes_a_learned_decay_to_0_or_to_1(dtype: torch.dtype) -> None:
    attend = build_attention({"name": "momentum", "ema_decay": 0.9, "learned": True}, TINY)[0]
    with torch.no_grad():
        attend.decay_logits.copy_(torch.tensor([-1000.0, 1000.0]))
    assert attend.ema_decay(torch.zeros((), dtype=dtype)).tolist() == [2**-20, 1 - 2**-20]


def test_layers_without_momentum_have_no_decay_to_learn() -> None:
    model = GPT(TINY, {"name": "momentum", "ema_decay": 0.5, "learned": True, "layers": [1]})
    assert [name for name, _ in model.named_parameters() if "decay" in name] == [
        "blocks.1.attention.attend.decay_logits"
    ]


@pytest.mark.parametrize("case", variants.ALL)
def test_a_variant_has_vanillas_parameters_from_the_same_weights(case: str) -> None:
    vanilla = GPT(TINY, {"name": "vanilla"})
    model = GPT(TINY, variants.ALL[case])
    init_weights(vanilla, seed=3)
    init_weights(model, seed=3)
    parameters = dict(model.named_parameters())
    for name, parameter in vanilla.named_parameters():
        assert torch.equal(parameter, parameters[name]), name
    assert weights_sha256(vanilla) == weights_sha256(model)


def test_an_extra_parameter_of_a_variant_changes_no_other() -> None:
    """If one generator drew all weights, a learned decay would shift all that follow."""
    plain, extended = (GPT(TINY, {"name": "momentum", "ema_decay": 0.5}) for _ in range(2))
    for block in extended.blocks:
        block.attention.attend.extra = torch.nn.Parameter(torch.full((3,), 0.25))
    init_weights(plain, 0)
    init_weights(extended, 0)
    parameters = dict(extended.named_parameters())
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, parameters[name]), name
    assert parameters["blocks.0.attention.attend.extra"].tolist() == [0.25] * 3


@pytest.mark.parametrize(
    "bad",
    [
        1.0,
        -0.1,
        2,
        float("nan"),
        "0.5",
        None,
        True,
        [],
        [0.5],
        [0.5, 1.0],
        [[0.5]],
        [[0.5, 0.5, 0.5]],
    ],
)
def test_a_decay_out_of_bounds_is_refused(bad: object) -> None:
    with pytest.raises(
        UserError, match=r"attention\.ema_decay must be a number in \[0, 1\), a list of 2 .*, got"
    ):
        build_attention({"name": "momentum", "ema_decay": bad}, TINY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learned": 1}, "attention.learned must be true or false, got 1"),
        (
            {"layers": [2]},
            r"attention.layers must be a list of layers from 0 to 1, or null for all, got \[2\]",
        ),
        (
            {"ema_decay": 0.0, "learned": True},
            "attention.ema_decay must be above 0 if it is learned, got 0.0",
        ),
    ],
)
def test_options_out_of_bounds_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_attention({"name": "momentum", "ema_decay": 0.5, **options}, TINY)


def test_errors_name_the_variant_and_its_options() -> None:
    with pytest.raises(UserError, match=r"must be one of vanilla, momentum, .*, got 'momentom'"):
        build_attention({"name": "momentom"}, TINY)
    with pytest.raises(UserError, match="'vanilla' does not take ema_decay: it has no options"):
        build_attention({"name": "vanilla", "ema_decay": 0.5}, TINY)
    with pytest.raises(UserError, match="'momentum' needs ema_decay"):
        build_attention({"name": "momentum"}, TINY)
