"""metrics.jsonl is the truth; W&B, the real client, is a view that never delays a run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from momentum_gpt.core.config import (
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimConfig,
    TrackingConfig,
    TrainConfig,
    TrainingConfig,
)
from momentum_gpt.core.files import read_json_lines
from momentum_gpt.tracking import Tracker, run_id, show_afterwards


def config(folder: Path, wandb: str) -> TrainConfig:
    made = TrainConfig(
        name="run",
        data=DataConfig("data"),
        model=ModelConfig(1, 1, 4, 8),
        attention={"name": "momentum", "ema_decay": 0.5},
        optim=OptimConfig(1.0, 0.1, 0),
        training=TrainingConfig(1, 8),
        deepspeed={},
        evaluation=EvaluationConfig(tokens=8),
        tracking=TrackingConfig(wandb=wandb, project="p", group="g", tags=["t"]),
        runs=str(folder),
    )
    made.run_dir.mkdir(parents=True, exist_ok=True)
    return made


def inspect(folder: Path, run: Path | None = None) -> list[dict[str, Any]]:
    """What an offline run recorded, read by the W&B client itself."""
    run = run or next((folder / "run" / "wandb").glob("offline-run-*"))
    done = subprocess.run(
        [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(run)],
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]


def x_axes(records: list[dict[str, Any]]) -> dict[str, str | None]:
    """What each metric is drawn over, by its name or pattern."""
    metrics = [record["metric"] for record in records if record["type"] == "metric"]
    return {m.get("glob_name") or m["name"]: m.get("step_metric") for m in metrics}


def test_an_offline_run_holds_config_tags_group_token_axis_and_every_record(tmp_path: Path) -> None:
    tracker = Tracker(config(tmp_path, "offline"), 0)
    for step in range(1, 4):
        tracker.log(step, step * 8, {"train/loss": 1.0 / step})
    message = tracker.close()
    assert message is not None
    assert "wandb sync" in message
    records = inspect(tmp_path)
    assert x_axes(records) == {"tokens": None, "*": "tokens"}
    text = json.dumps(records)
    for part in (
        "train/loss",
        "0.3333333333333333",
        '"g"',
        '"t"',
        "momentum",
        "ema_decay",
    ):
        assert part in text, part
    assert [r["tokens"] for r in read_json_lines(tmp_path / "run" / "metrics.jsonl")] == [8, 16, 24]


def test_what_is_measured_afterwards_is_a_run_of_its_own_on_the_token_axis(tmp_path: Path) -> None:
    c = config(tmp_path, "offline")
    Tracker(c, 0).close()
    trained = set((tmp_path / "run" / "wandb").glob("offline-run-*"))
    message = show_afterwards(
        c, [{"step": step, "tokens": step * 8, "val/loss": 1.0 / step} for step in (3, 6)]
    )
    (evaluated,) = set((tmp_path / "run" / "wandb").glob("offline-run-*")) - trained
    assert message is not None
    assert str(evaluated) in message
    assert not evaluated.name.endswith(run_id(tmp_path / "run"))
    records = inspect(tmp_path, evaluated)
    assert x_axes(records) == {"tokens": None, "*": "tokens"}
    text = json.dumps(records)
    for part in ("val/loss", "0.3333333333333333", '"evaluate"', "run, evaluated"):
        assert part in text, part
    assert show_afterwards(config(tmp_path, "disabled"), []) is None


def test_a_resumed_run_drops_what_comes_again_and_keeps_its_id(tmp_path: Path) -> None:
    c = config(tmp_path, "disabled")
    first = Tracker(c, 0)
    for step in (1, 2, 3, 4):
        first.log(step, step, {"train/loss": float(step)})
    first.close()
    path = tmp_path / "run" / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"step": 5, "tok')  # a kill in the middle of a line
    again = Tracker(c, 2)
    again.log(3, 3, {"train/loss": 30.0})
    again.close()
    assert [(r["step"], r["train/loss"]) for r in read_json_lines(path)] == [
        (1, 1.0),
        (2, 2.0),
        (3, 30.0),
    ]
    assert run_id(tmp_path / "run") == run_id(tmp_path / "run")


@pytest.mark.parametrize("server", ["refuses", "never answers"])
def test_a_server_that_does_not_answer_neither_delays_nor_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    """A black hole accepts connections and never answers: the client alone would wait for 90 s."""
    with socket.create_server(("127.0.0.1", 0)) as black_hole:
        port = black_hole.getsockname()[1]
        if server == "refuses":
            black_hole.close()
        monkeypatch.delenv("WANDB_MODE", raising=False)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        began = time.monotonic()
        tracker = Tracker(config(tmp_path, "auto"), 0)
        for step in range(200):
            tracker.log(step, step, {"train/loss": 1.0})
        assert time.monotonic() - began < 5  # not one of the waits of the client
        message = tracker.close()
        assert time.monotonic() - began < 60
    assert message is not None
    assert "offline" in message
    assert len(read_json_lines(tmp_path / "run" / "metrics.jsonl")) == 200
    assert '"train/loss"' in json.dumps(inspect(tmp_path))


def test_no_key_is_written_into_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "5ec" + "0" * 37)
    tracker = Tracker(config(tmp_path, "offline"), 0)
    tracker.close()
    for root, _, files in os.walk(tmp_path):
        for name in files:
            assert b"5ec" + b"0" * 37 not in (Path(root) / name).read_bytes(), name
