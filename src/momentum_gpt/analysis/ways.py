"""Which way of finetuning in-context learning is most like, and whether models differ in that.

The first way is the one that all others are compared with: a gain is the likeness to another way
less that to the first. All ways have the same queries and demonstrations, so that a gain is taken
query by query and draw by draw. So is what a variant gains more than another.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from momentum_gpt.analysis.protocols import FINETUNED, SEPARATOR
from momentum_gpt.analysis.summary import Draws, finding, over_layers
from momentum_gpt.analysis.tables import Row, csv_text, table_of_used, unit
from momentum_gpt.analysis.units import WAYS, Measured
from momentum_gpt.comparison.table import Table
from momentum_gpt.evaluation.finding import (
    ABOVE,
    DISTANCES,
    ICL,
    NOT_ABOVE,
    WITHOUT_FINETUNING,
    ZERO_SHOT,
    Finding,
    adjusted_in_families,
)
from momentum_gpt.evaluation.tables import interval_text

ACCURACIES = (ZERO_SHOT, FINETUNED, ICL)
"""Measures that are no likeness."""

NO_GAIN = "no gain"
"""The null of a gain that stands as a row among the measures."""

UNRESOLVED = "no difference resolved"

DIGITS = 3

ADJUSTED = (
    "Verdicts are at 5%, adjusted by Holm's method for all rows of a measure and way; intervals "
    f"are not. Of {' and '.join(DISTANCES)}, less is closer."
)


@dataclass(frozen=True)
class Gain:
    """How much more ICL is like one way of finetuning than like the first way.

    Or, with `first_variant`, how much more one variant gains by that than another.
    """

    measure: str
    task: str
    variant: str
    """The attention variant, or the model."""
    tokens: int | None
    """Tokens that the checkpoint was trained on; None where it is not known."""
    way: str
    first: str
    """The first way."""
    demonstrations: int
    finding: Finding
    """Of the likeness to `way`; its null is that to the first way. Of variants: of their gains."""
    gaps: list[Tensor]
    """value - null for each (query, layer, ...) of each draw, NaN where undefined."""
    queries: tuple[int, ...]
    """All queries that were asked, by their rows in the test split."""
    first_variant: str = ""
    """The variant that this one is compared with."""

    @property
    def difference(self) -> float:
        """How much larger the measure is, which for a distance is less alike."""
        return self.finding.value - self.finding.null

    @property
    def verdict(self) -> str:
        """What the difference says, in plain words; "" where nothing is known."""
        told = self.finding.verdict
        if told in ("", NOT_ABOVE):
            return UNRESOLVED if told else ""
        is_more = (told == ABOVE) != (self.measure in DISTANCES)
        if self.first_variant:
            return f"{'larger' if is_more else 'smaller'} gain than {self.first_variant}"
        return f"{'closer' if is_more else 'less close'} to finetuning with {self.way}"


def rows_side_by_side(by_way: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Return the rows of one model and task, those of one measure in all ways together.

    Args:
        by_way: the rows of each way. What does not depend on it is taken from the first, and has
            no way.
    """
    found = []
    for number, (way, rows) in enumerate(by_way.items()):
        for row in rows:
            if row.measure not in WITHOUT_FINETUNING:
                found.append(replace(row, way=way))
            elif number == 0:
                found.append(row)
    measures = list(dict.fromkeys(row.measure for row in found))
    return sorted(found, key=lambda row: measures.index(row.measure))


def gains_of(
    by_way: Mapping[str, Sequence[Measured]], task: str, variant: str, tokens: int | None = None
) -> list[Gain]:
    """Return what ICL is more like than the first way, measure by measure; [] of a single way.

    Args:
        by_way: what was measured of one model and task with each way, draw by draw.
        task: its name.
        variant: the attention variant, or the model.
        tokens: what the checkpoint was trained on.
    """
    (first, of_first), *others = by_way.items()
    shown = of_first[0].facts["k"]
    found = []
    for measure in of_first[0].measures:
        if SEPARATOR in measure or measure in ACCURACIES:
            continue
        base = [draw.measures[measure] for draw in of_first]
        for way, draws in others:
            values = [draw.measures[measure] for draw in draws]
            told, gaps = _paired(values, base)
            asked = tuple(draws[0].facts["queries"])
            found.append(Gain(measure, task, variant, tokens, way, first, shown, told, gaps, asked))
    return found


def between_variants(gains: Sequence[Gain]) -> list[Gain]:
    """Return how much more each variant gains than the first one with as many tokens.

    Variants are compared where they were asked the same queries with the same demonstrations, and
    where both have the measure.
    """
    groups: dict[tuple[Any, ...], list[Gain]] = defaultdict(list)
    for gain in gains:
        asked = gain.demonstrations, len(gain.gaps), gain.queries
        groups[gain.measure, gain.task, gain.way, gain.tokens, asked].append(gain)

    found = []
    for first, *others in groups.values():
        base = _by_query(first.gaps)
        for gain in others:
            told, gaps = _paired(_by_query(gain.gaps), base)
            found.append(replace(gain, finding=told, gaps=gaps, first_variant=first.variant))
    return found


