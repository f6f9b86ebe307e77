"""In-context learning beside finetuning, variant by variant: what `analyze` has left in runs.

Of each run the last checkpoint counts that was analysed. Only what was measured alike stands side
by side.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from momentum_gpt.comparison.analyses import Key, Setting, telling
from momentum_gpt.comparison.by_seed import variants
from momentum_gpt.comparison.runs import Run
from momentum_gpt.evaluation.finding import Finding, adjusted_in_families
from momentum_gpt.evaluation.statistics import over_seeds
from momentum_gpt.evaluation.tables import interval_text

CELLS = (
    "Values with their 95% intervals, over queries and draws of the demonstrations. Below each "
    "stands the null that it beats least, and whether it is above it: at 5%, adjusted by Holm's "
    "method for all numbers of these tables with the same measure and null."
)
SEEDS = (
    "Where a variant has several seeds, a value is their mean, and its interval and its verdict "
    "are over seeds (Student's t)."
)
ONE_DRAW = (
    "With draws=1, intervals are over the queries alone, and say nothing of other demonstrations."
)

OfVariants = dict[str, list[dict[Key, Finding]]]
"""Variant -> what was found in each of its seeds that was analysed."""


@dataclass(frozen=True)
class Cell:
    """What was found of a variant's measure, beside one null."""

    setting: Setting
    variant: str
    measure: str
    unit: str
    null: str
    """The name of the null; "" without one."""
    finding: Finding

    @property
    def value(self) -> str:
        """The value with its interval."""
        found = self.finding
        return f"{self._number(found.value)} {interval_text(found.interval, self._digits)}"

    @property
    def beside(self) -> str:
        """The null with its value and the verdict; "" without a null."""
        if not self.null:
            return ""
        return f"{self.null} {self._number(self.finding.null)}: {self.finding.verdict}"

    @property
    def _digits(self) -> int:
        return 1 if self.unit == "%" else 3

    def _number(self, value: float) -> str:
        return "-" if math.isnan(value) else f"{value:.{self._digits}f}"


@dataclass(frozen=True)
class TaskTable:
    """The measures of one task, measured alike for all its variants."""

    title: str
    head: list[tuple[str, int]]
    """Each variant, and how many of its seeds were analysed."""
    rows: dict[tuple[str, str], list[Cell | None]]
    """Measure and unit -> a cell for each variant; None where the variant has no such measure."""


@dataclass(frozen=True)
class Section:
    """The part of a report on the analyses of its runs."""

    tables: list[TaskTable]
    notes: list[str]


def analysed(runs: Sequence[Run]) -> Section | None:
    """Return the section on the analyses of some runs; None if no run was analysed.

    Raises:
        UserError: a line in a run's folder lacks an entry.
    """
    of_variants = variants(runs) if runs else {}
    found: dict[Setting, OfVariants] = {}
    for name, of_seeds in of_variants.items():
        for run in of_seeds.values():
            for setting, findings in run.last_analysis.items():
                found.setdefault(setting, {}).setdefault(name, []).append(findings)
    if not found:
        return None

    shared = [setting for setting in found if _is_shared(setting, found)]
    cells = _cells({setting: found[setting] for setting in shared})
    cells = adjusted_in_families(cells, lambda cell: (cell.measure, cell.null))
    hardest = _hardest(cells)
    tables = [_table(setting, shared, found[setting], hardest) for setting in shared]
    return Section(tables, _notes(found, shared, list(of_variants)))


def over_runs(findings: Sequence[Finding], unit: str) -> Finding:
    """Return what training seeds of one variant say together of a measure and its null.

    Args:
        findings: one for each seed; that of a single seed stays as it is.
        unit: of the measure; percentages end at 0 and 100.
    """
    if len(findings) == 1:
        return findings[0]
    values = np.array([one.value for one in findings])  # (seeds,)
    nulls = np.array([one.null for one in findings])
    estimate, gap = over_seeds(values), over_seeds(values - nulls)
    interval = estimate.interval
    if unit == "%":
        interval = max(interval[0], 0.0), min(interval[1], 100.0)
    return Finding(
        value=estimate.value,
        interval=interval,
        null=float(nulls.mean()),
        difference=gap.interval,
        p_value=gap.p_value,
        draws=min(one.draws for one in findings),
        queries=min(one.queries for one in findings),
        is_distance=findings[0].is_distance,
    )


