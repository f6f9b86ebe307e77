"""A run on W&B, read back from its copy: what is at first sight, and what `evaluate` adds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from momentum_gpt.core import ownership
from momentum_gpt.core.files import append_json_lines
from momentum_gpt.tracking import Tracker, show_again, show_evaluated
from momentum_gpt.tracking.copies import run_id
from tests.tracking.support import (
    Copy,
    config,
    copies,
    logged_in,
    read_copy,
    sync,
    without_own,
    x_axes,
)
from tests.wandb_server import WandbServer

FACTS = {"n_parameters": 12, "flops_per_token": 34.5, "data_sha256": "d" * 64}

HISTORY = [
    {"step": 1, "tokens": 8, "train/loss": 3.0, "train/memory_gb": 0.5},
    {"step": 1, "tokens": 8, "val/loss": 2.0, "val/targets": 64, "icl/sst2/acc@4": 0.75},
    {"step": 2, "tokens": 16, "train/loss": 2.5, "train/memory_gb": 0.75, "event": "a spike"},
    {"step": 2, "tokens": 16, "val/loss": 2.25, "val/targets": 64, "icl/sst2/acc@4": 0.5},
]


def train(folder: Path, **tracking: Any) -> Path:
    """Log the history of a run offline; return its folder."""
    c = config(folder, "offline", **tracking)
    tracker = Tracker(c, 0, FACTS)
    for record in HISTORY:
        metrics = {key: value for key, value in record.items() if "/" in key or key == "event"}
        tracker.log(record["step"], record["tokens"], metrics)
    tracker.close()
    return c.run_dir


def measure(run_dir: Path, step: int, loss: float, data: str | None = None) -> None:
    """Leave what `evaluate` leaves, see docs/reference/metrics.md."""
    origin = {"checkpoint": f"step_{step:08}", "data": data, "settings": "s"}
    position = {"step": step, "tokens": 8 * step}
    name = "validation.jsonl" if data is None else "other.jsonl"
    line = origin | position | {"val/loss": loss, "val/targets": 4096}
    append_json_lines(run_dir / "evaluations" / name, [line])


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A run without a group of its own, of which two checkpoints were measured afterwards."""
    folder = tmp_path_factory.mktemp("view")
    run_dir = train(folder, group=None)
    for loss in (9.0, 1.5):  # the second time with other options
        measure(run_dir, 2, loss)
    measure(run_dir, 1, 1.75)
    measure(run_dir, 2, 7.0, data="data/other")
    keep_texts(run_dir)

    c = config(folder, "offline", group=None)
    (before,) = copies(folder)
    message = show_evaluated(c)
    after = read_copy(run_dir)
    assert message == f"W&B, offline; to upload: wandb sync {after.folder}"
    assert after.folder != before
    assert show_again(c) is None
    return after


def keep_texts(run_dir: Path) -> None:
    """Leave the texts that `evaluate` leaves of few-shot queries, and samples."""
    setting = {"checkpoint": "step_00000002", "step": 2, "tokens": 16, "task": "sst2", "k": 4}
    asked = {"query": 7, "prompt": "good film", "right": "positive"}
    wrong = asked | {"answer": "negative", "is_right": 0}
    right = asked | {"answer": "positive", "is_right": 1}
    lines = [
        setting | {"checkpoint": None, "seed": 0},  # of training, without texts
        setting | {"seed": 0, "examples": [wrong]},
        setting | {"seed": 0, "examples": [right]},
    ]
    append_json_lines(run_dir / "evaluations" / "icl.jsonl", lines)
    sample = {"checkpoint": "step_00000002", "tokens": 16, "prompt": "Once", "text": " upon"}
    append_json_lines(run_dir / "evaluations" / "samples.jsonl", [sample | {"step": 2}])


def test_the_config_holds_options_and_facts_and_the_group_is_the_variant(copy: Copy) -> None:
    assert copy.run["run_group"] == "momentum 0.5"
    assert copy.run["job_type"] == "train"
    assert copy.run["display_name"] == "run"
    assert copy.run["tags"] == ["momentum", "t"]
    assert copy.config["attention"] == {"name": "momentum", "ema_decay": 0.5}
    assert copy.config["facts"] == FACTS | {"peak_memory_gb": 0.75}
    assert copy.summary["facts"] == FACTS | {"peak_memory_gb": 0.75}


