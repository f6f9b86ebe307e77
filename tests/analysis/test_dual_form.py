"""Each identity of the dual form against a second computation of the same thing, in float64.

The second computation is a real optimizer, the model's own attention, or a loop over tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from momentum_gpt.analysis import dual_form
from momentum_gpt.models.attention import (
    Layer,
    LinearAttention,
    LinearMomentumAttention,
    MomentumAttention,
    VanillaAttention,
    Variant,
)
from momentum_gpt.ops import ema_of_past
from tests.docs.pages import text_of

Rule = Callable[[Tensor, Tensor, Tensor], Tensor]

LAYER = Layer(index=0, n_layers=1, n_heads=1, d_head=4)
DECAYS = [0.0, 0.5, 0.9]
LENGTHS = [1, 2, 40]
"""40 tokens are more than one chunk of the fast decayed sum."""


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """Compute in float64, so that a small mistake does not pass for rounding."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(params=[0, 1, 2], autouse=True)
def seed(request: pytest.FixtureRequest) -> int:
    torch.manual_seed(request.param)
    return int(request.param)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-11)


def of_head(variant: Variant) -> Rule:
    """Return a variant as a function of the queries, keys and values (T, D) of one head."""

    def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return variant(q[None, None], k[None, None], v[None, None])[0, 0]

    return mix


# Gradient descent and its dual form

LOSSES: dict[str, Any] = {
    "mse": F.mse_loss,
    "huber": F.huber_loss,
    "cross entropy": lambda outputs, targets: F.cross_entropy(outputs, targets.softmax(-1)),
    "sum of cubes": lambda outputs, targets: (outputs - targets).abs().pow(3).sum(),
}


def trained_by_torch(
    layer: torch.nn.Linear, batches: list[tuple[Tensor, Tensor]], loss: Any, **options: float
) -> None:
    optimizer = torch.optim.SGD(layer.parameters(), **options)
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss(layer(inputs), targets).backward()
        optimizer.step()


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("momentum", DECAYS)
@pytest.mark.parametrize("sizes", [[], [1], [1, 1, 1, 1, 1], [3, 1, 4]], ids=str)
def test_attention_to_the_training_samples_is_gradient_descent(
    loss: Any, momentum: float, sizes: list[int]
) -> None:
    layer = torch.nn.Linear(5, 3, bias=False)
    initial = layer.weight.detach().clone()
    batches = [(torch.randn(n, 5), torch.randn(n, 3)) for n in sizes]
    queries = torch.randn(4, 5)

    errors, inputs = dual_form.train_by_attention(initial, batches, loss, 0.05, momentum)
    outputs = dual_form.trained_layer(initial, errors, inputs, queries)

    trained_by_torch(layer, batches, loss, lr=0.05, momentum=momentum)
    assert_same(outputs, layer(queries).detach())
    assert len(errors) == sum(sizes)


@pytest.mark.parametrize("momentum", DECAYS)
def test_a_bias_is_the_weight_of_an_input_that_is_always_1(momentum: float) -> None:
    layer = torch.nn.Linear(5, 3)
    initial = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach()
    batches = [(torch.randn(2, 5), torch.randn(2, 3)) for _ in range(4)]
    queries = torch.randn(4, 5)

    extended = [(with_one(x), y) for x, y in batches]
    errors, inputs = dual_form.train_by_attention(initial, extended, F.mse_loss, 0.1, momentum)
    outputs = dual_form.trained_layer(initial, errors, inputs, with_one(queries))

    trained_by_torch(layer, batches, F.mse_loss, lr=0.1, momentum=momentum)
    assert_same(outputs, layer(queries).detach())


def with_one(inputs: Tensor) -> Tensor:
    return F.pad(inputs, (0, 1), value=1.0)


# Linear attention to demonstrations, and finetuning


@pytest.mark.parametrize(("n_shown", "n_own"), [(0, 3), (1, 1), (2, 3), (30, 20)])
def test_linear_attention_is_split_into_zero_shot_and_an_update(n_shown: int, n_own: int) -> None:
    w_q, w_k, w_v = torch.randn(3, 4, 6)
    shown = torch.randn(n_shown, 6)
    own = torch.randn(n_own, 6)
    query = w_q @ own[-1]

    update = dual_form.weights_of_tokens(w_v, w_k, shown)
    zero_shot = dual_form.weights_of_tokens(w_v, w_k, own)

    tokens = torch.cat([shown, own])
    linear = of_head(LinearAttention(LAYER))
    with_demonstrations = linear(tokens @ w_q.T, tokens @ w_k.T, tokens @ w_v.T)[-1]
    without = linear(own @ w_q.T, own @ w_k.T, own @ w_v.T)[-1]
    assert_same((zero_shot + update) @ query, with_demonstrations)
    assert_same(zero_shot @ query, without)
    assert torch.linalg.matrix_rank(update) == min(4, n_shown)


