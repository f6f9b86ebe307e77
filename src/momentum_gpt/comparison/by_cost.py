"""Losses of two variants after as many FLOPs, or as much time, paired by training seed.

Runs are equal in tokens, and a variant may cost more than another. Here the two runs of a pair are
read where the cheaper one ends: the other is not done yet, and its loss is taken from its curve,
linear between evaluations. With a schedule that ends at its last token, a run that was planned for
this budget would be better than the curve is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from momentum_gpt.comparison.by_seed import BySeed, seed_difference, unit_of
from momentum_gpt.comparison.paired import PairedDifference
from momentum_gpt.comparison.report.curves import clock, readings
from momentum_gpt.comparison.runs import Run
from momentum_gpt.comparison.verdict import FEWEST_EVALUATIONS, METRIC
from momentum_gpt.core.flops import flops_per_token

Cost = Callable[[Run, np.ndarray], np.ndarray | None]
"""Returns what a run has cost after so many tokens, (n,) -> (n,); None if that is not known."""

SAME_FLOPS = (
    f"As many tokens are as many FLOPs here, so {METRIC} is also the loss at equal FLOPs: what a "
    "variant adds to softmax attention is not counted."
)
OTHER_MACHINES = f"{METRIC}@seconds is left out: the runs were not trained on one machine"
UNKNOWN_MACHINES = f"{METRIC}@seconds is left out: it is not known which machine trained each run."


def by_cost(first: BySeed, other: BySeed, looked_at: bool = False) -> list[PairedDifference]:
    """Return the differences `val/loss@flops` and `val/loss@seconds`, where they say something.

    As many tokens are often as many FLOPs; then the loss at equal FLOPs is `val/loss`. Seconds are
    compared only if all runs were trained on one machine, on as many ranks.

    Args:
        first: the runs of the variant that the other is compared with.
        other: the runs of the other variant.
        looked_at: whether the number of seeds was chosen by looking at the results.
    """
    found = []
    if not has_same_flops(first, other):
        found.append(_difference("flops", "{:.3g} FLOPs", flops_at, first, other, looked_at))
    if len(machines(first, other)) == 1:
        found.append(_difference("seconds", "{:,.4g} s", seconds_at, first, other, looked_at))
    return [row for row in found if row is not None]


def remarks_on_cost(first: BySeed, other: BySeed) -> list[str]:
    """Return why a difference is left out, in sentences."""
    remarks = []
    if has_same_flops(first, other) and _budgets(flops_at, first, other):
        remarks.append(SAME_FLOPS)
    if _budgets(seconds_at, first, other):
        found = machines(first, other)
        if not found:
            remarks.append(UNKNOWN_MACHINES)
        elif len(found) > 1:
            remarks.append(f"{OTHER_MACHINES} ({', '.join(found)}).")
    return remarks


def flops_at(run: Run, tokens: np.ndarray) -> np.ndarray | None:
    """Return the FLOPs of the matrix products after so many tokens, forward and backward, (n,)."""
    model = run.config.model
    return None if model.vocab_size is None else tokens * flops_per_token(model)


def seconds_at(run: Run, tokens: np.ndarray) -> np.ndarray | None:
    """Return the seconds that training steps had taken after so many tokens, (n,).

    Evaluations and checkpoints are not in it. What follows the last reading has its speed.
    """
    known = clock(run)
    at, seconds = np.array(known["tokens"], float), np.array(known["seconds"], float)
    if len(at) < 2:
        return None
    speed = (at[-1] - at[-2]) / (seconds[-1] - seconds[-2])
    return np.interp(tokens, at, seconds) + np.maximum(tokens - at[-1], 0) / speed


def machines(first: BySeed, other: BySeed) -> list[str]:
    """Return the machines that trained the runs with common seeds; [] if one is not known."""
    found: dict[str, None] = {}
    for run in _paired(first, other):
        if run.manifest is None or not run.manifest.machine:
            return []
        found[f"{run.manifest.world_size} x {run.manifest.machine}"] = None
    return list(found)


def has_same_flops(first: BySeed, other: BySeed) -> bool:
    """Return whether the runs of each pair have as many FLOPs."""
    budgets = _budgets(flops_at, first, other)
    return all(np.isclose(*totals, rtol=1e-9) for totals in budgets)


def _difference(
    name: str, form: str, cost: Cost, first: BySeed, other: BySeed, looked_at: bool
) -> PairedDifference | None:
    """Return the difference at equal cost; None if not all runs have the costs and a curve."""
    budgets = [min(totals) for totals in _budgets(cost, first, other)]
    if len(budgets) < 2:
        return None
    seeds = _seeds(first, other)
    losses = []
    for runs in (first, other):
        losses.append(
            [_loss(runs[seed], cost, at) for seed, at in zip(seeds, budgets, strict=True)]
        )
    of_first, of_other = np.array(losses)  # (seeds,) each
    if np.isnan([of_first, of_other]).any():
        return None
    sample = form.format(np.mean(budgets))
    unit = unit_of(METRIC)
    return seed_difference(f"{METRIC}@{name}", unit, of_first, of_other, looked_at, sample)


def _budgets(cost: Cost, first: BySeed, other: BySeed) -> list[tuple[float, float]]:
    """Return the two totals of each pair, in the order of the seeds; [] if one is not known."""
    found = []
    for seed in _seeds(first, other):
        of_first, of_other = _total(first[seed], cost), _total(other[seed], cost)
        if of_first is None or of_other is None:
            return []
        found.append((of_first, of_other))
    return found


def _total(run: Run, cost: Cost) -> float | None:
    """Return what the run cost up to its last evaluation."""
    tokens, _, _ = readings(run, METRIC)
    costs = cost(run, tokens)
    return None if costs is None or len(costs) < FEWEST_EVALUATIONS else float(costs[-1])


def _loss(run: Run, cost: Cost, budget: float) -> float:
    """Return the loss after a budget, linear between evaluations; nan before the first one."""
    tokens, losses, _ = readings(run, METRIC)
    costs = cost(run, tokens)
    assert costs is not None, f"{run.name} has a total"
    return float(np.interp(budget, costs, losses, left=np.nan))


def _seeds(first: BySeed, other: BySeed) -> list[int]:
    return sorted(first.keys() & other.keys())


def _paired(first: BySeed, other: BySeed) -> Sequence[Run]:
    return [runs[seed] for seed in _seeds(first, other) for runs in (first, other)]
