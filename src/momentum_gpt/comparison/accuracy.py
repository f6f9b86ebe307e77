"""Accuracy on a synthetic task, variant by variant, over several seeds: a table and a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np

from momentum_gpt.comparison.report.drawn import student_quantiles
from momentum_gpt.comparison.report.page import render
from momentum_gpt.comparison.runs import Run
from momentum_gpt.comparison.table import Table
from momentum_gpt.evaluation.statistics import over_seeds

LEARNED = 0.9
"""A run has learned the task once its accuracy is at least this."""


@dataclass(frozen=True)
class Cell:
    """What is trained with several seeds: one row of the table."""

    variant: str
    """The attention and its decay, such as "momentum 0.5"."""
    positions: str
    """The position encoding."""


Runs = Mapping[Cell, Sequence[Run]]
"""The runs of each cell, one for each seed."""


def accuracies(runs: Sequence[Run]) -> dict[int, list[float]]:
    """Return step -> accuracy of each run, at the steps that all runs have."""
    by_step = [_accuracy_by_step(run) for run in runs]
    found = {}
    for step in by_step[0]:
        values = [of_run[step] for of_run in by_step if step in of_run]

        # Runs may have been evaluated at other steps, or may not be finished.
        if len(values) == len(runs):
            found[step] = values
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95% interval of the mean by Student's t, within [0, 1].

    For a single value, it is [0, 1].
    """
    if len(values) < 2:
        return 0.0, 1.0
    low, high = over_seeds(np.array(values)).interval
    return max(0.0, low), min(1.0, high)


def steps_to_learn(run: Run) -> float:
    """Return the first evaluated step at which the run has learned the task; infinity if never."""
    for record in run.records:
        if record.get("val/acc", 0.0) >= LEARNED:
            return record["step"]
    return math.inf


def quarters(steps: Sequence[int]) -> list[int]:
    """Return the evaluated steps that end each quarter of the training."""
    return [steps[math.ceil(len(steps) * part / 4) - 1] for part in (1, 2, 3, 4)]


def summary(values: Sequence[float]) -> str:
    """Return the mean accuracy and its interval, such as "0.700 [0.512, 0.888]"."""
    if len(values) < 2:
        return f"{values[0]:.3f}"
    low, high = interval(values)
    return f"{fmean(values):.3f} [{low:.3f}, {high:.3f}]"


def accuracy_table(runs: Runs) -> Table:
    """Return a row for each cell: accuracy at each quarter of the training, and when it learned."""
    # All cells have been evaluated at the same steps: any of them gives the columns.
    any_runs = next(iter(runs.values()))
    steps = quarters(list(accuracies(any_runs)))
    head = ["positions", "attention", *map("step {:,}".format, steps)]
    head += [f"reached {LEARNED:.0%}", "median step"]

    rows = [_row(cell, of_cell, steps) for cell, of_cell in runs.items()]
    return Table("Accuracy at the answers, mean and 95% interval", head, rows)


def accuracy_page(task: str, runs: Runs) -> str:
    """Return a page with the table and, for each position encoding, a figure over the steps."""
    return render(
        "recall.html.jinja",
        title=f"{task.capitalize()}: what each attention learns",
        verdicts=(),
        caution=None,
        live=False,
        data=accuracy_data(runs),
        seeds=max(map(len, runs.values())),
        table=accuracy_table(runs),
    )


def accuracy_data(runs: Runs) -> dict[str, Any]:
    """Return what the page draws: a variant has one colour in all figures."""
    variants = list(dict.fromkeys(cell.variant for cell in runs))
    described: list[dict[str, Any]] = []
    series: dict[str, list[dict[str, Any]]] = {}
    for cell, of_cell in runs.items():
        for number, run in enumerate(of_cell, start=1):
            one = {"run": len(described), "after": None, **_accuracy_series(run)}
            series.setdefault(cell.positions, []).append(one)
            name = f"{cell.positions}, {number}"
            described.append({"name": name, "group": variants.index(cell.variant)})
    return {
        "groups": [{"label": variant} for variant in variants],
        "runs": described,
        "figures": [_figure(positions, of_figure) for positions, of_figure in series.items()],
        "student": student_quantiles(len(described)),
        "caution": None,
        "progress": "steps",
    }


def _accuracy_by_step(run: Run) -> dict[int, float]:
    found = {}
    for record in run.records:
        # A step that was repeated after resuming counts once.
        if "val/acc" in record:
            found[record["step"]] = record["val/acc"]
    return found


def _row(cell: Cell, runs: Sequence[Run], steps: Sequence[int]) -> list[str]:
    by_step = accuracies(runs)
    learned = [steps_to_learn(run) for run in runs]
    n_learned = sum(map(math.isfinite, learned))

    # Infinite if fewer than half of the runs have learned the task.
    middle = median(learned)
    return [
        cell.positions,
        cell.variant,
        *(summary(by_step[step]) for step in steps),
        f"{n_learned} of {len(runs)}",
        f"{middle:,.0f}" if math.isfinite(middle) else "-",
    ]


def _accuracy_series(run: Run) -> dict[str, list[Any]]:
    """Return the accuracy over the steps, each of which is a place of its own."""
    by_step = _accuracy_by_step(run)
    steps = list(by_step)
    nothing = [None] * len(steps)
    y = list(by_step.values())
    return {"bin": steps, "tokens": steps, "y": y, "low": nothing, "high": nothing}


def _figure(positions: str, series: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": positions,
        "kind": "curve",
        "title": f"{positions.capitalize()} positions",
        "unit": "accuracy",
        "note": "Accuracy at the answers. Bands are 95% intervals over seeds.",
        "series": series,
        "range": [0, 1.02],  # a little above 100%, so that a line at the top is not cut
    }