def _is_shared(setting: Setting, found: Mapping[Setting, OfVariants]) -> bool:
    """Return whether all variants that were analysed on a task were analysed in this setting."""
    of_task: set[str] = set()
    for other in _of_task(setting, found):
        of_task |= found[other].keys()
    return found[setting].keys() == of_task


def _of_task(setting: Setting, settings: Iterable[Setting]) -> list[Setting]:
    """Return the settings with the same task."""
    return [other for other in settings if other[0] == setting[0]]


def _cells(found: Mapping[Setting, OfVariants]) -> list[Cell]:
    cells = []
    for setting, of_variants in found.items():
        for variant, of_seeds in of_variants.items():
            for key in of_seeds[0]:
                measure, unit, null = key
                one = over_runs([findings[key] for findings in of_seeds if key in findings], unit)
                cells.append(Cell(setting, variant, measure, unit, null, one))
    return cells


def _hardest(cells: Sequence[Cell]) -> dict[tuple[Setting, str, str], Cell]:
    """Return, by setting, variant and measure, the cell of the null that is beaten least."""
    found: dict[tuple[Setting, str, str], Cell] = {}
    for cell in cells:
        key = cell.setting, cell.variant, cell.measure
        if key not in found or cell.finding.ease < found[key].finding.ease:
            found[key] = cell
    return found


def _table(
    setting: Setting,
    shared: Sequence[Setting],
    of_variants: OfVariants,
    cells: Mapping[tuple[Setting, str, str], Cell],
) -> TaskTable:
    rows = {}
    for measure, unit in _measures(of_variants):
        rows[measure, unit] = [cells.get((setting, name, measure)) for name in of_variants]
    head = [(name, len(of_seeds)) for name, of_seeds in of_variants.items()]
    options = telling(setting, _of_task(setting, shared))
    return TaskTable(", ".join([setting[0][1], *options]), head, rows)


def _measures(of_variants: OfVariants) -> list[tuple[str, str]]:
    """Return the measures that any variant has, with their units, in their order."""
    found: dict[tuple[str, str], None] = {}
    for of_seeds in of_variants.values():
        found |= dict.fromkeys((measure, unit) for measure, unit, _ in of_seeds[0])
    return list(found)


def _notes(
    found: Mapping[Setting, OfVariants], shared: Sequence[Setting], names: Sequence[str]
) -> list[str]:
    """Return what is to be known of the tables, and what is in none of them."""
    notes = []
    if shared:
        notes.append(CELLS)
        if any(len(of_seeds) > 1 for one in shared for of_seeds in found[one].values()):
            notes.append(SEEDS)
        if any(("draws", "1") in setting for setting in shared):
            notes.append(ONE_DRAW)
        differing = telling(shared[0], shared)
        same = [option for option in map("=".join, shared[0]) if option not in differing]
        notes.append(f"Measured with {', '.join(same)}.")
    notes += _apart(found)
    analysed_ones = {name for of_variants in found.values() for name in of_variants}
    missing = [name for name in names if name not in analysed_ones]
    if missing:
        notes.append(f"Not analysed: {', '.join(missing)}.")
    return notes


def _apart(found: Mapping[Setting, OfVariants]) -> list[str]:
    """Return a sentence on each task of which something is not shown."""
    parts: dict[str, list[str]] = defaultdict(list)
    for setting, of_variants in found.items():
        if not _is_shared(setting, found):
            options = ", ".join(telling(setting, _of_task(setting, found)))
            parts[setting[0][1]].append(f"{options} ({', '.join(of_variants)})")
    return [
        f"Not side by side, as not measured alike: {task} with {' and '.join(of_task)}."
        for task, of_task in parts.items()
    ]
