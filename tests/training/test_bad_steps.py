"""Losses and gradients that are not finite, on one rank of two: all leave the update out."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from momentum_gpt import worker
from momentum_gpt.core import distributed
from momentum_gpt.core.batch_plan import BatchPlan
from momentum_gpt.core.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    TaskConfig,
    TrackingConfig,
    TrainConfig,
    TrainingConfig,
    plan_batch,
)
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import read_json, read_json_lines
from momentum_gpt.core.outcome import Outcome
from momentum_gpt.data import Batches, TokenShards, open_training
from momentum_gpt.models import GPT
from momentum_gpt.models.gpt import init_weights
from momentum_gpt.tracking import Tracker
from momentum_gpt.training.bad_steps import BadSteps, Rewind
from momentum_gpt.training.engine import build_engine, full_weights
from momentum_gpt.training.loop import train
from momentum_gpt.training.optim import lr_at
from momentum_gpt.training.position import Position
from momentum_gpt.training.run import Run
from momentum_gpt.training.throughput import Throughput
from tests.training.oracle import train_plainly
from tests.training.ranks import on_ranks

STEPS = 6
BAD = 2  # counted from 0
SEQ_LEN = 32
ROWS = 8


def config(runs: str, stage: int, **training: Any) -> TrainConfig:
    made = TrainConfig(
        name=f"stage{stage}",
        data=DataConfig("none"),
        model=ModelConfig(1, 1, 16, SEQ_LEN, vocab_size=512),
        attention={"name": "vanilla"},
        optim=OptimConfig(lr=1e-2, min_lr=1e-3, warmup_steps=1, eps=1e-3),
        training=TrainingConfig(STEPS, ROWS * SEQ_LEN, log_every=1, **training),
        deepspeed={"zero_optimization": {"stage": stage}},
        tracking=TrackingConfig(wandb="disabled"),
        runs=runs,
    )
    made.evaluation.tokens = 64
    made.evaluation.induction_sequences = 1
    return made


def new_model(c: TrainConfig) -> GPT:
    model = GPT(c.model, c.attention)
    init_weights(model, 0)
    return model


def spoil_loss(model: GPT, calls: range) -> None:
    """Make the loss NaN in these training passes."""
    done = 0

    def spoil(module: GPT, _: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal done
        if not module.training:
            return output
        done += 1
        return output * (float("nan") if done - 1 in calls else 1.0)

    model.register_forward_hook(spoil)


def spoil_gradient(model: GPT, calls: range) -> None:
    """Make one gradient infinite in these training passes; the loss stays finite."""
    done = 0

    class Spoil(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            nonlocal done
            done += 1
            return gradient * (float("inf") if done - 1 in calls else 1.0)

    model.register_forward_hook(
        lambda module, _, output: Spoil.apply(output) if module.training else output
    )


SPOILERS = {"loss": spoil_loss, "gradient": spoil_gradient}


KINDS = [(stage, what) for stage in range(4) for what in SPOILERS]


def train_with_bad_steps(data: str, runs: str) -> list[tuple[dict[str, torch.Tensor], list[int]]]:
    """The second of two micro-batches of a step is bad on rank 1 alone."""
    results = []
    for stage, what in KINDS:
        c = config(f"{runs}/{what}", stage)
        c.run_dir.mkdir(exist_ok=True, parents=True)
        plan = BatchPlan(ROWS, micro_batch_size=2, grad_accum_steps=2, world_size=2)
        batches = Batches(TokenShards(data), SEQ_LEN, 0, plan)
        model = new_model(c)
        if distributed.rank() == 1:
            SPOILERS[what](model, range(2 * BAD + 1, 2 * BAD + 2))
        run = Run(c, batches, TokenShards(data, "validation"), build_engine(model, c, plan), "")
        tracker = Tracker(c, 0) if distributed.is_main() else None
        assert train(c, batches, run, tracker, Throughput(ROWS * SEQ_LEN, 0.0)) == 0
        if tracker:
            tracker.close()
        results.append((full_weights(run.engine), run.position.skipped_steps))
        run.engine.destroy()
    return results


@pytest.fixture(scope="module")
def trained(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """The folder of the runs, and what each rank returned."""
    folder = tmp_path_factory.mktemp("bad")
    return folder, on_ranks(2, train_with_bad_steps, folder, str(data_folder), str(folder))


@pytest.mark.parametrize(("stage", "what"), KINDS)
def test_a_bad_step_on_one_rank_is_left_out_on_every_rank(
    trained: tuple[Path, list[Any]], data_folder: Path, stage: int, what: str
) -> None:
    """The oracle trains on the other steps, with their learning rates, in plain torch."""
    folder, of_ranks = trained
    results = [of_rank[KINDS.index((stage, what))] for of_rank in of_ranks]
    c = config(f"{folder}/{what}", stage)
    whole = Batches(TokenShards(data_folder), SEQ_LEN, 0, BatchPlan(ROWS, ROWS, 1, 1))
    good = [step for step in range(STEPS) if step != BAD]
    expected, weights = train_plainly(
        new_model(c),
        [whole(step, 0, 0) for step in good],
        c.optim,
        [lr_at(step, c.optim, STEPS) for step in good],
    )
    for _, skipped in results:
        assert skipped == [BAD]
    for name, tensor in results[0][0].items():
        assert (tensor.double() - weights[name]).abs().max() < 1e-6, name

    records = read_json_lines(c.run_dir / "metrics.jsonl")
    losses = {record["step"]: record["train/loss"] for record in records if "train/loss" in record}
    for step, (loss, _) in zip(good, expected, strict=True):
        assert losses[step + 1] == pytest.approx(loss, rel=1e-6)
    (event,) = [record for record in records if "event" in record]
    assert (event["step"], event["train/skipped"]) == (BAD + 1, 1)

    place = "(rank 1, micro-batch 1)" if what == "loss" else "is not finite at step 3:"
    assert place in event["event"]
    kept = read_json(c.run_dir / "bad_steps" / "step_00000003.json")
    texts = [text for part in kept["micro_batches"] for text in part["texts"]]
    tokenizer = TokenShards(data_folder).tokenizer
    tokens, _ = whole(BAD, 0, 0)
    assert sorted(texts) == sorted(tokenizer.decode(row) for row in tokens.tolist())


def pretrain_with_a_bad_step(data: str, runs: str, action: str) -> Outcome:
    """The loss of step 5 is bad on rank 1, the first time; checkpoints are at steps 2, 4 and 6."""
    c = config(runs, 2, bad_step=action, save_every=2, max_tokens_per_forward=4 * SEQ_LEN)
    c.name = action
    c.data.path = data
    c.run_dir.mkdir(exist_ok=True)
    build = worker.build_model

    def build_spoiled(*arguments: Any, **options: Any) -> GPT:
        model = build(*arguments, **options)
        if distributed.rank() == 1:
            spoil_loss(model, range(4, 5))
        return model

    worker.build_model = build_spoiled  # type: ignore[assignment]
    return worker.pretrain(c, timedelta(minutes=2))


@pytest.mark.slow
def test_a_run_that_goes_back_ends_like_one_that_leaves_the_step_out(
    data_folder: Path, tmp_path: Path
) -> None:
    for action in ("skip", "rewind"):
        folder = tmp_path / action
        folder.mkdir()
        results = on_ranks(
            2, pretrain_with_a_bad_step, folder, str(data_folder), str(tmp_path), action
        )
        assert [(found.exit_code, found.step) for found in results] == [(0, STEPS)] * 2

    run, other = tmp_path / "rewind", tmp_path / "skip"
    for path in ("model/model.safetensors", "model/config.json"):
        last = f"checkpoints/step_{STEPS:08d}/{path}"
        assert (run / last).read_bytes() == (other / last).read_bytes()
    kept = read_json(run / "bad_steps" / "step_00000005.json")
    assert (kept["fault"], kept["action"]) == ("the loss is nan", "rewind")

    lines = read_json_lines(run / "metrics.jsonl")
    steps = [line["step"] for line in lines if "train/loss" in line]
    assert steps == [1, 2, 3, 4, 5, 6]


ENGINE = SimpleNamespace(config={"zero_optimization": {"stage": 1}})


def bad_steps(folder: Path, **training: Any) -> BadSteps:
    c = config(str(folder), 1, **training)
    c.data = DataConfig(None)
    c.task = TaskConfig("recall")
    return BadSteps(c, open_training(c, plan_batch(c.training, SEQ_LEN, 1)), Position())


def test_a_spike_is_seen_beside_the_losses_before(tmp_path: Path) -> None:
    found = bad_steps(tmp_path, spike=6.0)
    for step in range(40):
        assert not found.is_bad(step, 3.0 + 0.1 * (step % 2), ENGINE)
    assert not found.is_bad(40, 3.3, ENGINE)
    assert found.is_bad(41, 4.0, ENGINE)
    assert "4.0000, after 3.05" in found.fault
    assert 4.0 not in found.position.recent_losses


def test_without_the_option_no_finite_loss_is_bad(tmp_path: Path) -> None:
    found = bad_steps(tmp_path)
    assert not any(found.is_bad(step, 10.0**step, ENGINE) for step in range(80))
    assert found.position.recent_losses == []


def test_bad_steps_that_do_not_end_stop_the_run(tmp_path: Path) -> None:
    found = bad_steps(tmp_path)
    nan = torch.tensor([float("nan")])
    for step in (3, 4, 5):
        assert found.is_bad(step, float("nan"), ENGINE)
        assert "its update was left out" in found.handle(step, nan)["event"]
    found.is_bad(6, float("nan"), ENGINE)
    with pytest.raises(UserError, match=r"the loss is nan at step 7: use a lower optim\.lr"):
        found.handle(6, nan)


def test_rewinding_is_asked_for_by_an_exception(tmp_path: Path) -> None:
    found = bad_steps(tmp_path, bad_step="rewind")
    found.is_bad(3, float("inf"), ENGINE)
    with pytest.raises(Rewind) as rewind:
        found.handle(3, torch.tensor([float("inf")]))
    assert rewind.value.step == 3
