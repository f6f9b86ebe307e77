"""What `evaluate` and `analyze` have left in a run's folder `evaluations/`, as W&B shows it.

The files are read as JSON, as `docs/reference/metrics.md` describes them: the process of the W&B
client has no use for torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from momentum_gpt.core.files import read_json_lines

PREFIX = "evaluate/"
"""Before the metrics of `evaluate`, which may be of another sample than those of training."""

ANALYSIS = "analysis/"
"""Before what `analyze` has found."""

USUAL = ("default", "backprop")
"""The protocol and the finetuning of an analysis that no key names."""


@dataclass(frozen=True)
class Table:
    """A table of the W&B run."""

    name: str
    columns: list[str]
    rows: list[list[Any]]


def measured_afterwards(run_dir: Path) -> list[dict[str, Any]]:
    """Return a record for each checkpoint that was analysed or measured on the run's own data.

    Of several measurements of one checkpoint it is the last.
    """
    of_step: dict[int, dict[str, Any]] = {}
    for line in read_json_lines(run_dir / "evaluations" / "validation.jsonl"):
        position = {"step": line["step"], "tokens": line["tokens"]}
        metrics = {PREFIX + key: value for key, value in line.items() if "/" in key}
        of_step[line["step"]] = position | metrics
    for line in analysed(run_dir):
        position = {"step": line["step"], "tokens": line["tokens"]}
        of_step.setdefault(line["step"], position).update(likeness(line))
    return [of_step[step] for step in sorted(of_step)]


def analysed(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of `analysis.jsonl`."""
    return read_json_lines(run_dir / "evaluations" / "analysis.jsonl")


def likeness(line: dict[str, Any]) -> dict[str, float]:
    """Return a line's value and its null by key, if the null is the hardest of the measure's.

    A key is `analysis/TASK/MEASURE`, with any unusual protocol and finetuning after the task.
    """
    if not line["is_hardest"]:
        return {}
    method = line["method"]
    unusual = [word for word in (method["protocol"], method["finetuning"]) if word not in USUAL]
    measure = re.sub(r"\W+", "_", line["measure"])
    key = ANALYSIS + "/".join([line["task"], *unusual, measure])
    found = {key: line["value"], f"{key}_null": line["null_value"]}
    return {name: value for name, value in found.items() if value is not None}


def tables(run_dir: Path) -> list[Table]:
    """Return few-shot answers, samples of text and the rows of analyses, if there are any."""
    found = [few_shot_answers(run_dir), text_samples(run_dir), analysis_rows(run_dir)]
    return [table for table in found if table.rows]


def few_shot_answers(run_dir: Path) -> Table:
    """Return the queries that stand in `icl.jsonl` as text, with what the model answered."""
    setting = ("checkpoint", "task", "k", "seed")
    entries = ("query", "prompt", "right", "answer", "is_right")

    newest = {}
    for line in read_json_lines(run_dir / "evaluations" / "icl.jsonl"):
        newest[tuple(line.get(key) for key in setting)] = line.get("examples", [])
    rows = []
    for key, examples in newest.items():
        for example in examples:
            rows.append([*key, *(example[entry] for entry in entries)])
    return Table("few_shot_answers", [*setting, *entries], rows)


def text_samples(run_dir: Path) -> Table:
    """Return the texts of `samples.jsonl`."""
    columns = ["checkpoint", "tokens", "prompt", "text"]
    lines = read_json_lines(run_dir / "evaluations" / "samples.jsonl")
    return Table("text_samples", columns, [[line[key] for key in columns] for line in lines])


def analysis_rows(run_dir: Path) -> Table:
    """Return what `analysis.jsonl` has of each measure and null, with how it was measured."""
    how = ("protocol", "finetuning", "k", "draws", "queries")
    entries = ("measure", "null", "value", "low", "high", "unit", "null_value", "verdict")
    rows = []
    for line in analysed(run_dir):
        position = [line["checkpoint"], line["tokens"], line["task"]]
        options = [line["method"][name] for name in how]
        rows.append([*position, *options, *(line[name] for name in entries)])
    return Table("analysis", ["checkpoint", "tokens", "task", *how, *entries], rows)
