"""Interventions on recall models as a page: by layer and head, and over training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from momentum_gpt.analysis.heat_map import HeatMap, cell_of
from momentum_gpt.analysis.intervention import PARTS, Place
from momentum_gpt.analysis.intervention_results import MEASURES, Row, cell_text, results_table
from momentum_gpt.analysis.page import Curves, Point, page_data
from momentum_gpt.comparison.report.page import render
from momentum_gpt.evaluation.statistics import Estimate, Interval

EFFECTS = {
    "without": "Accuracy without it",
    "twin's": "Answers that follow the twin",
    "unrelated": "Accuracy with an unrelated one",
}
"""The measures that have a heat map for each part, and its title."""

HIGHEST = 1.02
"""Top of the figures over training: a line at 1 is not cut."""


def interventions_page(variant: str, rows: Sequence[Row], units: str) -> str:
    """Return the page: figures over training, heat maps and a table of the last checkpoint.

    Args:
        variant: the attention of the runs, such as "momentum 0.5".
        rows: of all steps, in the order of `rows_of`.
        units: what intervals are over, such as "3 runs".
    """
    last = max(row.step for row in rows)
    of_last = [row for row in rows if row.step == last]
    parts = parts_of_rows(rows)
    names = {"softmax": "The softmax part", "added": f"What {variant} adds"}
    return render(
        "intervention.html.jinja",
        title=f"{variant}: what recall depends on",
        verdicts=(),
        caution=None,
        live=False,
        data=interventions_data(rows, units),
        parts=[(names[part], heat_maps(of_last, part)) for part in parts],
        step=last,
        accuracy=cell_text(of_last[0].estimates["without"]),
        table=results_table(of_last, f"All parts, at step {last:,}"),
        legend=MEASURES | ({"added": names["added"].lower()} if "added" in parts else {}),
        units=units,
    )


def parts_of_rows(rows: Sequence[Row]) -> list[str]:
    """Return the parts that the models have: vanilla attention adds nothing."""
    known = {row.place.part for row in rows if row.place}
    return [part for part in PARTS if part in known]


def heat_maps(rows: Sequence[Row], part: str) -> list[HeatMap]:
    """Return a heat map for each of EFFECTS.

    Args:
        rows: of one step.
        part: one of PARTS.
    """
    of_part = {row.place: row.estimates for row in rows if row.place and row.place.part == part}
    layers = _numbers([place.layer for place in of_part])
    heads = _numbers([place.head for place in of_part])
    found = []
    for effect, title in EFFECTS.items():
        cells = {place: cell_of(estimates[effect]) for place, estimates in of_part.items()}
        by_layer = []
        for layer in layers:
            in_layer = [cells.get(Place(layer, head, part)) for head in heads]
            by_layer.append((_name("layer", layer), in_layer))
        found.append(HeatMap(title, [_name("head", head) for head in heads], by_layer))
    return found


def interventions_data(rows: Sequence[Row], units: str) -> dict[str, Any]:
    """Return what the page draws over training; without figures if there is one step."""
    steps = {row.step for row in rows}
    figures = over_training(rows) if len(steps) > 1 else {}
    data = page_data(figures, "steps", f"Bands are 95% intervals over {units}.")
    for figure in data["figures"]:
        figure["range"] = [0, HIGHEST]
    return data


def over_training(rows: Sequence[Row]) -> dict[str, Curves]:
    """Return the lines of each figure: parts in all layers at once, and heads that look back."""
    without: Curves = {"as it is": _points(rows, None, "without")}
    followed: Curves = {}
    for part in parts_of_rows(rows):
        everywhere = Place(None, None, part)
        without[part] = _points(rows, everywhere, "without")
        followed[part] = _points(rows, everywhere, "twin's")

    previous: Curves = {}
    for layer in _numbers([row.place.layer for row in rows if row.place]):
        if layer is not None:  # head 0 is the one that looks there most
            previous[f"layer {layer}"] = _points(rows, Place(layer, 0, "softmax"), "previous")
    return {
        "Accuracy without a part, in all layers": without,
        "Answers that follow the twin, through a part in all layers": followed,
        "Weight of the token before, in the head with the largest": previous,
    }


def _points(rows: Sequence[Row], place: Place | None, measure: str) -> list[Point]:
    """Return a point for each step."""
    estimates = [(row.step, row.estimates[measure]) for row in rows if row.place == place]
    return [(step, one.value, _within(one)) for step, one in estimates]


def _within(estimate: Estimate) -> Interval:
    """Return the interval of a share, which is nowhere below 0 or above 1."""
    low, high = estimate.interval
    return max(0.0, low), min(1.0, high)


def _numbers(found: Sequence[int | None]) -> list[int | None]:
    """Return the different numbers in their order, and None, which is all of them, last."""
    known = sorted({number for number in found if number is not None})
    return [*known, None]


def _name(kind: str, number: int | None) -> str:
    return f"all {kind}s" if number is None else f"{kind} {number}"
