"""The difference between two sides that are compared pair by pair: one record, one table.

What is paired decides what the difference says. Documents and queries (`by_document.py`,
`by_query.py`) tell one trained model from another; training seeds (`by_seed.py`) tell one variant
from another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from momentum_gpt.comparison.table import Table, interval_text

LEVEL = 0.05
"""A Holm-adjusted p-value below it counts."""

COUNTED = {"document": "pieces", "query": "queries", "training seed": "seeds"}
"""The title of the column with the number of pairs, by what is paired."""


@dataclass(frozen=True)
class PairedDifference:
    """One measure of two sides, and how sure their difference is."""

    measure: str
    """What was measured, such as "val/loss"."""
    unit: str
    """The unit of both sides, their difference, its interval and `detectable`."""
    paired_by: str
    """What was drawn independently and is the same on both sides of a pair: document | query |
    training seed."""
    pairs: int
    """The number of pairs."""
    first: float
    """The value of the side that the other is compared with."""
    other: float
    interval: tuple[float, float]
    """95% confidence interval of other - first; (nan, nan) for a single pair."""
    detectable: float
    """The true difference that this many pairs would find four times out of five."""
    p_values: dict[str, float] = field(default_factory=dict)
    """Name of each test -> its two-sided p-value; {} if only the interval decides."""
    p_holm: float | None = None
    """The p-value of the first test, adjusted by Holm's method for the number of measures."""
    sample: str = ""
    """What was measured in these pairs, such as "65,536 targets"."""
    digits: int = 4
    """Digits after the decimal point when it is printed."""

    @property
    def difference(self) -> float:
        """The other side's value minus the first one's."""
        return self.other - self.first

    @property
    def is_real(self) -> bool:
        """Whether the interval excludes 0 and the adjusted p-value, if any, is small enough."""
        low, high = self.interval
        excludes_zero = low > 0 or high < 0
        return excludes_zero and (self.p_holm is None or self.p_holm < LEVEL)


def paired_table(
    title: str, first: str, other: str, differences: Sequence[PairedDifference]
) -> Table:
    """Return a row for each difference.

    Args:
        title: what is compared.
        first: name of the side that the other is compared with.
        other: name of the other side.
        differences: one or more, all paired by the same.
    """
    example = differences[0]
    tests = [f"{name} p" for name in example.p_values]
    if example.p_holm is not None:
        # Next to the test whose p-value it adjusts.
        tests.insert(1, "Holm p")

    head = [
        "measure",
        "unit",
        COUNTED[example.paired_by],
        "sample",
        first,
        other,
        "difference",
        "95% interval",
        *tests,
        "detectable",
        "",
    ]
    rows = [_row(difference) for difference in differences]

    if not any(difference.sample for difference in differences):
        rows = [_without(head.index("sample"), row) for row in rows]
        head = _without(head.index("sample"), head)
    return Table(title, head, rows)


def notes(tables: Sequence[Table]) -> list[str]:
    """Return what a reader of the tables has to know; [] if there are none."""
    if not tables:
        return []

    found = [
        "detectable: the true difference that this many pairs would find four times out of five.",
        f"*: the interval excludes 0 and the Holm-adjusted p-value, if any, is below {LEVEL}.",
    ]
    if any(COUNTED["document"] in table.head for table in tables):
        found.append(
            "pieces: documents; a document longer than the model's context counts as several."
        )
    return found


def _row(difference: PairedDifference) -> list[str]:
    digits = difference.digits
    p_values = [f"{p_value:.3f}" for p_value in difference.p_values.values()]
    if difference.p_holm is not None:
        p_values.insert(1, f"{difference.p_holm:.3f}")

    # Without any spread, nothing is known about what would be found.
    detectable = "-"
    if difference.detectable and not math.isnan(difference.detectable):
        detectable = f"{difference.detectable:.{digits}f}"

    return [
        difference.measure,
        difference.unit,
        f"{difference.pairs:,}",
        difference.sample,
        f"{difference.first:.{digits}f}",
        f"{difference.other:.{digits}f}",
        f"{difference.difference:+.{digits}f}",
        interval_text(difference.interval, digits),
        *p_values,
        detectable,
        "*" if difference.is_real else "",
    ]


def _without(column: int, cells: list[str]) -> list[str]:
    return cells[:column] + cells[column + 1 :]