def test_the_update_of_demonstrations_has_the_shape_of_values_by_keys() -> None:
    update = dual_form.weights_of_tokens(torch.randn(5, 6), torch.randn(3, 6), torch.randn(2, 6))
    assert update.shape == (5, 3)


@pytest.mark.parametrize("n_own", [1, 7])
def test_the_update_of_finetuning_is_that_of_a_finetuned_head(n_own: int) -> None:
    """One real step of SGD on the projections to keys and values, then the head itself."""
    w_q = torch.randn(4, 6)
    w_k = torch.nn.Parameter(torch.randn(4, 6))
    w_v = torch.nn.Parameter(torch.randn(4, 6))
    own = torch.randn(n_own, 6)
    linear = of_head(LinearAttention(LAYER))

    def output() -> Tensor:
        return linear(own @ w_q.T, own @ w_k.T, own @ w_v.T)[-1]

    k_before = w_k.detach().clone()
    v_before = w_v.detach().clone()
    zero_shot = output().detach()
    optimizer = torch.optim.SGD([w_k, w_v], lr=0.01)
    (output() - torch.randn(4)).square().sum().backward()
    optimizer.step()

    update = dual_form.update_by_finetuning(
        v_before, k_before, w_v.detach() - v_before, w_k.detach() - k_before, own
    )
    assert update.abs().max() > 1e-3
    assert_same(zero_shot + update @ (w_q @ own[-1]), output().detach())


def test_the_update_of_finetuning_has_the_product_of_both_changes() -> None:
    w_k, dw_k = torch.randn(2, 3, 6)
    w_v, dw_v = torch.randn(2, 5, 6)
    tokens = torch.randn(4, 6)
    update = dual_form.update_by_finetuning(w_v, w_k, dw_v, dw_k, tokens)

    expected = torch.zeros(5, 3)
    for x in tokens:
        expected += torch.outer((w_v + dw_v) @ x, (w_k + dw_k) @ x) - torch.outer(w_v @ x, w_k @ x)
    assert_same(update, expected)


# Softmax and other kernels


@pytest.mark.parametrize(("n_shown", "n_own"), [(0, 1), (0, 5), (1, 1), (6, 2)])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_softmax_attention_is_a_mixture(n_shown: int, n_own: int, size: float) -> None:
    """Logits of some thousands too: sums of their exponentials would overflow."""
    q, k, v = torch.randn(3, n_shown + n_own, 4)
    q = size * q
    mixed, share = dual_form.softmax_mixture(
        q[-1:], k[n_shown:], v[n_shown:], k[:n_shown], v[:n_shown]
    )

    assert_same(mixed[0], of_head(VanillaAttention(LAYER))(q, k, v)[-1])
    weights = (k @ q[-1] / 2).softmax(0)
    assert_same(share[0], weights[:n_shown].sum())


@pytest.mark.parametrize(("n_shown", "n_own"), [(0, 1), (1, 1), (5, 3)])
def test_demonstrations_are_a_bias_of_kernel_attention(n_shown: int, n_own: int) -> None:
    q = F.elu(torch.randn(2, 4)) + 1
    k = F.elu(torch.randn(n_shown + n_own, 4)) + 1
    v = torch.randn(n_shown + n_own, 3)
    bias = dual_form.kernel_bias(k[:n_shown], v[:n_shown])
    outputs = dual_form.kernel_attention(q, k[n_shown:], v[n_shown:], bias)

    for query, output in zip(q, outputs, strict=True):
        weights = torch.stack([query @ key for key in k])
        expected = sum(w * value for w, value in zip(weights, v, strict=True)) / weights.sum()
        assert_same(output, expected)


def test_softmax_attention_is_kernel_attention_with_the_features_of_the_exponential() -> None:
    """With D = 1, exp(k q) = sum_n (k^n / sqrt(n!)) (q^n / sqrt(n!)); 60 terms are enough here."""
    q, k, v = torch.randn(3, 5, 1)
    bias = dual_form.kernel_bias(features_of_exp(k[:2]), v[:2])
    output = dual_form.kernel_attention(
        features_of_exp(q[-1:]), features_of_exp(k[2:]), v[2:], bias
    )
    assert_same(output[0], of_head(VanillaAttention(LAYER))(q, k, v)[-1])


