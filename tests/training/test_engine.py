"""The DeepSpeed engine on one and two gloo ranks, against plain torch."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

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
from momentum_gpt.models import GPT
from momentum_gpt.models.gpt import init_weights
from momentum_gpt.training import engine as engines
from momentum_gpt.training.optim import build_optimizer, lr_at
from tests.training.ranks import on_ranks

STEPS = 6
SEQUENCES = 4  # in a step
SHAPE = ModelConfig(n_layers=2, n_heads=2, d_model=32, seq_len=16, vocab_size=64)


def config(
    stage: int, precision: str = "fp32", accumulate: int = 4, world: int = 1, **training: Any
) -> TrainConfig:
    micro = SEQUENCES // (accumulate * world)
    return TrainConfig(
        name="test",
        data=DataConfig("none"),
        model=SHAPE,
        attention={"name": "momentum", "ema_decay": 0.5},
        optim=OptimConfig(lr=1e-2, min_lr=1e-3, warmup_steps=2, grad_clip=0.5),
        training=TrainingConfig(
            STEPS,
            SEQUENCES * 16,
            max_tokens_per_forward=micro * 16,
            precision=precision,
            **training,
        ),
        deepspeed={"zero_optimization": {"stage": stage}},
    )


def batch(step: int) -> torch.Tensor:
    return torch.randint(0, 64, (SEQUENCES, 17), generator=torch.Generator().manual_seed(step))


def steps(engine: Any, c: TrainConfig, first: int, last: int) -> list[tuple[float, float | None]]:
    """Loss and gradient norm of each step."""
    plan = plan_batch(c.training, 16, distributed.world_size())
    done = []
    for step in range(first, last):
        engines.set_lr(engine, lr_at(step, c.optim, STEPS))
        rows = batch(step).view(plan.grad_accum_steps, plan.world_size, plan.micro_batch_size, 17)[
            :, distributed.rank()
        ]
        loss = engines.train_batch(engine, [(block[:, :-1], block[:, 1:]) for block in rows])
        done.append((distributed.mean_over_ranks(loss), engines.grad_norm(engine)))
    return done


def new_engine(c: TrainConfig) -> Any:
    model = GPT(c.model, c.attention)
    init_weights(model, 0)
    return engines.build_engine(model, c, plan_batch(c.training, 16, distributed.world_size()))


def plain_torch() -> tuple[list[tuple[float, float]], dict[str, torch.Tensor]]:
    """The oracle: one process, one batch, torch's own clipping and AdamW."""
    c = config(0)
    model = GPT(c.model, c.attention)
    init_weights(model, 0)
    optimizer = build_optimizer(model, c.optim)
    done = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, c.optim, STEPS)
        optimizer.zero_grad()
        loss = model(batch(step)[:, :-1], batch(step)[:, 1:])
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), c.optim.grad_clip)
        optimizer.step()
        done.append((loss.item(), norm.item()))
    return done, {name: p.detach() for name, p in model.named_parameters()}


def train_every_way(ways: list[tuple[int, str, int]], world: int) -> list[Any]:
    results = []
    for stage, precision, accumulate in ways:
        c = config(stage, precision, accumulate, world, activation_checkpointing=stage == 3)
        engine = new_engine(c)
        results.append((steps(engine, c, 0, STEPS), engines.full_weights(engine)))
        engine.destroy()
    return results


