"""Draw the figure of interventions in docs/icl-results.md as an SVG file.

    python docs/intervention_figures.py    # into docs/figures/

Its numbers are those of docs/figures/interventions.csv, the table.csv of the command on that page.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from figures import BLUE, FIGURES, GREEN, GREY, INK, ORANGE, Axes, Drawing

RESULTS = FIGURES / "interventions.csv"

STEPS = (200, 300, 500, 1000)
"""Steps whose parts are shown by layer and head."""

NAMES = {"softmax": "softmax", "added": "momentum"}
"""The parts, and what the figure calls them."""

SHEET = (244, 245, 246)
SKY = (86, 180, 233)
"""Colours of 0 and of 1, red, green and blue: those of the page that `intervene` writes."""

CELL = (44, 26)
"""Width and height of a cell of a heat map, pixels."""


@dataclass(frozen=True)
class Line:
    """A line over the steps."""

    name: str
    color: str
    place: tuple[str, str, str]
    """Layer, head and part, as in the table."""
    measure: str
    label: tuple[float, float]
    """Where its name stands, where nothing else is: found by eye."""


EVERYWHERE = ("all", "all")

WITHOUT = (
    Line("as it is", INK, ("-", "-", "nothing"), "without", (420, 1.04)),
    Line("without momentum", BLUE, (*EVERYWHERE, "added"), "without", (420, 0.72)),
    Line("without softmax", ORANGE, (*EVERYWHERE, "softmax"), "without", (420, 0.12)),
)

THROUGH = (
    Line("softmax, layer 0", ORANGE, ("0", "all", "softmax"), "twin", (600, 0.64)),
    Line("momentum", BLUE, (*EVERYWHERE, "added"), "twin", (420, 0.06)),
    Line("weight of the token before", GREEN, ("0", "0", "softmax"), "previous", (370, 0.44)),
)

Results = dict[tuple[int, str, str, str], dict[str, str]]
"""Lines of the table by step, layer, head and part."""


def results() -> Results:
    """Return the table that `intervene` wrote."""
    with RESULTS.open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    return {(int(one["step"]), one["layer"], one["head"], one["part"]): one for one in lines}


def interventions() -> Drawing:
    """Return what happens over training, and below it by layer and head."""
    found = results()
    drawing = Drawing(720, 590, "Interventions on recall models, over training and by head")
    left = Axes(drawing, 60, 76, 260, 190, (0, 1000), (0, 1))
    over_steps(left, found, WITHOUT, "share right", "Accuracy without a part")
    right = Axes(drawing, 430, 76, 260, 190, (0, 1000), (0, 1))
    over_steps(right, found, THROUGH, "share of answers", "Answers that follow the twin through")

    drawing.text((26, 352), "Answers that follow the twin, by layer and head", size=14, bold=True)
    for row, part in enumerate(NAMES):
        top = 404 + row * 112
        drawing.text((26, top - 24), NAMES[part], size=13, bold=True)
        for layer, name in enumerate(("layer 0", "layer 1")):
            drawing.text((26, top + layer * CELL[1] + 17), name, GREY, size=12)
        for column, step in enumerate(STEPS):
            heat_map(drawing, found, (118 + column * 150, top), step, part)
    return drawing


def over_steps(axes: Axes, found: Results, lines: Sequence[Line], unit: str, title: str) -> None:
    """Draw lines with their 95% bands."""
    axes.frame("step", unit, [0, 250, 500, 750, 1000], [0, 0.25, 0.5, 0.75, 1], title)
    steps = sorted({step for step, *_ in found})
    for line in lines:
        middle, low, high = [], [], []
        for step in steps:
            numbers = found[step, *line.place]
            value = float(numbers[line.measure])
            margin = float(numbers[f"{line.measure}_margin"])
            middle.append(axes.at(step, value))
            low.append(axes.at(step, max(0, value - margin)))
            high.append(axes.at(step, min(1, value + margin)))

        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in high + low[::-1])
        band = f'<polygon points="{corners}" fill="{line.color}" opacity="0.13"/>'
        axes.drawing.elements.append(band)
        axes.drawing.line(middle, line.color, 2)
        axes.drawing.text(axes.at(*line.label), line.name, line.color, size=12, bold=True)


def heat_map(
    drawing: Drawing, found: Results, corner: tuple[float, float], step: int, part: str
) -> None:
    """Draw the answers that follow the twin at one step, by layer and head.

    Args:
        drawing: what to draw on.
        found: all numbers.
        corner: of the first cell, the upper left one.
        step, part: what is shown.
    """
    width, height = CELL
    left, top = corner
    drawing.text((left, top - 24), f"step {step:,}", GREY, size=12)
    for column, head in enumerate(("0", "1", "all")):
        x = left + column * width
        name = head if head == "all" else f"head {head}"
        drawing.text((x + width / 2, top - 6), name, GREY, "middle", 11)
        for row, layer in enumerate(("0", "1")):
            share = float(found[step, layer, head, part]["twin"])
            y = top + row * height
            drawing.elements.append(
                f'<rect x="{x + 1:g}" y="{y + 1:g}" width="{width - 2}" height="{height - 2}" '
                f'fill="{shade(share)}"/>'
            )
            drawing.text((x + width / 2, y + 17), f"{share:.2f}", INK, "middle", 12)


def shade(share: float) -> str:
    """Return the colour of a share."""
    pairs = zip(SHEET, SKY, strict=True)
    mixed = [round(sheet + share * (sky - sheet)) for sheet, sky in pairs]
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def files() -> Iterator[tuple[Path, str]]:
    """Yield the path and the content of the drawing."""
    yield FIGURES / "interventions.svg", interventions().svg()


def main() -> None:
    for path, content in files():
        path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
