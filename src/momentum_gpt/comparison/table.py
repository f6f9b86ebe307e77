"""Tables of a comparison, for the terminal and the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from momentum_gpt.comparison.runs import Run, have_other_tokenizers
from momentum_gpt.comparison.variants import variants_of
from momentum_gpt.core.terminal import table_text
from momentum_gpt.evaluation.tables import READABLE


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
    margins: list[float | None] = field(default_factory=list)
    """Half the width of each value's 95% interval; None, or no list, where there is none."""

    def cell(self, row: int) -> str:
        """Return the value of a run, with half its interval where there is one."""
        value = _number(self.values[row], self.digits)
        half = self.margins[row] if self.margins else None
        return value if half is None else f"{value} ± {half:.{self.digits}f}"

    def means(self, groups: Sequence[Sequence[int]]) -> Column:
        """Return the means over groups of runs, without intervals, which are of one model."""
        values = []
        for rows in groups:
            values.append(fmean(self.values[row] for row in rows))
        return Column(self.title, self.unit, values, self.digits)

    def difference(self, row: int) -> str:
        """Return the difference between a run and the first one, with its sign."""
        return _number(self.values[row] - self.values[0], self.digits, sign="+")


PROBES = (
    ("icl/score", "ICL score", "nats", 3),
    ("icl/induction/acc", "induction", "accuracy", 4),
    ("icl/induction/loss", "induction", "nats/token", 3),
)
"""Metrics that some runs have: key, title, unit, digits."""

ACROSS_TOKENIZERS = (
    ("val/bpb", "bits per byte", "bits/byte", 4),
    ("val/ppl_word", "perplexity", "per word", 3),
    ("val/acc", "accuracy", "share", 4),
)
"""The metrics of runs with different tokenizers: what is per token is another unit for each."""


def columns(runs: Sequence[Run]) -> list[Column]:
    """Return what the last evaluation of every run has, and the speed of training."""
    across_tokenizers = have_other_tokenizers(runs)
    found = [] if across_tokenizers else _per_token(runs)
    for metric, title, unit, digits in ACROSS_TOKENIZERS if across_tokenizers else PROBES:
        if _all_have(runs, metric):
            found.append(_column(runs, metric, title, unit, digits))

    # Not a result of the model: what the comparison cost.
    speeds = [run.tokens_per_s for run in runs]
    found.append(_column(runs, "tokens", "tokens", "trained on", 0))
    found.append(Column("tokens/s", "median", speeds, 0))
    return found


def _per_token(runs: Sequence[Run]) -> list[Column]:
    found = [_column(runs, "val/loss", "val loss", "nats/token", 4)]

    # Runs with different seq_len have been measured at different context lengths.
    for length in sorted(runs[0].by_number("val/ppl@")):
        metric = f"val/ppl@{length}"
        if _all_have(runs, metric):
            found.append(_column(runs, metric, f"ppl@{length}", "per token", 3))
    return found


def _column(runs: Sequence[Run], metric: str, title: str, unit: str, digits: int) -> Column:
    values = [run.final[metric] for run in runs]
    return Column(title, unit, values, digits, [run.margin(metric) for run in runs])


def results_text(runs: Sequence[Run]) -> str:
    """Return a row for each run, and below all but the first their differences to the first.

    Of several seeds, there is a row for each variant, with means over its runs.
    """
    measures = columns(runs)
    variants = variants_of(runs)
    names = [run.name for run in runs]
    if len(variants) < len(runs):
        names = [f"{one.name} ({len(one.runs)})" for one in variants]
        groups = [one.runs for one in variants]
        measures = [column.means(groups) for column in measures]

    head = ["run" if len(names) == len(runs) else "variant (runs)"]
    units = [""]
    for column in measures:
        head.append(column.title)
        units.append(column.unit)

    rows = []
    for number, name in enumerate(names):
        rows.append([name] + [column.cell(number) for column in measures])
        if number:
            differences = [column.difference(number) for column in measures]
            rows.append([f"  - {names[0]}", *differences])
    return table_text("", head, rows, units)


def interval_text(bounds: tuple[float, float], digits: int) -> str:
    """Return, for example, "[-0.012, +0.003]"; "-" if there is no interval."""
    low, high = bounds
    if math.isnan(low):
        return "-"
    return f"[{low:+.{digits}f}, {high:+.{digits}f}]"


def _number(value: float, digits: int, sign: str = "") -> str:
    """Return a number as text; a huge perplexity has an exponent, and counts are in full."""
    if digits and abs(value) >= READABLE:
        return f"{value:{sign}.1e}"
    return f"{value:{sign},.{digits}f}"


def _all_have(runs: Sequence[Run], metric: str) -> bool:
    return all(metric in run.final for run in runs)
