"""The difference between two sides that are compared pair by pair: one record, one table.

What is paired decides what the difference says. Documents and queries (`by_document.py`,
`by_query.py`) tell one trained model from another; training seeds (`by_seed.py`) tell one variant
from another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from momentum_gpt.comparison.table import Table, interval_text
from momentum_gpt.evaluation.statistics import LEVEL, holm

FEW_DOCUMENTS = 30
"""With fewer documents, a note says so."""

EQUAL_COST = ("@flops", "@seconds")
"""What the measures of `by_cost.py` end with."""

HOLM = (
    "Holm p: the first test's p-value, adjusted for all rows of one kind, such as losses, losses "
    "by position, or few-shot tasks."
)

COUNTED = {"document": "documents", "query": "queries", "training seed": "seeds"}
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
    p_values: dict[str, float]
    """Name of each test -> its two-sided p-value, nan where there is none; the first one counts."""
    p_holm: float | None = None
    """The p-value of the first test, adjusted by Holm's method; None before `with_holm`."""
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
        """Whether the adjusted p-value is small enough: the one rule of the star."""
        return self.p_holm is not None and self.p_holm < LEVEL


@dataclass(frozen=True)
class Comparison:
    """The differences between two sides, all paired by the same."""

    title: str
    first: str
    """Name of the side that the other is compared with."""
    other: str
    """Name of the other side."""
    differences: list[PairedDifference]
    """One or more."""
    basis: str = ""
    """What the numbers rest on, where it is not usual: "mean of the last 3 evaluations"."""
    remarks: Sequence[str] = ()
    """Sentences on this comparison that a reader of the table has to know."""

    def table(self) -> Table:
        """Return a row for each difference."""
        head: list[str] = []
        rows = []
        for difference in self.differences:
            cells = _cells(difference, self.first, self.other)

            # The head is the same for all rows: they are of the same kind.
            head = [name for name, _ in cells]
            rows.append([text for _, text in cells])
        title = f"{self.title}, {self.basis}" if self.basis else self.title
        return Table(title, head, rows)


def with_holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons with p-values that are adjusted for all of their rows together."""
    p_values = []
    for comparison in comparisons:
        for row in comparison.differences:
            p_values.append(next(iter(row.p_values.values())))

    adjusted = iter(holm(p_values))
    found = []
    for comparison in comparisons:
        rows = [replace(row, p_holm=next(adjusted)) for row in comparison.differences]
        found.append(replace(comparison, differences=rows))
    return found


def notes(comparisons: Sequence[Comparison]) -> list[str]:
    """Return what a reader of the tables has to know; [] if there are none."""
    if not comparisons:
        return []

    found = [
        "detectable: the true difference that this many pairs would find four times out of five.",
        HOLM,
        f"*: the Holm p is below {LEVEL}.",
    ]
    rows = [row for comparison in comparisons for row in comparison.differences]
    if any("anytime" in row.p_values for row in rows):
        found.append(
            "anytime p: holds whenever one looks, also after each seed; the others hold for a "
            "number of seeds that was chosen beforehand."
        )
    documents = [row.pairs for row in rows if row.paired_by == "document"]
    if documents and min(documents) < FEW_DOCUMENTS:
        found.append(
            f"Only {min(documents)} documents, which may not be like others: evaluation.tokens "
            "takes more of the validation split, and `prepare` puts more into it with "
            "validation_fraction."
        )
    if any(row.sample == "1 draw" for row in rows):
        found.append(
            "1 draw: the interval is over queries alone and says nothing of other demonstrations "
            "(evaluation.icl.seeds)."
        )
    if any(row.measure.endswith(EQUAL_COST) for row in rows):
        found.append(
            "@flops, @seconds: both runs of a pair where the cheaper one ends, with the other read "
            "off its curve, which has not decayed yet; seconds count only on a machine that did "
            "nothing else."
        )
    remarks = [remark for comparison in comparisons for remark in comparison.remarks]
    return [*found, *dict.fromkeys(remarks)]


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
        cells.append((f"{name} p", _p_text(p_value)))

        # Next to the first test, whose p-value it adjusts.
        if number == 0 and difference.p_holm is not None:
            cells.append(("Holm p", _p_text(difference.p_holm)))
    return cells


def _p_text(p_value: float) -> str:
    """Return a p-value as text, never as 0; "-" where a test is not for this measure."""
    if math.isnan(p_value):
        return "-"
    return f"{p_value:.3f}" if p_value >= 0.001 else "<0.001"
