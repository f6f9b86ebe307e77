"""The results of an analysis as rows: for the terminal, as CSV and as LaTeX, beside the paper's.

`page.py` draws them.
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from momentum_gpt.analysis.nulls import partners
from momentum_gpt.analysis.protocols import (
    BASE_RATE,
    FINETUNED,
    MISMATCHED,
    PARTNER_SEED,
    REC2FTP,
    SEPARATOR,
    UNTRAINED,
    Measures,
    against,
)
from momentum_gpt.analysis.published import MODELS, published
from momentum_gpt.analysis.similarity import Recall, order_sensitivity
from momentum_gpt.analysis.summary import (
    finding,
    finding_over_tasks,
    in_percent,
    recall_finding,
)
from momentum_gpt.comparison.table import Table
from momentum_gpt.evaluation.finding import (
    DISTANCES,
    ICL,
    ICL_ORDERS,
    ZERO_SHOT,
    Finding,
    adjusted_in_families,
)
from momentum_gpt.evaluation.statistics import FEW_DRAWS, over_seeds
from momentum_gpt.evaluation.tables import interval_text

ALL_TASKS = "all tasks"
"""The task of a row that is the mean over tasks."""

IN_PERCENT = (ZERO_SHOT, FINETUNED, ICL, REC2FTP)
"""Measures of which the paper states percentages."""

UNITS = {
    "accuracy": "%",
    "Rec2FTP": "%",
    "SimAOU": "cosine",
    "SimAM of changes": "correlation",
    "SimAM": "cosine",
    "Kendall": "tau",
    "KL": "nats",
}
"""Unit by the beginning of a measure's name; the first that fits counts, others are shares."""

FINETUNED_ORDERS = "order sensitivity, finetuned"

ONE_SEED = (
    "Each model is one training run: what tells two of them apart need not hold for other seeds. "
    "Analyse several seeds of each variant, and `compare` them."
)

ADJUSTED = (
    "Verdicts are at 5%, adjusted by Holm's method for the rows with the same measure and null; "
    "means over all tasks are apart."
)
FEW = (
    f"Fewer than {FEW_DRAWS} draws of the demonstrations: their spread is known only roughly, and "
    "intervals are wide."
)
ONE_DRAW = (
    "One draw of the demonstrations: intervals are over queries alone, and say nothing of other "
    "demonstrations."
)

_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_SPECIAL |= {letter: f"\\{letter}" for letter in "&%$#_{}"}


@dataclass(frozen=True)
class Row:
    """One measure of one task beside one null."""

    measure: str
    task: str
    null: str
    """The name of the null; "" without one."""
    finding: Finding
    """Its p-value is adjusted for the rows of the same table with the same measure and null."""
    variant: str = ""
    """The attention variant, or the model."""
    tokens: int | None = None
    """Tokens that the checkpoint was trained on; None where it is not known."""
    way: str = ""
    """How it was finetuned, a key of `units.WAYS`; "" where that changes nothing."""

    @property
    def digits(self) -> int:
        """Digits after the decimal point."""
        return 1 if unit(self.measure) == "%" else 3

    def of_paper(self, model: str) -> str:
        """Return the value of the paper, with that of its null if this row's is the same one."""
        value = published(model, self.measure, self.task)
        if value is None:
            return ""
        digits = 2 if self.measure == REC2FTP else self.digits
        null = published(model, against(self.measure, self.null), self.task)
        beside = "" if null is None else f" ({null:.{digits}f})"
        return f"{value:.{digits}f}{beside}"


def unit(measure: str) -> str:
    """Return the unit of a measure."""
    return next((name for start, name in UNITS.items() if measure.startswith(start)), "share")


def rows_of(
    draws: Sequence[Measures], task: str, variant: str = "", tokens: int | None = None
) -> list[Row]:
    """Return a row for each measure and null of one task and one model.

    Args:
        draws: what `protocols.measure` returns for each draw of the demonstrations.
        task: its name.
        variant: the attention variant, or the model.
        tokens: what the checkpoint was trained on.
    """
    found = []
    for name in _measures(draws[0]):
        nulls = _nulls(draws[0], name)
        for null in nulls or [""]:
            found.append(Row(name, task, null, _finding(draws, name, null), variant, tokens))
    zero_shot = [of_draw[ZERO_SHOT] for of_draw in draws]
    icl = [of_draw[ICL] for of_draw in draws]
    finetuned = [of_draw[FINETUNED] for of_draw in draws]
    shares = recall_finding(zero_shot, icl, finetuned)
    recall = Row(REC2FTP, task, BASE_RATE, shares, variant, tokens)
    place = sum(row.measure in IN_PERCENT for row in found)  # after the accuracies
    return [*found[:place], recall, *found[place:]]


