"""Hangs are found: every rank watches the others, and itself.

Each rank shows a sign of life every two seconds, through a connection of its own to the store by
which the ranks found one another, and reads the signs of the others. Two things raise an alarm:

- a rank whose sign of life stands still: all its threads are frozen;
- all ranks alive, and no main thread has called `activity.pulse` for a long time.

An alarm is told to all ranks. Each prints it with its own Python stacks, kills frozen ranks of its
host, which no longer receive any other signal, and ends.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType

import torch.distributed as dist

from momentum_gpt.core import activity, distributed, stopping

SILENCE = 30.0
"""Seconds after which a rank that shows no sign of life is taken for frozen."""

MARGIN = 60.0
"""Seconds by which what would end a hang anyway comes later than the alarm, which names it."""

WATCHED = 64
"""Ranks that each rank watches at most: its nearest ones, those of its host among them."""

REARM = 10.0
"""Seconds between two windings of the clock that ends a process which never runs Python again."""

STATES = {
    "T": "is stopped (SIGSTOP)",
    "t": "is stopped by a debugger",
    "D": "waits for a disk or a network file system",
    "Z": "has ended",
    "": "is gone",
}
"""What the letters of /proc/PID/stat mean; see proc(5). Other letters explain nothing."""


class HangError(Exception):
    """The run hangs; the text says which rank, and where."""


@dataclass(frozen=True)
class Sign:
    """A rank's sign of life."""

    rank: int
    host: str = "unknown"
    pid: int = 0
    born: str = ""
    """When the process started, in the kernel's clock ticks: a process id may be used again."""
    count: int = 0
    """Signs given so far."""
    pulses: int = 0
    """Calls of `activity.pulse` so far."""
    doing: str = "starting"
    ended: bool = False
    """Whether the rank has said goodbye."""

    def __str__(self) -> str:
        return f"rank {self.rank} (host {self.host}, process {self.pid})"


@dataclass
class Peer:
    """Another rank: its last sign, and when that was news; times of this process's clock."""

    sign: Sign
    moved: float
    """When a new sign was last read."""
    pulsed: float
    """When a new pulse was last read."""

    def note(self, sign: Sign, now: float) -> None:
        """Take note of the sign that was read just now."""
        if sign.count != self.sign.count:
            self.moved = now
        if sign.pulses != self.sign.pulses:
            self.pulsed = now
        self.sign = sign


