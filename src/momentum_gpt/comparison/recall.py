"""Accuracy on a synthetic task, variant by variant, over several seeds: a table and a figure."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from statistics import fmean, median, stdev

import plotly.graph_objects as go
from scipy.stats import t as student

from momentum_gpt.comparison.report.page import COLOURS, STYLE, chart
from momentum_gpt.comparison.runs import Run

LEARNED = 0.9
"""Accuracy from which on a run counts as having learned the task."""


@dataclass(frozen=True)
class Cell:
    """What several seeds were trained of."""

    variant: str
    """e.g. "momentum 0.5"."""
    positions: str


Runs = dict[Cell, list[Run]]
"""The runs of each cell, one a seed."""


def accuracies(runs: list[Run]) -> dict[int, list[float]]:
    """Step -> each run's accuracy, at the steps that all have."""
    by_step = [
        {row["step"]: row["val/acc"] for row in run.records if "val/acc" in row} for run in runs
    ]
    return {
        step: [its[step] for its in by_step]
        for step in by_step[0]
        if all(step in its for its in by_step)
    }


def interval(values: list[float]) -> tuple[float, float]:
    """The 95% confidence interval of the mean, by Student's t, kept in [0, 1]; the whole of it for a single value."""
    if len(values) < 2:
        return 0.0, 1.0
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return max(0.0, fmean(values) - half), min(1.0, fmean(values) + half)


def steps_to_learn(run: Run) -> float:
    """The first evaluated step at which the run has learned the task; infinite if it never has."""
    return next(
        (row["step"] for row in run.records if row.get("val/acc", 0.0) >= LEARNED), math.inf
    )


def as_text(runs: Runs) -> str:
    """One row a cell: mean accuracy and its interval at each quarter of the training, and when it was learned."""
    steps = quarters(list(accuracies(next(iter(runs.values())))))
    rows = [
        [
            "positions",
            "attention",
            *(f"step {step:,}" for step in steps),
            f"reached {LEARNED:.0%}",
            "median step",
        ]
    ]
    for cell, its in runs.items():
        values = accuracies(its)
        learned = [steps_to_learn(run) for run in its]
        reached = f"{sum(map(math.isfinite, learned))} of {len(its)}"
        middle = f"{median(learned):,.0f}".replace("inf", "-")
        rows.append(
            [
                cell.positions,
                cell.variant,
                *(summary(values[step]) for step in steps),
                reached,
                middle,
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def summary(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f}"
    low, high = interval(values)
    return f"{fmean(values):.3f} [{low:.3f}, {high:.3f}]"


def quarters(steps: list[int]) -> list[int]:
    return [steps[-(-len(steps) * part // 4) - 1] for part in (1, 2, 3, 4)]


def page(task: str, runs: Runs) -> str:
    """One file with its figures inside, which opens without a network: accuracy against steps, a figure for each positions."""
    kinds = list(dict.fromkeys(cell.positions for cell in runs))
    shown = {"displaylogo": False, "responsive": True}
    figures = "".join(
        f"<div>{figure(kind, runs).to_html(full_html=False, include_plotlyjs=number == 0, config=shown)}</div>"
        for number, kind in enumerate(kinds)
    )
    title = f"{task}: what each attention learns"
    seeds = max(len(its) for its in runs.values())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title><style>{STYLE} pre {{ overflow-x: auto; font-size: .8rem; }}</style></head><body>
<h1>{html.escape(title)}</h1>
<p class="note">Accuracy at the answers of held-out sequences: mean of {seeds} seed(s) and its 95% interval (Student's t).</p>
<div class="figures">{figures}</div><pre>{html.escape(as_text(runs))}</pre></body></html>
"""


def figure(positions: str, runs: Runs) -> go.Figure:
    traces = []
    for number, (cell, its) in enumerate(
        (cell, its) for cell, its in runs.items() if cell.positions == positions
    ):
        values, colour = accuracies(its), COLOURS[number % len(COLOURS)]
        steps, intervals = list(values), [interval(row) for row in values.values()]
        group = {"legendgroup": cell.variant, "mode": "lines"}
        if len(its) > 1:
            around = [high for _, high in intervals] + [low for low, _ in reversed(intervals)]
            band = {
                "fill": "toself",
                "fillcolor": colour,
                "opacity": 0.15,
                "line": {"width": 0},
                "hoverinfo": "skip",
            }
            traces.append(
                go.Scatter(x=steps + steps[::-1], y=around, showlegend=False, **band, **group)
            )
        means = [fmean(row) for row in values.values()]
        traces.append(
            go.Scatter(
                x=steps, y=means, name=cell.variant, line={"color": colour, "width": 2}, **group
            )
        )
    drawn = chart(f"{positions.capitalize()} positions", "steps", "accuracy at the answers", traces)
    drawn.update_yaxes(tickformat=".0%", range=[0, 1.02])
    return drawn
