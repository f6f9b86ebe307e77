"""The comparison of real runs: the table, the common ground, and the report in a real browser."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from momentum_gpt import compare, evaluate
from momentum_gpt.comparison.certificate import common_ground
from momentum_gpt.comparison.paired import Comparison, PairedDifference
from momentum_gpt.comparison.report import report
from momentum_gpt.comparison.runs import LEFT_OUT, Run, config_differences, load_runs
from momentum_gpt.comparison.table import columns, results_text
from momentum_gpt.core.files import read_json, read_json_lines, write_json
from momentum_gpt.core.manifest import read_checkpoint_manifest
from tests.comparison.report.browser import opened
from tests.conftest import SMOKE, Result, command
from tests.tracking.support import read_copy

Invoke = Callable[..., Result]

VARIANTS: dict[str, list[str]] = {
    "vanilla": [],
    "momentum": ["attention=momentum"],
    "other seed": ["training.seed=1"],
}


@pytest.fixture(scope="module")
def runs(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train three short runs and return their folder."""
    folder = tmp_path_factory.mktemp("runs")
    for name, options in VARIANTS.items():
        done = command(
            "momentum_gpt.train",
            f"name='{name}'",
            f"data={data_folder}",
            f"runs={folder}",
            *SMOKE,
            *options,
        )
        assert done.code == 0, done.err
    return folder


def both(runs: Path) -> list[str]:
    return [str(runs / "vanilla"), str(runs / "momentum")]


def load(folders: list[str]) -> list[Run]:
    """Return the finished runs of these folders: all of them."""
    loaded, left_out = load_runs(folders)
    assert left_out == []
    return loaded


def last_evaluation(folder: str) -> dict[str, Any]:
    records = read_json_lines(Path(folder) / "metrics.jsonl")
    return [record for record in records if "val/loss" in record][-1]


def test_the_table_holds_the_last_evaluation_and_the_differences(runs: Path) -> None:
    loaded = load(both(runs))
    first, other = [last_evaluation(folder) for folder in both(runs)]
    table = {f"{column.title} {column.unit}": column.values for column in columns(loaded)}

    losses = table["val loss nats/token"]
    perplexities = table["ppl@64 per token"]
    assert losses == [first["val/loss"], other["val/loss"]]
    assert perplexities == [first["val/ppl@64"], other["val/ppl@64"]]
    assert perplexities[0] == pytest.approx(math.exp(losses[0]))

    text = results_text(loaded)
    assert f"{other['val/loss'] - first['val/loss']:+.4f}" in text
    assert len({len(line) for line in text.splitlines()}) == 1


def test_runs_that_differ_in_the_attention_alone_share_weights_and_tokens(runs: Path) -> None:
    loaded = load(both(runs))
    found = config_differences(loaded)
    assert {key.partition(".")[0] for key in found} == {"attention"}
    assert found["attention.name"] == ["vanilla", "momentum"]
    assert found["attention.ema_decay"] == [None, 0.5]

    assert common_ground(loaded)[:3] == [
        "Identical initial weights.",
        "Identical training tokens.",
        "Identical order of the training tokens.",
    ]


def test_another_seed_is_told_apart(runs: Path) -> None:
    sentences = common_ground(load([str(runs / "vanilla"), str(runs / "other seed")]))
    assert any(sentence.startswith("NOT identical initial weights:") for sentence in sentences)
    assert any(sentence.startswith("NOT the same order of the") for sentence in sentences)


