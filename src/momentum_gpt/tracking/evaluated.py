"""What `evaluate` has left in a run's folder `evaluations/`, as W&B shows it.

The files are read as JSON, as `docs/reference/metrics.md` describes them: the process of the W&B
client has no use for torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from momentum_gpt.core.files import read_json_lines

PREFIX = "evaluate/"
"""Before the metrics of `evaluate`, which may be of another sample than those of training."""


@dataclass(frozen=True)
class Table:
    """A table of the W&B run."""

    name: str
    columns: list[str]
    rows: list[list[Any]]


def measured_afterwards(run_dir: Path) -> list[dict[str, Any]]:
    """Return a record for each checkpoint that was measured on the run's own validation data.

    Of several measurements of one checkpoint it is the last.
    """
    of_step = {}
    for line in read_json_lines(run_dir / "evaluations" / "validation.jsonl"):
        position = {"step": line["step"], "tokens": line["tokens"]}
        metrics = {PREFIX + key: value for key, value in line.items() if "/" in key}
        of_step[line["step"]] = position | metrics
    return [of_step[step] for step in sorted(of_step)]


def tables(run_dir: Path) -> list[Table]:
    """Return the answers to few-shot queries and the samples of text, if there are any."""
    found = [few_shot_answers(run_dir), text_samples(run_dir)]
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
        rows += [[*key, *(example[entry] for entry in entries)] for example in examples]
    return Table("few_shot_answers", [*setting, *entries], rows)


def text_samples(run_dir: Path) -> Table:
    """Return the texts of `samples.jsonl`."""
    columns = ["checkpoint", "tokens", "prompt", "text"]
    lines = read_json_lines(run_dir / "evaluations" / "samples.jsonl")
    return Table("text_samples", columns, [[line[key] for key in columns] for line in lines])
