"""Ranks that share sequences train the model that one rank trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from momentum_gpt.core import distributed
from momentum_gpt.core.config import (
    DataConfig,
    LaunchConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    TrainingConfig,
)
from momentum_gpt.core.errors import UserError
from momentum_gpt.models import GPT
from momentum_gpt.models.gpt import init_weights
from momentum_gpt.training import engine as engines
from momentum_gpt.training.optim import lr_at
from tests.training.oracle import train_plainly
from tests.training.ranks import on_ranks

STEPS = 8
SEQUENCES = 4
T = 32
END = 3
"""The token that ends a document."""

OPTIM = OptimConfig(lr=3e-3, min_lr=3e-4, warmup_steps=2, eps=1e-6)

VARIANTS: dict[str, dict[str, Any]] = {
    "vanilla": {"name": "vanilla"},
    "momentum": {"name": "momentum", "ema_decay": 0.5},
    "decays": {"name": "momentum", "ema_decay": [[0.1, 0.4, 0.7, 0.9]]},
    "learned": {"name": "momentum", "ema_decay": [[0.1, 0.4, 0.7, 0.9]], "learned": True},
    "shift": {"name": "shift", "weight": 0.3},
    "linear": {"name": "linear_momentum", "ema_decay": 0.5, "normalised": True},
}

Way = tuple[str, str, bool, int, bool]
"""Variant, positions, whether documents are masked, ZeRO stage, activation checkpointing."""

WAYS: list[Way] = [
    ("vanilla", "learned", False, 1, False),
    ("momentum", "rotary", True, 1, False),
    ("decays", "sinusoidal", False, 0, False),
    ("learned", "rotary", False, 2, True),
    ("shift", "learned", True, 3, False),
    ("linear", "rotary", False, 3, True),
]


def shape(positions: str) -> ModelConfig:
    return ModelConfig(
        n_layers=2, n_heads=4, d_model=32, seq_len=T, vocab_size=64, positions=positions
    )


def new_model(way: Way) -> GPT:
    variant, positions, masked, _, _ = way
    model = GPT(shape(positions), VARIANTS[variant], END if masked else None)
    init_weights(model, 0)
    return model


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and targets, (SEQUENCES, T); most targets are in the second half."""
    generator = torch.Generator().manual_seed(step)
    block = torch.randint(0, 64, (SEQUENCES, T + 1), generator=generator)
    block[torch.rand(block.shape, generator=generator) < 0.1] = END
    targets = block[:, 1:].clone()
    targets[:, : T // 4] = -100
    return block[:, :-1], targets


def train(ways: list[Way], shared: int) -> list[Any]:
    results = []
    for way in ways:
        engine, config = new_engine(way, shared)
        plan = config.plan_batch(distributed.world_size())
        reader = plan.reader(distributed.rank())
        losses = []
        for step in range(STEPS):
            tokens, targets = (x.chunk(plan.world_size)[reader] for x in batch(step))
            size = plan.micro_batch_size
            micro_batches = list(zip(tokens.split(size), targets.split(size), strict=True))
            engines.set_lr(engine, lr_at(step, config.optim, STEPS))
            n_targets = SEQUENCES * (T - T // 4)
            parts = engines.accumulate(engine, micro_batches, n_targets)
            assert engines.update(engine)
            losses.append(distributed.sum_over_ranks(parts.double().sum()).item())

        # Whatever else is done with the model, each rank does it with whole sequences.
        with torch.no_grad():
            logits = engine.module(batch(99)[0])
        results.append((losses, engines.full_weights(engine), logits))
        engine.destroy()
    return results


def new_engine(way: Way, shared: int) -> tuple[Any, TrainConfig]:
    _, positions, _, stage, checkpointing = way
    options = {"zero_optimization": {"stage": stage}, "sequence_parallel_size": shared}
    config = TrainConfig(
        name="test",
        data=DataConfig("none"),
        model=shape(positions),
        attention=VARIANTS[way[0]],
        optim=OPTIM,
        training=TrainingConfig(
            STEPS,
            SEQUENCES * T,
            max_tokens_per_forward=T,
            activation_checkpointing=checkpointing,
        ),
        deepspeed=options,
        launch=LaunchConfig(nproc_per_node=distributed.world_size()),
    )
    engines.check_deepspeed_options(config.deepspeed, "fp32")
    plan = config.plan_batch(distributed.world_size())
    return engines.build_engine(new_model(way), config, plan), config


def check(ranks: int, shared: int, ways: list[Way], folder: Path) -> None:
    """Against the plain loop: one process, whole batches, float64."""
    results = on_ranks(ranks, train, folder, ways, shared)
    for number, way in enumerate(ways):
        batches = [batch(step) for step in range(STEPS)]
        lrs = [lr_at(step, OPTIM, STEPS) for step in range(STEPS)]
        done, expected = train_plainly(new_model(way), batches, OPTIM, lrs)
        losses, weights, _ = results[0][number]
        assert losses == pytest.approx([loss for loss, _ in done], rel=1e-6), way
        for name, weight in expected.items():
            assert (weights[name] - weight).abs().max() < 1e-5, (way, name)
        for _, _, logits in (of_rank[number] for of_rank in results):
            assert torch.equal(logits, results[0][number][2])
            assert logits.shape == (SEQUENCES, T, 64)


def test_two_ranks_share_sequences(tmp_path: Path) -> None:
    check(2, 2, [WAYS[1], WAYS[3], WAYS[4]], tmp_path)


@pytest.mark.slow
def test_two_ranks_share_sequences_of_every_variant(tmp_path: Path) -> None:
    check(2, 2, WAYS, tmp_path)


@pytest.mark.slow
def test_two_groups_of_two_ranks(tmp_path: Path) -> None:
    check(4, 2, WAYS, tmp_path)


@pytest.mark.slow
def test_four_ranks_share_sequences(tmp_path: Path) -> None:
    check(4, 4, WAYS, tmp_path)


@pytest.mark.parametrize(
    ("shared", "ranks", "reason"),
    [
        (3, 3, r"must be a divisor of model.n_heads=4, got 3"),
        (0, 2, r"must be a divisor of model.n_heads=4, got 0"),
        (4, 2, r"=4 must divide the 2 rank\(s\) and model.seq_len=32"),
    ],
)
def test_what_cannot_be_divided_is_refused(shared: int, ranks: int, reason: str) -> None:
    config = TrainConfig(
        name="test",
        data=DataConfig("none"),
        model=shape("rotary"),
        attention={"name": "vanilla"},
        optim=OPTIM,
        training=TrainingConfig(STEPS, SEQUENCES * T, max_tokens_per_forward=T),
        deepspeed={},
    )
    config.deepspeed["sequence_parallel_size"] = shared
    with pytest.raises(UserError, match=reason):
        config.plan_batch(ranks)
