"""A comparison on W&B: the verdict, the certificate and the report in one artifact."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from momentum_gpt.core.config import write_config
from momentum_gpt.tracking import log_comparison
from momentum_gpt.tracking.workspace import comparison_workspace
from tests.tracking.support import config, logged_in, read_copy
from tests.wandb_server import WandbServer

VERDICTS = ["momentum is better than vanilla by 0.031 nats [0.024, 0.038], 6 seeds, p = 0.0003"]
SENTENCES = ["Identical initial weights for each seed.", "NOT the same number of steps."]
REPORT = "<!doctype html><title>Report</title><p>momentum is better</p>"


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """The folders of two runs, one of which is on W&B."""
    momentum = config(tmp_path, "offline")
    vanilla = replace(momentum, name="vanilla", attention={"name": "vanilla"})
    for made in (vanilla, momentum):
        made.run_dir.mkdir(exist_ok=True)
        write_config(made, made.run_dir / "config.yaml")
    (momentum.run_dir / "wandb").mkdir()
    (momentum.run_dir / "wandb" / "run_id").write_text("abcd1234")
    (tmp_path / "report.html").write_text(REPORT)
    return [vanilla.run_dir, momentum.run_dir]


def test_verdict_and_certificate_are_an_artifact_with_the_report(
    runs: list[Path], tmp_path: Path
) -> None:
    for order in (runs, runs[::-1]):  # the second time takes the place of the first
        log_comparison(order, ["an older verdict"], SENTENCES, tmp_path / "report.html")
    message = log_comparison(runs, VERDICTS, SENTENCES, tmp_path / "report.html")
    copy = read_copy(tmp_path)
    assert message == f"W&B, offline; to upload: wandb sync {copy.folder}"
    assert copy.run["project"] == "p"
    assert copy.run["job_type"] == "compare"
    assert copy.run["display_name"] == "vanilla, momentum 0.5"

    compared = [
        {"name": "vanilla", "variant": "vanilla", "seed": 0, "id": None},
        {"name": "run", "variant": "momentum 0.5", "seed": 0, "id": "abcd1234"},
    ]
    assert copy.config["runs"] == compared
    files = copy.artifact("comparison")
    assert files["report.html"].decode() == REPORT
    assert json.loads(files["verdict.json"]) == {
        "runs": compared,
        "verdicts": VERDICTS,
        "sentences": SENTENCES,
    }
    assert copy.summary["verdict"] == VERDICTS[0]
    assert copy.summary["certificate"].splitlines() == SENTENCES
    shown = copy.folder / "files" / copy.summary["report"]["path"]
    assert shown.read_text() == REPORT


def test_a_comparison_that_cannot_be_logged_is_one_line(runs: list[Path], tmp_path: Path) -> None:
    message = log_comparison(runs, VERDICTS, SENTENCES, tmp_path / "missing.html")
    assert message.startswith("W&B stopped (")
    assert "missing.html" in message
    assert len(message.splitlines()) == 1


def test_the_workspace_groups_the_runs_over_tokens() -> None:
    pytest.importorskip("wandb_workspaces")
    workspace = comparison_workspace("me", "p", "vanilla, momentum", ["aa", "bb"])
    spec = json.loads(workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    (runset,) = spec["section"]["runSets"]
    assert [key["name"] for key in runset["grouping"]] == ["group"]
    assert '["aa", "bb"]' in json.dumps(runset["filters"])
    sections = {s["name"]: s["panels"] for s in spec["section"]["panelBankConfig"]["sections"]}
    assert sections["Verdict"][0]["config"]["mediaKeys"] == ["report"]
    (loss, _) = sections["Loss"]
    assert loss["config"]["metrics"] == ["val/loss"]
    assert loss["config"]["xAxis"] == "tokens"
    assert spec["section"]["settings"]["xAxis"] == "tokens"


def test_with_a_login_the_workspace_is_saved_and_named(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb_workspaces")
    with WandbServer() as server:
        for name, value in logged_in(server.url).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("WANDB_MODE", "online")
        online = replace(config(tmp_path, "online"), name="vanilla", attention={"name": "vanilla"})
        write_config(online, runs[0] / "config.yaml")
        message = log_comparison(runs, VERDICTS, SENTENCES, tmp_path / "report.html")

    seen, workspace = message.splitlines()
    assert seen.startswith(f"W&B: {server.url}/someone/p/runs/")
    assert workspace.startswith("workspace: ")
    (spec,) = server.views.values()
    shown = json.dumps(spec["section"]["runSets"][0]["filters"])
    assert '"abcd1234"' in shown
    assert seen.rsplit("/", 1)[1] in shown
    assert list(server.artifacts.values()) == ["comparison"]