class Watchdog:
    """Two threads beside the main thread of a rank: one speaks with the store, one decides.

    Use it as a context manager around the training, after `distributed.start`. Leaving the block
    without an exception tells the others that this rank will show no further signs of life.

    Args:
        hang_after: seconds without progress on any rank that raise an alarm.
        on_alarm: called with the alarm's line and the exit code before the process ends.
        silence: seconds without a sign of life that raise an alarm.
    """

    def __init__(
        self,
        hang_after: float,
        on_alarm: Callable[[str, int], None],
        silence: float = SILENCE,
    ) -> None:
        self.hang_after = hang_after
        self.on_alarm = on_alarm
        self.silence = silence
        self.interval = silence / 15
        # After a pause of this process, the silence of others proves nothing.
        self.late = silence / 3

        self.rank = distributed.rank()
        self.world_size = distributed.world_size()
        now = time.monotonic()
        self.me = Sign(self.rank, socket.gethostname(), os.getpid(), _born(os.getpid()))
        self.peers = {
            rank: Peer(Sign(rank), now, now) for rank in _neighbours(self.rank, self.world_size)
        }
        self.read_at = now
        """When the store last answered."""
        self.pulses = 0
        self.pulsed = now
        """When the main thread of this rank last made progress."""

        self.finding = ""
        """The alarm of this rank, for the store."""
        self.alarm = ""
        """The alarm that all ranks agree on, from the store."""
        self.agreed = threading.Event()
        self.introduced = threading.Event()
        self.over = threading.Event()

        self.tasks = [self._decide]
        if self.world_size > 1:
            self.tasks.append(self._exchange)
        self.threads: list[threading.Thread] = []

    def __enter__(self) -> Watchdog:
        for task in self.tasks:
            thread = threading.Thread(target=task, daemon=True, name=f"watchdog{task.__name__}")
            thread.start()
            self.threads.append(thread)
        if self.world_size > 1:
            # Whoever freezes from now on has given its process id.
            self.introduced.wait(self.silence)
        stopping.when_overdue(self.kill_frozen)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop watching; say goodbye unless an error ends this rank."""
        if kind is None:
            self.me = _changed(self.me, ended=True)
        self.over.set()
        for thread in self.threads:
            thread.join(self.interval)
        faulthandler.cancel_dump_traceback_later()

    def kill_frozen(self) -> None:
        """Kill the ranks of this host that are silent; they receive no other signal."""
        for peer in self.peers.values():
            if not peer.sign.ended and self._silent_for(peer) > self.late:
                _kill(peer.sign, self.me.host)

    # Speaking with the store.

    def _exchange(self) -> None:
        """Show signs of life and read those of the others, until the end."""
        while not self.over.is_set():
            try:
                store = self._connect()
                self._give(store)
                self.introduced.set()
                while not self.over.wait(self.interval):
                    self._give_and_take(store)
                self._give(store)
            except RuntimeError:  # the connection is lost
                self.over.wait(self.interval)

    def _connect(self) -> dist.TCPStore:
        """Return a connection of our own: in the shared one, a collective operation may wait."""
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        timeout = timedelta(seconds=self.silence)
        store = dist.TCPStore(address, port, is_master=False, timeout=timeout)
        for rank in self.peers:
            store.compare_set(_key(rank), "", json.dumps(asdict(Sign(rank))))
        store.compare_set(_key("alarm"), "", "none")
        return store

    def _give(self, store: dist.TCPStore) -> None:
        pulses, doing = activity.latest()
        self.me = _changed(self.me, count=self.me.count + 1, pulses=pulses, doing=doing)
        store.set(_key(self.rank), json.dumps(asdict(self.me)))
        if self.finding:
            store.compare_set(_key("alarm"), "none", self.finding)

    def _give_and_take(self, store: dist.TCPStore) -> None:
        self._give(store)
        *signs, alarm = store.multi_get([*(_key(rank) for rank in self.peers), _key("alarm")])

        now = time.monotonic()
        if now - self.read_at > self.late:
            self._begin_anew(now)
        for text in signs:
            sign = Sign(**json.loads(text))
            self.peers[sign.rank].note(sign, now)
        self.read_at = now

        if alarm != b"none":
            self.alarm = alarm.decode()
            self.agreed.set()

    # Deciding.

    def _decide(self) -> None:
        """Look at what was heard, until the end."""
        looked_at = time.monotonic()
        rearmed_at = 0.0
        while not self.over.wait(self.interval / 2):
            now = time.monotonic()
            if now - looked_at > self.late:
                self._begin_anew(now)
            looked_at = now
            if now - rearmed_at > REARM:
                self._rearm()
                rearmed_at = now

            pulses = activity.latest()[0]
            if pulses != self.pulses:
                self.pulses, self.pulsed = pulses, now
            finding = self._frozen() or self._hung(now)
            if finding or self.alarm:
                self._end(finding)

    def _begin_anew(self, now: float) -> None:
        """Forget the others' silence: this process was paused itself, or the store was."""
        self.read_at = now
        self.pulsed = now
        for peer in self.peers.values():
            peer.moved = now
            peer.pulsed = now

    def _rearm(self) -> None:
        """Wind the clock that works without Python, in case that no thread runs it again.

        It goes on while a job is paused with Ctrl-Z, and rings on return. A rank alone has a
        terminal and a user, so there it only shows the stacks.
        """
        alone = self.world_size == 1
        faulthandler.dump_traceback_later(self.hang_after + MARGIN, repeat=alone, exit=not alone)

    def _silent_for(self, peer: Peer) -> float:
        """Return the seconds for which a rank has shown no sign of life."""
        if peer.sign.rank == 0 and not _agent_hosts_the_store():
            return time.monotonic() - self.read_at
        return self.read_at - peer.moved

    def _frozen(self) -> str:
        """Return a line on the ranks that are frozen; "" if none is."""
        found = []
        for peer in self.peers.values():
            silent_for = self._silent_for(peer)
            if peer.sign.ended or silent_for <= self.silence:
                continue
            state = _state(peer.sign, self.me.host)
            found.append(
                f"{peer.sign} has not answered for {silent_for:.0f} s{state}; "
                f"it last did: {peer.sign.doing}"
            )
        return "; ".join(found)

    def _hung(self, now: float) -> str:
        """Return a line on what every rank was doing, if none makes progress; "" otherwise."""
        present = [peer for peer in self.peers.values() if not peer.sign.ended]
        ages = [now - self.pulsed, *(self.read_at - peer.pulsed for peer in present)]
        if min(ages) <= self.hang_after:
            return ""
        me = _changed(self.me, doing=activity.latest()[1])
        signs = sorted([me, *(peer.sign for peer in present)], key=lambda sign: sign.rank)
        each = "; ".join(f"{sign}: {sign.doing}" for sign in signs)
        return f"no progress for {self.hang_after:.0f} s (launch.hang_after): {each}"

    # The end.

    def _end(self, finding: str) -> None:
        """Agree with the others on one alarm, report it, and end this process."""
        found = json.dumps({"line": finding, "exit_code": stopping.requested() or 1})
        if not self.alarm:
            self.finding = found
            if self.world_size > 1:
                self.agreed.wait(2 * self.interval)
        alarm = json.loads(self.alarm or found)
        line, exit_code = alarm["line"], alarm["exit_code"]

        # A thread of its own: a terminal or a disk may be what hangs.
        report = threading.Thread(target=self._report, args=(line, exit_code), daemon=True)
        report.name = "watchdog_report"
        report.start()
        time.sleep(2 * self.interval)  # in which the others read the alarm, and report
        self.kill_frozen()
        os._exit(exit_code)

    def _report(self, line: str, exit_code: int) -> None:
        print(f"error: {line}\n{_stacks(self.rank)}", file=sys.stderr, flush=True)
        self.on_alarm(line, exit_code)


