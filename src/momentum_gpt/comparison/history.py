"""The last evaluations of a run, and their mean in the place of the last one alone.

A single evaluation meets a model at one step, and another step would have given another value; the
mean of several varies less (Heineman et al., "Signal and Noise", 2025, arXiv 2508.13144).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from momentum_gpt.comparison.runs import Run
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import read_json_lines

METRICS = re.compile(r"(val|icl)/.+")
"""What is averaged; a step or a number of tokens is not."""

Evaluations = list[dict[str, Any]]
"""A record for each evaluated step, the oldest first."""


def in_training(run: Run) -> Evaluations:
    """Return the evaluations that the training loop has made."""
    by_step = {}
    for record in run.records:
        # A step that was repeated after resuming counts once.
        if "val/loss" in record:
            by_step[record["step"]] = record
    return [by_step[step] for step in sorted(by_step)]


def of_checkpoints(run: Run) -> Evaluations:
    """Return what `evaluate` has measured of checkpoints, on as many targets as of the last one."""
    if not run.afterwards:
        return []
    by_step = {}
    for line in read_json_lines(run.folder / "evaluations" / "validation.jsonl"):
        if line.get("val/targets") == run.afterwards.get("val/targets"):
            by_step[line["step"]] = line
    return [by_step[step] for step in sorted(by_step)]


def averaged(runs: Sequence[Run], n: int) -> tuple[list[Run], list[str]]:
    """Return the runs with means over their last n evaluations as their final metrics.

    What `evaluate` has measured of checkpoints counts, if it has measured the same n of all runs.
    Metrics that it has not measured, or all of them otherwise, are those of training.

    Args:
        runs: two or more, finished.
        n: evaluations of each run; with 1, the runs are returned as they are.

    Returns:
        The runs, and sentences on what was averaged.

    Raises:
        UserError: a run has fewer evaluations, or the runs were evaluated after other steps.
    """
    if n == 1:
        return list(runs), []
    own = [in_training(run)[-n:] for run in runs]
    measured = [of_checkpoints(run)[-n:] for run in runs]
    has_own, has_measured = _are_alike(own, n), _are_alike(measured, n)
    if not has_own and not has_measured:
        raise UserError(_what_is_missing(runs, own, n))

    found = []
    for run, of_run, of_its_checkpoints in zip(runs, own, measured, strict=True):
        means = {"step": run.final["step"], "tokens": run.final["tokens"]}
        if has_own:
            means |= _means(of_run)
        if has_measured:
            means |= _means(of_its_checkpoints)
        found.append(replace(run, means=means, afterwards=run.afterwards if has_measured else {}))

    if has_measured:
        return found, [_sentence(measured[0], "checkpoints that `evaluate` has measured")]
    sentences = [_sentence(own[0], "evaluations in training")]
    if any(measured):
        sentences.append(
            f"What `evaluate` has measured is left out: not all runs have it of the same {n} "
            "checkpoints (checkpoints=all)."
        )
    return found, sentences


def _are_alike(of_runs: Sequence[Evaluations], n: int) -> bool:
    """Return whether all runs have n evaluations, after the same steps."""
    steps = {tuple(record["step"] for record in of_run) for of_run in of_runs}
    return len(steps) == 1 and len(of_runs[0]) == n


def _means(records: Evaluations) -> dict[str, float]:
    """Return the mean of each metric that all of the records have."""
    common = [key for key in records[-1] if METRICS.fullmatch(key)]
    found = {}
    for key in common:
        if all(key in record for record in records):
            found[key] = fmean(record[key] for record in records)
    return found


def _what_is_missing(runs: Sequence[Run], own: Sequence[Evaluations], n: int) -> str:
    for run, of_run in zip(runs, own, strict=True):
        if len(of_run) < n:
            return (
                f"average={n}: {run.name} has been evaluated {len(of_run)} time(s): take a smaller "
                "average, or measure checkpoints of all runs with evaluate checkpoints=all"
            )
    after = [f"{run.name} after {_steps(one)}" for run, one in zip(runs, own, strict=True)]
    return (
        f"average={n}: the runs were not evaluated after the same steps ({'; '.join(after)}): "
        "measure checkpoints of all runs with evaluate checkpoints=all, or leave average out"
    )


def _sentence(records: Evaluations, what: str) -> str:
    return f"Each metric is the mean of the last {len(records)} {what}, after {_steps(records)}."


def _steps(records: Evaluations) -> str:
    return ", ".join(f"{record['step']:,}" for record in records) + " steps"
