"""Draw the figures of docs/dual-form.md as SVG files.

    python docs/dual_form_figures.py    # into docs/figures/

Every number in them is computed by the functions that the page explains.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from figures import BLUE, FIGURES, GREEN, GREY, INK, ORANGE, Axes, Drawing
from torch import Tensor

from momentum_gpt.analysis.dual_form import (
    heavy_ball_coefficients,
    momentum_matrix,
    momentum_of_weights,
    softmax_mixture,
    weights_of_tokens,
)

PALE_BLUE = "#ddf4ff"
PALE_ORANGE = "#fff1e5"

OWN_TOKENS = 16
"""Tokens of the query in the figure of the softmax."""

ANGLES = [70, 200, 300, 115, 250, 20, 140, 325]
"""Directions of eight past keys, degrees; chosen to point all around."""


def layer() -> Drawing:
    """Return a trained linear layer twice: as changed weights, and as attention."""
    drawing = Drawing(720, 340, "A trained linear layer as changed weights and as attention")
    drawing.text((30, 32), "As changed weights", bold=True, size=15)
    drawing.text((30, 54), "Training adds up its samples and forgets them.", GREY, size=12)
    drawing.text((380, 32), "As attention", bold=True, size=15)
    drawing.text((380, 54), "Nothing is added up before the query comes.", GREY, size=12)

    for row, index in enumerate("₁₂₃"):
        y = 80 + row * 52
        end = 149 + (row - 1) * 12  # three arrows, side by side
        drawing.box((30, y), (92, 34), f"e{index} x{index}ᵀ", ORANGE, PALE_ORANGE)
        drawing.arrow((122, y + 17), (168, end), GREY)

        drawing.box((380, y), (64, 34), f"x{index}", BLUE, PALE_BLUE)
        drawing.text((494, y + 12), f"x{index} · q", GREY, "middle", 12)
        drawing.arrow((444, y + 20), (544, y + 20), GREY)
        drawing.box((546, y), (64, 34), f"e{index}", ORANGE, PALE_ORANGE)
        drawing.arrow((610, y + 17), (650, end), GREY)

    drawing.box((170, 120), (130, 58), "W₀ + ΔW")
    drawing.box((652, 120), (48, 58), "sum")
    drawing.text((412, 250), "keys", BLUE, "middle", 12)
    drawing.text((494, 250), "products", GREY, "middle", 12)
    drawing.text((578, 250), "values", ORANGE, "middle", 12)

    drawing.arrow((235, 178), (235, 296), GREY)
    drawing.text((235, 316), "(W₀ + ΔW) q", INK, "middle", 15)
    drawing.text((360, 316), "=", INK, "middle", 18)
    drawing.text((700, 316), "W₀ q + Σ eᵢ (xᵢ · q)", INK, "end", 15)
    drawing.arrow((676, 178), (676, 296), GREY)
    return drawing


def softmax() -> Drawing:
    """Return what more demonstrations do, in relaxed and in softmax attention."""
    title = "What more demonstrations do, in relaxed and in softmax attention"
    drawing = Drawing(720, 340, title)
    counts = range(65)
    ticks = [0, 16, 32, 48, 64]

    left = Axes(drawing, 60, 76, 260, 200, (0, 64), (0, 4))
    left.frame(
        "demonstration tokens",
        "size of the update by that of the zero-shot weights",
        ticks,
        [0, 1, 2, 3, 4],
        "Relaxed: the sum goes on growing",
    )
    drawing.line([left.at(n, relaxed_update(n)) for n in counts], INK, 2)

    right = Axes(drawing, 430, 76, 260, 200, (0, 64), (0, 1))
    right.frame(
        "demonstration tokens",
        "share of the demonstrations in the output",
        ticks,
        [0, 0.25, 0.5, 0.75, 1],
        "Softmax: a share, at most 1",
    )
    for advantage, color, place in (
        (2, GREEN, (18, 0.8)),
        (0, INK, (37, 0.58)),
        (-2, ORANGE, (42, 0.15)),
    ):
        drawing.line([right.at(n, share(n, advantage)) for n in counts], color, 2)
        drawing.text(
            right.at(*place),
            f"logits {advantage:+d}" if advantage else "same logits",
            color,
            size=12,
        )
    return drawing


def relaxed_update(n: int) -> float:
    """Return the size of the update by n tokens like the query's own, by that of their weights."""
    one = torch.eye(1)
    update = weights_of_tokens(one, one, torch.ones(n, 1))
    zero_shot = weights_of_tokens(one, one, torch.ones(OWN_TOKENS, 1))
    return float(update.norm() / zero_shot.norm())


