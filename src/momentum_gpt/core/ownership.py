"""One run, one owner: a lock on the run's folder, and ranks that die with the process above them.

Whoever starts a run locks `runs/NAME/lock` for itself alone, which fails while any process of the
run is left, and then shares the lock with the ranks. The kernel drops the lock of a process that
ends, however it ends.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import IO

from momentum_gpt.core.disk import refuse_link, writing
from momentum_gpt.core.errors import UserError

WAIT = 5.0
"""Seconds that killed ranks of an earlier start have to vanish."""

DRIVER = "MOMENTUM_GPT_DRIVER"
"""The environment variable with the process id of the driver that owns the run."""

PR_SET_PDEATHSIG = 1
"""prctl's request for a signal when the parent dies; see prctl(2)."""

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system without locks answers."""


def own(run_dir: Path) -> IO[str]:
    """Lock the run's folder, which is made if need be; the lock lasts as long as the open file.

    On a file system without locks this says so and goes on.

    Raises:
        UserError: another process holds the run.
        MachineError: the folder cannot be written.
    """
    refuse_link(run_dir / "lock")
    with writing(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        file = (run_dir / "lock").open("a+", encoding="utf-8")

    until = time.monotonic() + WAIT
    try:
        while not _lock(file, fcntl.LOCK_EX):
            if time.monotonic() > until:
                raise UserError(_in_use(run_dir, file))
            time.sleep(0.1)

        file.truncate(0)
        json.dump(_this_process(), file)
        file.flush()
        # Another start may come in between, and holds the run then.
        if not _lock(file, fcntl.LOCK_SH):
            raise UserError(_in_use(run_dir, file))
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        print(f"{run_dir}: no locks on this file system; do not start the run twice", flush=True)
    return file


def share(run_dir: Path) -> IO[str]:
    """Share the owner's lock, as a rank of the run; the lock lasts as long as the open file.

    Raises:
        UserError: another process is about to own the run.
    """
    file = (run_dir / "lock").open("a+", encoding="utf-8")
    try:
        if not _lock(file, fcntl.LOCK_SH):
            raise UserError(_in_use(run_dir, file))
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return file


def holder(run_dir: Path) -> str | None:
    """Return who holds the run, in a sentence with a remedy; None if nobody does.

    Raises:
        OSError: the file system has no locks, or the lock cannot be opened.
    """
    path = run_dir / "lock"
    if not path.is_file():
        return None
    with path.open("r+", encoding="utf-8") as file:
        return None if _lock(file, fcntl.LOCK_EX) else _in_use(run_dir, file)


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent dies, which should be the driver, if any.

    Ranks that outlive `kill -9` of their driver would train on, unseen.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    expected = int(os.environ.get(DRIVER, parent))
    if expected != os.getppid():  # it died before
        os.kill(os.getpid(), signal.SIGKILL)


def _lock(file: IO[str], kind: int) -> bool:
    """Try to lock the file; return whether it could be locked."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _this_process() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _in_use(run_dir: Path, file: IO[str]) -> str:
    """Return what to say of a run that another process holds."""
    file.seek(0)
    try:
        owner = json.loads(file.read())
        pid, host, since = owner["pid"], owner["host"], owner["since"]
    except (ValueError, TypeError, KeyError):  # it is just being written
        return f"{run_dir} is in use by another process: wait for its end, or choose another name"
    return (
        f"{run_dir} is in use by process {pid} on {host}, since {since}: wait for its end, "
        f"stop it with `kill {pid}` there, or choose another name"
    )
