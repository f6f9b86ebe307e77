"""The training loop on two ranks, over packed rows: the loss and the speed that it writes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from momentum_gpt.core import distributed
from momentum_gpt.core.batch_plan import BatchPlan
from momentum_gpt.core.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrackingConfig,
    TrainConfig,
    TrainingConfig,
)
from momentum_gpt.core.files import read_json_lines
from momentum_gpt.data import PackedBatches, TokenShards
from momentum_gpt.models import GPT
from momentum_gpt.models.gpt import init_weights
from momentum_gpt.tracking import Tracker
from momentum_gpt.training import throughput
from momentum_gpt.training.engine import build_engine
from momentum_gpt.training.loop import train
from momentum_gpt.training.optim import lr_at
from momentum_gpt.training.run import Run
from momentum_gpt.training.throughput import Throughput
from tests.training.oracle import train_plainly
from tests.training.ranks import on_ranks

STEPS = 6
SEQ_LEN = 1500
ROWS = 4  # in a step

PASS_TAKES = 0.5  # each of two micro-batches
UPDATE_TAKES = 0.25  # of each of two groups of parameters
LAYERS_TAKE = 0.125
REST_TAKES = 0.875
STEP_TAKES = 2 * PASS_TAKES + 2 * UPDATE_TAKES + LAYERS_TAKE + REST_TAKES
PAUSE_TAKES = 100.0  # an evaluation or a checkpoint


def config(runs: str) -> TrainConfig:
    return TrainConfig(
        name="run",
        data=DataConfig("none", packing="best_fit"),
        model=ModelConfig(1, 1, 8, SEQ_LEN, vocab_size=512),
        attention={"name": "momentum", "ema_decay": 0.5},
        optim=OptimConfig(lr=1e-2, min_lr=1e-3, warmup_steps=1, eps=1e-3, grad_clip=0.5),
        training=TrainingConfig(
            *(STEPS, ROWS * SEQ_LEN), log_every=2, layers_every=1, eval_every=3, save_every=5
        ),
        deepspeed={"zero_optimization": {"stage": 2}},
        tracking=TrackingConfig(wandb="disabled"),
        runs=runs,
    )


def new_model(c: TrainConfig) -> GPT:
    model = GPT(c.model, c.attention)
    init_weights(model, 0)
    return model


def train_on_packed_rows(data: str, runs: str) -> int:
    """Train with a clock that moves only where it is told to."""
    now = 0.0

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    class TimedThroughput(Throughput):
        def step(self) -> None:
            wait(REST_TAKES)
            super().step()

    class TimedRun(Run):
        def evaluate(self) -> dict[str, float]:
            wait(PAUSE_TAKES)
            self.position.evaluation_is_due = False
            return {"val/loss": 1.0}

        def by_layer(self) -> dict[str, float]:
            wait(LAYERS_TAKE)
            return {}

        def save(self) -> None:
            wait(PAUSE_TAKES)

    throughput.time = SimpleNamespace(perf_counter=lambda: now)  # type: ignore[assignment]
    c = config(runs)
    c.run_dir.mkdir(exist_ok=True)
    plan = BatchPlan(ROWS, micro_batch_size=1, grad_accum_steps=2, world_size=2)
    batches = PackedBatches(TokenShards(data), SEQ_LEN, 0, plan)
    tracker = Tracker(c, 0) if distributed.is_main() else None
    measured = TimedThroughput(c.training.tokens_per_step, 0.0)
    engine = build_engine(new_model(c), c, plan)
    engine.module.register_forward_hook(lambda *_: wait(PASS_TAKES))
    engine.client_optimizer.register_step_pre_hook(lambda *_: wait(UPDATE_TAKES))
    run = TimedRun(c, batches, TokenShards(data, "validation"), engine, "")
    assert train(c, batches, run, tracker, measured) == 0
    return run.position.step


@pytest.fixture(scope="module")
def run_dir(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loop")
    steps = on_ranks(2, train_on_packed_rows, folder, str(data_folder), str(folder))
    assert steps == [STEPS, STEPS]
    return config(str(folder)).run_dir


def test_the_loss_is_a_sum_over_all_targets_divided_by_their_number(
    run_dir: Path, data_folder: Path
) -> None:
    """The rows have unequally many targets; the oracle sees each step's rows as one batch."""
    c = config("")
    whole = PackedBatches(TokenShards(data_folder), SEQ_LEN, 0, BatchPlan(ROWS, ROWS, 1, 1))
    batches = [whole(step, 0, 0) for step in range(STEPS)]
    counts = torch.stack([(targets != -100).sum(1) for _, targets in batches])
    assert (counts.max(1).values > 1.1 * counts.min(1).values).any()

    lrs = [lr_at(step, c.optim, STEPS) for step in range(STEPS)]
    expected, _ = train_plainly(new_model(c), batches, c.optim, lrs)
    logged = [
        record for record in read_json_lines(run_dir / "metrics.jsonl") if "train/loss" in record
    ]
    assert [record["step"] for record in logged] == [2, 4, 6]
    for record in logged:
        loss, norm = expected[record["step"] - 1]
        assert record["train/loss"] == pytest.approx(loss, rel=1e-6)
        assert record["optim/grad_norm"] == pytest.approx(norm, rel=1e-5)


def test_the_speed_leaves_evaluations_and_checkpoints_out(run_dir: Path) -> None:
    """Steps 4 and 6 are each read after a pause, at 3 and at 5, and are alone in what is read."""
    records = read_json_lines(run_dir / "metrics.jsonl")
    speeds = [r["train/tokens_per_s"] for r in records if "train/tokens_per_s" in r]
    assert speeds == [ROWS * SEQ_LEN / STEP_TAKES] * 3


def test_each_phase_has_its_share_of_all_time(run_dir: Path) -> None:
    """A line has two steps; an evaluation is in the second line, a checkpoint in the third."""
    records = read_json_lines(run_dir / "metrics.jsonl")
    wholes = [2 * STEP_TAKES, 2 * STEP_TAKES + PAUSE_TAKES, 2 * STEP_TAKES + PAUSE_TAKES]
    for metric, takes in {
        "train/data_wait": [0, 0, 0],
        "train/passes_share": [4 * PASS_TAKES] * 3,
        "train/update_share": [4 * UPDATE_TAKES] * 3,
        "train/logging_share": [2 * LAYERS_TAKE] * 3,
        "train/evaluation_share": [0, PAUSE_TAKES, 0],
        "train/saving_share": [0, 0, PAUSE_TAKES],
    }.items():
        found = [record[metric] for record in records if metric in record]
        expected = [taken / whole for taken, whole in zip(takes, wholes, strict=True)]
        assert found == pytest.approx(expected), metric