def test_the_history_is_that_of_the_training_and_then_what_was_measured(copy: Copy) -> None:
    assert copy.history == [
        *HISTORY,
        {"step": 1, "tokens": 8, "evaluate/val/loss": 1.75, "evaluate/val/targets": 4096},
        {"step": 2, "tokens": 16, "evaluate/val/loss": 1.5, "evaluate/val/targets": 4096},
    ]


def test_the_summary_has_the_best_and_the_last_value(copy: Copy) -> None:
    assert copy.summary["val/loss"] == {"min": 2.0, "last": 2.25}
    assert copy.summary["icl/sst2/acc@4"] == {"max": 0.75, "last": 0.5}
    assert copy.summary["train/memory_gb"] == {"max": 0.75}
    assert copy.summary["train/loss"] == 2.5
    assert copy.summary["evaluate/val/loss"] == {"min": 1.5, "last": 1.5}


def test_positions_and_counts_are_no_charts_and_all_others_are_over_tokens(copy: Copy) -> None:
    measured = {"val/loss", "icl/sst2/acc@4", "evaluate/val/loss"}
    assert copy.charts == {"train/loss", "train/memory_gb"} | measured
    axes = x_axes(copy.records)
    assert {key: axis for key, axis in axes.items() if axis != "tokens"} == {"tokens": None}
    assert axes["*"] == "tokens"


def test_answers_and_samples_are_tables(copy: Copy) -> None:
    head, *rows = copy.table("tables/few_shot_answers")
    assert head[:4] == ["checkpoint", "task", "k", "seed"]
    assert rows == [["step_00000002", "sst2", 4, 0, 7, "good film", "positive", "positive", 1]]
    _, *rows = copy.table("tables/text_samples")
    assert rows == [["step_00000002", 16, "Once", " upon"]]


def keep_analysis(run_dir: Path, step: int, value: float, way: str = "backprop") -> None:
    """Leave what `analyze` leaves: a measure with two nulls, and one without any."""
    position = {"checkpoint": f"step_{step:08}", "step": step, "tokens": 8 * step, "task": "sst2"}
    method = {"protocol": "default", "finetuning": way, "k": 4, "draws": 2, "queries": 9}
    known = {"value": value, "low": 0.1, "high": 0.5, "unit": "cosine", "verdict": "above its null"}
    measure = {"measure": "SimAOU, centred"}
    noise = measure | {"null": "noise", "null_value": 0.01, "is_hardest": False}
    labels = measure | {"null": "shuffled labels", "null_value": 0.125, "is_hardest": True}
    alone = {"measure": "order", "null": "", "null_value": None, "is_hardest": True}
    lines = [position | {"method": method} | known | row for row in (labels, noise, alone)]
    append_json_lines(run_dir / "evaluations" / "analysis.jsonl", lines)


def test_an_analysis_is_over_tokens_beside_its_hardest_null(tmp_path: Path) -> None:
    run_dir = train(tmp_path)
    measure(run_dir, 2, 1.5)
    for step, value in ((2, 0.375), (1, 0.25)):
        keep_analysis(run_dir, step, value)
    keep_analysis(run_dir, 2, 0.5, "label")
    c = config(tmp_path, "offline")
    show_evaluated(c)

    copy = read_copy(run_dir)
    likeness = "analysis/sst2/SimAOU_centred"
    first = {"step": 1, "tokens": 8, likeness: 0.25, f"{likeness}_null": 0.125}
    *_, before, last = copy.history
    assert before == first | {"analysis/sst2/order": 0.25}
    assert last["evaluate/val/loss"] == 1.5  # of the same checkpoint
    assert last[likeness] == copy.summary[likeness] == 0.375
    assert copy.summary[f"{likeness}_null"] == 0.125
    assert copy.summary["analysis/sst2/label/SimAOU_centred"] == 0.5
    assert likeness in copy.charts

    head, *rows = copy.table("tables/analysis")
    assert len(rows) == 9
    shown = dict(zip(head, rows[0], strict=True))
    assert (shown["checkpoint"], shown["measure"]) == ("step_00000002", "SimAOU, centred")
    assert (shown["null"], shown["null_value"], shown["k"]) == ("shuffled labels", 0.125, 4)
    assert show_again(c) is None


