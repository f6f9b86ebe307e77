"""The DeepSpeed engine on one and two gloo ranks, against plain torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch.profiler import ProfilerActivity, profile

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
from momentum_gpt.core.files import conf_folder
from momentum_gpt.core.manifest import CheckpointManifest
from momentum_gpt.models import GPT
from momentum_gpt.models.gpt import init_weights
from momentum_gpt.training import engine as engines
from momentum_gpt.training.optim import lr_at
from momentum_gpt.training.run import Run
from momentum_gpt.training.saving import Saver
from tests.training.oracle import train_plainly
from tests.training.ranks import on_ranks

STEPS = 20
SEQUENCES = 4  # in a step
TARGETS = torch.tensor(
    [[16, 3, 0, 9], [12, 0, 1, 0], [16, 16, 16, 16], [0, 0, 2, 16], [1, 16, 5, 0], [7, 1, 1, 7]]
)
"""Targets of the sequences of a step, by turns: some micro-batches, and some ranks, have none."""
SHAPE = ModelConfig(n_layers=2, n_heads=2, d_model=32, seq_len=16, vocab_size=64)


def config(
    stage: int, precision: str = "fp32", accumulate: int = 4, world: int = 1, **training: Any
) -> TrainConfig:
    micro = SEQUENCES // (accumulate * world)
    precision, _, offload = precision.partition(" ")
    deepspeed: Any = {"zero_optimization": {"stage": stage}}
    if offload:
        chosen = OmegaConf.load(conf_folder() / "deepspeed" / f"zero{stage}_offload.yaml")
        deepspeed = OmegaConf.to_container(chosen)
    return TrainConfig(
        name="test",
        data=DataConfig("none"),
        model=SHAPE,
        attention={"name": "momentum", "ema_decay": 0.5},
        optim=OptimConfig(lr=1e-2, min_lr=1e-3, warmup_steps=2, grad_clip=0.5, beta2=0.8, eps=1e-3),
        training=TrainingConfig(
            STEPS,
            SEQUENCES * 16,
            max_tokens_per_forward=micro * 16,
            precision=precision,
            **training,
        ),
        deepspeed=deepspeed,
    )


def targets_of(step: int) -> torch.Tensor:
    return TARGETS[step % len(TARGETS)]


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and targets of a step, (SEQUENCES, 16) each: rows with unequally many targets."""
    generator = torch.Generator().manual_seed(step)
    block = torch.randint(0, 64, (SEQUENCES, 17), generator=generator)
    is_target = torch.arange(16) < targets_of(step)[:, None]
    return block[:, :-1], block[:, 1:].where(is_target, -100)


def steps(engine: Any, c: TrainConfig, first: int, last: int) -> list[tuple[float, float | None]]:
    """Loss and gradient norm of each step."""
    plan = plan_batch(c.training, 16, distributed.world_size())
    split = (plan.grad_accum_steps, plan.world_size, plan.micro_batch_size, 16)
    done = []
    for step in range(first, last):
        engines.set_lr(engine, lr_at(step, c.optim, STEPS))
        tokens, targets = (part.view(split)[:, distributed.rank()] for part in batch(step))
        micro_batches = list(zip(tokens, targets, strict=True))
        parts = engines.accumulate(engine, micro_batches, int(targets_of(step).sum()))
        assert engines.update(engine)
        loss = distributed.sum_over_ranks(parts.double().sum()).item()
        done.append((loss, engines.grad_norm(engine)))
    return done


def new_engine(c: TrainConfig) -> Any:
    model = GPT(c.model, c.attention)
    init_weights(model, 0)
    return engines.build_engine(model, c, plan_batch(c.training, 16, distributed.world_size()))


def plain_torch() -> tuple[list[tuple[float, float]], dict[str, torch.Tensor]]:
    c = config(0)
    model = GPT(c.model, c.attention)
    init_weights(model, 0)
    batches = [batch(step) for step in range(STEPS)]
    lrs = [lr_at(step, c.optim, STEPS) for step in range(STEPS)]
    return train_plainly(model, batches, c.optim, lrs)


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
OFFLOAD = [(2, "fp32 offload"), (3, "fp32 offload")]


