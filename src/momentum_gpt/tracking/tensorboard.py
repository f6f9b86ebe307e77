"""The same records for TensorBoard."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from momentum_gpt.core.errors import UserError
from momentum_gpt.tracking.warning import one_line, warn

CLOSED_WITHIN = 5.0
"""Seconds that TensorBoard's files have at the end of a run."""


def require_installed(also: Sequence[str]) -> None:
    """Raise a UserError if a dashboard is asked for and its package is missing."""
    if "tensorboard" in also and find_spec("tensorboard") is None:
        raise UserError(
            "tracking.also=[tensorboard] needs a package that is not installed: "
            "pip install 'momentum-gpt[tensorboard]'"
        )


class TensorBoard:
    """Write records to TensorBoard's files, in a thread of its own.

    Its own writer has a queue that may fill up, and then the training would wait for the disk.

    Args:
        folder: for the files.
        step: the step that the run starts from. Later values of an earlier attempt are not shown.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        self.step = step
        self.records: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.thread = threading.Thread(target=self._work, daemon=True, name="tensorboard")
        self.thread.start()

    def put(self, record: dict[str, Any]) -> None:
        """Add a record, to be written soon."""
        self.records.put(record)

    def close(self) -> None:
        """Write what is left."""
        self.records.put(None)
        self.thread.join(CLOSED_WITHIN)

    def _work(self) -> None:
        try:
            self._write_all()
        except Exception as error:  # whatever it is, the training goes on
            warn(f"TensorBoard stopped ({one_line(error)}); metrics.jsonl has every record")

    def _write_all(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(self.folder), purge_step=self.step + 1) as writer:
            while (record := self.records.get()) is not None:
                for key, value in record.items():
                    add = writer.add_text if isinstance(value, str) else writer.add_scalar
                    add(key, value, record["step"])
