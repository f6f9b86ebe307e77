"""What interventions on recall models have found: rows, as a table and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from momentum_gpt.analysis.intervention import Place
from momentum_gpt.comparison.table import Table
from momentum_gpt.evaluation.statistics import Estimate, over_seeds

MEASURES = {
    "previous": "mean attention weight of the token before",
    "without": "accuracy with the part taken out",
    "twin's": "share of answers that are the twin's, with the twin's part",
    "own": "accuracy with the twin's part",
    "unrelated": "accuracy with the part of a sequence of other keys and values",
}
"""What is measured of each part, by the name of its column: all are shares."""

LEGEND = [
    "head: by attention to the token before, the most first",
    *(f"{name}: {meaning}" for name, meaning in MEASURES.items()),
]
"""What the columns of the table are, a line each."""

Found = Mapping[Place | None, Mapping[str, np.ndarray]]
"""What is measured of a model: (n,) over its sequences, by part and measure.

None stands for the model as it is.
"""


@dataclass(frozen=True)
class Row:
    """What is known of one part at one step."""

    step: int
    place: Place | None
    """None: nothing is replaced."""
    estimates: dict[str, Estimate]
    """By the names of MEASURES, without those that the part does not have."""

    @property
    def words(self) -> list[str]:
        """Layer, head and part."""
        if self.place is None:
            return ["-", "-", "nothing"]
        layer, head = (("all" if number is None else str(number)) for number in self.place[:2])
        return [layer, head, self.place.part]

    @property
    def order(self) -> tuple[float, ...]:
        """What rows are sorted by: the softmax part first, all heads after each of them."""
        if self.place is None:
            return (self.step,)
        layer, head = (math.inf if number is None else number for number in self.place[:2])
        return (self.step, self.place.part == "added", layer, head)


def rows_of(step: int, of_runs: Sequence[Found]) -> list[Row]:
    """Return a row for each part, after one for the models as they are.

    Args:
        step: of the checkpoints.
        of_runs: one for each run. Intervals are over runs, or over the sequences of a single one.
    """
    rows = []
    for place, measured in of_runs[0].items():
        estimates = {}
        for name in measured:
            estimates[name] = estimate_of([found[place][name] for found in of_runs])
        rows.append(Row(step, place, estimates))
    return sorted(rows, key=lambda row: row.order)


def estimate_of(of_runs: Sequence[np.ndarray]) -> Estimate:
    """Return the mean over runs, or over the sequences of one run."""
    if len(of_runs) == 1:
        return over_seeds(of_runs[0])
    return over_seeds(np.array([values.mean() for values in of_runs]))


def results_table(rows: Sequence[Row], title: str) -> Table:
    """Return the rows with means and half the width of their intervals."""
    cells = []
    for row in rows:
        known = row.estimates
        measured = [cell_text(known[name]) if name in known else "" for name in MEASURES]
        cells.append([f"{row.step:,}", *row.words, *measured])
    return Table(title, ["step", "layer", "head", "part", *MEASURES], cells)


def results_csv(rows: Sequence[Row]) -> str:
    """Return the rows as CSV: six digits of each mean, and of half the width of its interval."""
    names = []
    for name in MEASURES:
        column = name.removesuffix("'s")
        names += [column, f"{column}_margin"]

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "layer", "head", "part", *names])
    for row in rows:
        numbers = []
        for name in MEASURES:
            numbers += _numbers(row.estimates.get(name))
        writer.writerow([row.step, *row.words, *numbers])
    return text.getvalue()


def cell_text(estimate: Estimate) -> str:
    """Return a mean and half the width of its interval."""
    return f"{estimate.value:.3f} ± {estimate.margin:.3f}"


def _numbers(estimate: Estimate | None) -> list[str]:
    return [f"{estimate.value:.6g}", f"{estimate.margin:.6g}"] if estimate else ["", ""]