FP32 = [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32")]
BF16 = [(1, "bf16"), (2, "bf16"), (3, "bf16")]


def check_against_the_oracle(world: int, accumulate: int, folder: Path) -> None:
    ways = [(stage, precision, accumulate) for stage, precision in FP32 + BF16]
    results = on_ranks(world, train_every_way, folder, ways, world)[0]
    expected, weights = plain_torch()
    for (stage, precision, _), (done, found) in zip(ways, results, strict=True):
        what = f"stage {stage}, {precision}, {world} rank(s)"
        tolerance = 1e-5 if precision == "fp32" else 2e-2
        assert [loss for loss, _ in done] == pytest.approx(
            [loss for loss, _ in expected], rel=tolerance
        ), what
        if not (stage == 0 and precision == "fp32"):  # DeepSpeed computes no norm there
            bound = 1e-4 if precision == "fp32" else 5e-2
            assert [norm for _, norm in done] == pytest.approx(
                [norm for _, norm in expected], rel=bound
            ), what
        assert found.keys() == weights.keys(), what
        for name, tensor in found.items():
            assert tensor.dtype == (torch.float32 if precision == "fp32" else torch.bfloat16)
            torch.testing.assert_close(
                tensor.float(),
                weights[name],
                rtol=0,
                atol=2e-4 if precision == "fp32" else 3e-2,
                msg=lambda m, w=what: f"{w}: {m}",
            )


def test_one_rank_with_four_micro_batches_is_plain_torch(tmp_path: Path) -> None:
    check_against_the_oracle(1, 4, tmp_path)


def test_two_ranks_with_two_micro_batches_are_plain_torch_at_every_stage(tmp_path: Path) -> None:
    """So 1 rank x 4 accumulated = 2 ranks x 2, for ZeRO 0, 1, 2 and 3."""
    check_against_the_oracle(2, 2, tmp_path)


def save_and_resume(folder: str, world: int) -> list[tuple[str, Any, Any]]:
    """Straight through, and with two stops, each into a new engine."""
    results = []
    for stage, precision in FP32 + BF16:
        c = config(stage, precision, 4 // world, world)
        engine = new_engine(c)
        straight = steps(engine, c, 0, STEPS), engines.full_weights(engine)
        engine.destroy()
        cut: list[Any] = []
        for first, last in ((0, 2), (2, 4), (4, STEPS)):
            engine = new_engine(c)
            if first:
                engines.load_engine(engine, Path(folder) / f"{stage}{precision}{first}" / "engine")
            cut += steps(engine, c, first, last)
            place = Path(folder) / f"{stage}{precision}{last}"
            distributed.barrier()
            place.mkdir(exist_ok=True)
            engines.save_engine(engine, place / "engine")
            weights = engines.full_weights(engine)
            engine.destroy()
        results.append((f"stage {stage}, {precision}", straight, (cut, weights)))
    return results


@pytest.mark.parametrize("world", [1, 2])
def test_a_resume_of_a_resume_is_the_straight_run_to_the_bit(tmp_path: Path, world: int) -> None:
    results = on_ranks(world, save_and_resume, tmp_path, str(tmp_path), world)[0]
    for what, (losses, weights), (cut_losses, cut_weights) in results:
        assert losses == cut_losses, what
        for name in weights:
            assert torch.equal(weights[name], cut_weights[name]), f"{what}: {name}"


class Evil:
    """Unpickling it writes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def load_poisoned(folder: str) -> str:
    c = config(1)
    engine = new_engine(c)
    engines.save_engine(engine, Path(folder) / "engine")
    for path in (Path(folder) / "engine").glob("*.pt"):
        torch.save({"module": Evil(f"{folder}/it_ran")}, path)
    try:
        engines.load_engine(engine, Path(folder) / "engine")
    except pickle.UnpicklingError as error:
        return str(error)
    return "loaded"


def test_reading_a_checkpoint_never_runs_what_is_in_it(tmp_path: Path) -> None:
    said = on_ranks(1, load_poisoned, tmp_path, str(tmp_path))[0]
    assert not (tmp_path / "it_ran").exists()
    assert "mkdir" in said


def nothing_is_built() -> list[str]:
    import deepspeed

    engine = new_engine(config(1))
    steps(engine, config(1), 0, 1)
    loaded = deepspeed.ops.op_builder.builder.OpBuilder._loaded_ops
    return sorted(loaded)


def test_no_op_of_deepspeed_is_built_or_loaded(tmp_path: Path) -> None:
    assert on_ranks(1, nothing_is_built, tmp_path)[0] == []


def test_what_is_derived_cannot_be_set() -> None:
    with pytest.raises(
        UserError, match=r"deepspeed\.train_batch_size is derived.*training\.tokens_per_step"
    ):
        engines.check_deepspeed_options({"train_batch_size": 4}, "fp32")
    with pytest.raises(UserError, match="must be 0, 1, 2 or 3, got 4"):
        engines.check_deepspeed_options({"zero_optimization": {"stage": 4}}, "fp32")


KNOWN_TO_DEEPSPEED = [
    {"zero_optimization": {"stage": 2, "overlap_comm": True}},
    {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}},
    {"activation_checkpointing": {"partition_activations": True}},
    {"flops_profiler": {"enabled": True}},
    {"comms_logger": {"enabled": True}},
    {"wall_clock_breakdown": True},
    {"zero_allow_untested_optimizer": True},
    {"communication_data_type": "fp32"},
    {"prescale_gradients": True},
]


@pytest.mark.parametrize("options", KNOWN_TO_DEEPSPEED, ids=lambda options: list(options)[-1])
def test_what_deepspeed_knows_is_accepted(options: dict[str, Any]) -> None:
    assert engines.check_deepspeed_options(options, "fp32") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nosuchkey": 4}, "DeepSpeed has no option 'deepspeed.nosuchkey'"),
        (
            {"wall_clock_breakdwn": True},
            r"'deepspeed\.wall_clock_breakdwn': did you mean 'deepspeed\.wall_clock_breakdown'",
        ),
        (
            {"zero_optimization": {"overlap_com": True}},
            r"overlap_com': did you mean 'deepspeed\.zero_optimization\.overlap_comm'",
        ),
        (
            {"zero_optimization": {"offload_optimizer": {"devise": "cpu"}}},
            "did you mean 'deepspeed.zero_optimization.offload_optimizer.device'?",
        ),
        ({"zero_optimization": {"overlap_comm": "maybe"}}, "overlap_comm: .* got 'maybe'"),
        ({"communication_data_type": "fp7"}, "DeepSpeed refuses its options: .*fp7"),
        ({"sparse_attention": {}}, "DeepSpeed refuses its options: .*has been removed"),
    ],
)
def test_what_deepspeed_would_ignore_or_refuse_is_refused_in_one_line(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        engines.check_deepspeed_options(options, "fp32")
    assert "\n" not in str(refused.value)


def test_bf16_never_meets_stage_0() -> None:
    options = {"zero_optimization": {"stage": 0}}
    assert engines.check_deepspeed_options(options, "fp32") is None
    said = engines.check_deepspeed_options(options, "bf16")
    assert said is not None
    assert options == {"zero_optimization": {"stage": 1}}
