"""Ranks that srun or torchrun has started, each with the whole command `train`.

The first rank checks the options and writes the run's config. The others wait for its decision, so
that several processes become one run and never several runs.
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

CONFIRMED_WITHIN = 60.0
"""Seconds that the ranks wait for one another before they end."""

DECISION = "momentum_gpt/decision"
RECEIVED = "momentum_gpt/received"
FINISHED = "momentum_gpt/finished"
LEFT = "momentum_gpt/left"
"""Keys of the store."""


class Peers:
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
    def prepared(
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
            yield self._await_decision(config)
            return
        code: int | None = 1
        try:
            with prepare as code:
                self._announce(code, config)
                yield code
        except UserError:
            code = 2
            raise
        finally:
            self._announce(code, config)
            if code is not None:
                self._confirm(RECEIVED)

    def leave(self) -> None:
        """Leave after the training. Every rank must call this.

        srun and torchrun kill the other ranks when one of them fails, so none ends before the
        first rank has written everything.
        """
        with suppress(dist.DistError):  # somebody has gone
            if self.is_first:
                self.store.set(FINISHED, "")
            self.store.wait([FINISHED], timedelta(seconds=CONFIRMED_WITHIN))
            self._confirm(LEFT)

    def _announce(self, code: int | None, config: Path) -> None:
        decision = f"train {sha256_of_file(config)}" if code is None else f"end {code}"
        self.store.compare_set(DECISION, "", decision)  # the first one counts

    def _await_decision(self, config: Path) -> int | None:
        """Wait for the first rank; return its exit code, or None once its config is here."""
        self.store.wait([DECISION], JOINED_WITHIN)
        order, what = self.store.get(DECISION).decode().split()
        self._confirm(RECEIVED)
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

    def _confirm(self, key: str) -> None:
        """Count this rank under a key; the first rank, which keeps the store, waits for all."""
        n_ranks = self.store.add(key, 1)
        until = time.monotonic() + CONFIRMED_WITHIN
        while self.is_first and n_ranks < self.size and time.monotonic() < until:
            time.sleep(0.1)
            n_ranks = self.store.add(key, 0)


def peers() -> Peers | None:
    """Return the ranks that this process was started with; None if it starts them itself."""
    scheduler.take_place()
    if "RANK" not in os.environ:
        return None
    if "TORCHELASTIC_RUN_ID" in os.environ:
        ownership.die_with_parent()
    return Peers()