def row_of_gain(gain: Gain) -> Row:
    """Return a gain as a measure beside the null of no gain; above it, ICL is closer to the way."""
    found = gain.finding
    sign = -1 if gain.measure in DISTANCES else 1
    interval = sorted(sign * bound for bound in found.difference)
    difference = interval[0], interval[1]
    told = replace(
        found, value=sign * gain.difference, interval=difference, null=0.0, difference=difference
    )
    name = f"{gain.measure}, gain over {gain.first}"
    return Row(name, gain.task, NO_GAIN, told, gain.variant, gain.tokens, gain.way)


def with_adjusted_gains(gains: Sequence[Gain]) -> list[Gain]:
    """Return the rows of one table, with p-values adjusted for those of one measure and way."""
    return adjusted_in_families(gains, lambda gain: (gain.measure, gain.way))


def gains_table(gains: Sequence[Gain], title: str) -> Table:
    """Return the gains, or the differences between variants, for a terminal."""
    of_variants = bool(gains[0].first_variant)
    head = ["measure", "task", "variant", "first variant", "tokens", "finetuning"]
    head += ["gain", "first gain"] if of_variants else ["likeness", f"to {gains[0].first}"]
    head += ["difference", "95% interval", "unit", "verdict"]
    return table_of_used(title, head, [_cells(gain) for gain in gains])


def note_on_rates(found: Sequence[Mapping[str, Sequence[Measured]]], lr: float | None) -> str:
    """Return a sentence on the learning rates of the ways.

    Args:
        found: what was measured with each way, of each model and task.
        lr: the learning rate of all ways. None: each was chosen.
    """
    if lr is not None:
        longer = [
            f"with {way}, steps grow to {1 / (1 - WAYS[way].momentum):g} times that"
            for way in found[0]
            if WAYS[way].momentum
        ]
        return "; ".join([f"Learning rate {lr:g} for every way", *longer]) + "."

    rates: dict[str, list[float]] = defaultdict(list)
    for by_way in found:
        for way, draws in by_way.items():
            rates[way] += [draw.facts["lr"] for draw in draws]
    ranges = [f"{way} {_range(chosen)}" for way, chosen in rates.items()]
    return f"Learning rates, chosen for each model, task, draw and way: {', '.join(ranges)}."


def record_of(gain: Gain) -> dict[str, Any]:
    """Return a row as numbers and texts by name; None for what is not known."""
    found = gain.finding
    low, high = found.difference
    numbers = {
        "value": found.value,
        "first_value": found.null,
        "difference": gain.difference,
        "low": low,
        "high": high,
        "p_adjusted": found.p_value,
    }
    return {
        "measure": gain.measure,
        "task": gain.task,
        "variant": gain.variant,
        "first_variant": gain.first_variant,
        "tokens": gain.tokens,
        "finetuning": gain.way,
        "first_finetuning": gain.first,
        "unit": unit(gain.measure),
        **{name: None if math.isnan(value) else value for name, value in numbers.items()},
        "verdict": gain.verdict,
        "demonstrations": gain.demonstrations,
        "draws": found.draws,
        "queries": found.queries,
    }


def gains_csv(gains: Sequence[Gain]) -> str:
    """Return gains and differences between variants as CSV, with every digit.

    What is not known is empty.
    """
    return csv_text([record_of(gain) for gain in gains])


def _paired(values: Draws, base: Draws) -> tuple[Finding, list[Tensor]]:
    """Return values beside a base where both are defined, and their differences."""
    gaps = [value.float() - other.float() for value, other in zip(values, base, strict=True)]
    told = finding(
        [torch.where(gap.isnan(), math.nan, one) for one, gap in zip(values, gaps, strict=True)],
        [torch.where(gap.isnan(), math.nan, one) for one, gap in zip(base, gaps, strict=True)],
    )
    return told, gaps


def _by_query(values: Draws) -> list[Tensor]:
    """Return means over layers and heads, (Q,) in each draw: two models may have other ones."""
    return list(torch.from_numpy(over_layers(values)))


def _cells(gain: Gain) -> list[str]:
    found = gain.finding
    return [
        gain.measure,
        gain.task,
        gain.variant,
        gain.first_variant,
        "" if gain.tokens is None else f"{gain.tokens:,}",
        gain.way,
        _number(found.value),
        _number(found.null),
        _number(gain.difference, "+"),
        interval_text(found.difference, DIGITS),
        unit(gain.measure),
        gain.verdict,
    ]


def _range(rates: Sequence[float]) -> str:
    low, high = min(rates), max(rates)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _number(value: float, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.{DIGITS}f}"
