"""The results of an analysis as a page: their table, and figures by layer or by tokens.

The page is that of the comparison's reports: one HTML file that opens without a network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from momentum_gpt.analysis.heat_map import HeatMap, of_heads
from momentum_gpt.analysis.protocols import SEPARATOR, Measures
from momentum_gpt.analysis.summary import by_head, by_layer
from momentum_gpt.analysis.tables import (
    ALL_TASKS,
    Row,
    has_several_ways,
    notes_on,
    results_table,
    unit,
)
from momentum_gpt.comparison.report.drawn import student_quantiles
from momentum_gpt.comparison.report.page import render
from momentum_gpt.evaluation.statistics import Interval

Point = tuple[int, float, Interval]
"""Place on the horizontal axis, value, its 95% interval."""

Curves = dict[str, list[Point]]
"""Name of a line -> its points."""

BANDS = (
    "Bands are 95% intervals over queries, and over draws of the demonstrations if there are "
    "several."
)


def layers_page(
    title: str,
    rows: Sequence[Row],
    draws: Mapping[str, Sequence[Measures]],
    measured: str = "model",
) -> str:
    """Return a page with the results of one model, each measure layer by layer and head by head.

    Args:
        title: of the page.
        rows: of the table.
        draws: task -> what `protocols.measure` returns for each draw of the demonstrations.
        measured: the name of the line that is not a null.
    """
    figures: dict[str, Curves] = {}
    heads = []
    for task, of_task in draws.items():
        for name, values in of_task[0].items():
            if values.dim() < 2:
                continue
            of_draws = [one[name] for one in of_task]
            measure, _, null = name.partition(SEPARATOR)
            curves = figures.setdefault(f"{measure}, {task}", {})
            curves[null or measured] = _over_layers(of_draws)
            if values.dim() > 2 and not null:
                heads.append(of_heads(f"{measure}, {task}", by_head(of_draws), (-1.0, 1.0)))
    return _page(title, rows, figures, "layer", heads)


def tokens_page(title: str, rows: Sequence[Row]) -> str:
    """Return a page with several checkpoints and variants on one axis of tokens.

    Means over tasks come first. If there are several ways of finetuning, each has its own figures.

    Args:
        title: of the page.
        rows: of all checkpoints; each with its tokens.
    """
    several = has_several_ways(rows)
    figures: dict[str, Curves] = {}
    for row in sorted(rows, key=lambda row: row.task != ALL_TASKS):
        if row.tokens is None:
            continue
        of_way = f", {row.way}" if several and row.way else ""
        curves = figures.setdefault(f"{row.measure}, {row.task}{of_way}", {})
        found = row.finding
        _add(curves, row.variant, (row.tokens, found.value, found.interval))
        if row.null:
            nothing = math.nan, math.nan
            _add(curves, f"{row.variant}: {row.null}", (row.tokens, found.null, nothing))
    return _page(title, rows, figures, "tokens trained on")


def _over_layers(values: Sequence[Any]) -> list[Point]:
    """Return a point for each layer, from 1."""
    estimates = enumerate(by_layer(values), start=1)
    return [(layer, one.value, one.interval) for layer, one in estimates]


def _add(curves: Curves, name: str, point: Point) -> None:
    """Add a point to a line, once: a measure has a row for each of its nulls."""
    points = curves.setdefault(name, [])
    if all(at != point[0] for at, _, _ in points):
        points.append(point)
        points.sort()


def _page(
    title: str,
    rows: Sequence[Row],
    figures: Mapping[str, Curves],
    axis: str,
    heads: Sequence[HeatMap] = (),
) -> str:
    return render(
        "analysis.html.jinja",
        title=title,
        verdicts=(),
        caution=None,
        live=False,
        data=page_data(figures, axis),
        heads=heads,
        table=results_table(rows, "Results"),
        notes=notes_on(rows),
    )


def page_data(figures: Mapping[str, Curves], axis: str, note: str = BANDS) -> dict[str, Any]:
    """Return what the page draws: a line of the same name has the same colour in all figures.

    Args:
        figures: title -> its lines.
        axis: what the horizontal axis counts.
        note: what stands below each figure.
    """
    names = list(dict.fromkeys(name for curves in figures.values() for name in curves))
    drawn = []
    for number, (title, curves) in enumerate(figures.items()):
        series = []
        for name, points in curves.items():
            series.append({"run": names.index(name), "after": None, **_series(points)})
        drawn.append(
            {
                "id": str(number),
                "kind": "curve",
                "title": title,
                "unit": unit(title),
                "note": note,
                "series": series,
            }
        )
    return {
        "groups": [{"label": name} for name in names],
        "runs": [{"name": "", "group": number} for number in range(len(names))],
        "figures": drawn,
        "student": student_quantiles(1),
        "caution": None,
        "progress": axis,
    }


def _series(points: Sequence[Point]) -> dict[str, list[Any]]:
    """Return the points that are known; the ends of an interval that is not are None."""
    known = [point for point in points if not math.isnan(point[1])]
    places = [at for at, _, _ in known]
    values = [value for _, value, _ in known]
    low = [_if_known(interval[0]) for _, _, interval in known]
    high = [_if_known(interval[1]) for _, _, interval in known]
    return {"bin": places, "tokens": places, "y": values, "low": low, "high": high}


def _if_known(value: float) -> float | None:
    return None if math.isnan(value) else value
