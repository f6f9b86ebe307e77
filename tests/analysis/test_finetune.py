"""Restricted finetuning equals torch.optim.SGD with masked gradients, and leaves the rest alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from momentum_gpt.analysis.capture import attentions
from momentum_gpt.analysis.finetune import (
    Finetuned,
    Finetuning,
    finetune,
    gradients_of,
    key_value_rows,
    norm_of,
    one_step,
    with_weights,
)
from momentum_gpt.analysis.passes import ask
from momentum_gpt.analysis.settings import drawn, none_of
from momentum_gpt.core.errors import UserError
from momentum_gpt.evaluation.few_shot.prompts import Prompts
from momentum_gpt.models import GPT
from momentum_gpt.models.gpt import Block
from tests.analysis.cases import ATTENTIONS, SETTING, small_model
from tests.analysis.test_capture import plain_pass
from tests.analysis.test_passes import assert_same

WAYS = [
    Finetuning(0.05),
    Finetuning(0.05, momentum=0.9),
    Finetuning(0.05, loss="label"),
    Finetuning(0.02, gradient="layer_causal"),
    Finetuning(0.02, momentum=0.5, loss="label", gradient="layer_causal"),
]


def expected_loss(model: GPT, tokens: list[int], n_targets: int, gradient: str) -> Tensor:
    """Return the loss of a document's last tokens, from plain forward passes of the modules."""
    ids = torch.tensor([tokens])
    if gradient == "backprop":
        logp = model(ids).log_softmax(-1)[0]
        return mean_loss(logp, tokens, n_targets)

    x = model.token_embedding(ids)
    if model.config.positions == "learned":
        x = x + model.position_embedding.weight[: len(tokens)]
    losses = []
    for block in model.blocks:
        assert isinstance(block, Block)
        given = x.detach()
        middle = given + block.attention(block.norm1(given), None, None, None)
        x = middle + block.mlp(block.norm2(middle))
        logp = F.linear(model.norm(x), model.token_embedding.weight).log_softmax(-1)[0]
        losses.append(mean_loss(logp, tokens, n_targets))
    return torch.stack(losses).sum()


def mean_loss(logp: Tensor, tokens: list[int], n_targets: int) -> Tensor:
    chosen = [-logp[place - 1, tokens[place]] for place in range(1, len(tokens))]
    return torch.stack(chosen[-n_targets:]).mean()