def check_against_the_oracle(
    world: int, accumulate: list[int], folder: Path, fp32: Sequence[tuple[int, str]] = FP32
) -> None:
    ways = [(*kind, times) for kind in fp32 for times in accumulate]
    ways += [(*kind, accumulate[-1]) for kind in BF16 if fp32 is FP32]
    results = on_ranks(world, train_every_way, folder, ways, world)[0]
    expected, weights = plain_torch()
    losses, norms = zip(*expected, strict=True)

    for (stage, precision, times), (done, found) in zip(ways, results, strict=True):
        what = f"stage {stage}, {precision}, {world} rank(s), {times} accumulated"
        is_fp32 = precision.startswith("fp32")
        found_losses, found_norms = zip(*done, strict=True)
        assert found_losses == pytest.approx(losses, rel=1e-6 if is_fp32 else 1e-3), what
        if stage > 0:  # DeepSpeed computes no norm at stage 0
            assert found_norms == pytest.approx(norms, rel=1e-6 if is_fp32 else 1e-2), what

        assert found.keys() == weights.keys(), what
        for name, tensor in found.items():
            assert tensor.dtype == (torch.float32 if is_fp32 else torch.bfloat16)
            furthest = (tensor.double() - weights[name]).abs().max()
            assert furthest < (1e-6 if is_fp32 else 1e-2), f"{what}: {name}"


@pytest.mark.slow
def test_one_rank_with_one_two_and_four_micro_batches_is_plain_torch(tmp_path: Path) -> None:
    """The oracle sums over all targets; the micro-batches have 0 to 16 of them."""
    check_against_the_oracle(1, [1, 2, 4], tmp_path)


def sums_over_ranks() -> int:
    """Sums over all ranks in the passes of one step."""
    c = config(0)
    engine = new_engine(c)
    plan = plan_batch(c.training, 16, distributed.world_size())
    tokens, targets = (part[: plan.micro_batch_size] for part in batch(0))
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        engines.accumulate(engine, [(tokens, targets)] * plan.grad_accum_steps, 100)
    return sum(event.count for event in profiled.key_averages() if "allreduce" in event.key)


def test_a_single_rank_averages_no_gradients(tmp_path: Path) -> None:
    alone = on_ranks(1, sums_over_ranks, tmp_path)[0]
    of_two = on_ranks(2, sums_over_ranks, tmp_path)[0]
    assert alone == 0
    assert of_two > 0


def test_two_ranks_with_one_and_two_micro_batches_are_plain_torch_at_every_stage(
    tmp_path: Path,
) -> None:
    """So 1 rank x 4 accumulated = 2 ranks x 2, for ZeRO 0, 1, 2 and 3."""
    check_against_the_oracle(2, [1, 2], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_what_is_offloaded_to_the_host_is_plain_torch_too(tmp_path: Path, world: int) -> None:
    check_against_the_oracle(world, [1, 2], tmp_path, OFFLOAD)


def save(engine: Any, c: TrainConfig, folder: Path, step: int) -> None:
    saver = Saver(folder, c.training, None)
    saver.begin(engine, CheckpointManifest(step, 0, "", 1.0, distributed.world_size(), "", "", ""))
    assert saver.finish() is None
    saver.close()


@pytest.mark.slow
def test_four_ranks_are_plain_torch_too(tmp_path: Path) -> None:
    """The sixth way to split four sequences."""
    check_against_the_oracle(4, [1], tmp_path)


def first_gradients(ways: list[tuple[int, str, int]]) -> list[dict[str, torch.Tensor]]:
    """Each parameter's first moment after one step: its gradient, clipped, times 1 - beta1."""
    from deepspeed.utils import safe_get_full_optimizer_state

    found = []
    for stage, precision, accumulate in ways:
        c = config(stage, precision, accumulate, 2)
        engine = new_engine(c)
        steps(engine, c, 0, 1)
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()
        named = engine.module.named_parameters()
        found.append({name: safe_get_full_optimizer_state(p, "exp_avg") for name, p in named})
        engine.destroy()
    return found


@pytest.mark.slow
def test_in_bf16_the_tied_embedding_has_the_gradient_of_fp32(tmp_path: Path) -> None:
    """DeepSpeed has counted gradients of tied weights wrongly under ZeRO-2 (its issue 8224).

    bf16 has 8 bits of precision. Were the use as an embedding or the use as the output counted
    twice or not at all, the difference would be a large part of the gradient.
    """
    ways = [(2, "bf16", 1), (2, "bf16", 2), (1, "bf16", 2)]
    c = config(0)
    model = GPT(c.model, c.attention)
    init_weights(model, 0)
    tokens, targets = batch(0)
    (model(tokens, targets) / TARGETS[0].sum()).backward()
    clip = min(1.0, 0.5 / torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]))

    for way, found in zip(ways, on_ranks(2, first_gradients, tmp_path, ways)[0], strict=True):
        for name, parameter in model.named_parameters():
            expected = 0.1 * clip * parameter.grad
            difference = (found[name] - expected).norm() / expected.norm()
            assert difference < 0.02, f"{way}: {name} differs by {difference:.1%}"


