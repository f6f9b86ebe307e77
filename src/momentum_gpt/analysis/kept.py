"""The results of an analysis in the runs that it is of: `evaluations/analysis.jsonl`.

Each line is a row of the results: what was measured of a checkpoint on a task, beside one null.
`compare` and W&B show them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from momentum_gpt.analysis.tables import Row, hardest, record_of, with_adjusted_verdicts
from momentum_gpt.analysis.units import Method
from momentum_gpt.core.files import append_json_lines, keep_json_lines
from momentum_gpt.core.manifest import read_checkpoint_manifest
from momentum_gpt.evaluation.few_shot.tasks import load_task, task_fingerprint
from momentum_gpt.evaluation.records import ANALYSIS, Origin

Line = dict[str, Any]


def lines_of(rows: Sequence[Row]) -> list[Line]:
    """Return the rows of one table as numbers and texts by name; None for what is not known.

    They have the columns of results.csv, and beside the adjusted p-value that of the row alone.

    Args:
        rows: of all tasks and models, with p-values that are not adjusted yet.
    """
    shown = with_adjusted_verdicts(rows)
    are_hardest = set(map(id, hardest(shown)))
    lines = []
    for row, of_table in zip(rows, shown, strict=True):
        line = record_of(of_table)
        p_value = row.finding.p_value
        line["p_value"] = None if math.isnan(p_value) else p_value
        line["is_hardest"] = id(of_table) in are_hardest
        lines.append(line)
    return lines


def keep_lines(
    checkpoint: Path, task: str, method: Method, shown: int, lines: Sequence[Line]
) -> None:
    """Add the lines of one checkpoint and task to its run, in place of those of the same method.

    Args:
        checkpoint: the checkpoint's folder in its run.
        task: name or path of the task.
        method: how it was measured.
        shown: demonstrations that were shown: fewer than were asked for, if no more fit.
        lines: of this checkpoint and this task; those of other ways of finetuning are left out.

    Raises:
        MachineError: the disk is full, or the run's folder cannot be written.
    """
    manifest = read_checkpoint_manifest(checkpoint)
    options = asdict(method)
    options["finetuning"] = options.pop("way")
    data = options.pop("data")
    facts = {
        "method": options | {"shown": shown},
        "data_sha256": task_fingerprint(load_task(task), data),
    }
    settings = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    origin = Origin(manifest.step, manifest.tokens, checkpoint.name, data, settings)
    beginning = origin.to_json() | facts
    path = checkpoint.parents[1] / "evaluations" / ANALYSIS
    if path.is_file():
        keep_json_lines(path, lambda line: not _is_same(line, origin))
    of_way = [line for line in lines if line["finetuning"] in ("", method.way)]
    append_json_lines(path, [beginning | line for line in of_way])


def _is_same(line: Line, origin: Origin) -> bool:
    """Return whether a line is of the same checkpoint, method and task: settings tell both."""
    return (line.get("checkpoint"), line.get("settings")) == (origin.checkpoint, origin.settings)