def _changed(sign: Sign, **values: object) -> Sign:
    return Sign(**{**asdict(sign), **values})


def _key(name: int | str) -> str:
    return f"watchdog/{name}"


def _neighbours(rank: int, world_size: int) -> list[int]:
    """Return the other ranks, or the nearest ones of many, half of them on either side."""
    others = {(rank + far) % world_size for far in range(-WATCHED // 2, WATCHED // 2 + 1)}
    return sorted(others - {rank})


def _agent_hosts_the_store() -> bool:
    """Return whether torchrun hosts the store; otherwise rank 0 does."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; [] if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _born(pid: int) -> str:
    fields = _stat(pid)
    return fields[19] if fields else ""


def _state(sign: Sign, host: str) -> str:
    """Return what the kernel says of a process, as a clause; "" where it cannot be asked."""
    if sign.host != host or not sign.born:
        return ""
    fields = _stat(sign.pid)
    state = STATES.get(fields[0] if fields else "")
    return f" and {state}" if state else ""


def _kill(sign: Sign, host: str) -> None:
    """Kill a process of this host, if it is still the one that gave the sign."""
    if sign.host == host and sign.pid and _born(sign.pid) == sign.born:
        os.kill(sign.pid, signal.SIGKILL)


def _stacks(rank: int) -> str:
    """Return the Python stacks of this process, the innermost call first, without our own threads.

    Source lines are left out: the disk that holds them may be what hangs.
    """
    frames = sys._current_frames()
    lines = [f"stacks of rank {rank}:"]
    for thread in threading.enumerate():
        if thread.ident not in frames or thread.name.startswith("watchdog"):
            continue
        lines.append(f"  {thread.name}:")
        for frame, number in traceback.walk_stack(frames[thread.ident]):
            code = frame.f_code
            lines.append(f"    {code.co_filename}:{number} in {code.co_qualname}")
    return "\n".join(lines)
