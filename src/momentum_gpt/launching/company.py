"""Ranks that srun or torchrun has started, each with the whole command `train`.

The first rank checks the options and writes the run's config; the others wait for its word, so that
several processes are one run and never several runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path

from torch import distributed as dist

from momentum_gpt.core import ownership, scheduler
from momentum_gpt.core.errors import MachineError, UserError
from momentum_gpt.core.files import sha256_of_file

JOINED_WITHIN = timedelta(minutes=10)
"""How long a rank waits for the others to start, and for the first one to check the options."""

SEEN_WITHIN = 60.0
"""Seconds that a file, written on one host, may take to appear on another."""

HEARD_WITHIN = 60.0
"""Seconds that the first rank waits for the others before it ends, and they for its last word."""

WORD = "momentum_gpt/word"
HEARD = "momentum_gpt/heard"
END = "momentum_gpt/end"
LEFT = "momentum_gpt/left"
"""Keys of the store."""


class Company:
    """The ranks that were started together, before they form a process group.

    Raises:
        MachineError: the others do not answer.
    """

    def __init__(self) -> None:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        try:
            found = next(dist.rendezvous("env://", timeout=JOINED_WITHIN))
        except dist.DistError as error:
            reason = str(error).splitlines()[0]
            raise MachineError(
                f"the ranks did not meet at {address} ({reason}): see that all hosts reach it, or "
                "set MASTER_ADDR and MASTER_PORT"
            ) from None
        self.store, self.rank, self.size = found

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that prepares the run."""
        return self.rank == 0

    @contextmanager
    def told(
        self, prepare: AbstractContextManager[int | None], config: Path
    ) -> Iterator[int | None]:
        """Yield, on every rank, what the first rank's preparation gives: None to train, or a code.

        Args:
            prepare: the preparation; it is entered on the first rank alone.
            config: the file that it writes.

        Raises:
            UserError, MachineError: on the first rank, what the preparation raises.
        """
        if not self.is_first:
            yield self._hear(config)
            return
        code: int | None = 1
        try:
            with prepare as code:
                self._tell(code, config)
                yield code
        except UserError:
            code = 2
            raise
        finally:
            self._tell(code, config)
            if code is not None:
                self._say_heard(HEARD)

    def leave(self) -> None:
        """Leave after the training. Every rank must call this.

        srun and torchrun kill the others when one ends with an exit code; so nobody ends before
        the first rank has written its last word.
        """
        with suppress(dist.DistError):  # somebody has gone
            if self.is_first:
                self.store.set(END, "")
            self.store.wait([END], timedelta(seconds=HEARD_WITHIN))
            self._say_heard(LEFT)

    def _tell(self, code: int | None, config: Path) -> None:
        word = f"train {sha256_of_file(config)}" if code is None else f"end {code}"
        self.store.compare_set(WORD, "", word)  # the first word counts

    def _hear(self, config: Path) -> int | None:
        """Wait for the first rank's word; return its exit code, or None once its file is here."""
        self.store.wait([WORD], JOINED_WITHIN)
        order, what = self.store.get(WORD).decode().split()
        self._say_heard(HEARD)
        if order == "end":
            return int(what)

        until = time.monotonic() + SEEN_WITHIN
        while not config.is_file() or sha256_of_file(config) != what:
            if time.monotonic() > until:
                raise UserError(
                    f"{config.absolute()} is not on {os.uname().nodename} what the first rank has "
                    "written: use a folder that all hosts share, with runs=DIR"
                )
            time.sleep(0.2)
        return None

    def _say_heard(self, what: str) -> None:
        """Say that this rank has heard a word; the first one, which keeps the store, waits for all.

        Args:
            what: the word.
        """
        n_heard = self.store.add(what, 1)
        until = time.monotonic() + HEARD_WITHIN
        while self.is_first and n_heard < self.size and time.monotonic() < until:
            time.sleep(0.1)
            n_heard = self.store.add(what, 0)


def company() -> Company | None:
    """Return the ranks that this process was started with; None if it starts them itself."""
    scheduler.take_place()
    if "RANK" not in os.environ:
        return None
    if "TORCHELASTIC_RUN_ID" in os.environ:
        ownership.die_with_parent()
    return Company()
