"""What interventions have found: as CSV, and on a page whose numbers are those of the CSV."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from momentum_gpt.analysis.intervention import PARTS, Place
from momentum_gpt.analysis.intervention_page import interventions_page
from momentum_gpt.analysis.intervention_results import (
    Found,
    Row,
    results_csv,
    results_table,
    rows_of,
)
from tests.comparison.report.browser import opened

STEPS = (50, 100, 1000)
N = 6
QUANTILE = 4.30265
"""Student's t of 2 degrees of freedom at 97.5%, from a table."""


def places_of(parts: tuple[str, ...]) -> list[Place]:
    found = []
    for part in parts:
        found += [Place(layer, head, part) for layer in (0, 1) for head in (0, 1, None)]
        found.append(Place(None, None, part))
    return found


def found_of(seed: int, parts: tuple[str, ...]) -> Found:
    """Return what might be found of a model with two layers of two heads: shares at random."""
    random = np.random.default_rng(seed)
    found: dict[Place | None, dict[str, np.ndarray]] = {}
    for place in places_of(parts):
        names = ["without", "twin's", "own", "unrelated"]
        if place.part == "softmax" and place.head is not None:
            names.append("previous")
        found[place] = {name: random.random(N) for name in names}
    right = random.random(N)
    found[None] = {"without": right, "own": right}
    return found


def runs_at(step: int, parts: tuple[str, ...] = PARTS) -> list[Found]:
    return [found_of(step + seed, parts) for seed in range(3)]


ROWS = [row for step in STEPS for row in rows_of(step, runs_at(step))]
VANILLA = rows_of(1000, runs_at(1000, ("softmax",))[:1])


def read(rows: list[Row]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(results_csv(rows))))


def numbers_of(rows: list[Row], measure: str, step: int = 1000, **place: str) -> dict[str, float]:
    """Return the numbers of a measure in the CSV: by layer and head, or those of one place."""
    found = {}
    for line in read(rows):
        wanted = all(line[key] == value for key, value in place.items())
        if int(line["step"]) == step and wanted and line[measure]:
            found[f"layer {line['layer']}, head {line['head']}"] = float(line[measure])
    return found


