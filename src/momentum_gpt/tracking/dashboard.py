"""The W&B client, in a process of its own."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

from momentum_gpt.core.errors import MachineError
from momentum_gpt.tracking.warning import warn

CLOSED_WITHIN = 25.0
"""Seconds that the W&B client has at the end of a run; after that it is killed."""

END = "end"
"""The line after the last record, which is missing if the training process was killed."""


class Dashboard:
    """A W&B run, logged by the W&B client in a process of its own.

    Without a login, without an answer from the server, or with any error of the client, the run is
    logged offline.

    Args:
        task: returns what the client does, as `client.log_to_wandb` takes it. It may use the disk,
            and is called where that delays nobody.
        again: the command that logs the run again.
    """

    def __init__(self, task: Callable[[], dict[str, Any]], again: str = "the same command") -> None:
        self.task = task
        self.again = again
        self.lines: queue.Queue[str] = queue.Queue()
        self.process: subprocess.Popen[str] | None = None
        self.message = ""
        self.thread = threading.Thread(target=self._work, daemon=True, name="wandb")
        self.thread.start()

    def put(self, record: dict[str, Any]) -> None:
        """Add a record, to be shown soon."""
        self.lines.put(json.dumps(record))

    def close(self) -> str:
        """Finish the run, and return what to tell the user about it."""
        self.lines.put(END)
        self.thread.join(CLOSED_WITHIN)
        if self.process:
            self.process.kill()
            self.process.wait()
        return self.message or self._without(f"it did not finish within {CLOSED_WITHIN:.0f} s")

    def _work(self) -> None:
        """Start the client's process, and listen to it."""
        try:
            task = json.dumps(self.task())
            self.process = process = subprocess.Popen(
                [sys.executable, "-m", "momentum_gpt.tracking"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                # Signals that are meant for the training do not reach it.
                start_new_session=True,
            )
        except (OSError, MachineError) as error:
            self.message = self._without(str(error))
            return

        threading.Thread(target=self._send, args=(process.stdin, task), daemon=True).start()
        for answer in process.stdout or ():
            kind, text = json.loads(answer)
            if kind == "warning":
                warn(text)
            else:
                self.message = self._without(text) if kind == "error" else text
                return
        self.message = self._without("its process ended")

    def _send(self, client: TextIO, line: str) -> None:
        with suppress(OSError):  # the client has ended
            while line != END:
                print(line, file=client, flush=True)
                line = self.lines.get()
            print(END, file=client, flush=True)

    def _without(self, reason: str) -> str:
        """Return what to tell the user if W&B does not have the records."""
        return f"W&B stopped ({reason}); nothing else is lost, and {self.again} logs it again"