def test_a_run_logged_offline_looks_the_same_after_it_was_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = train(tmp_path)
    measure(run_dir, 2, 1.5)
    keep_texts(run_dir)
    with WandbServer() as server, WandbServer() as other:
        monkeypatch.setenv("WANDB_MODE", "offline")
        message = show_evaluated(config(tmp_path, "auto"))
        assert message
        sync(message, other)
        for name, value in logged_in(server.url).items():
            monkeypatch.setenv(name, value)
        name = run_id(run_dir)
        message = show_evaluated(config(tmp_path, "auto"))
        assert message == f"W&B: {server.url}/someone/p/runs/{name}"

    assert other.history(name) == server.history(name)
    assert len(server.history(name)) == len(HISTORY) + 1
    assert looks(other, name) == looks(server, name)
    about = looks(server, name)
    assert about["groupName"] == "g"
    assert sum('"5": "tokens"' in chart for chart in about["charts"]) == len(about["charts"]) - 1
    assert about["summary"]["val/loss"] == {"min": 2.0, "last": 2.25}
    assert about["config"]["facts"] == FACTS | {"peak_memory_gb": 0.75}
    assert other.artifacts == server.artifacts
    assert list(server.artifacts.values()) == ["run_table", "run_table"]


def looks(server: WandbServer, name: str) -> dict[str, Any]:
    """What a server knows of a run, without what is drawn or measured anew by the client."""
    about = dict(server.about[name])
    summary = without_own(about["summary"])
    for value in summary.values():
        if isinstance(value, dict):
            value.pop("artifact_path", None)
            value.pop("_latest_artifact_path", None)
    return about | {"summary": summary, "charts": charts_of(about["charts"])}


def charts_of(metrics: list[dict[str, Any]]) -> list[str]:
    """The metrics in one order, each with the name of its axis instead of the axis' number."""
    found = []
    for metric in metrics:
        axis = metric.get("5")
        named = metric | {"5": metrics[axis - 1]["1"] if axis else None}
        found.append(json.dumps(named, sort_keys=True))
    return sorted(found)


def test_a_run_that_is_resumed_keeps_what_was_measured(tmp_path: Path) -> None:
    run_dir = train(tmp_path)
    measure(run_dir, 1, 1.75)
    tracker = Tracker(config(tmp_path, "offline"), 1, FACTS)
    tracker.close()
    assert read_copy(run_dir).history[-1]["evaluate/val/loss"] == 1.75


def test_a_run_in_training_shows_at_its_end_what_is_measured_meanwhile(tmp_path: Path) -> None:
    c = config(tmp_path, "offline")
    with ownership.own(c.run_dir):
        tracker = Tracker(c, 0, FACTS)
        measure(c.run_dir, 1, 1.75)
        assert show_evaluated(c) == (
            "W&B gets this at the end of the run, which is still being trained"
        )
        tracker.close()
    assert read_copy(c.run_dir).history[-1]["evaluate/val/loss"] == 1.75


def test_nothing_is_shown_of_a_run_without_a_dashboard(tmp_path: Path) -> None:
    c = config(tmp_path, "disabled")
    measure(c.run_dir, 1, 1.0)
    assert show_evaluated(c) is None
    assert not (c.run_dir / "wandb").exists()


def test_damaged_facts_do_not_keep_a_run_from_being_shown(tmp_path: Path) -> None:
    run_dir = train(tmp_path)
    (run_dir / "wandb" / "facts.json").write_text("not json")
    measure(run_dir, 2, 1.5)
    show_evaluated(config(tmp_path, "offline"))
    assert read_copy(run_dir).history[-1]["evaluate/val/loss"] == 1.5


def test_without_tables_the_rest_of_the_run_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = train(tmp_path)
    keep_texts(run_dir)
    with WandbServer("without artifacts") as server:
        for name, value in logged_in(server.url).items():
            monkeypatch.setenv(name, value)
        message = show_evaluated(config(tmp_path, "auto"))
    assert message == f"W&B: {server.url}/someone/p/runs/{run_id(run_dir)}"
    assert server.history(run_id(run_dir)) == HISTORY
    (warning,) = capfd.readouterr().err.splitlines()
    assert warning.startswith("warning: W&B has no tables of this run (")
