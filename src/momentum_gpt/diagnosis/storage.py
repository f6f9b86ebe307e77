"""Checks of the disk that holds the runs: room, speed, locks, and its clock."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from momentum_gpt.core.ownership import NO_LOCKS
from momentum_gpt.diagnosis.findings import BAD, OK, WARNING, Finding

LITTLE_ROOM = 5e9
"""Free bytes below which few checkpoints fit."""

NO_ROOM = 2e8
"""Free bytes with which nothing can be trained."""

PIECE = bytes(16 << 20)
MOST_WRITTEN = 64 << 20
"""Bytes that are written to find out how fast the disk is."""

SECONDS = 2.0
"""After this time no more is written."""

SLOW = 30e6
"""Bytes per second below which saving would take noticeable time."""

SKEW = 2.0
"""Seconds by which the file system's clock may differ from ours."""

SHARED = (
    "nfs",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "glusterfs",
    "cifs",
    "smb",
    "afs",
    "fuse.",
    "9p",
)
"""What the names of file systems begin with that several hosts may share."""


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.is_dir())


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Yield an empty folder in `folder` that vanishes at the end of the block."""
    with tempfile.TemporaryDirectory(prefix=".doctor_", dir=existing(folder)) as place:
        yield Path(place)


def disk(folder: Path) -> list[Finding]:
    """Look at the room that is left, and write a file to see how fast that is."""
    free = shutil.disk_usage(existing(folder)).free
    if free < NO_ROOM:
        text = f"{folder}: {free / 1e9:.2f} GB are free"
        return [Finding(BAD, text, "free some space, or use another disk with runs=DIR")]
    try:
        speed = write_speed(folder)
    except OSError as error:
        text = f"{folder} cannot be written ({error.strerror})"
        return [Finding(BAD, text, "make it writable, or use another folder with runs=DIR")]

    text = f"{folder}: {free / 1e9:,.1f} GB are free, written at {speed / 1e6:,.0f} MB/s"
    if free < LITTLE_ROOM:
        remedy = "free some space, or keep fewer checkpoints with training.keep_checkpoints=1"
        return [Finding(WARNING, text, remedy)]
    if speed < SLOW:
        remedy = "save less often with training.save_every, or use another disk with runs=DIR"
        return [Finding(WARNING, text, remedy)]
    return [Finding(OK, text)]


def write_speed(folder: Path) -> float:
    """Return the bytes per second of writing a file and waiting until it is on disk.

    Raises:
        OSError: the folder cannot be written.
    """
    with scratch(folder) as place, (place / "written").open("wb", buffering=0) as file:
        began = time.monotonic()
        written = 0
        while written < MOST_WRITTEN and time.monotonic() - began < SECONDS:
            written += file.write(PIECE)
            os.fsync(file.fileno())
        return written / (time.monotonic() - began)


def locks(folder: Path) -> list[Finding]:
    """Find out whether a lock on a run's folder would keep a second start away."""
    kind = file_system(existing(folder))
    is_shared = kind.startswith(SHARED)
    place = f"{kind}, which other hosts may share" if is_shared else f"{kind}, local"
    remedy = "do not start a run twice, or use another disk with runs=DIR"
    try:
        excludes = lock_excludes(folder)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return [Finding(WARNING, f"{place}: it has no locks", remedy)]
    if not excludes:
        return [Finding(BAD, f"{place}: two programs can hold the same lock", remedy)]
    if kind in ("tmpfs", "ramfs"):
        remedy = "what is there is lost at the next reboot: use a disk with runs=DIR"
        return [Finding(WARNING, f"{place}: in memory", remedy)]
    return [Finding(OK, f"{place}: locks work" + (" on this host" if is_shared else ""))]


def lock_excludes(folder: Path) -> bool:
    """Return whether a lock on a file keeps a second one away.

    Raises:
        OSError: the file system has no locks, or the folder cannot be written.
    """
    with scratch(folder) as place:
        path = place / "lock"
        with path.open("w") as first, path.open("a") as second:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


def file_system(folder: Path) -> str:
    """Return the name of the file system that holds a folder, such as "ext4" or "nfs4"."""
    best, kind = "", "an unknown file system"
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, point, name, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        inside = folder.resolve().is_relative_to(point)
        # Of two mounts on one place the later one is seen.
        if inside and len(point) >= len(best):
            best, kind = point, name
    return kind


def skew(folder: Path) -> list[Finding]:
    """Compare the clock of the file system, which may be a server's, with that of this machine."""
    with scratch(folder) as place:
        before = time.time()
        (place / "now").write_text("now")
        written = (place / "now").stat().st_mtime
        after = time.time()
    ahead = max(written - after, min(0.0, written - before))
    if abs(ahead) <= SKEW:
        return []
    text = f"the file system's clock is {ahead:+.0f} s off ours"
    return [Finding(WARNING, text, "synchronise both: sudo timedatectl set-ntp true")]
