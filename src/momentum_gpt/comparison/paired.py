"""The difference between two sides that are compared pair by pair: one record, one table.

What is paired decides what the difference says. Documents and queries (`by_document.py`,
`by_query.py`) tell one trained model from another; training seeds (`by_seed.py`) tell one variant
from another.
"""

from __future__ import annotations

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
        # Comparisons with nan are False: without an interval, nothing is real.
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
    head: list[str] = []
    rows = []
    for difference in differences:
        cells = _cells(difference, first, other)

        # The head is the same for all rows: they are of the same kind.
        head = [name for name, _ in cells]
        rows.append([text for _, text in cells])
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


def _cells(difference: PairedDifference, first: str, other: str) -> list[tuple[str, str]]:
    """Return the title of each column and the text of its cell.

    A list of pairs instead of a dict: two runs may have the same name.
    """
    # The columns follow the reading: what, on how much, the values, how sure.
    digits = difference.digits
    cells = [
        ("measure", difference.measure),
        ("unit", difference.unit),
        (COUNTED[difference.paired_by], f"{difference.pairs:,}"),
    ]
    if difference.sample:
        cells.append(("sample", difference.sample))

    cells += [
        (first, f"{difference.first:.{digits}f}"),
        (other, f"{difference.other:.{digits}f}"),
        ("difference", f"{difference.difference:+.{digits}f}"),
        ("95% interval", interval_text(difference.interval, digits)),
        *_test_cells(difference),
    ]

    # Without any spread, nothing is known about what would be found.
    is_known = difference.detectable > 0
    cells.append(("detectable", f"{difference.detectable:.{digits}f}" if is_known else "-"))
    cells.append(("", "*" if difference.is_real else ""))
    return cells


def _test_cells(difference: PairedDifference) -> list[tuple[str, str]]:
    cells = []
    for number, (name, p_value) in enumerate(difference.p_values.items()):
        cells.append((f"{name} p", f"{p_value:.3f}"))

        # Next to the first test, whose p-value it adjusts.
        if number == 0 and difference.p_holm is not None:
            cells.append(("Holm p", f"{difference.p_holm:.3f}"))
    return cells
