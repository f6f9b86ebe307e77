"""Training seeds: runs are paired by seed, and what differs besides the attention makes another variant."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from momentum_gpt.comparison.runs import Run, common_ground
from momentum_gpt.comparison.seeds import differences, grid, variants
from momentum_gpt.core.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    TrainingConfig,
)


def run(
    name: str, seed: int, loss: float, lr: float = 1e-3, attention: str = "vanilla", **more: Any
) -> Run:
    training = TrainingConfig(max_steps=10, tokens_per_step=64, seed=seed)
    options = {"name": attention} | (
        {"ema_decay": 0.5, "learned": False, "layers": None} if attention == "momentum" else {}
    )
    config = TrainConfig(
        name,
        DataConfig("data"),
        ModelConfig(1, 1, 4, 64),
        options,
        OptimConfig(lr, lr / 10, 1),
        training,
        {"stage": 1},
    )
    records = [
        {"step": 5, "tokens": 5, "val/loss": 99.0},
        {"step": 10, "tokens": 10, "val/loss": loss, **more},
    ]
    return Run(name, config, records, {}, {})


def test_runs_are_paired_by_seed() -> None:
    """Differences -1, -2, -3: mean -2, s = 1, t = 4.30265 at 2 degrees of freedom."""
    runs = [
        run("a0", 0, 5.0),
        run("b2", 2, 3.0, attention="momentum"),
        run("a1", 1, 5.5),
        run("a2", 2, 6.0),
    ]
    runs += [
        run("b0", 0, 4.0, attention="momentum"),
        run("b1", 1, 3.5, attention="momentum"),
        run("a7", 7, 0.0),
    ]
    (first, its), (other, more) = variants(runs).items()
    assert (first, other) == ("vanilla", "momentum (ema_decay 0.5)")
    (row,) = differences(its, more)
    assert (row.metric, row.seeds, row.first, row.other) == ("val/loss", 3, 5.5, 3.5)
    assert row.interval == pytest.approx(
        (-2 - 4.30265 / math.sqrt(3), -2 + 4.30265 / math.sqrt(3)), abs=1e-4
    )
    assert (
        row.p_value == row.p_holm == pytest.approx(0.0742, abs=1e-4)
    )  # t = -2 sqrt(3) at 2 degrees of freedom
    assert row.p_flips == 2 / 8
    assert grid(first, other, [row]).rows[0][-1] == ""


def test_few_shot_metrics_are_adjusted_for_their_number() -> None:
    """Three tasks that differ alike: each p-value three times."""
    values = {f"icl/{task}/acc@4": 0.5 for task in "abc"}
    runs = [run(f"a{seed}", seed, 5.0, **values) for seed in range(3)]
    better = [
        {key: value + 0.1 + 0.001 * seed for key, value in values.items()} for seed in range(3)
    ]
    others = [
        run(f"b{seed}", seed, 5.0 - seed, attention="momentum", **better[seed]) for seed in range(3)
    ]
    rows = differences(*variants([*runs, *others]).values())
    assert [row.metric for row in rows] == ["val/loss", *values]
    for row in rows[1:]:
        assert row.p_holm == pytest.approx(3 * row.p_value)
        assert row.p_holm < 0.001
    assert rows[0].p_holm == rows[0].p_value
    assert [cells[-1] for cells in grid("a", "b", rows).rows] == ["", "*", "*", "*"]


def test_what_is_shared_is_shared_seed_by_seed() -> None:
    facts = [
        {
            "initial_weights_sha256": str(seed),
            "data_sha256": "d",
            "step": 9,
            "order_sha256": str(seed),
        }
        for seed in (0, 1)
    ]
    runs = [
        replace(run(f"{name}{seed}", seed, 5.0), manifest=facts[seed])
        for name in "ab"
        for seed in (0, 1)
    ]
    assert common_ground(runs)[:3] == [
        "Identical initial weights, for each seed.",
        "Identical training tokens, for each seed.",
        "Identical order of the tokens, for each seed.",
    ]
    assert common_ground(runs[:2])[0] == "NOT identical initial weights."
    runs[3] = replace(runs[3], manifest=facts[0])
    assert common_ground(runs)[0] == "NOT identical initial weights, for each seed."


def test_another_learning_rate_is_another_variant_and_one_seed_is_no_pair() -> None:
    runs = [run("a", 0, 5.0), run("b", 0, 4.0, lr=2e-3), run("c", 1, 4.0, lr=2e-3)]
    found = variants(runs)
    assert list(found) == [
        "vanilla, optim.lr 0.001, optim.min_lr 0.0001",
        "vanilla, optim.lr 0.002, optim.min_lr 0.0002",
    ]
    assert differences(*found.values()) == []


def test_what_both_measured_is_compared_and_nothing_else(tmp_path: Path) -> None:
    more = {"val/ppl@64": 2.0, "icl/sst2/acc@4": 0.5, "val/seconds": 1.0, "val/targets": 64}
    runs = [run("a0", 0, 5.0, **more), run("a1", 1, 5.0, **more)]
    others = [
        run("b0", 0, 5.0, attention="momentum", **more, **{"icl/score": 1.0}),
        run("b1", 1, 5.0, attention="momentum", **more),
    ]
    first, other = variants([*runs, *others]).values()
    assert [row.metric for row in differences(first, other)] == [
        "val/loss",
        "val/ppl@64",
        "icl/sst2/acc@4",
    ]