def order_rows(
    facts: Sequence[dict[str, Any]], task: str, variant: str = "", tokens: int | None = None
) -> list[Row]:
    """Return how much the order of the demonstrations matters to ICL and to finetuning.

    Args:
        facts: of each draw, with the accuracies in several orders; the interval is over draws.
        task, variant, tokens: as in `rows_of`.
    """
    found = []
    unknown = math.nan, math.nan
    for name, key in ((ICL_ORDERS, "icl_orders"), (FINETUNED_ORDERS, "finetuned_orders")):
        accuracies = [one[key] for one in facts]
        if min(map(len, accuracies)) < 2:
            continue
        spread = over_seeds(np.array([order_sensitivity(of_draw) for of_draw in accuracies]))
        one = Finding(spread.value, spread.interval, math.nan, unknown, math.nan, len(facts), 0)
        found.append(Row(name, task, "", one, variant, tokens))
    return found


def rows_over_tasks(
    tasks: Sequence[Sequence[Measures]], variant: str = "", tokens: int | None = None
) -> list[Row]:
    """Return a row for each measure and null: the mean over tasks, each of which counts the same.

    Rec2FTP has none: its shares are of few queries in some tasks, and of none in others.

    Args:
        tasks: the draws of each task, as in `rows_of`.
        variant, tokens: as in `rows_of`.
    """
    first = tasks[0][0]
    found = []
    for name in _measures(first):
        for null in _nulls(first, name) or [""]:
            mean = _finding_over_tasks(tasks, name, null)
            found.append(Row(name, ALL_TASKS, null, mean, variant, tokens))
    return found


def hardest(rows: Sequence[Row]) -> list[Row]:
    """Return one row for each measure, task, model and way: that of the null it beats least.

    See `Finding.ease`.
    """
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.measure, row.task, row.variant, row.tokens, row.way].append(row)
    return [min(group, key=lambda row: row.finding.ease) for group in groups.values()]


def with_adjusted_verdicts(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of one table, with p-values adjusted for those of one measure and null.

    Means over tasks are apart from single tasks.
    """
    return adjusted_in_families(rows, lambda row: (row.measure, row.null, row.task == ALL_TASKS))


def has_several_ways(rows: Sequence[Row]) -> bool:
    """Return whether the rows are of more than one way of finetuning."""
    return len({row.way for row in rows if row.way}) > 1


def results_table(rows: Sequence[Row], title: str) -> Table:
    """Return the rows for a terminal or a page; columns that say nothing are left out."""
    several = has_several_ways(rows)
    head = [
        "measure",
        "task",
        "variant",
        "tokens",
        "finetuning",
        "value",
        "95% interval",
        "unit",
        "null value",
        "null",
    ]
    head += ["verdict", *(f"paper {model}" for model in MODELS)]
    cells = [_cells(row if several else replace(row, way="")) for row in rows]
    return table_of_used(title, head, cells)


def table_of_used(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of the columns that have a text in some row."""
    is_used = [any(column) for column in zip(*rows, strict=True)]
    return Table(title, _chosen(head, is_used), [_chosen(of_row, is_used) for of_row in rows])


def notes_on(rows: Sequence[Row]) -> list[str]:
    """Return sentences that belong below a table of the rows."""
    draws = {row.finding.draws for row in rows}
    notes = [ADJUSTED]
    if 1 in draws:
        notes.append(ONE_DRAW)
    if any(1 < number < FEW_DRAWS for number in draws):
        notes.append(FEW)
    if len({row.variant for row in rows}) > 1:
        notes.append(ONE_SEED)
    return notes


def recall_text(counts: Recall) -> str:
    """Return a sentence with the counts behind Rec2FTP in one draw, and their odds ratio."""
    put_right = counts.both + counts.only_finetuned
    left_wrong = counts.only_icl + counts.neither
    low, high = counts.odds_interval
    ratio = ""
    if not math.isnan(counts.odds_ratio):
        ratio = f"; odds ratio {counts.odds_ratio:.2f} [{low:.2f}, {high:.2f}], over queries"
    return (
        f"Of the queries that are wrong without demonstrations, ICL answers {counts.both} of "
        f"{put_right} right that finetuning puts right, and {counts.only_icl} of {left_wrong} that "
        f"it leaves wrong{ratio}."
    )


def record_of(row: Row) -> dict[str, Any]:
    """Return a row as numbers and texts by name; None for what is not known."""
    found = row.finding
    low, high = found.interval
    gap_low, gap_high = found.difference
    numbers = {
        "value": found.value,
        "low": low,
        "high": high,
        "null_value": found.null,
        "difference_low": gap_low,
        "difference_high": gap_high,
        "p_adjusted": found.p_value,
    }
    known = {name: None if math.isnan(value) else value for name, value in numbers.items()}
    of_paper = {f"paper_{model}": published(model, row.measure, row.task) for model in MODELS}
    return {
        "measure": row.measure,
        "task": row.task,
        "variant": row.variant,
        "tokens": row.tokens,
        "finetuning": row.way,
        "unit": unit(row.measure),
        "null": row.null,
        **known,
        "verdict": found.verdict,
        "draws": found.draws,
        "queries": found.queries,
        **of_paper,
    }


def results_csv(rows: Sequence[Row]) -> str:
    """Return the rows as CSV, with every digit; what is not known is empty."""
    return csv_text([record_of(row) for row in rows])


def csv_text(records: Sequence[dict[str, Any]]) -> str:
    """Return records as CSV; None is empty, and so is a name that a record lacks."""
    names: dict[str, None] = {}
    for record in records:
        names |= dict.fromkeys(record)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def results_latex(rows: Sequence[Row], caption: str) -> str:
    """Return a table for LaTeX with the package booktabs.

    Measures are apart by a line, and a value that is above its null, or a distance that is
    below it, is bold.
    """
    table = results_table(rows, caption)
    value = table.head.index("value")
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_escaped(caption)}}}",
        rf"  \begin{{tabular}}{{ll{'r' * (len(table.head) - 2)}}}",
        r"    \toprule",
        _latex_row(map(_escaped, table.head)),
        r"    \midrule",
    ]
    for number, (row, cells) in enumerate(zip(rows, table.rows, strict=True)):
        if number and row.measure != rows[number - 1].measure:
            lines.append(r"    \addlinespace")
        shown = [_escaped(cell) for cell in cells]
        if row.finding.is_alike:
            shown[value] = rf"\textbf{{{shown[value]}}}"
        lines.append(_latex_row(shown))
    lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _measures(measures: Measures) -> list[str]:
    return [name for name in measures if SEPARATOR not in name]