def with_torch_sgd(model: GPT, prompts: Prompts, way: Finetuning) -> tuple[GPT, list[float]]:
    """Finetune a copy with torch.optim.SGD, the gradients of all but K and V set to 0."""
    trained = copy.deepcopy(model)
    optimizer = torch.optim.SGD(trained.parameters(), lr=way.lr, momentum=way.momentum)
    losses = []
    for example in prompts.demonstrations(SETTING, ""):
        prompt, answer = map(prompts.tokenizer.encode, example.shown)
        n_targets = len(prompt + answer) if way.loss == "lm" else len(answer)
        optimizer.zero_grad(set_to_none=False)
        document = [prompts.tokenizer.eos_id, *prompt, *answer]
        loss = expected_loss(trained, document, n_targets, way.gradient)
        loss.backward()
        for name, parameter in trained.named_parameters():
            if ".qkv." in name:
                assert parameter.grad is not None
                parameter.grad[:16] = 0
            elif parameter.grad is not None:
                parameter.grad.zero_()
        optimizer.step()
        losses.append(loss.item())
    return trained, losses


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("attention", ["vanilla", "learned"])
def test_weights_are_those_of_sgd_with_masked_gradients(
    prompts: Prompts, attention: str, way: Finetuning
) -> None:
    model = small_model(attention)
    expected, losses = with_torch_sgd(model, prompts, way)
    found = finetune(model, drawn(prompts, SETTING), way)

    assert found.losses == pytest.approx(losses, rel=1e-4)
    for name, rows in found.weights.items():
        target = expected.get_parameter(name)[16:]
        moved = (target - model.get_parameter(name)[16:]).abs().max()
        assert moved > 1e-4, name
        torch.testing.assert_close(rows, target.detach(), atol=2e-6, rtol=1e-4)
        assert (rows - target).abs().max() < 0.01 * moved


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("gradient", ["backprop", "layer_causal"])
def test_only_keys_and_values_change_and_only_inside_the_block(
    prompts: Prompts, attention: str, gradient: str
) -> None:
    model = small_model(attention)
    before = copy.deepcopy(model.state_dict())
    found = finetune(model, drawn(prompts, SETTING), Finetuning(0.05, gradient=gradient))
    assert_equal(model.state_dict(), before)

    with with_weights(model, found.weights):
        for name, tensor in model.state_dict().items():
            if ".qkv." in name:
                torch.testing.assert_close(tensor[:16], before[name][:16], rtol=0, atol=0)
                torch.testing.assert_close(tensor[16:], found.weights[name], rtol=0, atol=0)
                assert tensor[32:].ne(before[name][32:]).any()
                # A softmax does not see the bias of the keys: it is the same for all of them.
                if name.endswith("weight") or "linear" in attention:
                    assert tensor[16:32].ne(before[name][16:32]).any()
            else:
                torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert_equal(model.state_dict(), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_a_mistake_inside_the_block_leaves_the_model_as_it_was(prompts: Prompts) -> None:
    model = small_model()
    before = copy.deepcopy(model.state_dict())
    doubled = {name: 2 * rows for name, rows in key_value_rows(model).items()}
    with pytest.raises(RuntimeError), with_weights(model, doubled):
        raise RuntimeError
    assert_equal(model.state_dict(), before)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_layer_of_layer_causal_does_not_depend_on_those_above(layer: int) -> None:
    model = small_model(n_layers=3)
    tokens = [0, *range(40, 60)]
    before, _ = gradients_of(model, tokens, 1, "layer_causal")
    backprop, _ = gradients_of(model, tokens, 1, "backprop")

    with torch.no_grad():
        for block in model.blocks[layer + 1 :]:
            for parameter in block.parameters():
                parameter.add_(0.1)
    after, _ = gradients_of(model, tokens, 1, "layer_causal")
    backprop_after, _ = gradients_of(model, tokens, 1, "backprop")
    for name, gradient in before.items():
        is_below = int(name.split(".")[1]) <= layer
        assert torch.equal(gradient, after[name]) == (is_below or layer == 2)
        assert torch.equal(backprop[name], backprop_after[name]) == (layer == 2)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_learning_rate_of_0_is_zero_shot(prompts: Prompts, momentum: float) -> None:
    model = small_model("momentum")
    nothing = none_of(prompts)
    zero = ask(model, prompts.queries, nothing)
    found = finetune(model, drawn(prompts, SETTING), Finetuning(0.0, momentum))
    with with_weights(model, found.weights):
        assert_same(ask(model, prompts.queries, nothing), zero)


def test_training_queries_are_those_before_each_demonstrations_own_update(
    prompts: Prompts,
) -> None:
    model = small_model("vanilla", "rotary")
    shown = drawn(prompts, SETTING)
    way = Finetuning(0.05)
    training = finetune(model, shown, way).training
    assert training.demonstration.tolist() == shown.owners
    assert training.queries.shape == (2, len(shown.places), 16)

    for number, demonstration in enumerate(shown.shown):
        weights = before_update(model, prompts, number, way)
        with with_weights(model, weights):
            plain = plain_pass(model, [*shown.beginning, *demonstration.tokens])
        for layer, expected in enumerate(plain):
            found = training.queries[layer, training.demonstration == number]
            torch.testing.assert_close(found, expected.projected[1:, :16], atol=1e-5, rtol=1e-5)


def before_update(model: GPT, prompts: Prompts, number: int, way: Finetuning) -> dict[str, Tensor]:
    """Return the weights after the demonstrations before this one."""
    if number == 0:
        return {}
    return finetune(model, drawn(prompts, SETTING._replace(k=number)), way).weights


def test_one_step_is_the_limit_of_small_learning_rates(prompts: Prompts) -> None:
    model = small_model("momentum")
    shown = drawn(prompts, SETTING)
    step = change(model, one_step(model, shown, Finetuning(1.0)))
    assert norm_of(step) == pytest.approx(1e-3 * norm_of(key_value_rows(model)), rel=1e-3)
    training = one_step(model, shown, Finetuning(1.0)).training
    assert training.demonstration.tolist() == shown.owners

    cosines = []
    for lr in (0.5, 0.01):
        cosines.append(cosine(step, change(model, finetune(model, shown, Finetuning(lr)))))
    assert cosines[0] < 0.99 < 0.9999 < cosines[1]


def change(model: GPT, found: Finetuned) -> dict[str, Tensor]:
    rows = key_value_rows(model)
    return {name: tensor - rows[name] for name, tensor in found.weights.items()}


def cosine(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    first, second = (torch.cat([x[name].flatten() for name in a]) for x in (a, b))
    return F.cosine_similarity(first, second, dim=0).item()


def test_finetuning_changes_the_outputs(prompts: Prompts) -> None:
    model = small_model()
    nothing = none_of(prompts)
    zero = ask(model, prompts.queries, nothing)
    found = finetune(model, drawn(prompts, SETTING), Finetuning(0.05))
    with with_weights(model, found.weights):
        tuned = ask(model, prompts.queries, nothing)
    assert len(attentions(model)) == zero.outputs.shape[1]
    for layer in range(2):
        assert not torch.allclose(zero.outputs[:, layer], tuned.outputs[:, layer])


def test_what_cannot_be_finetuned_is_refused(prompts: Prompts) -> None:
    shown = drawn(prompts, SETTING)
    with pytest.raises(UserError, match=r"bfloat16, which loses small updates"):
        finetune(small_model().bfloat16(), shown, Finetuning(0.1))
    with pytest.raises(UserError, match="at least 1: show some"):
        finetune(small_model(), none_of(prompts), Finetuning(0.1))
    with pytest.raises(UserError, match="context is 8: draw others"):
        finetune(small_model(seq_len=8), shown, Finetuning(0.1))
    with pytest.raises(UserError, match="gradient must be one of"):
        Finetuning(0.1, gradient="forward")
    with pytest.raises(UserError, match=r"momentum must be in \[0, 1\), got 1"):
        Finetuning(0.1, momentum=1)
