"""What an analysis leaves in a run: lines that are replaced when the same is measured again."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from momentum_gpt.analysis.kept import keep_lines, lines_of
from momentum_gpt.analysis.tables import Row
from momentum_gpt.core.files import read_json_lines
from momentum_gpt.core.manifest import CheckpointManifest
from momentum_gpt.evaluation.finding import Finding
from tests.analysis.test_units import METHOD
from tests.evaluation.few_shot.cases import write_colours

NAN = math.nan


def row(measure: str, null: str, value: float, p_value: float, task: str = "task") -> Row:
    found = Finding(value, (NAN, NAN), NAN, (0.1, 0.2), p_value, draws=1, queries=9)
    return Row(measure, task, null, found, "vanilla", 640)


@pytest.fixture
def task(tmp_path: Path) -> str:
    (tmp_path / "data").mkdir()
    return write_colours(tmp_path / "data", [" e", " y"])


def checkpoint_of(folder: Path, step: int) -> Path:
    """Write a checkpoint of the run in a folder, without a model."""
    checkpoint = folder / "checkpoints" / f"step_{step:08}"
    checkpoint.mkdir(parents=True)
    CheckpointManifest(step, step * 64, "a" * 64, 3.0, 1, "b" * 64, "c" * 64, "d" * 64, {}).write(
        checkpoint
    )
    return checkpoint


def kept(folder: Path) -> list[dict[str, Any]]:
    return read_json_lines(folder / "evaluations" / "analysis.jsonl")


def test_the_same_measured_again_takes_the_place_of_the_lines(tmp_path: Path, task: str) -> None:
    first, last = (checkpoint_of(tmp_path / "run", step) for step in (5, 10))
    lines = lines_of([row("SimAOU", "noise", 0.25, 0.5), row("SimAOU", "labels", 0.25, 0.5)])
    other = replace(METHOD, way="label")
    for checkpoint, method in ((first, METHOD), (last, METHOD), (last, other), (last, METHOD)):
        keep_lines(checkpoint, task, method, 3, lines)
    found = [(line["step"], line["method"]["finetuning"]) for line in kept(tmp_path / "run")]
    assert found == [(5, "backprop")] * 2 + [(10, "label")] * 2 + [(10, "backprop")] * 2

    # Other examples are another task.
    data = Path(task).parent / "test.jsonl"
    data.write_text(data.read_text().replace("of some kind", "of another kind"))
    keep_lines(last, task, METHOD, 3, lines)
    assert len(kept(tmp_path / "run")) == 8


def test_a_line_tells_what_was_measured_and_how(tmp_path: Path, task: str) -> None:
    checkpoint = checkpoint_of(tmp_path / "run", 10)
    keep_lines(checkpoint, task, METHOD, 2, lines_of([row("SimAOU", "noise", NAN, NAN)]))
    (line,) = kept(tmp_path / "run")
    assert (line["checkpoint"], line["tokens"]) == ("step_00000010", 640)
    assert line["method"]["k"] == 3
    assert line["method"]["shown"] == 2
    assert (line["measure"], line["null"], line["variant"]) == ("SimAOU", "noise", "vanilla")
    assert line["value"] is None
    assert "NaN" not in json.dumps(line)  # which no other language reads


def test_of_several_ways_of_finetuning_each_has_its_own_lines(tmp_path: Path, task: str) -> None:
    checkpoint = checkpoint_of(tmp_path / "run", 10)
    rows = [row("accuracy, ICL", "", 50.0, NAN)]  # the same beside every way
    for way, value in (("backprop", 0.25), ("label", 0.5)):
        rows.append(replace(row("SimAOU", "noise", value, 0.5), way=way))
    for way in ("backprop", "label"):
        keep_lines(checkpoint, task, replace(METHOD, way=way), 3, lines_of(rows))
    found = [(line["method"]["finetuning"], line["value"]) for line in kept(tmp_path / "run")]
    assert found == [("backprop", 50.0), ("backprop", 0.25), ("label", 50.0), ("label", 0.5)]


def test_verdicts_are_those_of_the_table_and_the_p_value_is_that_of_the_row() -> None:
    rows = [row("SimAOU", "noise", 0.5, 0.03, task) for task in ("a", "b")]
    first, _ = lines_of([*rows])
    assert (first["p_value"], first["p_adjusted"]) == (0.03, 0.06)
    assert first["verdict"] == "not above its null"
    assert lines_of(rows[:1])[0]["verdict"] == "above its null"