def _nulls(measures: Measures, name: str) -> list[str]:
    """Return the names of a measure's nulls."""
    start = f"{name}{SEPARATOR}"
    found = [key.removeprefix(start) for key in measures if key.startswith(start)]
    # An untrained model answers nearly the same to everything: it has no distance to compare with.
    return [null for null in found if not (name in DISTANCES and null == UNTRAINED)]


def _finding(draws: Sequence[Measures], name: str, null: str) -> Finding:
    """Return the finding on a measure; accuracies in percent."""
    values = _scaled(draws, name, name)
    nulls = _scaled(draws, name, against(name, null)) if null else None
    partner = partners(len(values[0]), PARTNER_SEED) if null == MISMATCHED else None
    return _bounded(finding(values, nulls, partner), name)


def _finding_over_tasks(tasks: Sequence[Sequence[Measures]], name: str, null: str) -> Finding:
    """Return the finding on the mean of a measure over tasks; accuracies in percent."""
    values = [_scaled(draws, name, name) for draws in tasks]
    nulls = [_scaled(draws, name, against(name, null)) for draws in tasks] if null else None
    of_tasks = None
    if null == MISMATCHED:
        of_tasks = [partners(len(draws[0]), PARTNER_SEED) for draws in values]
    return _bounded(finding_over_tasks(values, nulls, of_tasks), name)


def _scaled(draws: Sequence[Measures], name: str, key: str) -> list[Tensor]:
    """Return what stands under a key in each draw, in the unit of the measure."""
    factor = 100 if name in IN_PERCENT else 1
    return [factor * of_draw[key] for of_draw in draws]


def _bounded(found: Finding, name: str) -> Finding:
    """Return a finding whose interval keeps to what the measure can be."""
    if name not in IN_PERCENT:
        return replace(found, is_distance=name in DISTANCES)
    return replace(found, interval=in_percent(found.interval))


def _cells(row: Row) -> list[str]:
    found = row.finding
    return [
        row.measure,
        row.task,
        row.variant,
        "" if row.tokens is None else f"{row.tokens:,}",
        row.way,
        _number(found.value, row.digits),
        interval_text(found.interval, row.digits),
        unit(row.measure),
        _number(found.null, row.digits) if row.null else "",
        row.null,
        found.verdict,
        *(row.of_paper(model) for model in MODELS),
    ]


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _chosen(cells: Sequence[str], is_used: Sequence[bool]) -> list[str]:
    return [cell for cell, used in zip(cells, is_used, strict=True) if used]


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


def _latex_row(cells: Any) -> str:
    return f"    {' & '.join(cells)} \\\\"
