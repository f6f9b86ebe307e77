"""`metrics.jsonl`, written by a thread of its own."""

from __future__ import annotations

import errno
import json
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from momentum_gpt.core.errors import MachineError
from momentum_gpt.core.files import write_text
from momentum_gpt.tracking.warning import warn

WRITTEN_WITHIN = 5.0
"""Seconds that a checkpoint, or the end of a run, waits for a disk that does not answer."""

RETRY_EVERY = 5.0
"""Seconds between two attempts to write records that did not fit on the disk."""

Item = bytes | threading.Event | None
"""What the thread of a MetricsFile is handed: a line, what waits for the lines so far, the end."""

TRY_AGAIN = threading.Event()
"""Nobody waits for this one: it is time to try again what could not be written."""


class MetricsNotWrittenError(MachineError):
    """Records of `metrics.jsonl` that the disk did not take until the end of the run."""


class MetricsFile:
    """A file with one JSON object a line, written by a thread of its own.

    A line is written whole or not at all. What cannot be written is kept in memory, and tried again
    every RETRY_EVERY seconds.

    Args:
        path: of the file.
        kept: the records that it begins with; others that it holds are dropped.
    """

    def __init__(self, path: Path, kept: Iterable[dict[str, Any]]) -> None:
        self.path = path
        self.kept = kept
        self.items: queue.Queue[Item] = queue.Queue()
        self.waiting: deque[bytes] = deque()
        self.descriptor: int | None = None
        self.size = 0
        self.retry_at = 0.0
        self.is_told = False
        self.thread = threading.Thread(target=self._work, daemon=True, name="metrics")
        self.thread.start()

    def put(self, record: dict[str, Any]) -> None:
        """Add a record, to be written soon."""
        self.items.put(line_of(record).encode())

    def flush(self) -> None:
        """Wait until the thread has tried to write the records so far."""
        tried = threading.Event()
        self.items.put(tried)
        tried.wait(WRITTEN_WITHIN)

    def close(self) -> int:
        """Write what is left, and return the number of records that could not be written."""
        self.items.put(None)
        self.thread.join(WRITTEN_WITHIN)
        lines = [*self.waiting, *self.items.queue]
        return sum(isinstance(line, bytes) for line in lines)

    def _work(self) -> None:
        self._try_to_write()
        item: Item = TRY_AGAIN
        while item is not None:
            item = self._next()
            if isinstance(item, bytes):
                self.waiting.append(item)
                # A disk may take longer over a sync than the training over a step: all lines that
                # are there share one.
                is_time = self.items.empty() and time.monotonic() >= self.retry_at
            else:
                is_time = True  # somebody waits
            if is_time:
                self._try_to_write()
            if isinstance(item, threading.Event):
                item.set()
        if self.descriptor is not None:
            os.close(self.descriptor)

    def _next(self) -> Item:
        """Wait for the next item, or for the time of the next attempt to write."""
        try:
            return self.items.get(timeout=RETRY_EVERY if self.waiting else None)
        except queue.Empty:
            return TRY_AGAIN

    def _try_to_write(self) -> None:
        try:
            self._write()
        except MachineError as error:  # the file could not be made
            self.retry_at = time.monotonic() + RETRY_EVERY
            self._tell(error.__cause__)
        except OSError as error:
            self.retry_at = time.monotonic() + RETRY_EVERY
            self._tell(error)

    def _write(self) -> None:
        if self.descriptor is None:
            self.descriptor = self._open()
        try:
            while self.waiting:
                self._append(self.waiting[0])
                self.waiting.popleft()
        finally:
            os.fsync(self.descriptor)

    def _open(self) -> int:
        write_text(self.path, "".join(map(line_of, self.kept)))
        descriptor = os.open(self.path, os.O_WRONLY)
        self.size = os.fstat(descriptor).st_size
        return descriptor

    def _append(self, line: bytes) -> None:
        assert self.descriptor is not None
        # At the end of the whole lines: the next attempt overwrites what a full disk cut short.
        written = os.pwrite(self.descriptor, line, self.size)
        if written < len(line):
            os.ftruncate(self.descriptor, self.size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += written

    def _tell(self, error: BaseException | None) -> None:
        if not self.is_told:
            self.is_told = True
            warn(
                f"{self.path} cannot be written ({getattr(error, 'strerror', error)}): "
                "the training goes on, and its metrics are kept in memory until there is room"
            )


def line_of(record: dict[str, Any]) -> str:
    """Return a record as a line of JSON."""
    return json.dumps(record) + "\n"
