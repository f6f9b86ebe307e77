"""A table with a coloured cell for each layer and head; heat.html.jinja shows it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from momentum_gpt.evaluation.statistics import Estimate, Interval


@dataclass(frozen=True)
class Cell:
    """A cell of a heat map."""

    text: str
    interval: str
    """What the pointer reads."""
    share: str
    """How strong the colour is, from 0 to 1."""


@dataclass(frozen=True)
class HeatMap:
    """One measure, by layer and head."""

    title: str
    heads: list[str]
    """Names of the columns."""
    rows: list[tuple[str, list[Cell | None]]]
    """Name and cells of each layer, the first one at the top; None where nothing is measured."""


def cell_of(estimate: Estimate, bounds: Interval = (0.0, 1.0)) -> Cell | None:
    """Return a cell with an estimate; None where there is none.

    Args:
        estimate: of a number that is strongest at 1, and nowhere out of its bounds.
        bounds: of the number, within which its interval is shown.
    """
    if math.isnan(estimate.value):
        return None
    low, high = estimate.interval
    text = f"{estimate.value:.3f}"
    interval = f"{max(bounds[0], low):.3f} to {min(bounds[1], high):.3f}"
    return Cell(text, f"{text}, 95% interval {interval}", f"{max(0.0, estimate.value):.3f}")


def of_heads(title: str, estimates: Sequence[Sequence[Estimate]], bounds: Interval) -> HeatMap:
    """Return the heat map of a measure of each layer and head, both counted from 1.

    Args:
        title: of the heat map.
        estimates: of each head, layer by layer.
        bounds: of the measure.
    """
    heads = [f"head {number}" for number in range(1, len(estimates[0]) + 1)]
    rows: list[tuple[str, list[Cell | None]]] = []
    for number, of_layer in enumerate(estimates, start=1):
        rows.append((f"layer {number}", [cell_of(one, bounds) for one in of_layer]))
    return HeatMap(title, heads, rows)
