"""What a checkpoint takes on disk is known before it is written: within 10% of real ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from momentum_gpt.core.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    TrainingConfig,
    plan_batch,
)
from momentum_gpt.core.disk import checkpoint_bytes
from momentum_gpt.core.manifest import CheckpointManifest
from momentum_gpt.models import GPT
from momentum_gpt.training import engine as engines
from momentum_gpt.training.saving import Saver
from tests.training.ranks import on_ranks

KINDS = [(stage, "fp32") for stage in range(4)] + [(stage, "bf16") for stage in (1, 2, 3)]

SHAPE = ModelConfig(n_layers=2, n_heads=2, d_model=32, seq_len=64, vocab_size=512)
"""The smoke run's."""


def bytes_written(folder: Path) -> list[tuple[int, int]]:
    """Save an untrained engine of each kind; return its parameters and the files' bytes."""
    found = []
    for stage, precision in KINDS:
        config = TrainConfig(
            name="test",
            data=DataConfig("none"),
            model=SHAPE,
            attention={"name": "vanilla"},
            optim=OptimConfig(lr=1e-2, min_lr=1e-3, warmup_steps=2),
            training=TrainingConfig(1, 128, 64, precision=precision),
            deepspeed={"zero_optimization": {"stage": stage}},
        )
        model = GPT(config.model, config.attention)
        n_parameters = sum(parameter.numel() for parameter in model.parameters())
        engine = engines.build_engine(model, config, plan_batch(config.training, 64, 2))

        # AdamW has no moments before its first step.
        tokens = torch.zeros(1, 64, dtype=torch.long)
        engines.set_lr(engine, 1e-3)
        engines.accumulate(engine, [(tokens, tokens)], 128)
        engines.update(engine)
        place = folder / f"{stage} {precision}"
        saver = Saver(place, config.training, None)
        saver.begin(engine, CheckpointManifest(1, 128, "", 1.0, 2, "", "", ""))
        assert saver.finish() is None
        engine.destroy()
        files = [path for path in place.rglob("step_*/**/*") if path.is_file()]
        found.append((n_parameters, sum(path.stat().st_size for path in files)))
    return found


@pytest.mark.slow
def test_the_room_that_a_checkpoint_takes_is_known_before(tmp_path: Path) -> None:
    """On two ranks: a single one trains at stage 0 in fp32."""
    results = on_ranks(2, bytes_written, tmp_path, tmp_path)[0]
    for (stage, precision), (n_parameters, written) in zip(KINDS, results, strict=True):
        estimate = checkpoint_bytes(n_parameters, precision, stage)
        assert estimate == pytest.approx(written, rel=0.1), f"stage {stage}, {precision}"
