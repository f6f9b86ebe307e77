"""Where a training run logs its metrics."""

from __future__ import annotations

from typing import Any

from momentum_gpt.core.config import TrainConfig
from momentum_gpt.core.files import read_json_lines
from momentum_gpt.tracking.metrics_file import MetricsFile, MetricsNotWrittenError
from momentum_gpt.tracking.run_view import begin_view
from momentum_gpt.tracking.tensorboard import TensorBoard
from momentum_gpt.tracking.warning import warn


class Tracker:
    """Write each record to `metrics.jsonl`, and show it on the dashboards.

    Only the main rank has one.

    Args:
        config: of the run; logged to W&B as it is.
        step: the step that the run starts from. Later lines of an earlier attempt are dropped,
            because they will be written again.
        facts: what else is known of the run before its first step, such as the hash of its data.
    """

    def __init__(self, config: TrainConfig, step: int, facts: dict[str, Any] | None = None) -> None:
        path = config.run_dir / "metrics.jsonl"
        kept = [record for record in read_json_lines(path) if record["step"] <= step]
        self.file = MetricsFile(path, kept)
        self.dashboard = None
        if config.tracking.wandb != "disabled":
            self.dashboard = begin_view(config, kept, facts)
        self.tensorboard = None
        if "tensorboard" in config.tracking.also:
            self.tensorboard = TensorBoard(config.run_dir / "tensorboard", step)

    def log(self, step: int, tokens: int, metrics: dict[str, Any]) -> None:
        """Add one record. This neither waits nor fails, whatever the disk and the server do."""
        record = {"step": step, "tokens": tokens, **metrics}
        self.file.put(record)
        if self.dashboard:
            self.dashboard.put(record)
        if self.tensorboard:
            self.tensorboard.put(record)

    def flush(self) -> None:
        """Wait until the records so far are in the file, at most for WRITTEN_WITHIN seconds.

        To be called before a checkpoint is written: a run that resumes from it does not write
        them again.
        """
        self.file.flush()

    def close(self) -> str | None:
        """Finish all, and return what to tell the user about W&B.

        Raises:
            MetricsNotWrittenError: some records are not in the file.
        """
        missing = self.file.close()
        message = self.dashboard.close() if self.dashboard else None
        if self.tensorboard:
            self.tensorboard.close()
        if missing:
            if message:
                warn(message)
            raise MetricsNotWrittenError(
                f"{missing} record(s) are missing in {self.file.path}, which could not be written: "
                "free disk space or make the folder writable, and run the same command again, "
                "which computes again what comes after the last checkpoint"
            )
        return message
