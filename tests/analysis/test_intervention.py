"""Interventions on a recall model: what they replace, what they leave, and who is the twin."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from momentum_gpt.analysis.intervention import (
    Place,
    accuracy,
    attention_to_previous,
    draw,
    effects_on,
    parts_of,
    places_of,
    replaced,
)
from momentum_gpt.core.config import ModelConfig, TaskConfig
from momentum_gpt.data.synthetic_tasks import NO_TARGET, SyntheticTask
from momentum_gpt.models import GPT
from momentum_gpt.models.gpt import init_weights

TASK = SyntheticTask(TaskConfig(kind="recall", n_pairs=4, n_keys=16, n_values=16), 32)
SHAPE = ModelConfig(2, 2, 16, 32, vocab_size=33, positions="rotary", init_std=0.3)
MOMENTUM = {"name": "momentum", "ema_decay": 0.7}


def model_of(attention: dict[str, Any]) -> GPT:
    model = GPT(SHAPE, attention)
    init_weights(model, 0)
    return model.eval()


def test_a_twin_has_the_same_keys_and_no_key_has_its_value() -> None:
    sequences = draw(TASK, 20)
    tokens, twins = sequences.tokens.numpy(), sequences.twins.numpy()
    assert np.array_equal(tokens[:, ::2], twins[:, ::2])
    assert (tokens[:, 1::2] != twins[:, 1::2]).all()
    for of, answers in ((tokens, sequences.answers), (twins, sequences.twin_answers)):
        for row, asked in zip(of, answers.numpy(), strict=True):
            value_of = dict(zip(row[0:8:2], row[1:8:2], strict=True))
            assert len(set(value_of.values())) == 4
            for place in np.flatnonzero(asked != NO_TARGET):
                assert asked[place] == value_of[row[place]]


def test_parts_are_the_softmax_and_the_decayed_sum() -> None:
    model = model_of(MOMENTUM)
    sequences = draw(TASK, 3)
    seen = []
    for block in model.blocks:
        block.attention.attend.register_forward_pre_hook(lambda _, given: seen.append(given[2]))
    for parts, v in zip(parts_of(model, sequences.tokens), seen, strict=True):
        term = torch.zeros_like(v)
        for t in range(32):
            for i in range(t):
                term[:, :, t] += 0.7 ** (t - i) * v[:, :, i]
        torch.testing.assert_close(parts["added"], term, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", [MOMENTUM, {"name": "vanilla"}])
def test_a_part_replaced_by_itself_changes_nothing(attention: dict[str, Any]) -> None:
    model = model_of(attention)
    tokens = draw(TASK, 4).tokens
    plain = model(tokens)
    for place in places_of(model):
        own = [parts[place.part] for parts in parts_of(model, tokens)]
        with replaced(model, place, own):
            torch.testing.assert_close(model(tokens), plain, rtol=1e-4, atol=1e-4)
    assert torch.equal(model(tokens), plain)


def test_momentum_without_its_term_is_vanilla_attention() -> None:
    model, vanilla = model_of(MOMENTUM), model_of({"name": "vanilla"})
    tokens = draw(TASK, 4).tokens
    nothing = [torch.zeros_like(parts["added"]) for parts in parts_of(model, tokens)]
    with replaced(model, Place(None, None, "added"), nothing):
        torch.testing.assert_close(model(tokens), vanilla(tokens), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(model(tokens), vanilla(tokens), rtol=1e-2)


def test_a_head_is_replaced_alone() -> None:
    model = model_of(MOMENTUM)
    tokens = draw(TASK, 4).tokens
    before = parts_of(model, tokens)
    nothing = [torch.zeros_like(parts["softmax"]) for parts in before]
    mixed = []
    with replaced(model, Place(0, 1, "softmax"), nothing):
        handle = model.blocks[0].attention.attend.register_forward_hook(
            lambda *call: mixed.append(call[2])
        )
        model(tokens)
        handle.remove()
    whole = before[0]["softmax"] + before[0]["added"]
    torch.testing.assert_close(mixed[0][:, 0], whole[:, 0])
    torch.testing.assert_close(mixed[0][:, 1], before[0]["added"][:, 1], rtol=1e-4, atol=1e-5)


def test_with_everything_exchanged_the_answers_are_the_twins() -> None:
    """All that a token learns of others comes through attention: at a query, its key is shared."""
    model = model_of({"name": "vanilla"})
    sequences = draw(TASK, 6)
    choices = []
    for tokens in (sequences.tokens, sequences.twins):
        choices.append(model(tokens).argmax(-1))
    of_twins = [parts["softmax"] for parts in parts_of(model, sequences.twins)]
    with replaced(model, Place(None, None, "softmax"), of_twins):
        exchanged = model(sequences.tokens).argmax(-1)
    asked = sequences.answers != NO_TARGET
    assert torch.equal(exchanged[asked], choices[1][asked])
    assert not torch.equal(choices[0][asked], choices[1][asked])


def test_effects_are_shares_of_the_answers() -> None:
    model = model_of(MOMENTUM)
    sequences = draw(TASK, 6)
    effects = effects_on(model, sequences)
    assert [effect.place for effect in effects] == places_of(model)
    for effect in effects:
        for values in (effect.out, effect.followed, effect.exchanged, effect.unrelated):
            assert values.shape == (6,)
            assert ((values >= 0) & (values <= 1)).all()
    right = model(sequences.tokens).argmax(-1) == sequences.answers
    by_hand = right.sum(1) / (sequences.answers != NO_TARGET).sum(1)
    assert torch.equal(accuracy(model, sequences), by_hand)


def test_attention_without_a_softmax_has_other_weights() -> None:
    """Queries of ones and keys of halves, turned by rotary positions, one place apart."""
    model = model_of({"name": "linear"})
    with torch.no_grad():
        for block in model.blocks:
            qkv = block.attention.qkv
            width = qkv.weight.shape[1]
            qkv.weight.zero_()
            qkv.bias.zero_()
            qkv.bias[:width], qkv.bias[width : 2 * width] = 1.0, 0.5
    weights = attention_to_previous(model, draw(TASK, 3))
    turned = sum(math.cos(10_000 ** (-pair / 4)) for pair in range(4))  # d_head is 8
    assert weights.numpy() == pytest.approx(turned)


def test_attention_to_the_token_before_is_the_softmax_weight() -> None:
    model = model_of(MOMENTUM)
    with torch.no_grad():  # attend to all tokens alike: 1/2, 1/3, ... of the token before
        for block in model.blocks:
            block.attention.qkv.weight.zero_()
    expected = np.mean([1 / t for t in range(2, 33)])
    weights = attention_to_previous(model, draw(TASK, 3))
    assert weights.shape == (2, 3, 2)  # layers, sequences, heads
    assert weights.numpy() == pytest.approx(expected)