def features_of_exp(x: Tensor) -> Tensor:
    columns = [x**n / math.sqrt(math.factorial(n)) for n in range(60)]
    return torch.cat(columns, dim=1)


# What the weights of an MLP and one step of gradient descent have to do with it


@pytest.mark.parametrize("n_context", [0, 1, 8])
def test_a_context_is_a_rank_one_update_of_the_mlp_behind_it(n_context: int) -> None:
    """A whole block, with softmax attention, a residual and an MLP with biases."""
    w_q, w_k, w_v = torch.randn(3, 4, 4)
    first = torch.nn.Linear(4, 7)
    second = torch.nn.Linear(7, 4)
    context = torch.randn(n_context, 4)
    prompt = torch.randn(3, 4)
    vanilla = of_head(VanillaAttention(LAYER))

    def attended(x: Tensor) -> Tensor:
        return x[-1] + vanilla(x @ w_q.T, x @ w_k.T, x @ w_v.T)[-1]

    def mlp(x: Tensor) -> Tensor:
        return second(F.gelu(first(x)))

    without = attended(prompt)
    with_context = attended(torch.cat([context, prompt]))
    expected = mlp(with_context).detach()
    zero_shot = mlp(without).detach()

    update = dual_form.rank_one_update(first.weight.detach(), without, with_context)
    assert torch.linalg.matrix_rank(update) == min(1, n_context)
    with torch.no_grad():
        first.weight += update
    assert_same(mlp(without).detach(), expected)
    assert torch.equal(zero_shot, expected) == (n_context == 0)


@pytest.mark.parametrize("n_samples", [1, 10])
def test_one_layer_of_linear_attention_is_one_step_of_gradient_descent(n_samples: int) -> None:
    layer = torch.nn.Linear(4, 3, bias=False)
    inputs = torch.randn(n_samples, 4)
    targets = torch.randn(n_samples, 3)
    queries = torch.randn(5, 4)
    weight = layer.weight.detach().clone()
    outputs = dual_form.one_step_by_attention(weight, inputs, targets, queries, 0.3)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().sum() / (2 * n_samples)

    trained_by_torch(layer, [(inputs, targets)], loss, lr=0.3)
    assert (layer.weight - weight).abs().max() > 1e-3
    assert_same(outputs, layer(queries).detach())


def test_without_samples_there_is_no_step() -> None:
    weight = torch.randn(3, 4)
    queries = torch.randn(5, 4)
    outputs = dual_form.one_step_by_attention(
        weight, torch.zeros(0, 4), torch.zeros(0, 3), queries, 0.3
    )
    assert_same(outputs, queries @ weight.T)


# Momentum


def velocities(parameter: Tensor, gradients: Tensor, momentum: float) -> Iterator[Tensor]:
    """Yield what `torch.optim.SGD` moves a parameter by, for given gradients, divided by lr."""
    parameter = torch.nn.Parameter(parameter)
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=momentum)
    for gradient in gradients:
        before = parameter.detach().clone()
        parameter.grad = gradient.clone()
        optimizer.step()
        yield (before - parameter.detach()) / 0.1


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("T", LENGTHS)
def test_the_momentum_matrix_is_what_momentum_adds_to_each_step(decay: float, T: int) -> None:
    gradients = torch.randn(T, 3)
    added = dual_form.momentum_matrix(T, decay) @ gradients

    moved = torch.stack(list(velocities(torch.randn(3), gradients, decay)))
    assert_same(added, moved - gradients)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize(
    ("with_momentum", "without"),
    [(MomentumAttention, VanillaAttention), (LinearMomentumAttention, LinearAttention)],
)
def test_momentum_attention_adds_the_same_matrix(
    with_momentum: type[MomentumAttention], without: type[Variant], decay: float, T: int
) -> None:
    q, k, v = torch.randn(3, T, 4)
    term = dual_form.momentum_matrix(T, decay) @ v
    assert_same(
        of_head(without(LAYER))(q, k, v) + term, of_head(with_momentum(LAYER, decay))(q, k, v)
    )
    assert_same(term, ema_of_past(v[None, None], decay)[0][0, 0])


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("T", LENGTHS)
def test_the_momentum_matrix_is_the_recurrence(decay: float, T: int) -> None:
    """m_1 = 0, m_t = decay (m_{t-1} + v_{t-1})."""
    values = torch.randn(T, 3)
    m = torch.zeros(3)
    for t, row in enumerate(dual_form.momentum_matrix(T, decay) @ values):
        if t > 0:
            m = decay * (m + values[t - 1])
        assert_same(row, m)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("T", LENGTHS)
