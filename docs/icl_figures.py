"""Draw the figures of likeness over training in docs/icl-results.md as SVG files.

    python docs/icl_figures.py    # into docs/figures/

They show the numbers of docs/reports/icl-results.csv and icl-control-training.csv, from the
results.csv of `analyze`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from figures import BLUE, FIGURES, GREY, INK, ORANGE, Axes, Drawing, Point

from momentum_gpt.evaluation.statistics import over_seeds

RESULTS = FIGURES.parent / "reports" / "icl-results.csv"

CONTROL = FIGURES.parent / "reports" / "icl-control-training.csv"
"""Of the models that learn in context, several seeds."""

MEASURES = (
    "SimAOU",
    "SimAOU, centred",
    "SimAOU, without scaling",
    "SimAM of changes",
    "Kendall, without position",
    "top-10 overlap",
)

ICL = "accuracy, ICL"

OF_CONTROL = {
    ICL: "Accuracy of ICL, %",
    "total variation": "Distance of answers",
    "SimAOU, without scaling": "Likeness of outputs",
}
"""Measure -> its title. All but the accuracy are shown beyond the null."""

COLORS = {"vanilla": ORANGE, "momentum 0.5": BLUE}

NULL = "shuffled labels"
"""The null that is drawn: the same finetuning on wrong answers."""

STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 25)
"""Distances of ticks, of which each panel takes the first with at most five ticks."""

MILLION = 1_000_000


class Value(NamedTuple):
    """A measure at one checkpoint, mean over the tasks."""

    tokens: float
    """Millions."""
    value: float
    low: float
    high: float
    null: float


Results = dict[tuple[str, str], list[Value]]
"""Measure and variant -> its values over training."""


def results() -> Results:
    """Return the means over all tasks, beside the null that is drawn."""
    found: Results = {}
    with RESULTS.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if (row["task"], row["null"]) != ("all tasks", NULL):
                continue
            numbers = [float(row[name]) for name in ("value", "low", "high", "null_value")]
            value = Value(int(row["tokens"]) / MILLION, *numbers)
            found.setdefault((row["measure"], row["variant"]), []).append(value)
    return {key: sorted(values) for key, values in found.items()}


def control_results() -> Results:
    """Return means over seeds with their intervals, of the checkpoints that all seeds have."""
    by_tokens: dict[tuple[str, str], dict[int, list[float]]] = {}
    with CONTROL.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            measure, variant = row["measure"], row["variant"]
            if measure not in OF_CONTROL or row["null"] not in (NULL, "zero-shot"):
                continue
            null = 0.0 if measure == ICL else float(row["null_value"])
            of_tokens = by_tokens.setdefault((measure, variant), {})
            of_tokens.setdefault(int(row["tokens"]), []).append(float(row["value"]) - null)
    found: Results = {}
    for key, of_tokens in by_tokens.items():
        most = max(map(len, of_tokens.values()))
        for tokens, values in sorted(of_tokens.items()):
            if len(values) == most:
                mean = over_seeds(np.array(values))
                low, high = mean.interval
                if key[0] == ICL:
                    high = min(high, 100.0)
                value = Value(tokens / MILLION, mean.value, low, high, 0.0)
                found.setdefault(key, []).append(value)
    return found


def over_training() -> Drawing:
    """Return each measure over training: both variants with their nulls."""
    found = results()
    drawing = Drawing(720, 835, "Likeness of in-context learning and finetuning over training")
    legend(drawing)
    drawing.line([(310, 26), (332, 26)], GREY, 1.5, dashed=True)
    drawing.text((338, 30), "finetuned on shuffled labels; bands are 95% intervals", GREY)
    for number, measure in enumerate(MEASURES):
        corner = (60 + 360 * (number % 2), 110 + 255 * (number // 2))
        of_variants = {name: found[measure, name] for name in COLORS}
        axes = panel(drawing, of_variants, measure, corner, 270)
        for name, color in COLORS.items():
            nulls = [axes.at(one.tokens, one.null) for one in of_variants[name]]
            drawing.line(nulls, color, 1.5, dashed=True)
    return drawing


def control_over_training() -> Drawing:
    """Return what models that learn in context do over the training, means over seeds."""
    found = control_results()
    drawing = Drawing(720, 320, "Models that learn in context, over training")
    legend(drawing)
    drawing.text((310, 30), "means over five seeds; bands are 95% intervals", GREY)
    for number, (measure, title) in enumerate(OF_CONTROL.items()):
        of_variants = {name: found[measure, name] for name in COLORS}
        panel(drawing, of_variants, title, (56 + 234 * number, 110), 175)
    return drawing


def legend(drawing: Drawing) -> None:
    """Name the variants."""
    for number, (name, color) in enumerate(COLORS.items()):
        left = 26 + 110 * number
        drawing.line([(left, 26), (left + 22, 26)], color, 2)
        drawing.text((left + 28, 30), name, color, bold=True)


def panel(
    drawing: Drawing, of_variants: dict[str, list[Value]], title: str, corner: Point, width: float
) -> Axes:
    """Draw one measure, in the bands of its intervals."""
    every = [one for values in of_variants.values() for one in values]
    lowest = min(min(one.low, one.null) for one in every)
    highest = max(max(one.high, one.null) for one in every)
    ticks = ticks_of(min(0, lowest), max(0, highest))
    tokens = [round(one.tokens, 1) for one in of_variants["vanilla"]]

    axes = Axes(drawing, *corner, width, 150, (0, max(tokens)), (ticks[0], ticks[-1]))
    axes.frame("million tokens", "", tokens[1:], ticks, title)
    drawing.line([axes.at(0, 0), axes.at(max(tokens), 0)], INK, 1)
    for name, color in COLORS.items():
        values = of_variants[name]
        upper = [axes.at(one.tokens, one.high) for one in values]
        lower = [axes.at(one.tokens, one.low) for one in values]
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in upper + lower[::-1])
        drawing.elements.append(f'<polygon points="{corners}" fill="{color}" opacity="0.13"/>')
        drawing.line([axes.at(one.tokens, one.value) for one in values], color, 2)
    return axes


def ticks_of(low: float, high: float) -> list[float]:
    """Return ticks at round numbers, the first at most `low` and the last at least `high`."""
    for step in STEPS:
        first, last = math.floor(low / step), math.ceil(high / step)
        if last - first < 5:
            break
    return [round(number * step, 2) for number in range(first, last + 1)]


def files() -> Iterator[tuple[Path, str]]:
    """Yield the path and the content of the drawing."""
    yield FIGURES / "icl.svg", over_training().svg()
    yield FIGURES / "icl-control.svg", control_over_training().svg()


def main() -> None:
    for path, content in files():
        path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
