"""Draw the figures of the documentation as SVG files.

    python docs/figures.py                              # its drawings, into docs/figures/
    python docs/figures.py --report runs/report.html    # the picture of a report in the README

The drawings are written without any library and are the same bytes on every machine. The picture
of a report needs `playwright` and Chromium. dual_form_figures.py has the drawings of the dual form.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

FIGURES = Path(__file__).resolve().parent / "figures"

Point = tuple[float, float]

INK = "#24292f"
GREY = "#6e7781"
GRID = "#d8dee4"
BLUE = "#0969da"
ORANGE = "#bc4c00"
GREEN = "#1a7f37"
RED = "#cf222e"

DECAYS = {0.3: GREEN, 0.5: BLUE, 0.7: "#8250df", 0.9: RED}
"""The decays that the figures show, and the colour of each."""

LOSS_DIFFERENCES = {
    "learned": {
        0.3: (-0.1118, -0.1363, -0.0874),
        0.5: (-0.0444, -0.0659, -0.0229),
        0.7: (0.0335, -0.0217, 0.0887),
        0.9: (0.5242, 0.4976, 0.5509),
    },
    "rotary": {
        0.3: (0.0030, -0.0266, 0.0327),
        0.5: (0.0751, 0.0281, 0.1221),
        0.7: (0.2762, 0.2450, 0.3074),
        0.9: (0.8481, 0.7698, 0.9265),
    },
}
"""Validation loss of momentum minus that of vanilla, nats per token, with its 95% interval over six
seeds, by kind of positions: the study in LOG.md, 2026-11-26."""

RECALL = {
    "learned": {0.3: 0.260, 0.5: 0.885, 0.7: 0.312, 0.9: 0.118},
    "rotary": {0.3: 0.962, 0.5: 0.965, 0.7: 0.776, 0.9: 0.118},
}
"""Accuracy at step 500 by kind of positions and decay, mean of 5 seeds: LOG.md, 2026-11-24."""

RECALL_VANILLA = {"learned": 0.117, "rotary": 0.114}
"""The same for vanilla attention."""


@dataclass
class Drawing:
    """An SVG drawing; the methods add elements to it.

    Args:
        width, height: size in pixels.
        title: what the drawing shows, read aloud by screen readers.
    """

    width: int
    height: int
    title: str
    elements: list[str] = field(default_factory=list)

    def text(
        self,
        place: Point,
        content: str,
        color: str = INK,
        anchor: str = "start",
        size: int = 13,
        bold: bool = False,
        italic: bool = False,
    ) -> None:
        """Add a line of text; `anchor` says whether `place` is its start, middle or end."""
        weight = ' font-weight="600"' if bold else ""
        style = ' font-style="italic"' if italic else ""
        self.elements.append(
            f'<text x="{place[0]:g}" y="{place[1]:g}" fill="{color}" font-size="{size}" '
            f'text-anchor="{anchor}"{weight}{style}>{content}</text>'
        )

    def line(
        self, points: Sequence[Point], color: str = INK, width: float = 1.5, dashed: bool = False
    ) -> None:
        """Add a line through all the points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        self.elements.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width:g}" '
            f'stroke-linejoin="round"{dashes}/>'
        )

    def arrow(self, start: Point, end: Point, color: str = INK, dashed: bool = False) -> None:
        """Add a straight line with an arrowhead at its end."""
        angle = math.atan2(end[1] - start[1], end[0] - start[0])
        length = 8.0

        # The line ends inside the arrowhead: it would blunt the tip.
        x = end[0] - 0.7 * length * math.cos(angle)
        y = end[1] - 0.7 * length * math.sin(angle)
        self.line([start, (x, y)], color, dashed=dashed)

        sides = []
        for turn in (2.7, -2.7):
            x = end[0] + length * math.cos(angle + turn)
            y = end[1] + length * math.sin(angle + turn)
            sides.append(f"{x:.1f},{y:.1f}")
        corners = " ".join([f"{end[0]:.1f},{end[1]:.1f}", *sides])
        self.elements.append(f'<polygon points="{corners}" fill="{color}"/>')

    def dot(self, place: Point, color: str = INK, radius: float = 3.5) -> None:
        """Add a filled circle."""
        self.elements.append(
            f'<circle cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="{radius:g}" fill="{color}"/>'
        )

    def box(
        self,
        corner: Point,
        size: Point,
        label: str = "",
        color: str = INK,
        fill: str = "#f6f8fa",
    ) -> None:
        """Add a rectangle with rounded corners and a label in its middle."""
        self.elements.append(
            f'<rect x="{corner[0]:.1f}" y="{corner[1]:.1f}" width="{size[0]:.1f}" '
            f'height="{size[1]:.1f}" rx="6" fill="{fill}" stroke="{color}" stroke-width="1.2"/>'
        )
        if label:
            # 4.5 pixels down: text stands on its base line.
            middle = (corner[0] + size[0] / 2, corner[1] + size[1] / 2 + 4.5)
            self.text(middle, label, color, "middle")

    def svg(self) -> str:
        """Return the drawing as the text of an SVG file."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
            f'viewBox="0 0 {self.width} {self.height}" role="img" '
            'font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif">'
        )
        # A white sheet: a transparent drawing cannot be read on a dark page.
        sheet = f'<rect width="{self.width}" height="{self.height}" fill="#ffffff"/>'
        body = [head, f"<title>{self.title}</title>", sheet, *self.elements, "</svg>"]
        return "\n".join(body) + "\n"


@dataclass
class Axes:
    """A rectangle of a drawing with a scale on each side.

    Args:
        drawing: what to draw on.
        left, top, width, height: the rectangle, pixels.
        x_range, y_range: smallest and largest value of each scale.
    """

    drawing: Drawing
    left: float
    top: float
    width: float
    height: float
    x_range: Point
    y_range: Point

    def at(self, x: float, y: float) -> Point:
        """Return the pixel of a pair of values."""
        x_low, x_high = self.x_range
        y_low, y_high = self.y_range
        x_share = (x - x_low) / (x_high - x_low)
        y_share = (y - y_low) / (y_high - y_low)

        # Pixels count from the top, values from the bottom.
        return self.left + x_share * self.width, self.top + (1 - y_share) * self.height

    def frame(
        self,
        x_label: str,
        y_label: str,
        x_ticks: Sequence[float],
        y_ticks: Sequence[float],
        title: str = "",
    ) -> None:
        """Draw the grid, the ticks and the labels."""
        bottom = self.top + self.height
        for tick in y_ticks:
            _, y = self.at(self.x_range[0], tick)
            self.drawing.line([(self.left, y), (self.left + self.width, y)], GRID, 1)
            self.drawing.text((self.left - 8, y + 4), f"{tick:g}", GREY, "end", 12)

        for tick in x_ticks:
            x, _ = self.at(tick, self.y_range[0])
            self.drawing.line([(x, bottom), (x, bottom + 4)], GREY, 1)
            self.drawing.text((x, bottom + 19), f"{tick:g}", GREY, "middle", 12)

        self.drawing.line([(self.left, bottom), (self.left + self.width, bottom)], GREY, 1)
        self.drawing.text((self.left + self.width / 2, bottom + 40), x_label, INK, "middle")
        self.drawing.text((self.left - 34, self.top - 14), y_label, GREY, size=12)
        if title:
            self.drawing.text((self.left - 34, self.top - 36), title, INK, size=14, bold=True)


def kernel() -> Drawing:
    """Return the weight of a past value by its distance, for several decays."""
    drawing = Drawing(720, 330, "Weight of a past value by distance, for decays 0.3 to 0.9")
    axes = Axes(drawing, 60, 60, 600, 200, (1, 16), (0, 1))
    axes.frame(
        "distance t - i, tokens",
        "weight of v_i",
        [1, 2, 4, 6, 8, 10, 12, 14, 16],
        [0, 0.25, 0.5, 0.75, 1],
        "The momentum kernel: weight = decay^(t-i)",
    )

    for decay, color in DECAYS.items():
        points = [axes.at(distance, decay**distance) for distance in range(1, 17)]
        drawing.line(points, color, 2)
        for point in points:
            drawing.dot(point, color, 2.6)

    # Beside the lines, where nothing else is: found by eye.
    labels = {0.9: (6.2, 0.60), 0.7: (3.2, 0.40), 0.5: (2.1, 0.30), 0.3: (1.25, 0.06)}
    for decay, place in labels.items():
        drawing.text(axes.at(*place), f"{decay}", DECAYS[decay], bold=True)
    return drawing


def gain() -> Drawing:
    """Return the total weight and the effective window as functions of the decay."""
    drawing = Drawing(720, 330, "Total weight and effective window by decay")
    decays = [step / 100 for step in range(1, 96)]
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1]

    left = Axes(drawing, 60, 72, 260, 190, (0, 1), (0, 20))
    left.frame(
        "decay", "decay / (1 - decay)", ticks, [0, 5, 10, 15, 20], "Total weight of the past"
    )
    drawing.line([left.at(decay, total_weight(decay)) for decay in decays], INK, 2)

    right = Axes(drawing, 430, 72, 260, 190, (0, 1), (0, 50))
    right.frame("decay", "tokens", ticks, [0, 10, 20, 30, 40, 50], "Window with 90% of that weight")
    drawing.line([right.at(decay, window(decay)) for decay in decays], INK, 2)

    for decay, color in DECAYS.items():
        for axes, value, form in (
            (left, total_weight(decay), ".2g"),
            (right, window(decay), ".1f"),
        ):
            x, y = axes.at(decay, value)
            drawing.dot((x, y), color, 4)
            drawing.text((x - 9, y - 8), f"{value:{form}}", color, "end", 12, bold=True)
    return drawing


def total_weight(decay: float) -> float:
    """Return the sum of decay^d over all distances d >= 1."""
    return decay / (1 - decay)


def window(decay: float) -> float:
    """Return the distance within which 90% of the total weight lies, tokens."""
    return math.log(0.1) / math.log(decay)


def sub(letter: str, index: str) -> str:
    """Return a letter with an index below it."""
    return f'{letter}<tspan dy="4" font-size="10">{index}</tspan>'


def recurrence() -> Drawing:
    """Return the sum as a recurrence: one state, updated once for each token."""
    drawing = Drawing(720, 250, "The momentum term as a recurrence")
    drawing.text((20, 30), "One state for each head, updated once for each token", bold=True)

    for column in range(4):
        x = 70 + column * 165
        token = "t" if column == 3 else f"t-{3 - column}"
        drawing.text((x + 45, 66), f"token {token}", GREY, "middle", 12)
        drawing.box((x + 15, 80), (60, 32), sub("v", token))
        drawing.box((x + 15, 158), (60, 32), sub("m", token), BLUE, "#ddf4ff")
        drawing.arrow((x + 45, 190), (x + 45, 222), BLUE)
        drawing.text((x + 53, 212), f"added to {sub('y', token)}", BLUE, size=12)

        if column < 3:
            # The value of a token enters the state of the next one: the sum is strictly past.
            drawing.arrow((x + 75, 104), (x + 178, 164), GREY)
            drawing.arrow((x + 75, 174), (x + 178, 174), BLUE)
            drawing.text((x + 128, 192), "x decay", GREY, "middle", 12)

    drawing.text((20, 178), "...", BLUE, bold=True)
    drawing.arrow((40, 174), (83, 174), BLUE)
    return drawing


def data_flow() -> Drawing:
    """Return vanilla and momentum attention side by side, for one head."""
    drawing = Drawing(720, 370, "Data flow of one head in vanilla and in momentum attention")
    for left, title, has_momentum in (
        (30, "Vanilla attention", False),
        (380, "Momentum attention", True),
    ):
        drawing.text((left, 32), title, bold=True, size=15)
        drawing.box((left, 300), (290, 36), "x: hidden states (B, T, C)")
        for place, name in enumerate("qkv"):
            x = left + 12 + place * 96
            drawing.box((x, 226), (74, 34), name)
            drawing.arrow((x + 37, 300), (x + 37, 262), GREY)

        # All three enter the softmax part.
        drawing.box((left, 146), (190, 40), "softmax(q k / sqrt(D)) v")
        for place in range(3):
            start = left + 49 + place * 96
            drawing.arrow((start, 226), (left + 40 + place * 54, 188), GREY)

        drawing.arrow((left + 95, 146), (left + 95, 92), GREY)
        drawing.box((left, 54), (190, 36), "output projection")

        # The one branch that momentum adds; everything else is the same.
        if has_momentum:
            drawing.box((left + 206, 146), (110, 40), "sum of past v", BLUE, "#ddf4ff")
            drawing.arrow((left + 252, 226), (left + 260, 188), BLUE)
            drawing.line([(left + 261, 146), (left + 261, 118), (left + 112, 118)], BLUE)
            drawing.arrow((left + 120, 118), (left + 105, 118), BLUE)
            drawing.dot((left + 95, 118), BLUE, 9)
            drawing.text((left + 95, 123), "+", "#ffffff", "middle", 15, bold=True)
    return drawing


def decays() -> Drawing:
    """Return what was measured by decay: losses on text, accuracy of recall."""
    drawing = Drawing(720, 350, "Measured loss difference and recall accuracy by decay")
    ticks = [0, 0.3, 0.5, 0.7, 0.9]

    left = Axes(drawing, 60, 86, 260, 200, (0, 1), (-0.2, 1))
    left.frame(
        "decay (0 is vanilla)",
        "nats per token",
        ticks,
        [-0.2, 0, 0.2, 0.4, 0.6, 0.8],
        "Loss minus that of vanilla, 6 seeds",
    )
    for losses, color in zip(LOSS_DIFFERENCES.values(), (INK, ORANGE), strict=True):
        points = [left.at(decay, loss) for decay, (loss, _, _) in losses.items()]
        drawing.line([left.at(0, 0), *points], color, 1.5, dashed=True)
        for decay, (loss, low, high) in losses.items():
            drawing.line([left.at(decay, low), left.at(decay, high)], color, 3)
            drawing.dot(left.at(decay, loss), color)
    drawing.text(left.at(0.56, 0.52), "rotary", ORANGE, size=12)
    drawing.text(left.at(0.8, 0.14), "learned", INK, size=12)

    right = Axes(drawing, 430, 86, 260, 200, (0, 1), (0, 1))
    right.frame(
        "decay (0 is vanilla)",
        "accuracy; guessing gives 0.125",
        ticks,
        [0, 0.25, 0.5, 0.75, 1],
        "Recall after 500 steps, 5 seeds",
    )
    for (positions, accuracy), color in zip(RECALL.items(), (INK, ORANGE), strict=True):
        by_decay = {0.0: RECALL_VANILLA[positions], **accuracy}
        points = [right.at(decay, value) for decay, value in by_decay.items()]
        drawing.line(points, color, 1.5, dashed=True)
        for point in points:
            drawing.dot(point, color)
    drawing.text(right.at(0.02, 0.62), "rotary", ORANGE, size=12)
    drawing.text(right.at(0.36, 0.30), "learned", INK, size=12)
    return drawing


DRAWINGS = {
    "kernel": kernel,
    "gain": gain,
    "recurrence": recurrence,
    "data-flow": data_flow,
    "decays": decays,
}
"""Name of the file, without .svg, and the function that draws it."""


def files() -> Iterator[tuple[Path, str]]:
    """Yield the path and the content of every drawing."""
    for name, draw in DRAWINGS.items():
        yield FIGURES / f"{name}.svg", draw().svg()


def photograph(report: Path, output: Path) -> None:
    """Write a picture of the top of a report."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1180, "height": 1190})
        page.goto(report.resolve().as_uri())
        page.wait_for_selector("#figures svg")
        page.screenshot(path=output)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the figures of the documentation.")
    parser.add_argument("--report", type=Path, help="report.html to take the README's picture of")
    report = parser.parse_args().report
    if report:
        photograph(report, FIGURES / "report.png")
        return
    for path, content in files():
        path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