def test_runs_with_different_tokenizers_are_compared_by_bytes_and_words(
    runs: Path, tmp_path: Path, invoke: Invoke
) -> None:
    """A copy of a run that says that it has another tokenizer: the text is the same."""
    copy = Path(shutil.copytree(runs / "momentum", tmp_path / "momentum"))
    checkpoint = copy / "checkpoints" / "step_00000020"
    replace(read_checkpoint_manifest(checkpoint), tokenizer_sha256="another").write(checkpoint)

    page = tmp_path / "report.html"
    runs_of_both = f"runs=[{runs}/vanilla,{copy}]"
    done = invoke(compare.main, runs_of_both, f"output={page}")
    assert done.code == 2
    assert "not the same tokenizer" in done.err
    assert not page.exists()

    done = invoke(compare.main, runs_of_both, f"output={page}", "confounded=true")
    assert done.code == 0, done.err
    assert "CONFOUNDED: not the same tokenizer" in done.out
    assert "bits/byte" in done.out
    assert "nats/word" in done.out
    assert "nats/token" not in done.out
    assert "nats per token" not in page.read_text()


def test_an_unfinished_run_is_left_out_by_name(runs: Path, tmp_path: Path, invoke: Invoke) -> None:
    copy = Path(shutil.copytree(runs / "momentum", tmp_path / "longer"))
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("max_steps: 20", "max_steps: 40"))

    page = tmp_path / "report.html"
    done = invoke(compare.main, f"runs=[{runs}/vanilla,{copy}]", f"output={page}")
    assert done.code == 2
    assert "longer (evaluated at step 20 of 40)" in done.err
    assert not page.exists()

    done = invoke(compare.main, f"runs=[{runs}/vanilla,{copy},{runs}/momentum]", f"output={page}")
    assert done.code == 0, done.err
    assert f"{LEFT_OUT} longer (evaluated at step 20 of 40)." in done.out
    assert "longer against" not in done.out