def save_and_resume(
    folder: str, world: int, kinds: list[tuple[int, str]]
) -> list[tuple[str, Any, Any]]:
    """Straight through, and with two stops, each into a new engine."""
    results = []
    for stage, precision in kinds:
        c = config(stage, precision, 4 // world, world)
        engine = new_engine(c)
        straight = steps(engine, c, 0, STEPS), engines.full_weights(engine)
        engine.destroy()
        cut: list[Any] = []
        for first, last in ((0, 2), (2, 4), (4, STEPS)):
            engine = new_engine(c)
            place = Path(folder) / f"{stage}{precision}"
            if first:
                engines.load_engine(engine, place / f"step_{first:08d}" / "engine")
            cut += steps(engine, c, first, last)
            save(engine, c, place, last)
            weights = engines.full_weights(engine)
            engine.destroy()
        results.append((f"stage {stage}, {precision}", straight, (cut, weights)))
    return results


@pytest.mark.parametrize(
    ("world", "kinds"),
    [
        (2, FP32),
        pytest.param(2, BF16, marks=pytest.mark.slow),
        pytest.param(1, FP32 + BF16, marks=pytest.mark.slow),
        pytest.param(2, OFFLOAD, marks=pytest.mark.slow),
    ],
)
def test_a_resume_of_a_resume_is_the_straight_run_to_the_bit(
    tmp_path: Path, world: int, kinds: list[tuple[int, str]]
) -> None:
    results = on_ranks(world, save_and_resume, tmp_path, str(tmp_path), world, kinds)[0]
    for what, (losses, weights), (cut_losses, cut_weights) in results:
        assert losses == cut_losses, what
        for name in weights:
            assert torch.equal(weights[name], cut_weights[name]), f"{what}: {name}"


def leave_one_out(stages: list[int], world: int) -> list[bool]:
    """Whether a step that is left out changes nothing: not that step, and not those after it."""
    equal = []
    for stage in stages:
        c = config(stage, accumulate=4 // world, world=world)
        engine = new_engine(c)
        steps(engine, c, 0, 2)
        before = engines.full_weights(engine)
        plan = plan_batch(c.training, 16, world)
        tokens, targets = (
            part.view(plan.grad_accum_steps, world, plan.micro_batch_size, 16)[
                :, distributed.rank()
            ]
            for part in batch(5)
        )
        engines.accumulate(engine, list(zip(tokens, targets, strict=True)), 10)
        assert not engines.update(engine, leave_out=True)
        after = engines.full_weights(engine)
        done = steps(engine, c, 2, STEPS), engines.full_weights(engine)
        engine.destroy()

        engine = new_engine(c)
        expected = steps(engine, c, 0, STEPS)[2:], engines.full_weights(engine)
        engine.destroy()
        same = [torch.equal(before[name], after[name]) for name in before]
        same += [torch.equal(expected[1][name], done[1][name]) for name in before]
        equal.append(all(same) and expected[0] == done[0])
    return equal


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_an_update_that_is_left_out_leaves_no_trace(tmp_path: Path, world: int) -> None:
    """Weights, moments, the optimizer's count of steps and gradients: at every stage."""
    assert on_ranks(world, leave_one_out, tmp_path, [0, 1, 2, 3], world)[0] == [True] * 4


class Evil:
    """Unpickling it writes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def load_poisoned(folder: str) -> str:
    c = config(1)
    engine = new_engine(c)
    save(engine, c, Path(folder), 1)
    saved = Path(folder) / "step_00000001" / "engine"
    for path in saved.glob("*.pt"):
        torch.save({"module": Evil(f"{folder}/it_ran")}, path)
    try:
        engines.load_engine(engine, saved)
    except UserError as error:
        return str(error)
    return "loaded"


def test_reading_a_checkpoint_never_runs_what_is_in_it(tmp_path: Path) -> None:
    said = on_ranks(1, load_poisoned, tmp_path, str(tmp_path))[0]
    assert not (tmp_path / "it_ran").exists()
    assert "UnpicklingError" in said


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


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gradient_allreduce_op", "sum"),
        ("gradient_predivide_factor", 2.0),
        ("managed_gradient_accumulation", False),
    ],
)
def test_what_would_change_the_mean_over_ranks_and_micro_batches_is_refused(
    key: str, value: Any
) -> None:
    with pytest.raises(UserError, match=f"deepspeed.{key}={value} would change.*leave it at"):
        engines.check_deepspeed_options({key: value}, "fp32")


KNOWN_TO_DEEPSPEED = [
    {"zero_optimization": {"stage": 2, "overlap_comm": True}},
    {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}},
    {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu", "pin_memory": True}}},
    {"activation_checkpointing": {"partition_activations": True}},
    {"aio": {"block_size": 1048576, "queue_depth": 8}},
    {"tensorboard": {"enabled": True, "output_path": "somewhere"}},
    {"compile": {"deepcompile": True}},
    {"data_efficiency": {"enabled": True, "data_sampling": {"enabled": True}}},
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
        (
            {"flops_profiler": {"enable": True}},
            "did you mean 'deepspeed.flops_profiler.enabled'?",
        ),
        (
            {"compile": {"deep_compile": True}},
            "did you mean 'deepspeed.compile.deepcompile'?",
        ),
        (
            {"tensorboard": {"output_pth": "somewhere"}},
            "did you mean 'deepspeed.tensorboard.output_path'?",
        ),
        ({"aio": {"blocksize": 1}}, "did you mean 'deepspeed.aio.block_size'?"),
        (
            {"data_efficiency": {"data_sampling": {"enabld": True}}},
            "did you mean 'deepspeed.data_efficiency.data_sampling.enabled'?",
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


def bf16_gradients_left() -> int:
    """Parameters with a gradient of their own after two micro-batches."""
    engine = new_engine(config(1, "bf16", 2, 1))
    tokens, targets = batch(0)
    half = SEQUENCES // 2
    micro_batches = [(tokens[:half], targets[:half]), (tokens[half:], targets[half:])]
    engines.accumulate(engine, micro_batches, int(targets_of(0).sum()))
    left = sum(parameter.grad is not None for parameter in engine.module.parameters())
    engine.destroy()
    return left


def test_a_gradient_in_bf16_is_not_kept_beside_its_sum(tmp_path: Path) -> None:
    """It took two bytes of each parameter."""
    assert on_ranks(1, bf16_gradients_left, tmp_path) == [0]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"zero_optimization": {"zero_quantized_weights": True}}, "zero_quantized_weights"),
        ({"zero_optimization": {}, "compile": {"deepcompile": True}}, "compile.deepcompile"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_needs_a_gpu_is_refused_without_one(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=rf"{named}=true needs a GPU.*use deepspeed=zero3"):
        engines._require_device(options)
    engines._require_device({"zero_optimization": {"zero_quantized_weights": False}})


def test_with_nvme_nothing_is_saved_of_the_engine_and_a_run_is_not_resumed() -> None:
    """DeepSpeed would go on with half of the state, silently."""
    zero = {"stage": 3, "offload_optimizer": {"device": "nvme", "nvme_path": "/tmp"}}
    engine = SimpleNamespace(config={"zero_optimization": zero})
    assert engines.engine_state(engine, Path("nowhere")) == {}
    run = SimpleNamespace(engine=engine, config=SimpleNamespace(run_dir=Path("runs/x")))
    found: Any = SimpleNamespace(folder=Path("runs/x/checkpoints/step_00000004"))
    with pytest.raises(UserError, match=r"runs/x cannot be resumed.*init=runs/x/checkpoints"):
        Run._load(run, found)  # type: ignore[arg-type]
