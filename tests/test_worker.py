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
from momentum_gpt.core.manifest import CheckpointManifest
from momentum_gpt.data import fixed_batch, open_training, open_validation
from momentum_gpt.training.checkpoint import Checkpoint
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

    tracker = open_tracker(c, step=4, facts={})
    assert tracker is not None
    tracker.close()
    for path in paths:
        assert [record["step"] for record in read_json_lines(path)] == [2, 4, 4], path


def new_run(c: TrainConfig) -> Run:
    """A run whose engine is the model alone."""
    validation = open_validation(c)
    model = build_model(c, validation, is_new=True)
    engine = SimpleNamespace(module=model, device=torch.device("cpu"))
    return Run(c, open_training(c, plan_batch(c.training, 32, 1)), validation, engine, "")


@pytest.mark.parametrize(
    ("precision", "difference", "accepted"),
    [("fp32", 9e-4, True), ("fp32", 1.1e-3, False), ("bf16", 9e-3, True), ("bf16", 1.1e-2, False)],
)
def test_the_loss_of_a_restored_model_may_differ_by_rounding_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    difference: float,
    accepted: bool,
) -> None:
    """The stored loss is of a model in `precision`, the restored one in fp32."""
    run = new_run(config(tmp_path))
    monkeypatch.setattr(run, "_load", lambda found: None)
    stored = run.canary_loss() * (1 + difference)
    assert stored > 3  # a relative difference, not an absolute one
    manifest = CheckpointManifest(
        step=3,
        tokens=0,
        order_sha256="",
        canary_loss=stored,
        world_size=1,
        initial_weights_sha256="",
        precision=precision,
        **run.fingerprints,
    )
    fault = run.resume(Checkpoint(tmp_path, manifest))
    assert (fault is None) == accepted
    assert run.position.step == (3 if accepted else 0)


def test_the_loss_on_the_fixed_batch_is_the_mean_over_its_targets(tmp_path: Path) -> None:
    """Of the 32 places of a recall sequence, 8 are asked for."""
    run = new_run(config(tmp_path))
    tokens, targets = fixed_batch(run.validation, 32)
    assert (targets != -100).sum() == 8
    with torch.no_grad():
        expected = mean_nats(run.engine.module(tokens), targets).item()
    assert run.canary_loss() == pytest.approx(expected, rel=1e-6)
