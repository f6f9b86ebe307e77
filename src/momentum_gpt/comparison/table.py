"""Tables of a comparison, for the terminal and the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from momentum_gpt.comparison.runs import Run
from momentum_gpt.core.terminal import table_text


@dataclass(frozen=True)
class Table:
    """A table of text."""

    title: str
    head: list[str]
    rows: list[list[str]]

    def as_text(self) -> str:
        """Return the table for a terminal."""
        return table_text(f"{self.title}:", self.head, self.rows)


@dataclass(frozen=True)
class Column:
    """One measure of all runs."""

    title: str
    unit: str
    values: list[float]
    """The value of each run."""
    digits: int
    """Digits after the decimal point."""

    def cell(self, row: int) -> str:
        """Return the value of a run."""
        return f"{self.values[row]:,.{self.digits}f}"

    def difference(self, row: int) -> str:
        """Return the difference between a run and the first one, with its sign."""
        return f"{self.values[row] - self.values[0]:+,.{self.digits}f}"


PROBES = (
    ("icl/score", "ICL score", "nats", 3),
    ("icl/induction/acc", "induction", "accuracy", 4),
    ("icl/induction/loss", "induction", "nats/token", 3),
)
"""Metrics that some runs have: key, title, unit, digits."""


def columns(runs: Sequence[Run]) -> list[Column]:
    """Return what the last evaluation of every run has, and the speed of training."""
    found = [Column("val loss", "nats/token", [run.final["val/loss"] for run in runs], 4)]

    perplexities = [run.by_number("val/ppl@") for run in runs]
    for length in sorted(perplexities[0]):
        if all(length in by_length for by_length in perplexities):
            values = [by_length[length] for by_length in perplexities]
            found.append(Column(f"ppl@{length}", "per token", values, 3))

    for key, title, unit, digits in PROBES:
        if all(key in run.final for run in runs):
            found.append(Column(title, unit, [run.final[key] for run in runs], digits))

    tokens = [float(run.final["tokens"]) for run in runs]
    found.append(Column("tokens", "trained on", tokens, 0))
    found.append(Column("tokens/s", "median", [run.tokens_per_s for run in runs], 0))
    return found


def results_text(runs: Sequence[Run]) -> str:
    """Return a row for each run, and below all but the first their differences to the first."""
    measures = columns(runs)
    rows = []
    for number, run in enumerate(runs):
        rows.append([run.name, *(column.cell(number) for column in measures)])
        if number:
            differences = [column.difference(number) for column in measures]
            rows.append([f"  - {runs[0].name}", *differences])

    head = ["run", *(column.title for column in measures)]
    units = ["", *(column.unit for column in measures)]
    return table_text("", head, rows, units)


def interval_text(bounds: tuple[float, float], digits: int) -> str:
    """Return, for example, "[-0.012, +0.003]"; "-" if there is no interval."""
    low, high = bounds
    if math.isnan(low):
        return "-"
    return f"[{low:+.{digits}f}, {high:+.{digits}f}]"