def test_wandb_gets_what_was_found_and_the_report(
    runs: Path, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    page = tmp_path / "report.html"
    options = [f"runs=[{runs}/vanilla,{runs}/momentum]", f"output={page}"]
    done = invoke(compare.main, *options)
    assert done.code == 0, done.err
    assert not (tmp_path / "wandb").exists()

    done = invoke(compare.main, *options, "wandb=true")
    assert done.code == 0, done.err
    copy = read_copy(tmp_path)
    assert done.out.splitlines()[-1] == f"W&B, offline; to upload: wandb sync {copy.folder}"
    assert copy.artifact("comparison")["report.html"] == page.read_bytes()
    assert copy.summary["certificate"].splitlines() == common_ground(load(both(runs)))
    assert "momentum against vanilla" in copy.summary["verdict"]
    assert not (runs / "vanilla" / "wandb").exists()


def test_overlapping_windows_are_compared_too(runs: Path, tmp_path: Path, invoke: Invoke) -> None:
    folders = [
        str(shutil.copytree(runs / name, tmp_path / name)) for name in ("vanilla", "momentum")
    ]
    for folder in folders:
        options = ["evaluation.stride=16", "evaluation.context_lengths=[32,64]"]
        done = invoke(evaluate.main, f"run={folder}", *options)
        assert done.code == 0, done.err

    done = invoke(compare.main, f"runs=[{folders[0]},{folders[1]}]", f"output={tmp_path}/r.html")
    assert done.code == 0, done.err
    assert "validation, context 32, stride 16" in done.out


def test_what_was_measured_afterwards_counts_only_if_all_runs_have_it(
    runs: Path, tmp_path: Path
) -> None:
    folders = []
    for name in ("vanilla", "momentum"):
        folders.append(str(shutil.copytree(runs / name, tmp_path / name)))
    step = last_evaluation(folders[0])["step"]
    line = f'{{"step": {step}, "val/loss": 1.5, "val/targets": 64}}\n'

    first = Path(folders[0]) / "evaluations" / "validation.jsonl"
    first.write_text(line)
    assert load(folders)[0].final["val/loss"] != 1.5

    (Path(folders[1]) / "evaluations" / "validation.jsonl").write_text(line)
    assert [run.final["val/loss"] for run in load(folders)] == [1.5, 1.5]


def test_the_page_holds_the_tables_and_marks_what_speaks_against_the_comparison(
    runs: Path,
) -> None:
    loaded = load([str(runs / "vanilla"), str(runs / "other seed")])
    row = PairedDifference(
        measure="a & b",
        unit="nats",
        paired_by="document",
        pairs=40,
        first=2.0,
        other=1.0,
        interval=(-1.5, -0.5),
        detectable=0.7,
        p_values={"sign-flip": 0.001},
        p_holm=0.001,
    )
    sentences = [f"{LEFT_OUT} c.", *common_ground(loaded)]
    page = report(loaded, [Comparison("Losses <b>", "x", "y", [row])], sentences)

    assert "<h2>Losses &lt;b&gt;</h2>" in page
    assert "<td>a &amp; b</td><td>nats</td><td>40</td>" in page
    assert "<td>*</td>" in page
    assert f'<li class="against">{LEFT_OUT} c.</li>' in page
    assert '<li class="against">NOT identical initial weights: ' in page
    assert "<li>Identical training tokens.</li>" in page
    assert f"{columns(loaded)[0].difference(1)}</span>" in page
    assert "<td>training.seed</td>" in page


@pytest.mark.parametrize("module", ["compare", "recall", "dashboard"])
def test_help_loads_no_heavy_library(module: str) -> None:
    heavy = ["torch", "scipy", "aiohttp", "jinja2", "deepspeed"]
    code = f"import sys, momentum_gpt.{module}; print([x for x in {heavy} if x in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.browser
def test_the_report_of_trained_runs_opens_without_a_network(
    runs: Path, tmp_path: Path, invoke: Invoke
) -> None:
    hostile = Path(shutil.copytree(runs / "momentum", tmp_path / "<img src=x onerror=alert(1)>"))
    path = tmp_path / "report.html"
    done = invoke(compare.main, f"runs=['{runs}/vanilla','{hostile}']", f"output={path}")
    assert done.code == 0, done.err

    with opened(path) as page:
        names = page.locator("#runs .muted").all_text_contents()
        assert names == ["vanilla", hostile.name]
        assert page.locator("#figures svg").count() == 10


def test_compare_refuses_until_one_says_that_it_may(
    runs: Path, tmp_path: Path, invoke: Invoke
) -> None:
    folder = f"{runs}/vanilla"
    page = tmp_path / "report.html"
    options = [f"runs=[{folder},'{runs}/other seed']", f"output={page}"]
    done = invoke(compare.main, *options)
    assert done.code == 2
    assert done.err.count("\n") == 1
    for what in ("identical initial weights", "training.seed: 0 in vanilla, 1 in other seed"):
        assert what in done.err
    assert "confounded=true" in done.err
    assert not page.exists()

    done = invoke(compare.main, *options, "confounded=true")
    assert done.code == 0, done.err
    assert done.out.startswith("CONFOUNDED: not identical initial weights")


def test_a_run_records_its_code_and_kernels(runs: Path) -> None:
    made = [
        read_checkpoint_manifest(runs / name / "checkpoints" / "step_00000020")
        for name in ("vanilla", "momentum")
    ]
    assert made[0].kernels == made[1].kernels
    assert made[0].kernels["device"] == "cpu"
    assert {"attention", "optimizer", "cross-entropy"} <= made[0].kernels.keys()
    assert [len(code) for code in made[0].code] == [64]
    assert made[0].versions.keys() == {"torch", "deepspeed"}


def test_an_edited_manifest_is_refused(runs: Path, tmp_path: Path, invoke: Invoke) -> None:
    copy = Path(shutil.copytree(runs / "momentum", tmp_path / "momentum"))
    path = copy / "checkpoints" / "step_00000020" / "manifest.json"
    write_json(path, read_json(path) | {"code": ["as it should be"]})
    done = invoke(compare.main, f"runs=[{runs}/vanilla,{copy}]", f"output={tmp_path}/r.html")
    assert done.code == 2
    assert f"{path} is not the manifest of a checkpoint" in done.err
