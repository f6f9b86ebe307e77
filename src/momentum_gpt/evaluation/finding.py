"""A number beside what it would be if it meant nothing: its null.

The command `analyze` finds such numbers, and `compare` reads them back.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from momentum_gpt.evaluation.statistics import LEVEL, Interval, holm

ABOVE = "above its null"
NOT_ABOVE = "not above its null"
BELOW = "below its null"
NOT_BELOW = "not below its null"

ZERO_SHOT = "accuracy, zero-shot"
ICL = "accuracy, ICL"
ICL_ORDERS = "order sensitivity, ICL"

WITHOUT_FINETUNING = (ZERO_SHOT, ICL, ICL_ORDERS)
"""Measures that are the same whatever the way of finetuning."""

TOTAL_VARIATION = "total variation"
DIVERGENCE = "KL divergence"

DISTANCES = (TOTAL_VARIATION, DIVERGENCE)
"""Measures that are smaller the more alike two models answer."""


@dataclass(frozen=True)
class Finding:
    """A number beside what it would be without likeness."""

    value: float
    interval: Interval
    """95% interval of `value`; (nan, nan) where there is too little data for one."""
    null: float
    """nan where there is none."""
    difference: Interval
    """95% interval of value - null, over pairs of the same query and draw, or of the same seed."""
    p_value: float
    """Two-sided, of a difference of 0; nan without a null."""
    draws: int
    """Draws of the demonstrations. With a single one the intervals are over queries alone."""
    queries: int
    """Queries where the number is defined, in the mean over the draws, rounded."""
    is_distance: bool = False
    """Whether less is more alike, see `DISTANCES`."""

    @property
    def verdict(self) -> str:
        """Whether the number is above its null, in plain words; "" without a null.

        For a distance: whether it is below.
        """
        if math.isnan(self.p_value):
            return ""
        if self.p_value >= LEVEL:
            return NOT_BELOW if self.is_distance else NOT_ABOVE
        return ABOVE if sum(self.difference) > 0 else BELOW

    @property
    def is_alike(self) -> bool:
        """Whether the verdict speaks for likeness."""
        return self.verdict == (BELOW if self.is_distance else ABOVE)

    @property
    def ease(self) -> tuple[bool, float]:
        """How easily the null is beaten: of several nulls of one number, the least is the hardest.

        That is a null that the number is not above, if there is one, and else the highest one. For
        a distance, it is one that the number is not below, and else the lowest one.
        """
        if math.isnan(self.null):
            return self.is_alike, -math.inf
        return self.is_alike, self.null if self.is_distance else -self.null


def adjusted_in_families(rows: Sequence[Any], family: Callable[[Any], Hashable]) -> list[Any]:
    """Return rows with p-values adjusted for those of the same family, in the same order.

    Args:
        rows: dataclasses with a Finding under the name `finding`.
        family: tells which rows belong together.
    """
    places: dict[Hashable, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[family(row)].append(place)

    found = list(rows)
    for of_family in places.values():
        findings = adjusted([rows[place].finding for place in of_family])
        for place, one in zip(of_family, findings, strict=True):
            found[place] = replace(rows[place], finding=one)
    return found


def adjusted(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings with p-values adjusted for their number by Holm's method.

    Findings without a p-value stay as they are.
    """
    p_values = [one.p_value for one in findings if not math.isnan(one.p_value)]
    found = iter(holm(p_values))
    return [
        one if math.isnan(one.p_value) else replace(one, p_value=next(found)) for one in findings
    ]
