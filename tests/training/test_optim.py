"""The schedule is a table of numbers; the parameter groups are those of the paper's practice."""

from __future__ import annotations

import pytest
import torch

from momentum_gpt.core.config import ModelConfig, OptimConfig
from momentum_gpt.models import GPT
from momentum_gpt.training.optim import build_optimizer, lr_at
from tests.training.oracle import PlainAdamW


def table(schedule: str, max_steps: int = 11, **options: float) -> list[float]:
    config = OptimConfig(lr=1.0, min_lr=0.2, warmup_steps=2, schedule=schedule, **options)
    return [lr_at(step, config, max_steps) for step in range(max_steps)]


def test_polynomial_by_hand() -> None:
    """Two steps of warm-up, then 1 to 0.2 in eight equal falls: the last update runs at min_lr."""
    assert table("polynomial") == pytest.approx(
        [0.5, 1.0, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
    )
    assert table("polynomial", power=2.0)[6] == pytest.approx(0.2 + 0.8 * 0.5**2)


def test_cosine_by_hand() -> None:
    lrs = table("cosine")
    assert lrs[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert lrs[6] == pytest.approx(0.6)
    assert lrs[-1] == pytest.approx(0.2)
    assert lrs[2:] == sorted(lrs[2:], reverse=True)


def test_wsd_by_hand() -> None:
    assert table("wsd", max_steps=10, decay_fraction=0.5) == pytest.approx(
        [0.5, 1, 1, 1, 1, 1.0, 0.8, 0.6, 0.4, 0.2]
    )


@pytest.mark.parametrize("schedule", ["polynomial", "cosine", "wsd"])
def test_short_runs_and_no_warmup_stay_in_bounds(schedule: str) -> None:
    for max_steps in (1, 2, 3):
        for warmup in (0, 1, 5):
            config = OptimConfig(lr=1.0, min_lr=0.1, warmup_steps=warmup, schedule=schedule)
            assert all(0 < lr_at(step, config, max_steps) <= 1.0 for step in range(max_steps))


def test_weight_decay_is_on_matrices_and_embeddings_alone() -> None:
    model = GPT(ModelConfig(1, 2, 8, 8, vocab_size=16), {"name": "vanilla"})
    groups = build_optimizer(
        model, OptimConfig(lr=1.0, min_lr=0.1, warmup_steps=0, weight_decay=0.3)
    ).param_groups
    assert {group["weight_decay"]: {p.ndim for p in group["params"]} for group in groups} == {
        0.3: {2},
        0.0: {1},
    }
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


ADAMW = OptimConfig(
    lr=0.05,
    min_lr=0.0,
    warmup_steps=0,
    weight_decay=0.3,
    beta1=0.8,
    beta2=0.7,
    eps=0.02,
)


def after_five_updates(config: OptimConfig, plain: bool) -> torch.Tensor:
    """All weights of a matrix and a vector, by torch's optimizer or by the definition."""
    generator = torch.Generator().manual_seed(0)
    kind = torch.float64 if plain else torch.float32
    shapes = [(4, 3), (5,)]
    layer = torch.nn.ParameterList(torch.randn(s, generator=generator).to(kind) for s in shapes)
    parameters = list(layer)
    optimizer = PlainAdamW(parameters, config) if plain else build_optimizer(layer, config)

    for _ in range(5):
        gradients = [0.1 * torch.randn(s, generator=generator).to(kind) for s in shapes]
        if isinstance(optimizer, PlainAdamW):
            optimizer.step(gradients, config.lr)
            continue
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    return torch.cat([parameter.detach().double().flatten() for parameter in parameters])


def test_the_optimizer_is_adamw_with_the_options_given() -> None:
    """Nothing is at torch's or our default, so that an option that is not passed on shows."""
    found = after_five_updates(ADAMW, plain=False)
    expected = after_five_updates(ADAMW, plain=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
