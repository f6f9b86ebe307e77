"""The report in a real browser: its switches, wide and narrow, light and dark."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from momentum_gpt.comparison.certificate import common_ground
from momentum_gpt.comparison.report import report
from momentum_gpt.comparison.runs import load_runs
from tests.comparison.report.browser import opened
from tests.comparison.report.synthetic import (
    VANILLA,
    momentum,
    write_analysis,
    write_comparison,
    write_run,
)

pytestmark = pytest.mark.browser

EVERYWHERE = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of four variants with three seeds each."""
    folder = tmp_path_factory.mktemp("runs")
    folders = write_comparison(folder, seeds=3, few_shot=True)
    for number, run_folder in enumerate(folders):
        write_analysis(run_folder, 0.2 + 0.01 * number)
    runs, _ = load_runs(list(map(str, folders)))
    path = folder / "report.html"
    verdict = "momentum 0.5 is better than vanilla by 0.060 nats [0.050, 0.070], 3 seeds"
    path.write_text(report(runs, [], common_ground(runs), [verdict]))
    return path


def drawing(page: Any, figure: str) -> str:
    """Return the paths of a figure."""
    return str(page.locator(f"#figure-{figure} svg").inner_html())


@pytest.mark.parametrize(("width", "scheme"), EVERYWHERE)
def test_every_switch_changes_the_figures(page_file: Path, width: int, scheme: str) -> None:
    with opened(page_file, width, scheme) as page:
        for kind, name in (
            ("radio", "FLOPs"),
            ("radio", "time"),
            ("checkbox", "x"),
            ("checkbox", "y"),
            ("radio", "none"),
            ("radio", "strong"),
        ):
            # Smoothing is for curves with many readings.
            figure = "train" if name in ("none", "strong") else "loss"
            before = drawing(page, figure)
            page.get_by_role(kind, name=name, exact=True).check()
            assert drawing(page, figure) != before, name

        lines = page.locator("#figure-difference .line")
        assert lines.count() == 3
        page.locator("input[data-group='3']").uncheck()
        assert lines.count() == 2
        page.locator("details summary").nth(1).click()
        before = drawing(page, "difference")
        page.locator("input[data-run='4']").uncheck()
        assert drawing(page, "difference") != before
        assert page.locator("input[data-group='1']").evaluate("box => box.indeterminate")


@pytest.mark.parametrize(("width", "scheme"), EVERYWHERE)
def test_everybody_can_use_the_page(page_file: Path, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    with opened(page_file, width, scheme) as page:
        found = axe.Axe().run(page).response["violations"]
    serious = [one["id"] for one in found if one["impact"] in ("serious", "critical")]
    assert serious == []


@pytest.mark.parametrize("width", [1280, 390])
def test_figures_fit_the_window_and_names_stand_beside_lines(page_file: Path, width: int) -> None:
    with opened(page_file, width) as page:
        for figure in page.locator("#figures svg").all():
            box = figure.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
        labels = [one.bounding_box() for one in page.locator("#figure-loss .names text").all()]
        labels.sort(key=lambda box: box["y"])
        assert len(labels) == 4
        for above, below in pairwise(labels):
            assert above["y"] + above["height"] <= below["y"] + 2


def test_the_keyboard_reads_values_and_works_the_switches(page_file: Path) -> None:
    with opened(page_file) as page:
        page.locator("#figure-loss svg").focus()
        page.keyboard.press("End")
        readout = page.locator("#figure-loss .readout")
        last = readout.text_content()
        assert "momentum 0.5" in last
        page.keyboard.press("ArrowLeft")
        assert readout.text_content() != last
        page.keyboard.press("Escape")
        assert readout.is_hidden()

        page.get_by_role("radio", name="tokens").focus()
        page.keyboard.press("ArrowRight")
        assert page.evaluate("page.axis") == "flops"


def test_a_part_of_a_figure_can_be_seen_alone(page_file: Path) -> None:
    with opened(page_file) as page:
        whole = drawing(page, "loss")
        box = page.locator("#figure-loss svg").bounding_box()
        middle = box["y"] + 100
        page.mouse.move(box["x"] + 300, middle)
        page.mouse.down()
        page.mouse.move(box["x"] + 600, middle)
        page.mouse.up()
        assert drawing(page, "loss") != whole
        low, high = page.evaluate("page.zooms.get('loss')")
        assert 0 < low < high < 400 * 4096
        page.locator("#figure-loss svg").focus()
        page.keyboard.press("Escape")
        assert page.evaluate("page.zooms.get('loss')") is None


def test_the_difference_is_that_of_the_pairs(page_file: Path) -> None:
    """The mean and the interval, computed here from the data of the page."""
    with opened(page_file) as page:
        data = page.evaluate("page.data")
        drawn = page.evaluate("differenceSpec(page.data.figures[1], page).lines[0].points.pop()")
    series = {one["run"]: one["y"][-1] for one in data["figures"][0]["series"]}
    gaps = [series[3 + seed] - series[seed] for seed in range(3)]
    mean = sum(gaps) / 3
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / 2) ** 0.5
    assert drawn[1] == pytest.approx(mean)
    assert drawn[2] == pytest.approx(4.30265 * deviation / 3**0.5, rel=1e-5)


def test_the_envelope_holds_the_readings_of_all_seeds(page_file: Path) -> None:
    with opened(page_file) as page:
        data = page.evaluate("page.data")
        areas = page.evaluate("curveSpec(page.data.figures[2], page).areas")
    readings = [one["y"][-1] for one in data["figures"][2]["series"] if one["run"] < 3]
    pale = next(area for area in areas if area.get("pale") and area["group"] == 0)
    _, low, high = pale["points"][-1]
    assert low <= min(readings)
    assert high >= max(readings)


def test_smoothing_is_the_mean_of_what_came_before(page_file: Path) -> None:
    with opened(page_file) as page:
        assert page.evaluate("trailingMeans([4, 2, 0, 8], 2)") == [4, 3, 1, 4]
        assert page.evaluate("trailingMeans([4, 2], 1)") == [4, 2]
        assert page.evaluate("interpolate([0, 10], [1, 3], 5)") == 2
        assert page.evaluate("interpolate([0, 10], [1, 3], 11)") is None


def test_twenty_variants_are_told_apart(tmp_path: Path) -> None:
    folders = [write_run(tmp_path, "vanilla", VANILLA)]
    for number in range(19):
        folders.append(write_run(tmp_path, f"m{number:02}", momentum(round(0.05 * number, 2))))
    runs, _ = load_runs(list(map(str, folders)))
    path = tmp_path / "report.html"
    path.write_text(report(runs, [], []))
    with opened(path) as page:
        looks = page.locator("#runs .chip").evaluate_all("chips => chips.map(one => one.innerHTML)")
    assert len(looks) == len(set(looks)) == 20


def test_a_printed_page_is_light_and_has_no_switches(page_file: Path) -> None:
    with opened(page_file, scheme="dark") as page:
        page.emulate_media(media="print", color_scheme="dark")
        assert page.locator("#switches").is_hidden()
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == "rgb(253, 253, 252)"