class Tables(HTMLParser):
    """The heat maps of a page, in their order: the text, style and title of each cell, by row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.maps: list[list[list[dict[str, str]]]] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if tag == "table":
            self.inside = attributes.get("class") == "heat"
            self.maps += [[]] if self.inside else []
        elif self.inside and tag == "tr":
            self.maps[-1].append([])
        elif self.inside and tag in ("td", "th"):
            self.maps[-1][-1].append({**attributes, "text": ""})

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "table"

    def handle_data(self, data: str) -> None:
        if self.inside and self.maps[-1] and self.maps[-1][-1]:
            self.maps[-1][-1][-1]["text"] += data.strip()


def cells_of(heat_map: list[list[dict[str, str]]]) -> dict[str, dict[str, str]]:
    """Return the cells with a number, by layer and head as the CSV names them."""
    head, *rows = heat_map
    found = {}
    for layer, *cells in rows:
        for column, cell in zip(head[1:], cells, strict=True):
            words = [layer["text"], column["text"]]
            names = [re.sub(r"all (\w+)s", r"\1 all", text) for text in words]
            if cell["text"]:
                found[", ".join(names)] = cell
    return found


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


def test_intervals_are_over_runs_or_over_the_sequences_of_one() -> None:
    found = runs_at(50)
    place = Place(1, None, "added")
    means = [one[place]["own"].mean() for one in found]
    row = next(row for row in rows_of(50, found) if row.place == place)
    assert row.estimates["own"].value == pytest.approx(np.mean(means))
    margin = QUANTILE * np.std(means, ddof=1) / math.sqrt(3)
    assert row.estimates["own"].margin == pytest.approx(margin, rel=1e-5)

    alone = next(row for row in rows_of(50, found[:1]) if row.place == place)
    margin = 2.57058 * found[0][place]["own"].std(ddof=1) / math.sqrt(N)  # 5 degrees of freedom
    assert alone.estimates["own"].margin == pytest.approx(margin, rel=1e-5)


def test_the_csv_has_what_the_table_has() -> None:
    lines = read(ROWS)
    table = results_table(ROWS, "")
    assert len(lines) == len(table.rows) == len(STEPS) * (1 + 2 * 7)
    assert [line["part"] for line in lines[:15]] == ["nothing"] + ["softmax"] * 7 + ["added"] * 7
    for line, row in zip(lines, table.rows, strict=True):
        assert row[:4] == [f"{int(line['step']):,}", line["layer"], line["head"], line["part"]]
        for name, cell in zip(table.head[4:], row[4:], strict=True):
            column = name.removesuffix("'s")
            value, margin = line[column], line[f"{column}_margin"]
            assert cell == (f"{float(value):.3f} ± {float(margin):.3f}" if value else "")
    assert len(numbers_of(ROWS, "previous")) == 4


def test_the_heat_maps_show_the_last_step_of_the_csv() -> None:
    maps = Tables(interventions_page("momentum 0.5", ROWS, "3 runs")).maps
    shown = iter(maps)
    for part in PARTS:
        for measure in ("without", "twin", "unrelated"):
            cells = cells_of(next(shown))
            expected = numbers_of(ROWS, measure, part=part)
            margins = numbers_of(ROWS, f"{measure}_margin", part=part)
            assert cells.keys() == expected.keys()
            assert len(cells) == 7
            for name, cell in cells.items():
                value, margin = expected[name], margins[name]
                assert cell["text"] == f"{value:.3f}"
                assert cell["style"] == f"--share: {value:.3f}"
                low, high = map(float, re.findall(r"[\d.]+", cell["title"])[2:])
                assert low == pytest.approx(max(0, value - margin), abs=6e-4)
                assert high == pytest.approx(min(1, value + margin), abs=6e-4)
    assert next(shown, None) is None


def test_the_table_shows_the_last_step_of_the_csv() -> None:
    page = interventions_page("momentum 0.5", ROWS, "3 runs")
    lines = [line for line in read(ROWS) if line["step"] == "1000"]
    shown = re.findall(r"^<tr><td>([\d,]+)</td>(.*)</tr>$", page, re.M)
    assert [step for step, _ in shown] == ["1,000"] * len(lines)
    for (_, cells), line in zip(shown, lines, strict=True):
        assert f"<td>{line['layer']}</td><td>{line['head']}</td><td>{line['part']}</td>" in cells
        own = f"{float(line['own']):.3f} ± {float(line['own_margin']):.3f}"
        assert f"<td>{own}</td>" in cells
    as_it_is = f"{float(lines[0]['without']):.3f} ± {float(lines[0]['without_margin']):.3f}"
    assert f"With nothing replaced, the accuracy is {as_it_is}." in page


def test_the_figures_over_training_show_the_steps_of_the_csv() -> None:
    data = data_of(interventions_page("momentum 0.5", ROWS, "3 runs"))
    everywhere = {"layer": "all", "head": "all"}
    expected = [
        {
            "as it is": ("without", {"part": "nothing"}),
            "softmax": ("without", {**everywhere, "part": "softmax"}),
            "added": ("without", {**everywhere, "part": "added"}),
        },
        {part: ("twin", {**everywhere, "part": part}) for part in PARTS},
        {f"layer {layer}": ("previous", {"layer": layer, "head": "0"}) for layer in "01"},
    ]
    for figure, lines in zip(data["figures"], expected, strict=True):
        assert "3 runs" in figure["note"]
        assert figure["unit"] == "share"
        labels = [data["groups"][one["run"]]["label"] for one in figure["series"]]
        assert labels == list(lines)
        for one, (measure, place) in zip(figure["series"], lines.values(), strict=True):
            assert one["tokens"] == list(STEPS)
            for at, step in enumerate(STEPS):
                (value,) = numbers_of(ROWS, measure, step, **place).values()
                (margin,) = numbers_of(ROWS, f"{measure}_margin", step, **place).values()
                assert one["y"][at] == pytest.approx(value, abs=1e-5)
                assert one["low"][at] == pytest.approx(max(0, value - margin), abs=1e-5)
                assert one["high"][at] == pytest.approx(min(1, value + margin), abs=1e-5)


def test_the_page_of_one_step_of_vanilla_attention_has_the_softmax_alone() -> None:
    page = interventions_page("vanilla", VANILLA, f"{N} sequences")
    assert len(Tables(page).maps) == 3
    assert data_of(page)["figures"] == []
    assert "adds" not in page.partition("<main>")[2].partition("<script")[0]


def luminance(colour: str) -> float:
    """Return the relative luminance of a computed colour, as WCAG defines it."""
    channels = [float(number) for number in re.findall(r"[\d.]+", colour)[:3]]
    if colour.startswith("rgb"):
        channels = [channel / 255 for channel in channels]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_browser_draws_the_page(tmp_path: Path, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    path = tmp_path / "page.html"
    path.write_text(interventions_page("momentum 0.5", ROWS, "3 runs"))
    with opened(path, width, scheme) as page:
        assert page.locator("#figures svg").count() == 3
        assert [page.locator(f"#figure-{number} .line").count() for number in range(3)] == [3, 2, 2]
        assert page.locator("#figure-0 .area").count() >= 3
        styles = page.locator(".heat td[style]").evaluate_all(
            "cells => cells.map(cell => [getComputedStyle(cell), cell])"
            ".map(([style, cell]) => [cell.textContent, style.backgroundColor, style.color])"
        )
        found = axe.Axe().run(page).response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []

    assert len(styles) == 6 * 7
    by_value = sorted((float(text), luminance(back), luminance(ink)) for text, back, ink in styles)
    for _, back, ink in by_value:
        dark, light = sorted((back, ink))
        assert (light + 0.05) / (dark + 0.05) > 4.5
    # A larger share is further from the sheet, which is white in light and black in dark.
    backs = [back for _, back, _ in by_value]
    assert backs == sorted(backs, reverse=scheme == "light")


@pytest.mark.browser
def test_a_page_without_figures_has_no_switches(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(interventions_page("vanilla", VANILLA, f"{N} sequences"))
    with opened(path, 390, drawn=".heat") as page:
        assert page.locator("#switches").is_hidden()
        assert page.locator(".heat").count() == 3
