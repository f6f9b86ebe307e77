"""Which metric can tell the variants apart at all: its signal, its noise, and their ratio.

The definitions follow Heineman et al. ("Signal and Noise", 2025, arXiv 2508.13144) and their code
(allenai/signal-and-noise): the signal is the largest difference between two models, the noise the
standard deviation over the last evaluations in training. Ours differ from theirs in this:

    - the signal is that of the variants' means over seeds, and not of single models;
    - the noise is what is left beside a straight line through a run's last evaluations, as a run
      still improves, and is pooled over the runs;
    - neither is divided by the mean, which would hardly change the ratio.

It is not a test: the noise from seed to seed is not in it, which `by_seed.py` has.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from statistics import fmean

import numpy as np

from momentum_gpt.comparison.by_seed import FEW_SHOT, LOSSES, is_compared, unit_of, variants
from momentum_gpt.comparison.history import Evaluations, in_training, of_checkpoints
from momentum_gpt.comparison.runs import Run, have_other_tokenizers
from momentum_gpt.comparison.table import Table

MOST = 5
"""Last evaluations of a run that are looked at."""

FEWEST = 3
"""Fewer evaluations have no scatter beside a straight line."""

METRICS = re.compile(f"{LOSSES.pattern}|{FEW_SHOT.pattern}")

NOTE = (
    "Signal: the largest difference between two variants' means. Noise: the standard deviation of "
    "a run's last evaluations about a straight line, pooled over the runs. A metric whose ratio is "
    "small tells little; it is not a test, and the noise from seed to seed is not in it."
)


def signal_table(runs: Sequence[Run]) -> Table | None:
    """Return a row for each metric of losses and few-shot tasks that all runs have.

    The result is None unless there are two variants, and `FEWEST` evaluations of each run.
    """
    of_variants = [list(by_seed.values()) for by_seed in variants(runs).values()] if runs else []
    if len(of_variants) < 2:
        return None
    compared = [run for of_variant in of_variants for run in of_variant]
    own = [in_training(run) for run in compared]
    measured = [of_checkpoints(run) for run in compared]

    rows = []
    across_tokenizers = have_other_tokenizers(compared)
    for metric in filter(METRICS.fullmatch, runs[0].final):
        if not is_compared(metric, runs[0], across_tokenizers):
            continue
        if any(metric not in run.final for run in compared):
            continue
        # What `evaluate` measures is a larger sample.
        last = _last(measured, metric) or _last(own, metric)
        if last:
            signal = _signal(metric, of_variants)
            rows.append(_row(metric, signal, noise_of_steps(last), len(last[0][0])))
    if not rows:
        return None
    head = ["measure", "unit", "signal", "noise", "signal / noise", "evaluations"]
    return Table(
        f"Signal to noise of {len(of_variants)} variants, {len(compared)} runs", head, rows
    )


def _signal(metric: str, of_variants: Sequence[Sequence[Run]]) -> float:
    """Return the largest difference between two variants' means."""
    means = []
    for runs in of_variants:
        means.append(fmean(run.final[metric] for run in runs))
    return max(means) - min(means)


Series = tuple[list[int], list[float]]
"""Tokens and values of a metric."""


def noise_of_steps(series: Sequence[Series]) -> float:
    """Return the standard deviation about each run's own straight line, pooled over the runs.

    Args:
        series: tokens and values of each run, `FEWEST` or more.
    """
    squares, freedom = 0.0, 0
    for tokens, values in series:
        x = np.array(tokens, float) / max(tokens)
        line = np.polynomial.Polynomial.fit(x, values, 1)
        squares += float(((values - line(x)) ** 2).sum())
        freedom += len(values) - 2
    return math.sqrt(squares / freedom)


def _last(of_runs: Sequence[Evaluations], metric: str) -> list[Series]:
    """Return the last values of each run; [] if one of them has too few."""
    found = []
    for records in of_runs:
        having = [record for record in records if metric in record][-MOST:]
        if len(having) < FEWEST:
            return []
        found.append(([one["tokens"] for one in having], [one[metric] for one in having]))
    return found


def _row(metric: str, signal: float, noise: float, n: int) -> list[str]:
    # Values that are equal differ by rounding errors from their line.
    ratio = f"{signal / noise:.1f}" if noise > 1e-12 else "-"
    return [metric, unit_of(metric), f"{signal:.4f}", f"{noise:.4f}", ratio, str(n)]
