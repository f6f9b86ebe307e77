"""Metrics: `metrics.jsonl` always, and W&B beside it as a view of the file.

The only file that imports wandb.
"""

from __future__ import annotations

import json
import logging
import netrc
import os
import queue
import secrets
import threading
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from momentum_gpt.core.config import TrainConfig
from momentum_gpt.core.files import keep_json_lines, write_text

SERVER_ANSWERS_WITHIN = 3
"""Seconds that a W&B server has to answer its first request; after that the run is offline."""

FINISH_WITHIN = 10
"""Seconds that the upload may take at the end of a run; the rest waits in the run folder."""

log = logging.getLogger(__name__)


class Tracker:
    """Write each record to `metrics.jsonl`, flushed, and hand it to W&B.

    Only the main rank has one.

    Args:
        config: of the run; logged to W&B as it is.
        step: the step that the run starts from. Later lines of an earlier attempt are dropped,
            because they will be written again.
    """

    def __init__(self, config: TrainConfig, step: int) -> None:
        self.path = config.run_dir / "metrics.jsonl"
        keep_json_lines(self.path, lambda record: record["step"] <= step)
        self.file = self.path.open("a")
        self.dashboard = None if config.tracking.wandb == "disabled" else Dashboard(config)

    def log(self, step: int, tokens: int, metrics: dict[str, float]) -> None:
        """Add one record."""
        record = {"step": step, "tokens": tokens, **metrics}
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        if self.dashboard:
            self.dashboard.records.put(record)

    def close(self) -> str | None:
        """Finish both, and return what to tell the user about W&B."""
        self.file.close()
        return self.dashboard.close() if self.dashboard else None


def show_afterwards(config: TrainConfig, records: list[dict[str, Any]]) -> str | None:
    """Hand W&B what was measured after training, on the same axis.

    Returns:
        What to tell the user about W&B.
    """
    if config.tracking.wandb == "disabled":
        return None
    dashboard = Dashboard(config, afterwards=True)
    for record in records:
        dashboard.records.put(record)
    return dashboard.close()


class Dashboard:
    """A W&B run in a thread of its own.

    The training loop only puts records into a queue, so it never waits. Without a login, without an
    answer from the server, or with any error of the client, the run continues offline in
    `runs/NAME/wandb/`.

    Args:
        afterwards: a second W&B run beside that of the training, for what was measured later.
    """

    def __init__(self, config: TrainConfig, afterwards: bool = False) -> None:
        self.config = config
        self.afterwards = afterwards
        self.records: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.message: str | None = None
        self.thread = threading.Thread(target=self._work, daemon=True, name="wandb")
        self.thread.start()

    def close(self) -> str:
        """Finish the run, and return what to tell the user about it."""
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

            if run.offline:
                folder = Path(run.dir).parent
                self.message = f"W&B, offline; to upload: wandb sync {folder}"
            else:
                self.message = f"W&B: {run.url}"
        except Exception as error:  # a dashboard must never end a run
            reason = " ".join(str(error).split())
            self.message = f"W&B stopped ({reason}); metrics.jsonl is complete"
            log.warning(self.message)

    def _start(self) -> Any:
        import wandb

        arguments = self._arguments(wandb)
        mode = self.config.tracking.wandb
        if mode == "auto":
            # W&B's own variable counts, too: a login does not overrule it.
            asked_for_offline = os.environ.get("WANDB_MODE") in ("offline", "disabled")
            online = is_logged_in(wandb) and not asked_for_offline
            mode = "online" if online else "offline"
        if mode == "online":
            try:
                server = wandb.setup().settings.base_url
                urllib.request.urlopen(server, timeout=SERVER_ANSWERS_WITHIN).close()
                return wandb.init(mode="online", **arguments)
            except Exception as error:
                reason = " ".join(str(error).split())
                log.warning("W&B is not reachable (%s): this run is logged offline", reason)
        return wandb.init(mode="offline", **arguments)

    def _arguments(self, wandb: Any) -> dict[str, Any]:
        """Return what wandb.init is told, apart from the mode."""
        tracking = self.config.tracking
        run_dir = self.config.run_dir
        arguments = {
            "project": tracking.project,
            "group": tracking.group,
            "tags": [self.config.attention["name"], *tracking.tags],
            "config": asdict(self.config),
            "dir": str(run_dir),
            "settings": wandb.Settings(
                console="off",
                silent=True,
                init_timeout=FINISH_WITHIN,
                finish_timeout=FINISH_WITHIN,
                # Seconds of the offline copy that a killed run may lose.
                x_transaction_log_flush_interval=2,
            ),
        }
        if self.afterwards:
            return arguments | {"name": f"{self.config.name}, evaluated", "job_type": "evaluate"}
        return arguments | {
            "name": self.config.name,
            "job_type": "train",
            "id": run_id(run_dir),
            "resume": "allow",
        }


def is_logged_in(wandb: Any) -> bool:
    """Return whether there is a key for the W&B server: in the environment, netrc or settings."""
    settings = wandb.setup().settings
    if os.environ.get("WANDB_API_KEY") or settings.api_key:
        return True

    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    host = urlsplit(settings.base_url).hostname
    try:
        return netrc.netrc(file).authenticators(host or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def server_and_login() -> tuple[str, bool]:
    """Return the address of the W&B server, and whether there is a key for it."""
    import wandb

    return wandb.setup().settings.base_url, is_logged_in(wandb)


def run_id(run_dir: Path) -> str:
    """Return the W&B id of the run.

    It is drawn once and kept in the run's folder, so that a resumed run stays one run.
    """
    path = run_dir / "wandb" / "run_id"
    if not path.is_file():
        write_text(path, secrets.token_hex(4))
    return path.read_text()
