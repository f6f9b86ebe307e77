"""The comparison on real runs: the table, the common ground, and the report in a real browser without a network."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from momentum_gpt import compare
from momentum_gpt.comparison.runs import common_ground, differences, load_runs
from momentum_gpt.comparison.table import as_text, columns
from momentum_gpt.core.files import read_json_lines
from tests.conftest import CHROMIUM, SMOKE, Result, command

Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def runs(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name, more in (
        ("vanilla", []),
        ("momentum", ["attention=momentum"]),
        ("other seed", ["training.seed=1"]),
    ):
        done = command(
            "momentum_gpt.train",
            f"name='{name}'",
            f"data={data_folder}",
            f"runs={folder}",
            *SMOKE,
            *more,
        )
        assert done.code == 0, done.err
    return folder


def both(runs: Path) -> list[str]:
    return [str(runs / "vanilla"), str(runs / "momentum")]


def test_the_table_holds_the_last_evaluation_and_the_differences(runs: Path) -> None:
    loaded = load_runs(both(runs))
    last = [
        next(r for r in reversed(read_json_lines(Path(f) / "metrics.jsonl")) if "val/loss" in r)
        for f in both(runs)
    ]
    table = {f"{column.title} {column.unit}": column for column in columns(loaded)}
    assert table["val loss nats/token"].values == [r["val/loss"] for r in last]
    assert table["ppl@64 per token"].values == [r["val/ppl@64"] for r in last]
    assert table["ppl@64 per token"].values[0] == pytest.approx(
        math.exp(table["val loss nats/token"].values[0])
    )
    text = as_text(loaded)
    assert f"{last[1]['val/loss'] - last[0]['val/loss']:+.4f}" in text
    assert len({len(line) for line in text.splitlines()}) == 1


def test_runs_that_differ_in_the_attention_alone_share_weights_and_tokens(runs: Path) -> None:
    loaded = load_runs(both(runs))
    found = differences(loaded)
    assert {key.partition(".")[0] for key in found} == {"attention"}
    assert (found["attention.name"], found["attention.ema_decay"]) == (
        ["vanilla", "momentum"],
        [None, 0.5],
    )
    assert common_ground(loaded)[:3] == [
        "Identical initial weights.",
        "Identical training tokens.",
        "Identical order of the tokens.",
    ]


def test_another_seed_is_told_apart(runs: Path) -> None:
    sentences = common_ground(load_runs([str(runs / "vanilla"), str(runs / "other seed")]))
    assert "NOT identical initial weights." in sentences
    assert "NOT the same order of the tokens." in sentences


def test_other_tokenizers_are_not_compared(runs: Path, tmp_path: Path, invoke: Invoke) -> None:
    copy = Path(shutil.copytree(runs / "momentum", tmp_path / "momentum"))
    manifest = copy / "checkpoints" / "step_00000020" / "manifest.json"
    manifest.write_text(
        manifest.read_text().replace('"tokenizer_sha256": "', '"tokenizer_sha256": "0')
    )
    done = invoke(compare.main, f"runs=[{runs}/vanilla,{copy}]", f"output={tmp_path}/report.html")
    assert (done.code, "different tokenizers" in done.err) == (2, True)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.browser
def test_the_report_opens_in_a_browser_without_a_network(
    runs: Path, tmp_path: Path, invoke: Invoke
) -> None:
    from playwright.sync_api import sync_playwright

    hostile = Path(shutil.copytree(runs / "momentum", tmp_path / "<img src=x onerror=alert(1)>"))
    done = invoke(
        compare.main, f"runs=['{runs}/vanilla','{hostile}']", f"output={tmp_path}/report.html"
    )
    assert done.code == 0, done.err
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_context(offline=True, viewport={"width": 1300, "height": 900}).new_page()
        requests: list[str] = []
        errors: list[Any] = []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(error))
        page.on("dialog", lambda dialog: errors.append(dialog.message))
        page.goto((tmp_path / "report.html").as_uri())
        page.wait_for_selector(".legend .traces")
        page.wait_for_timeout(1000)
        figures = page.locator(".js-plotly-plot")
        assert figures.count() == 7
        for number in range(figures.count()):
            figure = figures.nth(number)
            assert figure.locator(".xtitle").text_content()
            assert figure.locator(".ytitle").text_content()
            drawn, cell = figure.locator(".main-svg").first.bounding_box(), figure.bounding_box()
            assert drawn is not None
            assert cell is not None
            assert drawn["width"] <= cell["width"] + 1
        first = figures.first
        assert first.locator(".scatterlayer .trace").count() == 2
        first.locator(".legendtoggle").first.click()
        page.wait_for_function(
            "document.querySelectorAll('.js-plotly-plot')[0].querySelectorAll('.scatterlayer .trace').length == 1"
        )
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        browser.close()
    assert not errors
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
