"""What the tests of tracking share: runs that are logged, and W&B's own reader of offline runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from momentum_gpt.tracking import Tracker
from momentum_gpt.tracking.copies import run_id
from tests.wandb_server import WandbServer

KEY = "5ec" + "0" * 37


def config(folder: Path, wandb: str, **tracking: Any) -> TrainConfig:
    given = {"wandb": wandb, "project": "p", "group": "g", "tags": ["t"]}
    made = TrainConfig(
        name="run",
        data=DataConfig("data"),
        model=ModelConfig(1, 1, 4, 8),
        attention={"name": "momentum", "ema_decay": 0.5},
        optim=OptimConfig(1.0, 0.1, 0),
        training=TrainingConfig(1, 8),
        deepspeed={},
        evaluation=EvaluationConfig(tokens=8),
        tracking=TrackingConfig(**given | tracking),
        runs=str(folder),
    )
    made.run_dir.mkdir(parents=True, exist_ok=True)
    return made


def log_steps(tracker: Tracker, steps: range, loss: float = 1.0) -> None:
    for step in steps:
        tracker.log(step, step * 8, {"train/loss": loss / step})


def metrics(folder: Path) -> list[dict[str, Any]]:
    return read_json_lines(folder / "run" / "metrics.jsonl")


def copies(folder: Path) -> list[Path]:
    """The folders of the training's W&B run."""
    if not (folder / "run" / "wandb" / "run_id").is_file():
        return []  # asking for it would make one, beside the process that does
    return list((folder / "run" / "wandb").glob(f"*run-*-{run_id(folder / 'run')}"))


def inspect(folder: Path, run: Path | None = None) -> list[dict[str, Any]]:
    """What an offline run recorded, read by the W&B client itself."""
    run = run or next((folder / "run" / "wandb").glob("offline-run-*"))
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)],
        cwd=run,
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]


def x_axes(records: list[dict[str, Any]]) -> dict[str, str | None]:
    """What each metric is drawn over, by its name or pattern."""
    metrics = [record["metric"] for record in records if record["type"] == "metric"]
    return {m.get("glob_name") or m["name"]: m.get("step_metric") for m in metrics}


def logged_in(url: str) -> dict[str, str]:
    """The environment of somebody who is logged in to a server."""
    return {"WANDB_BASE_URL": url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}


def sync(message: str, server: WandbServer) -> None:
    """Do what a message tells the user to do."""
    command = message.partition("to upload: wandb ")[2].split()
    assert command, message
    subprocess.run(
        [sys.executable, "-m", "wandb", *command],
        cwd=command[-1],  # where it logs
        env=os.environ | logged_in(server.url),
        capture_output=True,
        check=True,
        timeout=100,
    )


@dataclass
class Copy:
    """A W&B run as its copy on the disk has it.

    Attributes:
        folder: of the copy.
        records: all that the client has written, in its order.
    """

    folder: Path
    records: list[dict[str, Any]]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [record[kind] for record in self.records if record["type"] == kind]

    @property
    def run(self) -> dict[str, Any]:
        return self.of_kind("run")[0]

    @property
    def config(self) -> dict[str, Any]:
        config = dict(self.run["config"]["update"])
        for change in self.of_kind("config"):
            config |= change["update"]
        return config

    @property
    def history(self) -> list[dict[str, Any]]:
        return [without_own(row["item"]) for row in self.of_kind("history")]

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = {}
        for change in self.of_kind("summary"):
            summary |= change.get("update", {})
        return without_own(summary)

    @property
    def charts(self) -> set[str]:
        """The keys of the history that are not hidden."""
        metrics = self.of_kind("metric")
        hidden = {m["name"] for m in metrics if m.get("options", {}).get("hidden")}
        return {key for row in self.history for key in row} - hidden

    def table(self, key: str) -> list[list[Any]]:
        """The rows of a table of the summary, from its file."""
        content = json.loads((self.folder / "files" / self.summary[key]["path"]).read_text())
        return [content["columns"], *content["data"]]

    def artifact(self, kind: str) -> dict[str, bytes]:
        """The files of the only artifact of a kind, from where the upload takes them."""
        (found,) = [a for a in self.of_kind("artifact") if a["type"] == kind]
        files = found["manifest"]["contents"]
        for file in files:
            assert Path(file["local_path"]).is_relative_to(self.folder)
        return {file["path"]: Path(file["local_path"]).read_bytes() for file in files}


def read_copy(folder: Path) -> Copy:
    """Read the only copy that is left of the W&B runs below a folder."""
    (copy,) = (folder / "wandb").glob("*run-*-*")
    return Copy(copy, inspect(folder.parent, copy))


def without_own(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the columns that W&B adds."""
    return {key: value for key, value in row.items() if not key.startswith("_")}
