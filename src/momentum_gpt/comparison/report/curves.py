"""Curves of any length as a few hundred points that a browser draws at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from momentum_gpt.comparison.runs import Run
from momentum_gpt.evaluation.statistics import margin_key

BINS = 400
"""Points of a curve, at most: a figure is hardly more pixels wide."""

DIGITS = 7
"""Significant digits of what is drawn: of a loss, a millionth of a nat."""

SPEED = "train/tokens_per_s"


def bin_width(runs: Sequence[Run]) -> int:
    """Return how many tokens are one point of a curve, the same for all runs.

    It follows from the runs' plans, so that the points of a run stay what they are as it goes on.
    """
    planned = [run.config.training.tokens_per_step * run.config.training.max_steps for run in runs]
    return max(1, math.ceil(max(planned, default=1) / BINS))


def curve(run: Run, metric: str, width: int) -> dict[str, Any] | None:
    """Return a metric over the tokens trained on; None if the run does not have it.

    Args:
        run: finished or not.
        metric: its key in metrics.jsonl.
        width: of a point, see `binned`.
    """
    tokens, values, halves = readings(run, metric)
    return binned(tokens, values, halves, width) if len(values) else None


def binned(
    tokens: np.ndarray, values: np.ndarray, halves: np.ndarray, width: int
) -> dict[str, Any]:
    """Return readings as the points of a curve.

    Readings within `width` tokens become one point: their mean, and their least and greatest. A
    metric that is measured with a 95% interval has its ends instead.

    Args:
        tokens: trained on at each reading, ascending, (n,).
        values: what was read, (n,).
        halves: half the 95% interval of each value; nan where there is none.
        width: tokens of a point.

    Returns:
        Lists with an entry for each point: bin, tokens, y, low, high. Runs share the bins.
    """
    bins = (tokens - 1) // width
    _, starts, counts = np.unique(bins, return_index=True, return_counts=True)
    ends = starts + counts - 1
    means = np.add.reduceat(values, starts) / counts
    low = np.minimum.reduceat(values, starts)
    high = np.maximum.reduceat(values, starts)

    measured = ~np.isnan(halves[ends])
    low = np.where(measured, means - halves[ends], low)
    high = np.where(measured, means + halves[ends], high)
    is_spread = measured | (counts > 1)
    return {
        "bin": bins[starts].tolist(),
        "tokens": tokens[ends].tolist(),
        "y": rounded(means),
        "low": rounded(np.where(is_spread, low, np.nan)),
        "high": rounded(np.where(is_spread, high, np.nan)),
    }


def readings(run: Run, metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return tokens, values and half-intervals (n,) of a metric; nan where there is no interval.

    A value that is not finite cannot be drawn, and is left out.
    """
    half = margin_key(metric)
    records = [record for record in run.records if metric in record]
    tokens = np.array([record["tokens"] for record in records], dtype=np.int64)
    values = np.array([record[metric] for record in records], dtype=float)
    halves = np.array([record.get(half, math.nan) for record in records], dtype=float)

    # A step that was repeated after resuming may stand behind a later one.
    order = np.argsort(tokens, kind="stable")
    order = order[np.isfinite(values[order])]
    return tokens[order], values[order], halves[order]


def clock(run: Run) -> dict[str, list[Any]]:
    """Return tokens and the seconds that training steps had taken by then, from the speeds.

    Evaluations and checkpoints are not in it.
    """
    tokens, speeds, _ = readings(run, SPEED)
    is_known = speeds > 0
    tokens, speeds = tokens[is_known], speeds[is_known]
    seconds = np.cumsum(np.diff(tokens, prepend=0) / speeds)

    kept = np.unique(np.linspace(0, len(tokens) - 1, min(len(tokens), BINS)).astype(int))
    return {"tokens": [0, *tokens[kept].tolist()], "seconds": [0.0, *rounded(seconds[kept])]}


def rounded(values: np.ndarray) -> list[float | None]:
    """Return numbers with a few digits; None for nan, which JSON does not have."""
    return [None if math.isnan(value) else float(f"{value:.{DIGITS}g}") for value in values]
