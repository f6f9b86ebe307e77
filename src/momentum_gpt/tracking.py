"""Metrics: `metrics.jsonl` always, and W&B beside it as a view of the file. The only file that imports wandb."""

from __future__ import annotations

import json
import logging
import os
import queue
import secrets
import threading
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import Any

from momentum_gpt.core.config import TrainConfig
from momentum_gpt.core.files import keep_json_lines

SERVER_ANSWERS_WITHIN = 3
"""Seconds that a W&B server has to answer its first request; after that the run is offline."""
FINISH_WITHIN = 10
"""Seconds that the upload may take at the end of a run; what is not sent by then waits in the run folder."""

log = logging.getLogger(__name__)


class Tracker:
    """Writes each record to `metrics.jsonl`, flushed, and hands it to W&B. Only the main rank has one.

    Args:
        config: of the run; logged to W&B as it is.
        step: the step that the run starts from; later lines of an earlier attempt are dropped, as they come again.
    """

    def __init__(self, config: TrainConfig, step: int) -> None:
        self.path = config.run_dir / "metrics.jsonl"
        keep_json_lines(self.path, lambda record: record["step"] <= step)
        self.file = self.path.open("a")
        self.dashboard = None if config.tracking.wandb == "disabled" else Dashboard(config)

    def log(self, step: int, tokens: int, metrics: dict[str, float]) -> None:
        record = {"step": step, "tokens": tokens, **metrics}
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        if self.dashboard:
            self.dashboard.records.put(record)

    def close(self) -> str | None:
        """Finish both; returns what there is to say of W&B."""
        self.file.close()
        return self.dashboard.close() if self.dashboard else None


def show_afterwards(config: TrainConfig, records: list[dict[str, Any]]) -> str | None:
    """Hand W&B what was measured after training, on the same axis; returns what there is to say of it."""
    if config.tracking.wandb == "disabled":
        return None
    dashboard = Dashboard(config, afterwards=True)
    for record in records:
        dashboard.records.put(record)
    return dashboard.close()


class Dashboard:
    """A W&B run in a thread of its own: the training loop only puts records into a queue, so it never waits.

    Without a login, without an answer or with any error of the client, the run goes on offline in `runs/NAME/wandb/`.

    Args:
        afterwards: a W&B run of its own, beside that of the training: what was measured of its checkpoints later.
    """

    def __init__(self, config: TrainConfig, afterwards: bool = False) -> None:
        self.config, self.afterwards = config, afterwards
        self.records: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.message: str | None = None
        self.thread = threading.Thread(target=self._work, daemon=True, name="wandb")
        self.thread.start()

    def close(self) -> str:
        self.records.put(None)
        self.thread.join(timeout=SERVER_ANSWERS_WITHIN + 2 * FINISH_WITHIN + 10)
        if self.thread.is_alive():
            return "W&B: the server did not answer in time; metrics.jsonl is complete"
        return self.message or "W&B: nothing was logged; metrics.jsonl is complete"

    def _work(self) -> None:
        try:
            run = self._start()
            run.define_metric("tokens", hidden=True)
            run.define_metric("*", step_metric="tokens")
            while (record := self.records.get()) is not None:
                run.log(record)
            run.finish()
            folder = Path(run.dir).parent
            self.message = (
                f"W&B, offline; to upload: wandb sync {folder}"
                if run.offline
                else f"W&B: {run.url}"
            )
        except Exception as error:  # a dashboard must never end a run
            self.message = (
                f"W&B stopped ({' '.join(str(error).split())}); metrics.jsonl is complete"
            )
            log.warning(self.message)

    def _start(self) -> Any:
        import wandb

        tracking, run_dir = self.config.tracking, self.config.run_dir
        settings = wandb.Settings(
            console="off",
            silent=True,
            init_timeout=FINISH_WITHIN,
            finish_timeout=FINISH_WITHIN,
            x_transaction_log_flush_interval=2,  # seconds: what a killed run may lose of the offline copy
        )
        arguments: dict[str, Any] = {
            "project": tracking.project,
            "group": tracking.group,
            "tags": [self.config.attention["name"], *tracking.tags],
            "name": self.config.name,
            "job_type": "train",
            "id": run_id(run_dir),
            "resume": "allow",
            "config": asdict(self.config),
            "dir": str(run_dir),
            "settings": settings,
        }
        if self.afterwards:
            arguments |= {
                "name": f"{self.config.name}, evaluated",
                "job_type": "evaluate",
                "id": None,
                "resume": None,
            }
        if tracking.wandb == "online" or (tracking.wandb == "auto" and _logged_in(wandb)):
            try:
                urllib.request.urlopen(
                    wandb.setup().settings.base_url, timeout=SERVER_ANSWERS_WITHIN
                ).close()
                return wandb.init(mode="online", **arguments)
            except Exception as error:
                log.warning(
                    "W&B is not reachable (%s): this run is logged offline",
                    " ".join(str(error).split()),
                )
        return wandb.init(mode="offline", **arguments)


def _logged_in(wandb: Any) -> bool:
    return bool(os.environ.get("WANDB_API_KEY") or wandb.api.api_key)


def run_id(run_dir: Path) -> str:
    """The W&B id of the run, minted once and kept in its folder, so that a resumed run stays one run."""
    path = run_dir / "wandb" / "run_id"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(secrets.token_hex(4))
    return path.read_text()
