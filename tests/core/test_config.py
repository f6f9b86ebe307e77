"""Options outside their bounds are refused in one line; the plan of a batch adds up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from momentum_gpt.core.config import (
    CHANGES_NOTHING,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimConfig,
    Sampling,
    TrainConfig,
    TrainingConfig,
    changes_nothing,
    flat,
    plan_batch,
    read_config,
    write_config,
)
from momentum_gpt.core.errors import MachineError, UserError
from tests.conftest import fill

INFINITE = float("inf")


def model(**options: Any) -> ModelConfig:
    return ModelConfig(**{"n_layers": 1, "n_heads": 2, "d_model": 8, "seq_len": 16} | options)


def optim(**options: Any) -> OptimConfig:
    return OptimConfig(**{"lr": 1e-3, "min_lr": 0.0, "warmup_steps": 1} | options)


MISTAKES: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (model, {"n_layers": 0}, "model.n_layers must be at least 1, got 0"),
    (model, {"n_heads": 3}, "use model.n_heads=2"),
    (model, {"positions": "none"}, "one of learned, sinusoidal, rotary"),
    (model, {"init_std": INFINITE}, "model.init_std must be a finite number, got inf"),
    (optim, {"lr": INFINITE}, "optim.lr must be a finite number, got inf"),
    (optim, {"weight_decay": float("nan")}, "optim.weight_decay must be a finite number, got nan"),
    (optim, {"lr": 0.0}, "optim.lr must be above 0"),
    (optim, {"min_lr": 1.0}, "optim.min_lr must be between 0 and optim.lr=0.001"),
    (optim, {"beta2": 1.0}, r"optim.beta2 must be in \[0, 1\)"),
    (Sampling, {"temperature": INFINITE}, "sampling.temperature must be a finite number"),
    (Sampling, {"top_p": 0.0}, r"sampling.top_p must be in \(0, 1\]"),
    (EvaluationConfig, {"share": 0.0}, "evaluation.share must be above 0"),
    (EvaluationConfig, {"documents": "together"}, "one of stream, apart"),
]


@pytest.mark.parametrize(("build", "options", "message"), MISTAKES)
def test_a_value_out_of_bounds_is_named(
    build: Callable[..., Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build(**options)


@given(
    sequences_per_rank=st.integers(1, 200),
    world_size=st.integers(1, 16),
    fitting=st.integers(1, 64),
)
def test_the_plan_spreads_all_sequences_and_fits(
    sequences_per_rank: int, world_size: int, fitting: int
) -> None:
    seq_len = 8
    tokens = sequences_per_rank * world_size * seq_len
    training = TrainingConfig(1, tokens, max_tokens_per_forward=fitting * seq_len)
    plan = plan_batch(training, seq_len, world_size)

    assert plan.global_batch_size * seq_len == tokens
    spread = plan.micro_batch_size * plan.grad_accum_steps * plan.world_size
    assert spread == plan.global_batch_size
    assert plan.micro_batch_size <= fitting


def test_tokens_that_are_no_whole_sequences_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="use a multiple of 32, such as 96"):
        plan_batch(TrainingConfig(1, 100), seq_len=16, n_ranks=2)


def test_only_whole_names_and_sections_change_nothing() -> None:
    assert changes_nothing("training.keep_checkpoints")
    assert changes_nothing("launch.nproc_per_node")
    assert not changes_nothing("training.log_every_other")
    assert not changes_nothing("names")
    assert not changes_nothing("training.seed")
    assert all(name.endswith(".") or changes_nothing(name) for name in CHANGES_NOTHING)


def test_a_nested_config_becomes_dotted_names() -> None:
    assert flat({"a": {"b": 1, "c": {"d": 2}}, "e": None}) == {"a.b": 1, "a.c.d": 2, "e": None}


def small_config(**options: Any) -> TrainConfig:
    given = {
        "name": "a",
        "data": DataConfig("data"),
        "model": ModelConfig(n_layers=1, n_heads=1, d_model=4, seq_len=64),
        "attention": {"name": "vanilla"},
        "optim": OptimConfig(lr=1e-3, min_lr=1e-4, warmup_steps=1),
        "training": TrainingConfig(max_steps=10, tokens_per_step=64),
        "deepspeed": {},
    }
    return TrainConfig(**given | options)


def test_a_full_disk_leaves_the_old_config_readable(small_disk: Path) -> None:
    path = small_disk / "runs" / "a" / "config.yaml"
    old, new = small_config(), small_config(resume="never")
    write_config(old, path)
    ballast = fill(small_disk)

    with pytest.raises(MachineError, match=r"config\.yaml cannot be written"):
        write_config(new, path)
    assert read_config(path) == old
    assert [found.name for found in path.parent.iterdir()] == ["config.yaml"]

    ballast.unlink()
    write_config(new, path)
    assert read_config(path) == new


def test_a_config_of_an_earlier_version_is_read_without_the_options_that_are_gone(
    tmp_path: Path,
) -> None:
    config = small_config()
    path = tmp_path / "config.yaml"
    write_config(config, path)
    path.write_text(path.read_text().replace("evaluation:\n", "evaluation:\n  windows: 3\n"))
    assert read_config(path) == config

    path.write_text(path.read_text().replace("windows: 3", "widows: 3"))
    with pytest.raises(UserError, match="widows"):
        read_config(path)


@pytest.mark.parametrize(
    ("ranks", "precision", "zero", "stage"),
    [
        (1, "fp32", {"stage": 1}, 0),
        (1, "fp32", {"stage": 2}, 0),
        (1, "fp32", {}, 0),
        (1, "fp32", {"stage": 3}, 3),
        (1, "fp32", {"stage": 2, "offload_optimizer": {"device": "cpu"}}, 2),
        (1, "bf16", {"stage": 1}, 1),
        (2, "fp32", {"stage": 1}, 1),
        (2, "fp32", {"stage": 0}, 0),
    ],
)
def test_a_single_rank_in_fp32_divides_nothing(
    ranks: int, precision: str, zero: dict[str, Any], stage: int
) -> None:
    config = small_config(deepspeed={"zero_optimization": zero})
    config.training.precision = precision
    assert config.stage_on(ranks) == stage


@pytest.mark.parametrize(
    ("device", "steps", "asked", "deepspeed", "expected"),
    [
        ("cuda", 2000, None, {}, True),
        ("cuda", 1999, None, {}, False),
        ("cpu", 100_000, None, {}, False),
        ("cuda", 100_000, False, {}, False),
        ("cpu", 10, True, {}, True),
        ("cuda", 100_000, None, {"zero_optimization": {"stage": 2}}, True),
        ("cuda", 100_000, None, {"zero_optimization": {"stage": 3}}, False),
        ("cuda", 10, None, {"compile": {"deepcompile": True}}, True),
    ],
)
def test_long_runs_on_gpus_are_compiled(
    device: str, steps: int, asked: bool | None, deepspeed: dict[str, Any], expected: bool
) -> None:
    pytest.importorskip("triton")
    config = small_config(deepspeed=deepspeed)
    config.training.max_steps = steps
    config.training.compile = asked
    assert config.is_compiled_on(device) == expected