def share(n: int, advantage: float) -> float:
    """Return the share of n demonstration tokens whose logits are larger by `advantage`."""
    query = torch.ones(1, 1).double()
    own = torch.zeros(OWN_TOKENS, 1).double()
    shown = torch.full((n, 1), float(advantage)).double()
    _, shares = softmax_mixture(query, own, own, shown, shown)
    return float(shares)


def ages() -> Drawing:
    """Return how much a past gradient counts by its age, in three forms."""
    drawing = Drawing(720, 340, "How much a past gradient, or value, counts by its age")
    axes = Axes(drawing, 60, 76, 430, 210, (0, 10), (0, 2))
    axes.frame(
        "age, steps or tokens",
        "weight in the output",
        list(range(0, 11, 2)),
        [0, 0.5, 1, 1.5, 2],
        "How much a past step, or token, counts: decay 0.5",
    )
    steps = torch.arange(11)
    heavy_ball = heavy_ball_coefficients(steps, 0.5)
    added = momentum_matrix(11, 0.5)[-1].flip(0)  # by age, from 0
    curves = (
        (heavy_ball, ORANGE, "descent with momentum", "(1 + η + ... + η^age) (k · q)"),
        (torch.ones(11), INK, "descent without", "k · q"),
        (1 + added, BLUE, "linear momentum attention", "(k · q) + η^age, from age 1"),
    )
    for weights, color, _, _ in curves:
        points = [axes.at(age, float(weight)) for age, weight in enumerate(weights)]
        drawing.line(points, color, 2)
        for point in points:
            drawing.dot(point, color, 3)

    for (_, color, name, formula), y in zip(curves, (76, 180, 130), strict=True):
        drawing.text((510, y + 4), name, color, size=13, bold=True)
        drawing.text((510, y + 22), formula, GREY, size=12)
    return drawing


def products() -> Drawing:
    """Return the weights of past values for two queries, with and without key products."""
    drawing = Drawing(720, 350, "Weights of past values for two queries, with and without keys")
    queries = {0: BLUE, 150: ORANGE}
    n = len(ANGLES)
    keys = directions(ANGLES)

    left = Axes(drawing, 60, 76, 260, 200, (0, n), (-0.75, 0.75))
    right = Axes(drawing, 430, 76, 260, 200, (0, n), (-0.75, 0.75))
    ticks = [-0.6, -0.3, 0, 0.3, 0.6]
    left.frame("", "weight of the value", [], ticks, "Momentum of weights: η^(t-i) (kᵢ · q)")
    right.frame("", "weight of the value", [], ticks, "Momentum attention: η^(t-i)")

    for place, (angle, color) in enumerate(queries.items()):
        query = directions([angle] * (n + 1))
        # The current token has nothing to add to itself, whatever its key and value.
        all_keys = torch.cat([keys, keys[:1]])
        with_keys = momentum_of_weights(query, all_keys, torch.eye(n + 1).double(), 0.7)[-1, :n]
        without = momentum_matrix(n + 1, 0.7)[-1, :n]
        bars(left, with_keys, place, color)
        bars(right, without, place, color)

        cosine = float(torch.cosine_similarity(with_keys, without, dim=0))
        label = f"query {place + 1}: cosine of left and right {cosine:+.2f}"
        drawing.box((60 + place * 370, 318), (12, 12), color=color, fill=color)
        drawing.text((80 + place * 370, 329), label, color, size=12)
    for axes in (left, right):
        drawing.line([axes.at(0, 0), axes.at(n, 0)], GREY, 1)
        drawing.text((axes.left + 130, 298), "past tokens, the latest on the right", INK, "middle")
    return drawing


def directions(angles: list[int]) -> Tensor:
    """Return unit vectors with the given angles, degrees: (N, 2)."""
    rows = [(math.cos(math.radians(angle)), math.sin(math.radians(angle))) for angle in angles]
    return torch.tensor(rows, dtype=torch.float64)


def bars(axes: Axes, weights: Tensor, place: int, color: str) -> None:
    """Draw one bar for each past token; `place` 0 or 1 is the left or the right one of two."""
    for token, weight in enumerate(weights.tolist()):
        left, top = axes.at(token + 0.14 + 0.36 * place, max(weight, 0.0))
        right, bottom = axes.at(token + 0.50 + 0.36 * place, min(weight, 0.0))
        axes.drawing.elements.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
            f'height="{bottom - top:.1f}" fill="{color}"/>'
        )


DRAWINGS = {
    "dual-form-layer": layer,
    "dual-form-softmax": softmax,
    "dual-form-ages": ages,
    "dual-form-products": products,
}
"""Name of the file, without .svg, and the function that draws it."""


def files() -> Iterator[tuple[Path, str]]:
    """Yield the path and the content of every drawing."""
    for name, draw in DRAWINGS.items():
        yield FIGURES / f"{name}.svg", draw().svg()


def main() -> None:
    for path, content in files():
        path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