def test_momentum_of_weights_is_that_of_an_optimizer(decay: float, T: int) -> None:
    q, k, v = torch.randn(3, T, 4)
    outputs = dual_form.momentum_of_weights(q, k, v, decay)

    gradients = -v[:, :, None] * k[:, None, :]
    moves = velocities(torch.zeros(4, 4), gradients, decay)
    for t, moved in enumerate(moves):
        assert_same(outputs[t], -(moved - gradients[t]) @ q[t])


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("T", LENGTHS)
def test_heavy_ball_attention_is_a_layer_in_training(decay: float, T: int) -> None:
    q, k, v = torch.randn(3, T, 4)
    outputs = dual_form.heavy_ball_attention(q, k, v, decay)

    weight = torch.zeros(4, 4)
    gradients = -v[:, :, None] * k[:, None, :]
    for t, moved in enumerate(velocities(torch.zeros(4, 4), gradients, decay)):
        weight = weight - moved
        assert_same(outputs[t], weight @ q[t])
    if decay == 0:
        assert_same(outputs, of_head(LinearAttention(LAYER))(q, k, v))


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("T", LENGTHS)
def test_momentum_attention_is_momentum_of_weights_with_all_products_1(
    decay: float, T: int
) -> None:
    q, k, v = torch.randn(3, T, 4)
    ones = torch.ones(T, 1)
    term = dual_form.momentum_of_weights(ones, ones, v, decay)
    linear = of_head(LinearAttention(LAYER))(q, k, v)
    assert_same(linear + term, of_head(LinearMomentumAttention(LAYER, decay))(q, k, v))


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("T", LENGTHS)
def test_momentum_attention_is_the_momentum_of_a_bias(decay: float, T: int) -> None:
    """A bias whose output has the gradient -v_t at step t, in a layer that torch differentiates."""
    _, k, v = torch.randn(3, T, 4)
    layer = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3, momentum=decay)
    term = dual_form.momentum_matrix(T, decay) @ v
    for t in range(T):
        optimizer.zero_grad()
        (-v[t] @ layer(k[t])).backward()
        before = layer.bias.detach().clone()
        optimizer.step()
        moved = (layer.bias.detach() - before) / 1e-3
        torch.testing.assert_close(moved - v[t], term[t], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("n_steps", [0, 1, 6])
def test_the_papers_descent_is_the_optimizers_with_a_smaller_rate(
    decay: float, n_steps: int
) -> None:
    root = torch.randn(3, 3)
    start = torch.randn(3)

    def value(parameters: Tensor) -> Tensor:
        return (root @ parameters).square().sum() + parameters.sin().sum()

    def gradient(parameters: Tensor) -> Tensor:
        return torch.func.grad(value)(parameters)

    reached = dual_form.descend_by_the_paper(start, gradient, 0.02, decay, n_steps)

    parameters = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([parameters], lr=0.02 * decay, momentum=decay)
    for _ in range(n_steps):
        optimizer.zero_grad()
        value(parameters).backward()
        optimizer.step()
    assert_same(reached, parameters.detach())
    moves = decay > 0 and n_steps > 0
    assert torch.equal(reached, start) == (not moves)


def test_the_page_shows_how_far_momentum_attention_is_from_momentum_of_weights() -> None:
    """Its table has the mean cosine of the two terms by the mean of the products."""
    rows = re.findall(
        r"^\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", text_of("docs/dual-form.md"), re.M
    )
    assert len(rows) == 5
    for mean, *cosines in rows:
        for decay, shown in zip((0.5, 0.9), cosines, strict=True):
            assert mean_cosine(float(mean), decay) == pytest.approx(float(shown), abs=0.03)


def mean_cosine(mean: float, decay: float) -> float:
    """Return the mean cosine of the two terms, for products with a mean and a deviation of 1."""
    n, T, D = 30, 250, 64
    found = []
    for _ in range(n):
        v = torch.randn(T, D)
        q = torch.cat([torch.ones(T, 1), torch.randn(T, D)], dim=1)
        k = torch.cat([torch.full((T, 1), mean), torch.randn(T, D) / D**0.5], dim=1)
        with_products = dual_form.momentum_of_weights(q, k, v, decay)
        without = dual_form.momentum_matrix(T, decay) @ v
        found.append(F.cosine_similarity(with_products, without, dim=1)[50:].mean())
    return float(torch.stack(found).mean())
