"""What a worker does around the training loop."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

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
from momentum_gpt.core.files import append_json_lines, read_json_lines
from momentum_gpt.data import fixed_batch, open_training, open_validation
from momentum_gpt.training.run import Run
from momentum_gpt.worker import build_model, open_tracker
from tests.training.oracle import mean_nats


def config(folder: Path) -> TrainConfig:
    made = TrainConfig(
        name="run",
        data=DataConfig(None),
        task=TaskConfig("recall"),
        model=ModelConfig(1, 1, 8, seq_len=32, vocab_size=320),
        attention={"name": "vanilla"},
        optim=OptimConfig(1.0, 0.1, 0),
        training=TrainingConfig(10, 64),
        deepspeed={},
        tracking=TrackingConfig(wandb="disabled"),
        runs=str(folder),
    )
    made.run_dir.mkdir()
    return made


def test_a_resumed_run_drops_the_metrics_and_evaluations_that_come_again(tmp_path: Path) -> None:
    c = config(tmp_path)
    paths = [
        c.run_dir / "metrics.jsonl",
        c.run_dir / "evaluations" / "perplexity.jsonl",
        c.run_dir / "evaluations" / "icl.jsonl",
    ]
    for path in paths:
        append_json_lines(path, [{"step": step} for step in (2, 4, 4, 6)])

    tracker = open_tracker(c, step=4)
    assert tracker is not None
    tracker.close()
    for path in paths:
        assert [record["step"] for record in read_json_lines(path)] == [2, 4, 4], path


def test_the_loss_on_the_fixed_batch_is_the_mean_over_its_targets(tmp_path: Path) -> None:
    """Of the 32 places of a recall sequence, 8 are asked for."""
    c = config(tmp_path)
    validation = open_validation(c)
    model = build_model(c, validation, is_new=True)
    engine = SimpleNamespace(module=model, device=torch.device("cpu"))
    run = Run(c, open_training(c, plan_batch(c.training, 32, 1)), validation, engine, "")

    tokens, targets = fixed_batch(validation, 32)
    assert (targets != -100).sum() == 8
    with torch.no_grad():
        expected = mean_nats(model(tokens), targets).item()
    assert run.canary_loss() == pytest.approx(expected, rel=1e-6)
