"""With which options a run may be resumed."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from momentum_gpt.core.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    TrainingConfig,
)
from momentum_gpt.core.errors import UserError
from momentum_gpt.training.optim import lr_at
from momentum_gpt.training.resuming import refuse_changes, take_over


def config(schedule: str = "wsd") -> TrainConfig:
    return TrainConfig(
        name="run",
        data=DataConfig("data"),
        model=ModelConfig(1, 1, 8, 32, vocab_size=512),
        attention={"name": "momentum", "ema_decay": 0.5},
        optim=OptimConfig(1e-2, 1e-3, 2, schedule=schedule, decay_fraction=0.2),
        training=TrainingConfig(100, 64),
        deepspeed={"zero_optimization": {"stage": 1}},
    )


def changed(key: str, value: Any, schedule: str = "wsd") -> TrainConfig:
    made = config(schedule)
    *sections, name = key.split(".")
    place: Any = made
    for section in sections:
        place = place[section] if isinstance(place, dict) else getattr(place, section)
    if isinstance(place, dict):
        place[name] = value
    else:
        setattr(place, name, value)
    return made


MAY = {
    "training.eval_every": 7,
    "training.save_every": 7,
    "training.log_every": 7,
    "training.keep_checkpoints": 7,
    "training.keep_every": 7,
    "training.keep_best": True,
    "training.bad_step": "stop",
    "training.spike": 7.0,
    "training.precision": "bf16",
    "training.max_tokens_per_forward": 64,
    "deepspeed.zero_optimization.stage": 3,
    "launch.nproc_per_node": 2,
    "launch.max_restarts": 0,
    "data.path": "moved",
    "tracking.wandb": "disabled",
    "runs": "elsewhere",
}

MAY_NOT = {
    "training.seed": 1,
    "training.tokens_per_step": 128,
    "attention.ema_decay": 0.3,
    "model.n_layers": 2,
    "optim.lr": 1.0,
    "optim.schedule": "cosine",
    "data.packing": "best_fit",
    "evaluation.tokens": 64,
    "init": "weights",
}


@pytest.mark.parametrize("key", MAY)
def test_what_does_not_change_what_is_learned_may_change(key: str) -> None:
    refuse_changes(config(), changed(key, MAY[key]), 50)


@pytest.mark.parametrize("key", MAY_NOT)
def test_what_may_not_change_is_refused_by_name(key: str) -> None:
    with pytest.raises(UserError, match=rf"\({key} was .* and is .*\): choose another name"):
        refuse_changes(config(), changed(key, MAY_NOT[key]), 50)


def test_a_run_may_become_longer_or_shorter_until_its_learning_rate_falls() -> None:
    """Under wsd; the learning rates of the steps that were done are the same then."""
    new = changed("training.max_steps", 200)
    refuse_changes(config(), new, 80)
    for step in range(80):
        assert lr_at(step, config().optim, 100) == lr_at(step, new.optim, 200)
    assert lr_at(81, config().optim, 100) < lr_at(81, new.optim, 200)

    for other, step in ((new, 81), (changed("training.max_steps", 50), 41)):
        with pytest.raises(UserError, match=r"training\.max_steps was 100"):
            refuse_changes(config(), other, step)
    with pytest.raises(UserError, match=r"training\.max_steps was 100"):
        refuse_changes(config("cosine"), changed("training.max_steps", 200, "cosine"), 10)


def test_what_was_chosen_at_the_first_start_stays() -> None:
    old = config()
    old.evaluation.tokens = 4096
    old.evaluation.induction_sequences = 3
    new = deepcopy(config())
    new.model.vocab_size = None
    new.evaluation.induction_sequences = 5
    take_over(new, old)
    assert (new.model.vocab_size, new.evaluation.tokens) == (512, 4096)
    assert new.evaluation.induction_sequences == 5
