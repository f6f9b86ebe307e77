"""A run, logged by the W&B client; this is run in the client's process."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from momentum_gpt.tracking.charts import define, define_axis
from momentum_gpt.tracking.dashboard import END
from momentum_gpt.tracking.evaluated import measured_afterwards, tables


class RunLog:
    """The history, the summary and the tables of a W&B run.

    Args:
        run: of the W&B client.
    """

    def __init__(self, run: Any) -> None:
        self.run = run
        self.n_rows = 0
        self.known = {"tokens"}
        self.facts: dict[str, Any] = dict(run.config.get("facts", {}))
        define_axis(run)

    def log(self, record: dict[str, Any]) -> None:
        """Add a row to the history."""
        for key in record:
            if key not in self.known:
                define(self.run, key)
        self.known |= record.keys()
        self.run.log(record)
        self.n_rows += 1
        self._note_memory(record.get("train/memory_gb", 0.0))

    def log_all(self, lines: Iterable[str]) -> bool:
        """Log records until their end; return whether END was among them."""
        for line in lines:
            if not line.endswith("\n"):
                break  # the training was killed within a line
            if line.strip() == END:
                return True
            self.log(json.loads(line))
        return False

    def add_evaluations(self, run_dir: Path) -> None:
        """Add what `evaluate` has measured."""
        for record in measured_afterwards(run_dir):
            self.log(record)

    def add_tables(self, run_dir: Path) -> None:
        """Add the tables of what `evaluate` has kept as text."""
        import wandb

        for table in tables(run_dir):
            shown = wandb.Table(columns=[*table.columns], data=table.rows)
            self.run.summary[f"tables/{table.name}"] = shown

    def add_facts(self) -> None:
        """Put what is known of the run into its config, to filter by, and into its summary."""
        self.run.config.update({"facts": self.facts}, allow_val_change=True)
        self.run.summary.update({"facts": self.facts})

    def _note_memory(self, gigabytes: float) -> None:
        if gigabytes:
            peak = self.facts.get("peak_memory_gb", 0.0)
            self.facts["peak_memory_gb"] = max(peak, gigabytes)
