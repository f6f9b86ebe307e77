"""Means over the last evaluations: of training, or of checkpoints that `evaluate` has measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from momentum_gpt.comparison.certificate import common_ground
from momentum_gpt.comparison.families import compare_pairs
from momentum_gpt.comparison.history import averaged, in_training, of_checkpoints
from momentum_gpt.comparison.runs import Run
from momentum_gpt.comparison.verdict import verdicts
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.terminal import ignore_progress
from tests.comparison.test_by_seed import run

STEPS = (4, 6, 8, 10)


def made(name: str, losses: list[float], seed: int = 0, momentum: bool = False) -> Run:
    """Return a run with these losses after its last steps, on 64 targets each."""
    records: list[dict[str, Any]] = []
    for step, loss in zip(STEPS[-len(losses) :], losses, strict=True):
        records.append({"step": step, "tokens": step, "train/loss": 9.0})
        line = {"val/loss": loss, "val/targets": 64, "icl/x/acc@4": loss / 10, "eval/seconds": 1.0}
        records.append({"step": step, "tokens": step, **line})
    return replace(run(name, seed, 0.0, momentum), records=records)


def measured(given: Run, folder: Path, losses: dict[int, float], targets: int = 512) -> Run:
    """Return the run with checkpoints that `evaluate` has measured."""
    path = folder / given.name / "evaluations"
    path.mkdir(parents=True)
    lines = []
    for step, loss in losses.items():
        lines.append({"step": step, "tokens": step, "val/loss": loss, "val/targets": targets})
    # The last checkpoint was measured on fewer targets before, which is another measurement.
    lines.insert(0, {"step": 8, "tokens": 8, "val/loss": 77.0, "val/targets": 32})
    (path / "validation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return replace(given, folder=folder / given.name, afterwards=lines[-1])


def test_the_last_evaluations_of_training_are_averaged() -> None:
    runs = [made("a", [9.0, 5.0, 4.0, 3.0]), made("b", [9.0, 4.0, 3.0, 2.6], momentum=True)]
    found, (sentence,) = averaged(runs, 3)
    assert [one.final["val/loss"] for one in found] == pytest.approx([4.0, 3.2])
    assert found[0].final["icl/x/acc@4"] == pytest.approx(0.4)
    assert (found[0].final["step"], found[0].final["val/targets"]) == (10, 64)
    assert sentence == (
        "Each metric is the mean of the last 3 evaluations in training, after 6, 8, 10 steps."
    )
    # The curve stays what it was, and so does a single evaluation.
    assert found[0].series("val/loss")[1] == [9.0, 5.0, 4.0, 3.0]
    assert averaged(runs, 1) == (runs, [])


def test_a_step_that_was_repeated_counts_once_and_with_its_last_value() -> None:
    given = made("a", [9.0, 5.0, 4.0, 3.0])
    again = replace(given, records=[*given.records[:-2], *given.records[-4:]])
    assert in_training(again) == in_training(given)
    last = {"step": 10, "tokens": 10, "val/loss": 2.0}
    again = replace(given, records=[*given.records, last])
    assert in_training(again)[-1] == last


def test_checkpoints_that_were_measured_alike_come_first(tmp_path: Path) -> None:
    runs = []
    for name, momentum in (("a", False), ("b", True)):
        one = made(name, [9.0, 9.0, 9.0, 9.0], momentum=momentum)
        runs.append(measured(one, tmp_path, {6: 8.0, 8: 5.0, 10: 4.0 - momentum}))
    assert [line["step"] for line in of_checkpoints(runs[0])] == [6, 8, 10]
    found, (sentence,) = averaged(runs, 2)
    assert [one.final["val/loss"] for one in found] == [4.5, 4.0]
    assert found[0].final["val/targets"] == 512
    assert found[0].final["icl/x/acc@4"] == pytest.approx(0.9)  # measured in training alone
    assert "checkpoints that `evaluate` has measured, after 8, 10 steps" in sentence


def test_what_was_measured_of_too_few_checkpoints_is_left_out_and_said_so(tmp_path: Path) -> None:
    losses = [9.0, 5.0, 4.0, 3.0]
    runs = [
        measured(made("a", losses), tmp_path, {8: 5.0, 10: 4.0}),
        measured(made("b", losses, momentum=True), tmp_path, {10: 4.0}),
    ]
    found, (_, sentence) = averaged(runs, 2)
    assert [one.final["val/loss"] for one in found] == [3.5, 3.5]
    assert found[0].afterwards == {}
    assert sentence.startswith("What `evaluate` has measured is left out")
    assert not any("NOT" in one for one in common_ground(found) if "targets" in one)


def test_too_few_evaluations_and_other_steps_are_refused() -> None:
    runs = [made("a", [5.0, 4.0, 3.0]), made("b", [4.0, 3.0])]
    with pytest.raises(UserError, match=r"average=3: b has been evaluated 2 time\(s\)"):
        averaged(runs, 3)
    other = [
        record | {"step": record["step"] + (record["step"] == 8)} for record in runs[1].records
    ]
    with pytest.raises(UserError, match=r"same steps \(a after 8, 10 steps; b after 9, 10 steps\)"):
        averaged([runs[0], replace(runs[1], records=other)], 2)


def test_means_are_compared_and_said_in_the_title_and_the_verdict() -> None:
    """The last evaluation says that momentum is worse; the mean of two says that it is better."""
    runs = []
    for seed in range(3):
        wobble = 0.01 * seed
        runs.append(made(f"a{seed}", [9.0, 9.0, 4.0 + wobble, 3.0], seed))
        runs.append(made(f"b{seed}", [9.0, 9.0, 3.0, 3.1], seed, momentum=True))
    found, _ = averaged(runs, 2)
    basis = "mean of the last 2 evaluations"
    comparisons = compare_pairs(found, ignore_progress, basis=basis)
    for one in comparisons:
        assert one.table().title.endswith(f", paired by training seed, {basis}")
    row = comparisons[0].differences[0]
    assert (row.first, row.other) == (pytest.approx(3.505), pytest.approx(3.05))
    (sentence,) = verdicts(found, comparisons)
    assert sentence.startswith("Momentum 0.5 is better than vanilla by 0.455 nats [")
    assert f"({basis})" in sentence

    (alone,) = verdicts(runs, compare_pairs(runs, ignore_progress))
    assert "better" not in alone
    assert "mean" not in alone
