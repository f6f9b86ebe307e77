"""Muon against torch's own, which works on whole matrices in one process."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from momentum_gpt.core import distributed
from momentum_gpt.core.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    TrainingConfig,
    plan_batch,
)
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.manifest import CheckpointManifest
from momentum_gpt.models import GPT
from momentum_gpt.models.gpt import init_weights
from momentum_gpt.training import engine as engines
from momentum_gpt.training import muon
from momentum_gpt.training.elastic import load_elsewhere
from momentum_gpt.training.muon import MuonAdamW
from momentum_gpt.training.optim import build_optimizer, lr_at
from momentum_gpt.training.saving import Saver
from tests.training.oracle import newton_schulz, train_plainly
from tests.training.ranks import on_ranks

STEPS = 12
SAVED = 5
SEQUENCES = 6
SHAPE = ModelConfig(n_layers=2, n_heads=2, d_model=32, seq_len=16, vocab_size=64)
OPTIM = OptimConfig(lr=3e-3, min_lr=3e-4, warmup_steps=2, name="muon", grad_clip=0.5)
MATRICES = 2 * 4  # qkv, out, up and down of each block

Way = tuple[int, int]
"""ZeRO stage and micro-batches of a step on each rank."""


def new_model() -> GPT:
    model = GPT(SHAPE, {"name": "shift", "weight": 0.1})
    init_weights(model, 0)
    return model


def new_engine(stage: int, accumulate: int = 1, precision: str = "fp32") -> Any:
    ranks = distributed.world_size()
    tokens = SEQUENCES * 16
    training = TrainingConfig(
        STEPS,
        tokens,
        max_tokens_per_forward=tokens // ranks // accumulate,
        precision=precision,
    )
    config = TrainConfig(
        name="test",
        data=DataConfig("none"),
        model=SHAPE,
        attention={"name": "shift", "weight": 0.1},
        optim=OPTIM,
        training=training,
        deepspeed={"zero_optimization": {"stage": stage}},
    )
    return engines.build_engine(new_model(), config, plan_batch(training, 16, ranks))


def batch(step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randint(0, 64, (SEQUENCES, 17), generator=generator)


def train(engine: Any, first: int, last: int, leave_out: bool = False) -> list[float]:
    losses = []
    accumulate = engine.gradient_accumulation_steps()
    for step in range(first, last):
        mine = batch(step).tensor_split(distributed.world_size())[distributed.rank()]
        micro_batches = [(one[:, :-1], one[:, 1:]) for one in mine.tensor_split(accumulate)]
        engines.set_lr(engine, lr_at(step, OPTIM, STEPS))
        parts = engines.accumulate(engine, micro_batches, SEQUENCES * 16)
        engines.update(engine, leave_out)
        losses.append(distributed.sum_over_ranks(parts.double().sum()).item())
    return losses


@functools.cache
def plain_torch() -> tuple[list[tuple[float, float]], dict[str, torch.Tensor]]:
    """The whole batch at once, in float64."""
    batches = [(batch(step)[:, :-1], batch(step)[:, 1:]) for step in range(STEPS)]
    lrs = [lr_at(step, OPTIM, STEPS) for step in range(STEPS)]
    return train_plainly(new_model(), batches, OPTIM, lrs)


@pytest.mark.parametrize("shape", [(24, 24), (8, 40), (40, 8)])
def test_a_matrix_goes_where_torch_takes_it(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = weight.clone()
    ours = MuonAdamW(
        [{"params": [weight], "weight_decay": 0.1, "muon": True, "momentum": 0.9}], lr=0.01
    )
    theirs = torch.optim.Muon(
        [expected], lr=0.01, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"
    )
    for step in range(5):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(step + 1))
        weight.grad, expected.grad = gradient, gradient.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(weight, expected, rtol=0, atol=1e-6)


def precisely(update: torch.Tensor) -> torch.Tensor:
    """As `muon.orthogonalised`, but not rounded to bf16, which hides small mistakes."""
    return 0.2 * max(update.shape) ** 0.5 * newton_schulz(update.double()).float()


def precise_parts(update: torch.Tensor) -> torch.Tensor:
    return torch.stack(distributed.tensors_of_all_ranks(update))


def train_every_way(ways: list[Way], precise: bool, precision: str = "fp32") -> list[Any]:
    results = []
    for stage, accumulate in ways:
        engine = new_engine(stage, accumulate, precision)
        with pytest.MonkeyPatch.context() as patch:
            if precise:
                patch.setattr(muon, "orthogonalised", precisely)
                patch.setattr(muon, "_of_all_ranks", precise_parts)
            results.append((train(engine, 0, STEPS), engines.full_weights(engine)))
        engine.destroy()
    return results


def check_against_the_oracle(
    folder: Path, ranks: int, ways: list[Way], precise: bool, of_loss: float, of_weight: float
) -> None:
    expected, weights = plain_torch()
    results = on_ranks(ranks, train_every_way, folder, ways, precise)[0]
    for way, (losses, found) in zip(ways, results, strict=True):
        assert losses == pytest.approx([loss for loss, _ in expected], rel=of_loss), way
        for name, weight in weights.items():
            assert (found[name] - weight).abs().max() < of_weight, (way, name)


@pytest.mark.parametrize("ranks", [1, 2])
def test_every_stage_trains_as_defined(ranks: int, tmp_path: Path) -> None:
    """In one micro-batch, or in three; with the iterations in float64."""
    ways = [(0, 1), (1, 3), (2, 1), (3, 3)]
    check_against_the_oracle(tmp_path, ranks, ways, True, 1e-6, 1e-5)


@pytest.mark.slow
def test_a_model_in_bf16_trains_alike(tmp_path: Path) -> None:
    """DeepSpeed has another optimizer then, at stage 1."""
    expected, weights = plain_torch()
    ways = [(1, 1), (2, 3), (3, 1)]
    results = on_ranks(2, train_every_way, tmp_path, ways, False, "bf16")[0]
    for way, (losses, found) in zip(ways, results, strict=True):
        assert losses == pytest.approx([loss for loss, _ in expected], rel=2e-3), way
        for name, weight in weights.items():
            assert (found[name].double() - weight).abs().max() < 2e-2, (way, name)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_in_bf16_it_stays_near_what_is_defined(ranks: int, tmp_path: Path) -> None:
    ways = [(stage, accumulate) for stage in (0, 1, 2, 3) for accumulate in (1, 3)]
    check_against_the_oracle(tmp_path, ranks, ways, False, 3e-5, 2e-3)


def count_iterations(ways: list[Way]) -> list[int]:
    """Matrices orthogonalised in a step, on this rank."""
    counts = []
    for stage, accumulate in ways:
        engine = new_engine(stage, accumulate)
        counted = Mock(wraps=muon.orthogonalised)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(muon, "orthogonalised", counted)
            train(engine, 0, 2)
        counts.append(counted.call_count / 2)
        engine.destroy()
    return counts


def test_a_step_orthogonalises_each_matrix_once(tmp_path: Path) -> None:
    """Not each micro-batch; and where ZeRO divides the matrices, a rank takes about its share."""
    ways = [(0, 3), (1, 1), (2, 3), (3, 3)]
    counts = on_ranks(1, count_iterations, tmp_path, ways)[0]
    assert counts == [MATRICES] * len(ways)

    first, second = on_ranks(2, count_iterations, tmp_path, [(1, 1), (2, 3)])
    for ours, theirs in zip(first, second, strict=True):
        assert MATRICES <= ours + theirs <= MATRICES + 1  # one matrix may lie on both
        assert max(ours, theirs) < MATRICES


def save_and_go_on(folder: str, stages: list[int]) -> list[list[float]]:
    """Train, with one update left out; save, and go on to the end: the losses since then."""
    losses = []
    for stage in stages:
        engine = new_engine(stage)
        train(engine, 0, SAVED - 1)
        before = engines.full_weights(engine)
        train(engine, SAVED - 1, SAVED, leave_out=True)
        assert all(
            torch.equal(before[name], now) for name, now in engines.full_weights(engine).items()
        )

        saver = Saver(Path(folder) / f"zero{stage}", TrainingConfig(STEPS, 16), None)
        saver.begin(engine, manifest())
        assert saver.finish() is None
        saver.close()
        losses.append(train(engine, SAVED, STEPS))
        engine.destroy()
    return losses


def manifest() -> CheckpointManifest:
    return CheckpointManifest(
        step=SAVED,
        tokens=0,
        order_sha256="",
        canary_loss=1.0,
        world_size=distributed.world_size(),
        initial_weights_sha256="",
        data_sha256="",
        tokenizer_sha256="",
    )


def resume(folder: str, sources: list[int], stages: list[int]) -> list[list[float]]:
    """Resume each source's checkpoint as DeepSpeed does at its own stage, else elsewhere."""
    losses = []
    for source in sources:
        of_engine = Path(folder) / f"zero{source}" / f"step_{SAVED:08d}" / "engine"
        for stage in stages:
            engine = new_engine(stage)
            if source == stage:
                engines.load_engine(engine, of_engine)
            else:
                load_elsewhere(engine, of_engine, manifest())
            losses.append(train(engine, SAVED, STEPS))
            engine.destroy()
    return losses


