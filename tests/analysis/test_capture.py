"""What is captured equals what plain forward passes and the definitions of the variants give."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from momentum_gpt.analysis.capture import Captured, attentions, capture, hooked, read_beginning
from momentum_gpt.models import GPT
from tests.analysis.cases import ATTENTIONS, small_model

BEGINNING = [0, *range(40, 60), 0, *range(70, 85), 0]
PLACES = [*range(1, 21), *range(22, 37)]
ROWS = [[101, 102, 103, 104, 105], [201, 202], [301, 302, 303, 304, 305, 306, 307]]


class Plain(NamedTuple):
    """What one layer computes in a plain pass over a whole prompt, one document in one row."""

    projected: Tensor  # (T, 3C)
    q: Tensor  # (H, T, D), as the attention uses it
    k: Tensor
    v: Tensor
    mixed: Tensor  # (H, T, D)
    output: Tensor  # (T, C)


def plain_pass(model: GPT, tokens: list[int]) -> list[Plain]:
    seen: list[list[Tensor]] = [[] for _ in model.blocks]
    pairs: list[Any] = []
    for layer, attention in zip(seen, attentions(model), strict=True):

        def keep(module: Any, given: Any, output: Tensor, layer: list[Tensor] = layer) -> None:
            layer.append(output[0])

        def keep_all(module: Any, given: Any, output: Tensor, layer: Any = layer) -> None:
            layer += [tensor[0] for tensor in (*given[:3], output)]

        pairs += [(attention.qkv, keep), (attention.attend, keep_all), (attention, keep)]
    with hooked(pairs), torch.no_grad():
        model(torch.tensor([tokens]))
    return [Plain(*layer) for layer in seen]


def captured(model: GPT) -> list[Captured]:
    beginning = read_beginning(model, BEGINNING, PLACES)
    lengths = torch.tensor([len(row) for row in ROWS])
    tokens = torch.zeros(len(ROWS), 7, dtype=torch.long)
    for number, row in enumerate(ROWS):
        tokens[number, : len(row)] = torch.tensor(row)
    cache = beginning.cache.branch(len(ROWS), 7)
    with torch.no_grad(), capture(model, beginning, lengths) as layers:
        model(tokens, cache=cache, n_new=lengths)
    return layers


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_everything_equals_a_plain_pass_over_the_whole_prompt(
    attention: str, positions: str
) -> None:
    model = small_model(attention, positions)
    layers = captured(model)
    P = len(BEGINNING)
    scale = 1.0 if "linear" in attention else model.config.d_head**0.5
    for number, row in enumerate(ROWS):
        plain = plain_pass(model, BEGINNING + row)
        for layer, expected in zip(layers, plain, strict=True):
            close(layer.output[number], expected.output[-1])
            close(layer.query[number], expected.projected[-1, :16])

            logits = torch.einsum("hd,htd->ht", expected.q[:, -1], expected.k) / scale
            close(layer.logits[number, :, : len(row)], logits[:, P:])
            close(layer.on_demonstrations[number], logits[:, PLACES].sum(0))


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_parts_are_those_of_the_definition(attention: str, positions: str) -> None:
    """The part of attention comes from its weights, and momentum is the definition's rest."""
    model = small_model(attention, positions)
    layers = captured(model)
    for number, row in enumerate(ROWS):
        plain = plain_pass(model, BEGINNING + row)
        for index, module in enumerate(attentions(model)):
            q, k, v = (tensor[None] for tensor in plain[index][1:4])
            scores = q[:, :, -1:] @ k.mT
            weights = scores if "linear" in attention else (scores / 8**0.5).softmax(-1)
            softmax = (weights @ v)[0, :, 0]  # (H, D)
            whole = module.attend.definition(q, k, v)[0, :, -1]

            parts = layers[index].parts
            through = module.out.weight.T
            close(parts["softmax"][number], softmax.flatten() @ through)
            if attention in ("vanilla", "linear"):
                assert "momentum" not in parts
            else:
                momentum = (whole - softmax).flatten() @ through
                close(parts["momentum"][number], momentum)
                assert momentum.abs().max() > 0.01 or (attention, index) == ("one_layer", 0)
            total = sum(part[number] for part in parts.values()) + module.out.bias
            close(layers[index].output[number], total)


def test_a_layer_without_momentum_has_a_part_of_exactly_0() -> None:
    first, second = captured(small_model("one_layer"))
    assert first.parts["momentum"].eq(0).all()
    assert second.parts["momentum"].ne(0).any()


def test_the_attention_output_follows_from_the_captured_logits_and_the_values() -> None:
    model = small_model("vanilla", "rotary")
    plain = plain_pass(model, BEGINNING + ROWS[2])
    beginning = read_beginning(model, BEGINNING, list(range(len(BEGINNING))))
    lengths = torch.tensor([7])
    cache = beginning.cache.branch(1, 7)
    with torch.no_grad(), capture(model, beginning, lengths) as layers:
        model(torch.tensor([ROWS[2]]), cache=cache, n_new=lengths)

    for layer, expected, module in zip(layers, plain, attentions(model), strict=True):
        # One head at a time on the shared tokens: those of the other head come from its keys.
        on_shared = torch.einsum("hd,hpd->hp", expected.q[:, -1], expected.k[:, : len(BEGINNING)])
        on_shared = on_shared / model.config.d_head**0.5
        close(on_shared.sum(0), layer.on_demonstrations[0])
        weights = torch.cat([on_shared, layer.logits[0]], dim=1).softmax(1)
        mixed = torch.einsum("ht,htd->hd", weights, expected.v)
        close(module.out(mixed.flatten()).detach(), layer.output[0])


def test_the_model_has_no_hooks_afterwards() -> None:
    model = small_model()
    captured(model)
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(RuntimeError), capture(model, read_beginning(model, [0], []), torch.ones(1)):
        raise RuntimeError
    assert not any(module._forward_hooks for module in model.modules())