def check_resuming(folder: Path, sources: list[int], stages: list[int]) -> None:
    """Each at its own stage to the bit."""
    begun = on_ranks(1, save_and_go_on, folder, str(folder), sources)[0]
    resumed = iter(on_ranks(1, resume, folder, str(folder), sources, stages)[0])
    for source, losses in zip(sources, begun, strict=True):
        for stage in stages:
            found = next(resumed)
            if source == stage:
                assert found == losses, f"stage {stage}"
            assert found == pytest.approx(losses, rel=2e-6), f"stage {source} at {stage}"


def test_a_run_is_resumed_at_its_stage_and_at_another(tmp_path: Path) -> None:
    check_resuming(tmp_path, [0, 2], [2])


@pytest.mark.slow
def test_a_run_is_resumed_at_every_stage(tmp_path: Path) -> None:
    check_resuming(tmp_path, [0, 1, 2, 3], [0, 1, 2, 3])


def test_offload_is_refused() -> None:
    zero = {"stage": 2, "offload_optimizer": {"device": "cpu"}}
    with pytest.raises(UserError, match=r"optim.name=muon .* use deepspeed=zero1"):
        engines.check_deepspeed_options({"zero_optimization": zero}, "fp32", "muon")


def test_only_matrices_of_the_blocks_are_muons() -> None:
    model = GPT(SHAPE, {"name": "momentum", "ema_decay": 0.5, "learned": True})
    groups = build_optimizer(model, replace(OPTIM, momentum=0.8)).param_groups
    assert [group["muon"] for group in groups] == [True, False, False]
    assert [group["momentum"] for group in groups] == [0.8] * 3
    assert [group["weight_decay"] for group in groups] == [0.1, 0.1, 0.0]
    assert len(groups[0]["params"]) == MATRICES
